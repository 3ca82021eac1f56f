"""Which weights a miner draws and proves with: a window's checkpoint, on both sides, or nothing is mined.

`at` returns once generator and prover have exactly this checkpoint and have said so. What of it can be done before the window
begins is done before (`ahead`, `follow`): fetched, decoded, hashed against the manifest and put where engine and proof workers
read it, so that the roll is their own load of the weights and nothing else. Whatever fails, no row is drawn with one checkpoint
and proved with another: each side is asked anew before it is believed.

Bytes, for weights of W and a delta of D that is at hand. Ahead, on the CPU: D read; W of the base read, W written, W hashed.
The roll: each engine rank and each proof worker reads its share of one W, which the system has in memory by then, and copies
it to its device. Where generator and proof share a model in this process it is stepped in place: D read twice, W hashed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from grail_core.checkpoints.ahead import POLL_SECONDS, CheckpointAhead
from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint, PreparedCheckpoint
from grail_core.checkpoints.source import CheckpointSource
from grail_core.disk import storage_errors
from grail_core.errors import EngineError, GrailError
from grail_core.generation.base import Generator, ServedWeights
from grail_core.generation.engine_folder import EngineFolders
from grail_core.model.described import ModelDescription
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.telemetry import get_logger
from grail_miner.mining import weights_of
from grail_miner.proving.base import Prover

log = get_logger(__name__)


@dataclass(frozen=True)
class _Ready:
    """A checkpoint as generator and prover are handed it."""

    checkpoint: PreparedCheckpoint
    weights: ServedWeights


class WeightRoll:
    """One generator and one prover on the same checkpoint. `at` is called by one thread, which also draws.

    Args:
        live: holds the model of a generator that draws in this process; None where an engine does.
        folders: where an engine and proof workers in other processes read weights; None where everything is in this one.

    Raises:
        ValueError: neither `live` nor `folders`.
    """

    def __init__(
        self,
        source: CheckpointSource,
        generator: Generator,
        prover: Prover,
        *,
        live: LiveCheckpoint | None = None,
        folders: EngineFolders | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        if live is None and folders is None:
            raise ValueError("weights must be somewhere: in this process, or in folders")
        self._source, self._generator, self._prover = source, generator, prover
        self._live, self._folders = live, folders
        self._ahead: CheckpointAhead[_Ready | None] = CheckpointAhead(self._prepare, source.valid_at, poll_seconds=poll_seconds)
        self._current: CheckpointManifest | None = None
        self._checkpoint: PreparedCheckpoint | None = None
        self._proved_with: Digest | None = None  # None: nobody knows

    def at(self, manifest: CheckpointManifest) -> PreparedCheckpoint:
        """This checkpoint, with which everything that is drawn and proved from now on is.

        Raises:
            CheckpointError: it cannot be fetched, does not verify or cannot be loaded.
            EngineError, MachineFaultError: generator or prover did not take it.
            ProtocolViolationError: the generator cannot draw by its policy.
            StorageError, DiskFullError: the store or this machine's disk fails.
        """
        if self._checkpoint is not None and self._both_have(manifest):
            return self._checkpoint
        started = time.perf_counter()
        self._checkpoint = None  # a model that is stepped in place is no longer what either side was told
        try:
            ready = self._rolled(manifest, started)
        except GrailError:
            self._forget(manifest)
            raise
        self._current, self._checkpoint = manifest, ready.checkpoint
        self._clean_up(ready)
        return ready.checkpoint

    def ahead(self, manifest: CheckpointManifest) -> None:
        """Have this one ready when it is asked for. Returns at once."""
        self._ahead.fetch(manifest)

    def follow(self, window: Window) -> None:
        """Have ready whatever will be valid in this window, as soon as it is out. Returns at once."""
        self._ahead.follow(window)

    def ready(self) -> frozenset[Digest]:
        """Checkpoints that a roll need not fetch, decode or hash any more."""
        return frozenset(self._ahead.ready())

    def close(self) -> None:
        """End what runs in the background. Generator and prover are their owner's to close."""
        self._ahead.close()

    def _rolled(self, manifest: CheckpointManifest, started: float) -> _Ready:
        version = manifest.digest.hex()
        ready = self._ready(manifest)
        at_hand = time.perf_counter()
        with ThreadPoolExecutor(1, "weight-roll") as other:  # both read the same bytes: one of them finds them in memory
            proving = other.submit(_timed, lambda: self._prove_with(manifest.digest, ready.checkpoint))
            try:
                serving_s = _timed(lambda: self._generator.serve(ready.weights))
            finally:
                proving.exception()  # whatever it is, it has ended before anything else is asked of either
            proving_s = proving.result()
        if not self._both_have(manifest):
            raise EngineError(
                f"the generator serves {self._generator.version or 'nothing'} after it was told to serve {version[:16]}…",
                hint="nothing is mined with weights that are not known; look at the engine's log",
            )
        log.event(
            "weights_rolled",
            sequence=manifest.sequence,
            version=version[:16],
            seconds=round(time.perf_counter() - started, 3),
            seconds_at_hand=round(at_hand - started, 3),
            seconds_generator=round(serving_s, 3),
            seconds_prover=round(proving_s, 3),
        )
        return ready

    def _forget(self, manifest: CheckpointManifest) -> None:
        """What a roll failed with may be what is wrong: a file of it damaged or gone. The next try looks at every byte anew."""
        self._ahead.forget(manifest.digest)
        if self._folders is not None:
            self._folders.forget(manifest.digest.hex())

    def _both_have(self, manifest: CheckpointManifest) -> bool:
        return self._proved_with == manifest.digest and self._generator.version == manifest.digest.hex()

    def _prove_with(self, digest: Digest, checkpoint: PreparedCheckpoint) -> None:
        if self._proved_with == digest and not isinstance(checkpoint, LoadedCheckpoint):
            return
        self._proved_with = None
        self._prover.load(checkpoint)
        self._proved_with = digest

    def _ready(self, manifest: CheckpointManifest) -> _Ready:
        found = self._ahead.take(manifest)
        if self._live is None:
            assert found is not None  # `_prepare` had folders
            return found
        loaded = self._live.at(manifest)
        return _Ready(found.checkpoint if found is not None else loaded, weights_of(loaded))

    def _prepare(self, manifest: CheckpointManifest) -> _Ready | None:
        """All that needs no engine, in whichever thread. None where nothing is read from folders."""
        pinned = self._source.table(manifest)
        folder = self._source.materialise(manifest) if self._folders is not None else None
        if self._live is not None and self._current is not None:
            self._source.download_step(self._current, manifest)
        if self._folders is None or folder is None:
            return None
        config = folder / "config.json"
        with storage_errors(config):
            description = ModelDescription.of({"config.json": config.read_bytes()})
        renderer = PromptRenderer(folder, manifest.thinking_mode)
        checkpoint = PreparedCheckpoint(manifest, folder, renderer, description, pinned)
        weights = self._folders.stage(weights_of(checkpoint))
        return _Ready(replace(checkpoint, folder=weights.folder), weights)

    def _clean_up(self, ready: _Ready) -> None:
        """Two checkpoints at most are kept in folders: the one in use, and one that is ready for the next window."""
        if self._folders is None:
            return
        self._folders.point(ready.checkpoint.folder)
        versions = {ready.weights.version}
        versions |= {other.weights.version for other in self._ahead.ready().values() if other is not None}
        self._folders.retain(versions)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
