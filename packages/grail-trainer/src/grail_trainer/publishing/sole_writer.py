"""Whether this trainer is the only one that publishes into its bucket.

A manifest that was there at the start is the past, whoever wrote it. One that comes later is ours if this process put it, or if
it is of the window that is to be published, with the weights that the journal says: a put whose answer was lost, or of a
process that was killed after it. The journal is written before anything is put, so nothing else can be ours. What was there at
the start and is newer than the journal is a person's question: a copy of the state may have been brought back.
"""

from __future__ import annotations

from collections.abc import Iterable

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.manifests import CheckpointSequence, StoredManifest
from grail_core.clock import utc_text
from grail_core.participant.another import written_by_another
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import manifest_key
from grail_core.telemetry import get_logger
from grail_trainer.state import LostStateError, TrainerState

log = get_logger(__name__)


class SoleWriter:
    """What this process knows to be its own, by digest."""

    def __init__(self) -> None:
        self._known: set[Digest] | None = None

    def begin(self, view: CheckpointSequence) -> None:
        """What a first look at the bucket shows. Later ones change nothing."""
        if self._known is None:
            self._known = set(view.by_digest)

    def wrote(self, digests: Iterable[Digest]) -> None:
        """This process has put them."""
        self._known = {*(self._known or ()), *digests}

    def look(self, bucket: CheckpointBucket, window: Window, weights_root: str | None) -> CheckpointSequence:
        """The bucket as it is now: one listing.

        Args:
            window, weights_root: of what is to be published now; None: a log of an earlier version does not say it.

        Raises:
            WrittenByAnotherError: it has a manifest that this state did not write.
            StorageError, CheckpointError: as `CheckpointBucket.refresh`.
        """
        view = bucket.refresh()
        self.begin(view)
        for item in view.stored:
            manifest = item.manifest
            if manifest.digest in (self._known or ()):
                continue
            if manifest.window != window or weights_root not in (None, manifest.weights_root.hex()):
                raise written_by_another("a manifest", manifest_key(manifest.valid_from), item.stored_at_ms)
            self.wrote([manifest.digest])
        return view


def leave_if_older(state: TrainerState, newest: StoredManifest, *, without_state: bool) -> None:
    """Forget a journal that the bucket is ahead of, if somebody said so: a copy that was brought back, a kill in
    `grail-trainer publish`, or another trainer of this hotkey. Nothing is published before the journal has it.

    Raises:
        LostStateError: nobody said to go on without it.
    """
    journal, manifest = state.journal, newest.manifest
    if journal is None or manifest.window <= journal.decided:
        return
    key = manifest_key(manifest.valid_from)
    if not without_state:
        raise LostStateError(
            f"this training state is older than what the bucket has: it ends with window {journal.decided}, and {key} of "
            f"window {manifest.window} was stored at {utc_text(newest.stored_at_ms)}",
            where=str(state.folder),
            hint="bring a newer copy of the folder back, and look whether this hotkey trains somewhere else, too; if neither "
            "is so, --without-state goes on from the last checkpoint, with fresh moments",
        )
    decided = journal.decided
    state.forget()
    reason = f"it ends with window {decided}, {key} is of {manifest.window}; going on from the last checkpoint"
    log.event("training_state_lost", window=manifest.window, reason=reason)
