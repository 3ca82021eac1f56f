"""The checkpoints that a network serves at this moment, as folders on this machine.

One thread looks at the chain about once a block: which checkpoint is valid in the running window, and, once the trainer has
published it, which one will be in the next. That one is fetched, verified and announced ahead of its border. At most two are
held, and none is ever changed in place: a request ends on the one it began with. Whatever fails (chain, store, disk, a model
that does not load) is told by name, and the node goes on with what it has. What runs the models is not here (`changed`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from grail_core.chain.base import Chain
from grail_core.checkpoints.served_model import ServedFolder, read_served_folder
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import CheckpointError, GrailError
from grail_core.inference.constants import LIVE_BORDER_BLOCKS
from grail_core.inference.receipts import ServedCheckpoint
from grail_core.protocol import window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Block, Digest, Window
from grail_core.telemetry import get_logger, record_traceback

log = get_logger(__name__)

_RETRY_SECONDS: Final = 12.0
"""After a look that failed at the chain itself: a block of mainnet."""


@dataclass(frozen=True)
class LiveModel:
    """One of a network's checkpoints, whole on this disk."""

    folder: ServedFolder
    checkpoint: ServedCheckpoint


class LiveModels:
    """Follows one network.

    Args:
        changed: told the models that may be asked for from now on, the valid one first, before `now` or `held` name any other
            than before: so whatever runs them can load what is new and forget the rest. It is called by the thread (the first
            time by `start`); where it raises, what was stays, and the next look tries again.
    """

    def __init__(
        self,
        chain: Chain,
        source: CheckpointSource,
        *,
        changed: Callable[[tuple[LiveModel, ...]], None] = lambda models: None,
    ) -> None:
        self._chain, self._source, self._changed = chain, source, changed
        self._models: tuple[LiveModel, ...] = ()  # as `changed` was told last
        self._held: tuple[LiveModel, ...] = ()
        self._valid: dict[Window, CheckpointManifest] = {}  # of windows of which it cannot change any more
        self._told: tuple[str, str] | None = None
        self._seen = Block(0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-models", daemon=True)

    def now(self) -> LiveModel:
        """The one that is valid in the running window, or the last that could be had."""
        return self._held[0]

    def held(self) -> tuple[LiveModel, ...]:
        """`now`, and within LIVE_BORDER_BLOCKS of its first block the one before it, if this machine served that."""
        return self._held

    def start(self) -> None:
        """Have the valid checkpoint, then follow in the background.

        Raises:
            CheckpointError: none is valid yet, or it cannot be served. ChainError, StorageError: nothing can be read.
            Whatever `changed` raises.
        """
        block = self._chain.current_block()
        self._turn(block)
        self._seen = Block(max(0, block - 1))  # this block is looked at once more, for what comes after it
        self._thread.start()

    def close(self) -> None:
        """End the thread, once what it is at has ended. What is held can still be asked for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._chain.wait_for_block(Block(self._seen + 1), stop=self._stop):
                    return
                self._seen = self._chain.current_block()
            except Exception as error:  # noqa: BLE001 - a chain's library may raise anything; the node goes on with what it has
                self._tell(error)
                self._stop.wait(_RETRY_SECONDS)
                continue
            try:
                self._turn(self._seen)
                self._prepare(self._seen)
            except Exception as error:  # noqa: BLE001 - of `changed`, or of a library: the next block is the next try
                self._tell(error)
            else:
                self._told = None

    def _turn(self, block: Block) -> None:
        """Hold what this block asks for. Errors: as `start`."""
        window = window_of(block)
        self._valid = {known: manifest for known, manifest in self._valid.items() if known >= window}
        if window not in self._valid:
            self._valid[window] = self._source.valid_at(window)
        manifest = self._valid[window]
        former = next((model for model in self._held if model.checkpoint.digest != manifest.digest), None)
        if former is not None and block - manifest.valid_from > LIVE_BORDER_BLOCKS:
            former = None
        now = self._known(manifest.digest) or self._read(manifest)
        held = (now,) if former is None else (now, former)
        if held == self._held:
            return
        before = self._held[:1]
        self._announce(held)
        self._held = held
        if before != held[:1]:
            log.event("live_checkpoint", sequence=manifest.sequence, valid_from=manifest.valid_from, block=block)

    def _prepare(self, block: Block) -> None:
        """Have the next window's checkpoint at hand, if the trainer has published one for it."""
        following = Window(window_of(block) + WINDOW_LENGTH)
        if following in self._valid or len(self._held) > 1:  # two at most: the one before goes first
            return
        manifest = self._source.valid_at(following)
        if manifest.valid_from != following:
            return  # the running one goes on, unless another is published in time
        self._announce((*self._held, self._read(manifest)))
        self._valid[following] = manifest
        log.event("live_checkpoint_ahead", sequence=manifest.sequence, valid_from=manifest.valid_from)

    def _announce(self, models: tuple[LiveModel, ...]) -> None:
        if models != self._models:
            self._changed(models)
            self._models = models

    def _known(self, digest: Digest) -> LiveModel | None:
        return next((model for model in self._models if model.checkpoint.digest == digest), None)

    def _read(self, manifest: CheckpointManifest) -> LiveModel:
        folder = read_served_folder(self._source.materialise(manifest), thinking_mode=manifest.thinking_mode)
        if folder.model.end_token_ids != manifest.end_token_ids:
            raise CheckpointError(
                "the end tokens of the checkpoint's files are not those of its manifest, which receipts are held against",
                where=str(folder.folder),
                hint="this checkpoint cannot be served; tell the network's operator",
            )
        checkpoint = ServedCheckpoint(manifest.digest, manifest.sequence, manifest.valid_from)
        return LiveModel(folder, checkpoint)

    def _tell(self, error: Exception) -> None:
        """Once for each reason, not once for each look."""
        name = type(error).__name__
        what = error.what if isinstance(error, GrailError) else str(error)
        if (name, what) == self._told:
            return
        self._told = (name, what)
        reason = what if isinstance(error, GrailError) else f"its traceback is in {record_traceback(error)}"
        log.event("live_checkpoint_failed", level=logging.WARNING, error=name, reason=reason)
