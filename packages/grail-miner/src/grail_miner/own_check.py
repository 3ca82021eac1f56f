"""The miner's own look at its packed file: checks 1 to 5 of a validator, over every row, before anything is sealed.

The same code as a validator's and `grail-miner check`'s; no model, and no process of its own, since the bytes are ours. What
it cannot know: which rollouts counted in earlier windows, and what a challenge will measure.
"""

from __future__ import annotations

import hashlib

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.environment import Environment
from grail_core.protocol import Finding
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import examine


def first_fault(
    context: WindowContext, prepared: PreparedCheckpoint, hotkey: Hotkey, environment: Environment, data: bytes
) -> Finding | None:
    """The finding that rejects the file, None where none does.

    Raises:
        MachineFaultError: memory ran out.
    """
    examined = CheckContext(
        window=context,
        hotkey=hotkey,
        environment=environment,
        renderer=prepared.renderer,
        vocabulary_size=prepared.description.vocabulary_size,
        context_length=prepared.description.context_length,
        table=prepared.pinned.table,
    )
    return examine(data, examined, content_digest=Digest(hashlib.sha256(data).digest())).reject
