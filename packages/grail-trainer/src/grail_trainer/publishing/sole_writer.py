"""Whether this trainer is the only one that publishes into its bucket.

A manifest that was there at the start is the past, whoever wrote it. One that comes later is ours if this process put it, or if
it is of the window that is to be published, with the weights that the journal says: a put whose answer was lost, or of a
process that was killed after it. The journal is written before anything is put, so nothing else can be ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.manifests import CheckpointSequence
from grail_core.participant.another import written_by_another
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import manifest_key


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
