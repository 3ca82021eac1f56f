"""Others' files of a round as they lie in their buckets now: who aggregates reads them once the round's time has come.

All buckets are asked at once, each with a time of its own; whatever a store does costs its own miner. What is read is checked
elsewhere: here bytes have a largest size and a store's time, and no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.errors import StorageError
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.types import Hotkey
from grail_core.storage.base import ObjectNotFoundError, ObjectTooLargeError
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_core.verification.gradient.files import StoredObject

log = get_logger(__name__)

UNREADABLE: Final = "it could not be read in its time"
"""One wording for whatever a store said; the log has the store's words."""
_PARALLEL: Final = 32


def read_objects(
    participant: Participant,
    neurons: Sequence[Neuron],
    key_of: Callable[[str], str],
    *,
    most: Callable[[Hotkey], int],
    seconds: float,
) -> dict[Hotkey, StoredObject]:
    """What lies under each hotkey's key; one entry for every neuron.

    Args:
        key_of: from an ss58 hotkey. most: bytes; a larger object is not read. seconds: that one bucket may take.
    """

    def read(neuron: Neuron) -> StoredObject:
        key = key_of(ss58(neuron.hotkey))
        try:
            with at_most(seconds):
                info, data = participant.directory.open(neuron.commitment or "").read(key, max_bytes=most(neuron.hotkey))
            return StoredObject(data, info.stored_at_ms)
        except ObjectNotFoundError:
            return StoredObject()
        except ObjectTooLargeError:
            return StoredObject(reason="it is larger than its seal says")
        except StorageError as error:
            log.event("object_unreadable", hotkey=ss58(neuron.hotkey), reason=error.what)
        except Exception as error:  # a stranger's store must not cost everybody's round
            log.exception("unforeseen while reading %s of %s", key, ss58(neuron.hotkey))
            return StoredObject(reason=f"{UNREADABLE} ({type(error).__name__})")
        return StoredObject(reason=UNREADABLE)

    if not neurons:
        return {}
    with ThreadPoolExecutor(min(_PARALLEL, len(neurons)), thread_name_prefix="round") as pool:
        found = list(pool.map(read, neurons))
    return {neuron.hotkey: one for neuron, one in zip(neurons, found, strict=True)}
