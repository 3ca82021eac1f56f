"""Evaluations of published checkpoints beside the learning, one at a time (`schedule` says which, `child` makes them).

The trainer hands over a manifest and goes on. What is evaluated is what was put: the child reads the checkpoint as any reader
does, by its manifest. Whatever becomes of it costs the trainer nothing: it is told, and the next turn comes.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from grail_core.errors import GrailError
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.telemetry import get_logger
from grail_trainer.evaluating.child import EvaluationChild
from grail_trainer.evaluating.record import EvaluationFile, EvaluationRecord
from grail_trainer.evaluating.schedule import Ended, Out, Schedule, Turn, step
from grail_trainer.evaluation_settings import EvaluationSettings

log = get_logger(__name__)

LOOK_SECONDS: Final = 0.2
"""Between two looks at whether the role is to stop, while the last evaluation of a run is waited for."""


class Evaluations:
    """Of one run of the trainer.

    Args:
        file: where results go. scratch: a folder of the cache, for samples of an evaluation that is not done.

    Raises:
        DamagedStateError, StorageError: the file cannot be gone on with.
    """

    def __init__(self, settings: EvaluationSettings, *, file: Path, scratch: Path) -> None:
        self._settings, self._scratch = settings, scratch
        self._file = EvaluationFile(file)
        self._schedule = Schedule(settings.evaluate_every, self._file.newest)
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._child: EvaluationChild | None = None
        self._started = 0.0
        self._closing = False

    @contextmanager
    def running(self, stop: threading.Event, *, newest: CheckpointManifest) -> Iterator[None]:
        """Checkpoints are evaluated while this is entered, `newest` of all among them where its turn came and no result did. A
        run that comes to its own end waits for the last one; one that is stopped, or fails, ends it."""
        self.out(newest)
        try:
            yield
            while not stop.is_set() and self._thread is not None and self._thread.is_alive():
                self._thread.join(LOOK_SECONDS)
        finally:
            self._close()

    def out(self, manifest: CheckpointManifest) -> None:
        """A checkpoint is in the store; returns at once. From any thread."""
        with self._lock:
            if self._closing:
                return
            self._schedule, turn = step(self._schedule, Out(manifest.sequence))
            if turn is Turn.PASSED:
                seconds = time.monotonic() - self._started
                reason = f"the evaluation before it is not done after {seconds:.0f} s"
                log.event("evaluation_skipped", level=logging.WARNING, **_named(manifest), reason=reason)
            if turn is Turn.START:
                self._started = time.monotonic()
                self._start(manifest)

    def _start(self, manifest: CheckpointManifest) -> None:
        thread = threading.Thread(target=self._run, args=(manifest,), name="evaluation", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # this machine has no more threads
            self._tell_failed(manifest, str(error))
            self._schedule, _ = step(self._schedule, Ended())
        else:
            self._thread = thread

    def _run(self, manifest: CheckpointManifest) -> None:
        try:
            self._evaluate(manifest)
        except GrailError as error:
            self._tell_failed(manifest, error.what)
        except Exception as error:  # an evaluation costs the run nothing
            log.exception("unforeseen while checkpoint %d was evaluated", manifest.sequence)
            self._tell_failed(manifest, f"unforeseen in this trainer: {type(error).__name__}")
        finally:
            with self._lock:
                self._child = None
                self._schedule, _ = step(self._schedule, Ended())

    def _evaluate(self, manifest: CheckpointManifest) -> None:
        keep = self._scratch / f"{manifest.digest.hex()[:16]}-{self._settings.evaluate_samples}"
        self._forget_others(keep)
        with self._lock:
            if self._closing:
                return
            self._child = child = EvaluationChild(str(manifest.valid_from), self._settings, keep)
        record = EvaluationRecord.of(manifest, child.figures(), time.monotonic() - self._started)
        if self._file.add(record):
            log.event("checkpoint_evaluated", **record.to_json())
        shutil.rmtree(keep, ignore_errors=True)  # it is cache: what stays is removed with the next one

    def _tell_failed(self, manifest: CheckpointManifest, reason: str) -> None:
        if not self._closing:  # else it was ended on purpose, and goes on from its samples
            log.event("evaluation_failed", level=logging.WARNING, **_named(manifest), reason=reason)

    def _forget_others(self, keep: Path) -> None:
        for path in self._scratch.glob("*"):
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)

    def _close(self) -> None:
        with self._lock:
            self._closing = True
            if self._child is not None:
                self._child.kill()
        if self._thread is not None:
            self._thread.join()


def _named(manifest: CheckpointManifest) -> dict[str, int | str]:
    return {
        "checkpoint": manifest.digest.hex(),
        "sequence": manifest.sequence,
        "window": manifest.window,
        "valid_from": manifest.valid_from,
    }
