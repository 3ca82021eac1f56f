"""`Models` in a child process that is replaced when it breaks, so that what a request does to a model ends no node.

A child that ends, is silent or fails at its device is gone with every row that ran: the caller is told once, by an error, and
the next call starts another, which loads what the last one held. What comes from the child is read as from a stranger.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import grail_core
import grail_miner
from grail_core.child_process.faults import error_of
from grail_core.child_process.frames import MAX_TEXT_BYTES, Frame, FrameError, Payload, pack
from grail_core.child_process.handle import ChildHandle, boot_command, folders_of
from grail_core.errors import CheckpointError, GrailError, MachineFaultError
from grail_core.proof.batch import RolloutProof
from grail_core.proof.errors import UnprovableError
from grail_core.telemetry import get_logger
from grail_miner.proving.frames import ERRORS
from grail_miner.serving import model_frames as frames
from grail_miner.serving.model_frames import Kind
from grail_miner.serving.models import Drawn, HeldModel, ModelToHold, NewRow, RowId, ToProve

log = get_logger(__name__)

COMMAND: Final = boot_command("grail_miner.serving.model_child", 2)
_FOLDERS: Final = folders_of(grail_core, grail_miner)
_NAME: Final = "model process"

START_SECONDS: Final = 600.0
"""For importing torch and Transformers; a busy machine of two cores takes 20."""
LOAD_SECONDS, LEAST_LOAD_BYTES_PER_SECOND = 600.0, 4 << 20
STEP_SECONDS: Final = 600.0
"""For a burst, of which the longest part is a piece of a prompt."""
PROVE_SECONDS, LEAST_PROVED_TOKENS_PER_SECOND = 600.0, 10


class ModelProcess:
    """See `Models`.

    Args:
        device, attention: of every model. command: what is run (a test's own child).
    """

    def __init__(self, *, device: str, attention: str = "sdpa", command: Sequence[str] = COMMAND) -> None:
        self._arguments = device, attention
        self._command = tuple(command)
        self._wanted: dict[bytes, ModelToHold] = {}
        self._held: dict[bytes, HeldModel] = {}  # by the child that there is
        self._open: set[RowId] = set()  # rows that it draws
        self._child: ChildHandle[Kind] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child; None where there is none at this moment."""
        return None if self._child is None else self._child.pid

    def hold(self, wanted: ModelToHold) -> HeldModel:
        """See `Models`."""
        child = self._ready()
        if wanted.container_id not in self._held:
            self._held[wanted.container_id] = self._load(child, wanted)
        self._wanted[wanted.container_id] = wanted
        return self._held[wanted.container_id]

    def release(self, container_id: bytes) -> None:
        if self._wanted.pop(container_id, None) is None or self._child is None:
            return
        self._held.pop(container_id, None)
        self._ask(self._child, Kind.RELEASE, pack({"container": container_id.hex()}), STEP_SECONDS, largest=MAX_TEXT_BYTES)

    def advance(self, rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId] = ()) -> list[Drawn]:
        """See `Models`."""
        payload = frames.pack_rows(rows, cancelled, stopped)
        frame = self._ask(self._ready(), Kind.ADVANCE, payload, STEP_SECONDS, largest=frames.MAX_DRAWN_BYTES)
        try:
            drawn = frames.drawn_of(frame.payload)
        except FrameError as error:
            raise self._gone(str(error)) from error
        self._open |= {row.id for row in rows}
        self._open -= {*cancelled, *stopped, *(one.id for one in drawn if one.finished)}
        return drawn

    def prove(self, job: ToProve) -> list[RolloutProof]:
        """See `Models`."""
        tokens = len(job.completions) * (len(job.prompt) + max(map(len, job.completions)))
        seconds = PROVE_SECONDS + tokens / LEAST_PROVED_TOKENS_PER_SECOND
        largest = max(MAX_TEXT_BYTES, frames.proved_bytes(job))
        frame = self._ask(self._ready(), Kind.PROVE, frames.pack_job(job), seconds, largest=largest)
        try:
            return frames.proofs_of(frame.payload, job)
        except FrameError as error:
            raise self._gone(str(error)) from error

    def tend(self) -> None:
        """See `Models`."""
        if self._wanted:
            self._ready()

    def close(self) -> None:
        child, self._child = self._child, None
        self._held.clear()
        self._open.clear()
        if child is not None:
            child.end()

    def _ready(self) -> ChildHandle[Kind]:
        """A child that holds what is wanted. Raises MachineFaultError: it ended meanwhile, with rows that ran."""
        if self._child is not None and not self._child.lives:
            lost = bool(self._open)
            error = self._gone("ended")
            if lost:
                raise error  # and who asked learns that its rows are gone
        if self._child is None:
            begun = time.monotonic()
            child = ChildHandle(self._command, self._arguments, folders=_FOLDERS, kinds=Kind, name=_NAME)
            self._child = child
            try:
                frame = child.first_word(child.started + START_SECONDS)
            except FrameError as error:
                raise self._gone(str(error)) from error
            self._require(frame, Kind.READY)
            for wanted in self._wanted.values():
                self._held[wanted.container_id] = self._load(child, wanted)
            log.event("model_process_ready", pid=child.pid, seconds=round(time.monotonic() - begun, 3))
        return self._child

    def _load(self, child: ChildHandle[Kind], wanted: ModelToHold) -> HeldModel:
        try:
            size = sum(path.stat().st_size for path in wanted.folder.iterdir())
        except OSError as error:
            self.close()  # it does not hold what it must
            raise CheckpointError(
                f"the model's folder cannot be read any more: {error.strerror}",
                where=str(wanted.folder),
                hint="bring it back; of a network's checkpoint, give the cache more room and start the node again",
            ) from error
        seconds = LOAD_SECONDS + size / LEAST_LOAD_BYTES_PER_SECOND
        frame = self._ask(child, Kind.HOLD, frames.pack_model(wanted), seconds, largest=MAX_TEXT_BYTES)
        try:
            return frames.held_of(frame.json())
        except FrameError as error:
            raise self._gone(str(error)) from error

    def _ask(self, child: ChildHandle[Kind], kind: Kind, payload: Payload, seconds: float, *, largest: int) -> Frame[Kind]:
        try:
            frame = child.ask(kind, payload, time.monotonic() + seconds, largest=largest)
        except FrameError as error:
            raise self._gone(str(error)) from error
        return self._require(frame, Kind(kind + 1))

    def _require(self, frame: Frame[Kind], answer: Kind) -> Frame[Kind]:
        """The frame, if it is this answer; else its error. After any but that of a proof the child is gone."""
        if frame.kind is answer:
            return frame
        if frame.kind is not Kind.FAULT:
            raise self._gone(f"gave {frame.kind.name} in place of {answer.name}")
        error: GrailError = error_of(_told(frame), ERRORS, process=_NAME)
        if not isinstance(error, UnprovableError):
            self.close()  # a device that failed once fails again there, and memory may be in pieces
        raise error

    def _gone(self, why: str) -> MachineFaultError:
        """End the child that `why` tells of, and say how it ended."""
        child, self._child = self._child, None
        self._held.clear()
        self._open.clear()
        if child is None:
            return MachineFaultError(f"the {_NAME} {why}")
        last = child.last_line()
        code = child.end(dying=why.startswith("ended"))
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with code {code}"
        log.event("model_process_gone", reason=f"{why}{how}", said=last)
        return MachineFaultError(f"the {_NAME} {why}{how}", hint="it is replaced; the log has what it said")


def _told(frame: Frame[Kind]) -> dict[str, Any]:
    try:
        return frame.json()
    except FrameError:
        return {}
