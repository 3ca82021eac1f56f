"""The sequence of checkpoints as a bucket shows it: which manifests are there, which one a window uses, what contradicts it.

The rule (protocol, section 3): the checkpoint of window T is the one with the greatest `valid_from` ≤ T that was in the store
before block `valid_from` − lead, by the store's clock; a later one is skipped for good, and the network's first needs no lead.
Bytes that the trainer did not sign are no checkpoint and are reported. Two manifests of one sequence number, a sequence that
goes back, or a sequence that forgets what was seen before is the trainer's or the store's fault and stops the reader.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from grail_core.errors import CheckpointError, StorageError
from grail_core.protocol.assignment import CheckpointCandidate, valid_checkpoint
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import (
    MAX_MANIFEST_BYTES,
    CheckpointManifest,
    NewerManifestError,
    OtherNetworkError,
    parse,
)
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectNotFoundError, ObjectStore, ObjectTooLargeError, PreconditionFailedError
from grail_core.storage.layout import MANIFEST_PREFIX, manifest_key, valid_from_of_key
from grail_core.work import Work, work_of


class EquivocationError(CheckpointError):
    """The trainer signed two manifests for one place in the sequence."""


class RollbackError(CheckpointError):
    """The sequence shows less, or older, than it did."""


@dataclass(frozen=True)
class StoredManifest:
    manifest: CheckpointManifest
    stored_at_ms: int  # by the store's clock


@dataclass(frozen=True)
class RefusedManifest:
    key: str
    error: CheckpointError


@dataclass(frozen=True)
class CheckpointSequence:
    """Every manifest of a bucket, by increasing `valid_from`."""

    stored: tuple[StoredManifest, ...]
    refused: tuple[RefusedManifest, ...] = ()
    by_digest: Mapping[Digest, CheckpointManifest] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_digest", {s.manifest.digest: s.manifest for s in self.stored})

    @property
    def head(self) -> CheckpointManifest | None:
        return self.stored[-1].manifest if self.stored else None

    def beginning(self, window: int | None = None) -> CheckpointManifest:
        """The first checkpoint of the work that a window has (None: that of the newest one): the network's first, unless it has
        turned to another environment since. Errors: ValueError where there is none yet."""
        manifests = [s.manifest for s in self.stored if window is None or s.manifest.valid_from <= window]
        if not manifests:
            raise ValueError("no checkpoint begins this work")
        first = manifests[-1]
        for manifest in reversed(manifests):
            if manifest.env_digest != first.env_digest:
                break
            first = manifest
        return first

    def at_sequence(self, sequence: int) -> CheckpointManifest | None:
        return next((s.manifest for s in reversed(self.stored) if s.manifest.sequence == sequence), None)

    def followed_by(self, item: StoredManifest) -> CheckpointSequence:
        """With one more at the end. Errors: as `list_manifests` where it does not follow."""
        _check_order([*(stored.manifest for stored in self.stored[-1:]), item.manifest])
        return CheckpointSequence((*self.stored, item), self.refused)

    def without(self, digests: Collection[Digest]) -> CheckpointSequence:
        return CheckpointSequence(tuple(s for s in self.stored if s.manifest.digest not in digests), self.refused)


ManifestMemo = MutableMapping[tuple[str, str], CheckpointManifest]
"""Manifests verified before, by (key, ETag): spares a reader that asks every window the reading."""


def list_manifests(
    store: ObjectStore, *, trainer_hotkey: Hotkey, network_id: Digest, memo: ManifestMemo | None = None
) -> CheckpointSequence:
    """Read and verify every manifest of a bucket.

    Raises:
        EquivocationError, RollbackError: the signed manifests contradict each other.
        StorageError: the store cannot be read.
    """
    stored, refused = [], []
    known: ManifestMemo = {} if memo is None else memo
    for info in store.list(MANIFEST_PREFIX):
        valid_from = valid_from_of_key(info.key)
        if valid_from is None:
            continue
        manifest = known.get((info.key, info.etag))
        try:
            if manifest is None:
                manifest = _read(store, info.key, info.etag, trainer_hotkey, network_id)
            if manifest.valid_from != valid_from:
                raise _copied(manifest.valid_from, info.key)
        except NewerManifestError as error:
            copied = error.valid_from is not None and error.valid_from != valid_from
            refused.append(RefusedManifest(info.key, _copied(error.valid_from, info.key) if copied else error))
            continue
        except CheckpointError as error:
            refused.append(RefusedManifest(info.key, error))
            continue
        known[info.key, info.etag] = manifest
        stored.append(StoredManifest(manifest, info.stored_at_ms))
    stored.sort(key=lambda item: item.manifest.valid_from)
    _check_order([item.manifest for item in stored])
    return CheckpointSequence(tuple(stored), tuple(refused))


def signed_for_another(view: CheckpointSequence) -> OtherNetworkError | None:
    """Of a manifest that the trainer signed for another network; None where there is none."""
    return next((one.error for one in view.refused if isinstance(one.error, OtherNetworkError)), None)


def _copied(valid_from: Window | None, key: str) -> CheckpointError:
    return CheckpointError(f"the manifest is valid from {valid_from}: it was copied to another key", where=key)


def select(
    view: CheckpointSequence, window: Window, params: NetworkParameters, block_time_of: Callable[[Block], int]
) -> CheckpointManifest:
    """Section 3's rule over a view of the sequence, newest first, so that only the blocks that matter are asked for their time.

    Raises:
        CheckpointError: no checkpoint is valid in this window.
    """
    for item in _newest_first(view, window):
        if valid_checkpoint([_candidate(item, params, block_time_of)], window) is not None:
            return item.manifest
    refused = "; ".join(f"{entry.key}: {entry.error.what}" for entry in view.refused[:3])
    raise CheckpointError(
        f"no checkpoint is valid in window {window}",
        where=refused or f"{MANIFEST_PREFIX} of the trainer's bucket",
        hint="wait for the trainer to publish one; check the network's trainer hotkey if it says that it has",
    )


def ruling(
    view: CheckpointSequence, window: Window, params: NetworkParameters, block_time_of: Callable[[Block], int]
) -> list[CheckpointManifest]:
    """Every checkpoint that rules windows up to this one, by increasing `valid_from`."""
    found = [item.manifest for item in _newest_first(view, window) if is_in_time(item, params, block_time_of)]
    return found[::-1]


def _newest_first(view: CheckpointSequence, window: Window) -> Iterator[StoredManifest]:
    """Those that may rule windows up to this one, if they were in time."""
    for place, item in reversed(list(enumerate(view.stored))):
        before = view.stored[place - 1].manifest if place else None
        if item.manifest.valid_from <= window and begins_a_round(item.manifest, before):
            yield item


def begins_a_round(manifest: CheckpointManifest, before: CheckpointManifest | None) -> bool:
    """Does it come into force where a round may begin: at a multiple of the rounds' length, its own and that of the checkpoint
    before it? A round is ruled by one checkpoint; windows of rollouts are rounds of one window."""
    longest = max(windows_of_round(manifest), 1 if before is None else windows_of_round(before))
    return manifest.valid_from % (WINDOW_LENGTH * longest) == 0


def windows_of_round(manifest: CheckpointManifest) -> int:
    """1 for rollouts, and for a spec that this software cannot follow: its roles say so."""
    if work_of(manifest) is not Work.GRADIENT:
        return 1
    try:
        return GradientSpec.of(manifest.environment).round_windows
    except ValueError:
        return 1  # no work that anybody can do; whoever opens the round says why


def is_in_time(item: StoredManifest, params: NetworkParameters, block_time_of: Callable[[Block], int]) -> bool:
    """Was it in the store before block `valid_from` − lead? The network's first needs no lead."""
    return _candidate(item, params, block_time_of).in_time


