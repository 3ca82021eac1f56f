"""State anchors: the whole training state after a window, published, so that whoever audits need not begin at the beginning.

An anchor is the file of the training state (safetensors: masters, moments, steps, scalars) cut into parts that are named by
their SHA-256, and a small signed list of them, put last. The training log of the window names the list's digest, and the
state's own digest is the log's `state_after`. A state that is made of a checkpoint with moments of zero (`TrainingLog.begins`)
needs no anchor: it is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from grail_core.disk import storage_errors
from grail_core.errors import CheckpointError, StorageError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import ObjectRef
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.signatures import verify
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.windows import require_window
from grail_core.storage.base import ObjectNotFoundError, ObjectStore, ObjectTooLargeError, PreconditionFailedError
from grail_core.storage.layout import (
    ANCHOR_PREFIX,
    anchor_key,
    anchor_part_key,
    anchor_window_of_key,
    training_log_key,
)
from grail_trainer.learning.sharded_state import read_whole
from grail_trainer.learning.training_state import state_file_parts

ANCHOR_VERSION: Final = 1
ANCHOR_TAG: Final = "grail/state-anchor"
ANCHOR_EVERY: Final = 10
"""Windows that were learned from. An audit repeats at most so many to come to the one that was asked for."""
PART_BYTES: Final = 64 * 2**20
MAX_PARTS: Final = 16_384
MAX_ANCHOR_BYTES: Final = 4 * 2**20
HEADER_BYTES: Final = 32 * 2**20
"""Beside its tensors, that a state's file may have: names and shapes."""

AUDITABLE_WINDOWS: Final = 48
"""For which validators keep the files that were learned from. A window older than this cannot be repeated, so no anchor is kept
for it."""


