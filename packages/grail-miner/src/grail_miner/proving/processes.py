"""Proofs in processes of their own, one a device, which hold weights and no key; this process signs what they give.

A worker is a child that stays over windows (`worker`, `child`). Each has a thread here that keeps it: it starts the child, lets
it load what the window needs, gives it one group after the other from the queue that all share, and replaces it when it ends,
is silent or says what is no answer. What becomes of a group then:

    its worker ended, idle or while loading    nothing: no group was there
    its worker ended over it, once             it goes to the front of the queue, for whichever worker is free first
    twice                                      it is dropped, and that is said (`PoisonousGroupError`): a third would end too
    the weights' file was written to           the same, and every worker loads anew, against the manifest's root
    it has no proof (`ProofError`)             the caller learns why; the worker lives on

A worker that cannot be started or loaded MAX_FAILED_STARTS times in a row is out: the next `load` tries it again, and so does
its thread every OUT_SECONDS. While all are, one model in this process proves in their place, which is said loudly; but no group
that ended a worker is tried here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.child_process.frames import FrameError
from grail_core.errors import CheckpointError, ConfigurationError, GrailError, MachineFaultError, StorageError
from grail_core.model.errors import ProofError
from grail_core.model.policy_model import Attention
from grail_core.proof.batch import RolloutProof
from grail_core.proof.numerics import class_name
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger
from grail_miner.proving.errors import PoisonousGroupError
from grail_miner.proving.frames import GroupRequest, MeasureRequest, Request
from grail_miner.proving.in_process import InProcessProver
from grail_miner.proving.places import WorkerPlace
from grail_miner.proving.worker import COMMAND, ProofWorker

log = get_logger(__name__)

T = TypeVar("T")

MAX_FAILED_STARTS: Final = 3
MAX_ENDED_WORKERS: Final = 2
"""Over one group."""
OUT_SECONDS: Final = 300.0
"""Before one that could not be started is tried again: a device that came back, memory that is free again."""
HEALTH_SECONDS: Final = 1.0
"""Between two looks at a worker that has nothing to do."""


@dataclass(eq=False)
class _Group:
    """What is asked of one group, in the queue or in a worker's hand."""

    request: Request[Any]
    ended: int = 0  # workers, over it
    answer: Any = None  # what the request reads, never None
    error: GrailError | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


@dataclass(eq=False)
class _Kept:
    """A worker and what its thread knows of it."""

    worker: ProofWorker
    failed: int = 0  # starts and loads, since the last that succeeded
    out: bool = False
    again: float = 0.0  # of the monotonic clock: when one that is out is tried once more
    refused: GrailError | None = None  # what is wrong with the checkpoint or with the device, in its words


@dataclass(frozen=True)
class _Bring:
    """A step of a worker's thread: bring it to these weights, or to readiness where there are none yet."""

    checkpoint: PreparedCheckpoint | None