def _candidate(item: StoredManifest, params: NetworkParameters, block_time_of: Callable[[Block], int]) -> CheckpointCandidate:
    manifest = item.manifest
    lead_block = manifest.valid_from - params.checkpoint_lead
    needs_time = manifest.sequence > 0 and lead_block >= 0
    return CheckpointCandidate(
        digest=manifest.digest,
        sequence=manifest.sequence,
        valid_from=manifest.valid_from,
        stored_at_ms=item.stored_at_ms,
        lead_block_time_ms=block_time_of(Block(lead_block)) if needs_time else 0,
    )


def _read(store: ObjectStore, key: str, etag: str, trainer_hotkey: Hotkey, network_id: Digest) -> CheckpointManifest:
    """One manifest, verified.

    Raises:
        CheckpointError: it is none of this trainer's, and reading it again does not change that.
        StorageError: it is listed and cannot be read. Passing over it would be worse than waiting: an older checkpoint would be
            taken for the window's, and every honest file refused for naming the right one.
    """
    refused: tuple[bytes, CheckpointError] | None = None
    while True:
        try:
            raw = store.get(key, max_bytes=MAX_MANIFEST_BYTES, if_match=etag)
        except (ObjectNotFoundError, PreconditionFailedError) as error:
            raise StorageError(
                "the manifest changed while it was read", where=key, hint="it is listed and read again"
            ) from error
        except ObjectTooLargeError as error:
            raise CheckpointError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes", where=key) from error
        if refused is not None and raw == refused[0]:
            raise refused[1]
        try:
            return parse(raw, trainer_hotkey=trainer_hotkey, network_id=network_id, where=key)
        except CheckpointError as error:
            if refused is not None:
                raise
            refused = (raw, error)


def _check_order(manifests: list[CheckpointManifest]) -> None:
    for before, after in itertools.pairwise(manifests):
        if before.sequence == after.sequence:
            raise EquivocationError(
                f"the trainer signed two manifests for sequence {after.sequence}",
                where=f"{manifest_key(before.valid_from)}, {manifest_key(after.valid_from)}",
                hint="do not continue with this trainer; report both manifests",
            )
        if before.sequence > after.sequence or after.sequence == 0:
            raise RollbackError(
                f"sequence {after.sequence} comes into force after sequence {before.sequence}: an old state is offered as new",
                where=f"{manifest_key(before.valid_from)}, {manifest_key(after.valid_from)}",
            )
        if after.sequence == before.sequence + 1 and after.parent != before.digest:
            raise EquivocationError(
                f"the parent of sequence {after.sequence} is not the manifest of sequence {before.sequence} that is here",
                where=f"{manifest_key(before.valid_from)}, {manifest_key(after.valid_from)}",
            )