@dataclass(frozen=True)
class Anchor:
    """The body. `state`: `optimiser.state_digest` of the tensors; `parts`: one after the other they are the file."""

    network_id: Digest
    trainer: Hotkey
    window: Window
    state: Digest
    parts: tuple[ObjectRef, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def digest(self) -> Digest:
        """`H("grail/state-anchor", body)`: what is signed, and what the training log names."""
        return tagged_hash(self.network_id, ANCHOR_TAG, canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Json]:
        return {
            "version": ANCHOR_VERSION,
            "network_id": self.network_id.hex(),
            "trainer": self.trainer.hex(),
            "window": self.window,
            "state": self.state.hex(),
            "parts": [{"size": part.size, "sha256": part.sha256.hex()} for part in self.parts],
        }

    @classmethod
    def from_json(cls, node: Node) -> Anchor:
        """Inverse of `to_json`. Errors: ValueError with the path of what is wrong."""
        m = node.members("version", *cls.__dataclass_fields__)
        if m["version"].integer() != ANCHOR_VERSION:
            m["version"].refuse(f"version {m['version'].value} is not known here (known: {ANCHOR_VERSION})")
        return node.build(
            lambda: cls(
                Digest(m["network_id"].raw(32)),
                Hotkey(m["trainer"].raw(32)),
                require_window(m["window"].integer()),
                Digest(m["state"].raw(32)),
                tuple(_part(one) for one in m["parts"].items(MAX_PARTS)),
            )
        )


@dataclass(frozen=True)
class SignedAnchor:
    anchor: Anchor
    signature: Signature = field(repr=False)

    def verify(self, network_id: bytes, trainer: Hotkey) -> bool:
        """Is it of this network, and this trainer's?"""
        anchor = self.anchor
        return (anchor.network_id, anchor.trainer) == (network_id, trainer) and verify(trainer, anchor.digest(), self.signature)

    def encode(self) -> bytes:
        """The object's bytes: canonical JSON."""
        return canonical_json({"body": self.anchor.to_json(), "signature": self.signature.hex()})

    @classmethod
    def decode(cls, raw: bytes) -> SignedAnchor:
        """Inverse of `encode`: exactly the canonical bytes. Errors: ValueError with the path of what is wrong."""
        m = parse_json(raw, most=MAX_ANCHOR_BYTES, path="$anchor").members("body", "signature")
        signed = cls(Anchor.from_json(m["body"]), Signature(m["signature"].raw(64)))
        if signed.encode() != raw:
            raise ValueError("$anchor: not in canonical form (RFC 8785)")
        return signed


def _part(node: Node) -> ObjectRef:
    m = node.members("size", "sha256")
    return ObjectRef(m["size"].integer(1, PART_BYTES), Digest(m["sha256"].raw(32)))


# --- the trainer's side -----------------------------------------------------------------------------------------------


def is_due(number: int, every: int = ANCHOR_EVERY) -> bool:
    """Is the state after the so-manieth window an anchor? 0: none is."""
    return every > 0 and number % every == 0


def publish_anchor(
    store: ObjectStore,
    signer: Signer,
    network_id: Digest,
    window: Window,
    path: Path,
    state: Digest,
    *,
    part_bytes: int = PART_BYTES,
) -> Digest:
    """Put the parts that are not there, then the list of them; repeated after a crash it finishes the first call.

    Args:
        path: the state's file, or the folder of several ranks, as `Masters.save` wrote it; of a file one part is
            in memory at a time. state: its tensors' digest.

    Returns:
        The anchor's digest.

    Raises:
        StorageError: the store or the disk failed; call again.
    """
    parts = []
    for data in _state_file(path, part_bytes):
        ref = ObjectRef.of(data)
        _put_part(store, window, ref, data)
        parts.append(ref)
    anchor = Anchor(network_id, signer.hotkey, window, state, tuple(parts))
    store.put(anchor_key(window), SignedAnchor(anchor, signer.sign(anchor.digest())).encode())
    return anchor.digest()


def _state_file(path: Path, part_bytes: int) -> Iterator[bytes]:
    """The state's bytes as one process writes them, cut; several ranks' shards are put together for it."""
    with storage_errors(path):
        if path.is_dir():
            yield from _cut(state_file_parts(read_whole(path)), part_bytes)
            return
        with path.open("rb") as file:
            while data := file.read(part_bytes):
                yield data


def _cut(pieces: Iterable[bytes | memoryview], part_bytes: int) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), part_bytes):
            held += piece[start : start + part_bytes]
            while len(held) >= part_bytes:
                yield bytes(held[:part_bytes])
                del held[:part_bytes]
    if held:
        yield bytes(held)


def _put_part(store: ObjectStore, window: Window, ref: ObjectRef, data: bytes) -> None:
    key = anchor_part_key(window, ref.sha256)
    there = store.head(key)
    if there is not None and there.size == ref.size:
        return
    try:
        store.put(key, data, if_absent=True)
    except PreconditionFailedError:
        there = store.head(key)
        if there is None or there.size != ref.size:
            raise StorageError(
                "another object stands under the name of a part of the training state",
                where=key,
                hint="somebody else writes into this bucket; remove the object and publish again",
            ) from None


def kept(anchors: Collection[Window], oldest: Window, next_trained: Mapping[Window, Window | None]) -> set[Window]:
    """Which anchors somebody can still begin an audit at: those behind which no window has to be repeated that is older than
    `oldest`; and the newest, whatever its age.

    Args:
        next_trained: the first window after an anchor that was learned from, None where there is none yet. An anchor that is
            not in it is taken to be followed by the window after it.
    """
    if not anchors:
        return set()
    needed = {window for window in anchors if (next_trained.get(window, Window(window + WINDOW_LENGTH)) or oldest) >= oldest}
    return needed | {max(anchors)}