class ProcessProver:
    """`Prover` with one slot a worker. Starts its workers at once; they import what they need in the background.

    Args:
        places: one a worker, all on GPUs or all on the processor. attention: of every model. command: a test's own child.

    Raises:
        ValueError: no numerics class is admitted for the places' device and this attention, or there is no place.
    """

    def __init__(
        self, places: Sequence[WorkerPlace], *, attention: Attention = "sdpa", command: Sequence[str] = COMMAND
    ) -> None:
        devices = {place.device for place in places}
        if len(devices) != 1:
            raise ValueError("proof workers are all on GPUs or all on the processor, and there is at least one")
        self._here = InProcessProver(device=devices.pop(), attention=attention)
        self._class = class_name(attention=attention, device=places[0].device)
        self._changed = threading.Condition()
        self._queue: deque[_Group] = deque()
        self._wanted: PreparedCheckpoint | None = None
        self._fallen_back = False
        self._closing = False
        self._kept = [
            _Kept(ProofWorker(number, place, attention=attention, command=command)) for number, place in enumerate(places)
        ]
        self._threads = [
            threading.Thread(target=self._keep, args=(kept,), name=f"proof-worker-{kept.worker.number}", daemon=True)
            for kept in self._kept
        ]
        for thread in self._threads:
            thread.start()

    @property
    def proof_class(self) -> str:
        return self._class

    @property
    def slots(self) -> int:
        with self._changed:
            return 1 if self._fallen_back else max(1, sum(not kept.out for kept in self._kept))

    @property
    def pids(self) -> list[int]:
        """Of the children that there are."""
        return [pid for kept in self._kept if (pid := kept.worker.pid) is not None]

    @property
    def ready(self) -> int:
        """Workers that have imported what they need."""
        return sum(kept.worker.ready for kept in self._kept)

    @property
    def loaded(self) -> int:
        """Workers that could prove a group at once."""
        with self._changed:
            wanted = self._wanted
            return sum(wanted is not None and kept.worker.lives and self._has(kept, wanted) for kept in self._kept)

    # --- the callers' side ------------------------------------------------------------------------------------------------

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        """As `Prover`. Returns once every worker has these weights but those that are being replaced, which follow."""
        with self._changed:
            self._require_open()
            tries = 1 if self._fallen_back else MAX_FAILED_STARTS  # what could not start a window ago is tried once more
            for kept in self._kept:
                kept.out, kept.refused, kept.failed = False, None, MAX_FAILED_STARTS - tries
            self._wanted = checkpoint
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or self._settled(checkpoint, MAX_FAILED_STARTS - tries))
            self._require_open()
            if any(self._has(kept, checkpoint) for kept in self._kept):
                self._fallen_back = False
                self._here.close()
                return
            refused = next((kept.refused for kept in self._kept if kept.refused is not None), None)
            if refused is not None:
                self._wanted = None
                raise refused
            self._fall_back(checkpoint)

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        checkpoint = self._required()
        request = GroupRequest.of(checkpoint.manifest.digest, rows, prompt_lengths, projections)
        found = self._answered(request, checkpoint)
        return found if found is not None else self._here.prove(rows, prompt_lengths, projections)

    def measure(
        self,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        projections: Projections,
        policy: GenerationPolicy,
        sampling_seeds: Sequence[int],
    ) -> list[RolloutMeasurement]:
        checkpoint = self._required()
        request = MeasureRequest.of(
            checkpoint.manifest.digest, rows, prompt_lengths, positions, projections, policy, sampling_seeds
        )
        found = self._answered(request, checkpoint)
        if found is not None:
            return found
        return self._here.measure(rows, prompt_lengths, positions, projections, policy, sampling_seeds)

    def _required(self) -> PreparedCheckpoint:
        checkpoint = self._wanted
        if checkpoint is None:
            raise MachineFaultError("no weights are loaded to prove with", hint="load the window's checkpoint first")
        return checkpoint

    def _answered(self, request: Request[T], checkpoint: PreparedCheckpoint) -> T | None:
        """A worker's answer; None: this process is to compute it, whose own model has the checkpoint."""
        group = _Group(request)
        with self._changed:
            self._require_open()
            self._queue.append(group)
            self._changed.notify_all()
            self._changed.wait_for(lambda: group.done or self._closing or self._all_out())
            if not group.done:
                self._require_open()
                self._queue.remove(group)
                if group.ended:
                    group.error = PoisonousGroupError(
                        "a proof worker ended over it, and no other can be started", hint="it is not tried in this process"
                    )
                elif not self._fallen_back:
                    self._fall_back(checkpoint)
        if group.error is not None:
            raise group.error
        answer: T | None = group.answer
        return answer

    def close(self) -> None:
        """End all workers. Who waits for a proof gets a MachineFaultError. Nothing is left of the children."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
        for kept, thread in zip(self._kept, self._threads, strict=True):
            while thread.is_alive():
                kept.worker.kill()  # again: its thread may have been about to start one
                thread.join(timeout=0.2)
        self._here.close()

    def __enter__(self) -> ProcessProver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closing:
            raise MachineFaultError("the proof workers are closed")

    def _has(self, kept: _Kept, checkpoint: PreparedCheckpoint) -> bool:
        return kept.worker.version == checkpoint.manifest.digest

    def _all_out(self) -> bool:
        return all(kept.out for kept in self._kept)

    def _settled(self, checkpoint: PreparedCheckpoint, failed_before: int) -> bool:
        """One that failed does not hold up those that are there."""
        there = [self._has(kept, checkpoint) for kept in self._kept]
        waited = [kept for kept, has in zip(self._kept, there, strict=True) if not has and not kept.out]
        return not waited or (any(there) and all(kept.failed > failed_before for kept in waited))

    def _fall_back(self, checkpoint: PreparedCheckpoint) -> None:
        """Raises CheckpointError, StorageError, MachineFaultError: neither this process can."""
        if not self._fallen_back:
            log.error(
                "no proof worker can be started: one model in the miner's own process proves in place of %d workers; "
                "look for free memory and at the device, the lines proof_worker_not_started say why",
                len(self._kept),
            )
        log.event("proof_workers_unavailable", workers=len(self._kept), instead="in process")
        try:
            self._here.load(checkpoint)
        except GrailError:
            self._wanted = None
            raise
        self._fallen_back = True

    # --- a worker's thread ------------------------------------------------------------------------------------------------

    def _keep(self, kept: _Kept) -> None:
        while (step := self._next(kept)) is not None:
            try:
                if isinstance(step, _Group):
                    self._work(kept, step)
                else:
                    self._bring(kept, step.checkpoint)
            except Exception as error:
                log.exception("a mistake of ours in the thread of proof worker %d", kept.worker.number)
                with self._changed:
                    kept.out = True
                    if isinstance(step, _Group):
                        step.error = MachineFaultError(f"unforeseen while a group was proved: {type(error).__name__}")
            finally:
                with self._changed:
                    self._changed.notify_all()
        kept.worker.end()

    def _next(self, kept: _Kept) -> _Group | _Bring | None:
        """What is to be done next, None when the pool closes. Waits."""
        with self._changed:
            while not self._closing:
                wanted = self._wanted
                if not kept.out or time.monotonic() >= kept.again:
                    if not (kept.worker.lives and kept.worker.ready):
                        return _Bring(wanted)
                    if wanted is not None and not self._has(kept, wanted):
                        return _Bring(wanted)
                if not kept.out and wanted is not None and self._queue:
                    return self._queue.popleft()
                self._changed.wait(HEALTH_SECONDS)
            return None

    def _bring(self, kept: _Kept, checkpoint: PreparedCheckpoint | None) -> None:
        worker = kept.worker
        if worker.pid is not None and worker.ready and not worker.lives:
            log.event("proof_worker_replaced", worker=worker.number, reason=worker.end("ended while it had nothing to do"))
        try:
            worker.require_ready()
            if checkpoint is not None:
                worker.load(checkpoint)
        except (CheckpointError, StorageError, ConfigurationError) as error:  # another try would say the same
            log.event("proof_worker_refused", worker=worker.number, reason=error.what)
            with self._changed:
                kept.refused, kept.out, kept.again = error, True, time.monotonic() + OUT_SECONDS
        except (FrameError, GrailError) as error:
            reason = worker.end(error.what if isinstance(error, GrailError) else str(error))
            with self._changed:
                if self._closing:
                    return
                kept.failed += 1
                kept.out, kept.again = kept.failed >= MAX_FAILED_STARTS, time.monotonic() + OUT_SECONDS
            log.event("proof_worker_not_started", worker=worker.number, reason=reason, failed=kept.failed, of=MAX_FAILED_STARTS)
            if kept.out:
                log.error("proof worker %d cannot be started, the others go on without it: %s", worker.number, reason)
        else:
            with self._changed:
                kept.failed, kept.out, kept.refused = 0, False, None
                self._fallen_back = self._fallen_back and checkpoint is None

    def _work(self, kept: _Kept, group: _Group) -> None:
        worker = kept.worker
        try:
            answer = worker.answer(group.request)
        except ProofError as error:
            with self._changed:
                group.error = error
            return
        except StorageError as error:
            reason = error.what
            with self._changed:
                for each in self._kept:
                    each.worker.version = None
        except (FrameError, GrailError) as error:
            reason = worker.end(error.what if isinstance(error, GrailError) else str(error))
        else:
            with self._changed:
                group.answer = answer
            return
        with self._changed:
            if self._closing:
                return
            group.ended += 1
            if group.ended < MAX_ENDED_WORKERS:
                self._queue.appendleft(group)
            else:
                group.error = PoisonousGroupError(
                    f"{group.ended} proof workers ended over it; the last one {reason}",
                    hint="one group is lost; if it happens again, look at the device and at free memory",
                )
        log.event("proof_worker_replaced", worker=worker.number, reason=reason, group="again" if not group.done else "dropped")