def retire_anchors(store: ObjectStore, current: Window, *, windows: int = AUDITABLE_WINDOWS) -> list[Window]:
    """Delete from one's own bucket what `kept` lets go, the list of parts before the parts. Returns the anchors that are gone.

    Raises:
        StorageError: call again; nothing that is kept was touched.
    """
    keys: dict[Window, list[str]] = {}
    for info in store.list(ANCHOR_PREFIX):
        window = anchor_window_of_key(info.key)
        if window is not None:
            keys.setdefault(window, []).append(info.key)
    oldest = Window(max(0, current - windows * WINDOW_LENGTH))
    next_trained = {window: _next_trained(store, window, oldest) for window in keys if window + WINDOW_LENGTH < oldest}
    gone = sorted(keys.keys() - kept(keys.keys(), oldest, next_trained))
    for window in gone:
        for key in sorted(keys[window], key=lambda key: key != anchor_key(window)):
            store.delete(key)
    return gone


def _next_trained(store: ObjectStore, window: Window, before: Window) -> Window | None:
    """The first window after this one and before `before` that has a log."""
    return next(
        (one for one in _windows(window, before) if store.head(training_log_key(one)) is not None),
        None,
    )


def _windows(after: Window, before: Window) -> Iterator[Window]:
    return (Window(window) for window in range(after + WINDOW_LENGTH, before, WINDOW_LENGTH))


# --- the reader's side ------------------------------------------------------------------------------------------------


class AnchorGoneError(StorageError):
    """The anchor, or a part of it, is not there any more."""


def read_anchor(store: ObjectStore, window: Window, *, digest: Digest, network_id: Digest, trainer: Hotkey) -> Anchor:
    """The anchor of this digest.

    Raises:
        AnchorGoneError: it is not there. StorageError: the store does not answer.
        CheckpointError: what lies there is not this anchor.
    """
    key = anchor_key(window)
    try:
        raw = store.get(key, max_bytes=MAX_ANCHOR_BYTES)
        signed = SignedAnchor.decode(raw)
    except ObjectNotFoundError as error:
        raise AnchorGoneError("the anchor is not there any more", where=key) from error
    except ObjectTooLargeError as error:
        raise CheckpointError(f"no anchor: more than {MAX_ANCHOR_BYTES} bytes", where=key) from error
    except ValueError as error:
        raise CheckpointError(f"no anchor: {error}", where=key) from error
    anchor = signed.anchor
    if not signed.verify(network_id, trainer) or anchor.window != window or anchor.digest() != digest:
        raise CheckpointError("the anchor is not the one that the training log names", where=key)
    return anchor


def fetch_anchor(store: ObjectStore, anchor: Anchor, folder: Path, *, most_tensor_bytes: int) -> dict[str, Any]:
    """The tensors of an anchor, name → CPU tensor, each part verified; what they mean is for `Masters.restore` to say.

    Args:
        folder: scratch space, of a size with the state.
        most_tensor_bytes: of a state of this model; one that is larger is not fetched.

    Raises:
        AnchorGoneError, StorageError: as `read_anchor`.
        CheckpointError: a part is not what its name says, or they are no safetensors file.
    """
    from safetensors.torch import load_file

    if anchor.size > most_tensor_bytes + HEADER_BYTES:
        raise CheckpointError(
            f"the anchor says {anchor.size:,} bytes, a state of this model has at most {most_tensor_bytes:,}",
            where=anchor_key(anchor.window),
        )
    path = folder / f"anchor-{anchor.window}.safetensors"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in anchor.parts:
                file.write(_fetch_part(store, anchor.window, part))
    try:
        tensors: dict[str, Any] = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors raises its own kinds
        raise CheckpointError(f"the anchor's parts are no safetensors file: {error}", where=str(path)) from error
    finally:
        path.unlink(missing_ok=True)
    return tensors


def _fetch_part(store: ObjectStore, window: Window, part: ObjectRef) -> bytes:
    key = anchor_part_key(window, part.sha256)
    try:
        data = store.get(key, max_bytes=part.size)
    except ObjectNotFoundError as error:
        raise AnchorGoneError("a part of the anchor is not there any more", where=key) from error
    except ObjectTooLargeError as error:
        raise CheckpointError(f"a part of the anchor is larger than the {part.size} bytes it has", where=key) from error
    if len(data) != part.size or hashlib.sha256(data).digest() != part.sha256:
        raise CheckpointError("a part of the anchor is not the bytes that its name says", where=key)
    return data
