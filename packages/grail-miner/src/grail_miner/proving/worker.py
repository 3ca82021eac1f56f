"""One proof worker as the miner holds it: started, told what to load, asked, ended. What its end means is `processes`'s."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import grail_core
import grail_miner
from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.child_process import frames as transport
from grail_core.child_process.faults import error_of
from grail_core.child_process.frames import Frame, FrameError
from grail_core.child_process.handle import ChildHandle, boot_command, folders_of
from grail_core.errors import CheckpointError, GrailError
from grail_core.model.policy_model import Attention
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger
from grail_miner.proving import frames
from grail_miner.proving.frames import Kind, Request
from grail_miner.proving.places import WorkerPlace

log = get_logger(__name__)

T = TypeVar("T")

COMMAND: Final = boot_command("grail_miner.proving.child", 2)
_FOLDERS: Final = folders_of(grail_core, grail_miner)

START_SECONDS: Final = 600.0
"""For importing torch and Transformers; a busy machine of two cores takes 20."""
LOAD_SECONDS, LEAST_LOAD_BYTES_PER_SECOND = 600.0, 4 << 20
GROUP_SECONDS: Final = 360.0
"""A window of subnet 81. A machine that needs longer for one group of 16 rollouts earns nothing by it."""


class ProofWorker:
    """One child at a time. Used by one thread, but for `kill`.

    Args:
        number: what it is called by. place: where it runs. command: what is run (a test's own child).
    """

    def __init__(self, number: int, place: WorkerPlace, *, attention: Attention, command: Sequence[str] = COMMAND) -> None:
        self.number = number
        self.place = place
        self.version: Digest | None = None
        """Of the weights that it has loaded; None before, and as long as it loads others."""
        self.ready = False
        self._attention = attention
        self._command = tuple(command)
        self._handle: ChildHandle[Kind] | None = None

    @property
    def pid(self) -> int | None:
        """None where there is no child."""
        return self._handle.pid if self._handle is not None else None

    @property
    def lives(self) -> bool:
        return self._handle is not None and self._handle.lives

    def start(self) -> None:
        """Start a child where there is none; it imports what it needs while this process does something else.

        Raises:
            MachineFaultError: this machine starts no process.
        """
        if self._handle is None:
            self._handle = ChildHandle(
                self._command,
                (self.place.to_text(), self._attention),
                folders=_FOLDERS,
                kinds=Kind,
                name="proof worker",
                more=self.place.environment,
            )

    def require_ready(self) -> None:
        """Wait until the child can work.

        Raises:
            FrameError: it ended, is silent or says something else.
            GrailError: why it cannot, in its own words.
        """
        self.start()
        handle = self._child
        if self.ready:
            return
        frame = handle.first_word(handle.started + START_SECONDS)
        if frame.kind is Kind.FAULT:
            raise _error_of(frame)
        if frame.kind is not Kind.READY:
            raise FrameError("said something else than that it is ready")
        self.ready = True
        log.event("proof_worker_ready", worker=self.number, pid=handle.pid, seconds=round(time.monotonic() - handle.started, 3))

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        """Load the checkpoint's folder, and compare what lies in memory then with what its manifest names.

        Raises:
            FrameError: as `require_ready`. CheckpointError, StorageError, MachineFaultError: it cannot; the child lives on.
        """
        manifest = checkpoint.manifest
        begun = time.monotonic()
        self.version = None
        told = {"version": manifest.digest.hex(), "folder": str(checkpoint.folder)}
        try:
            size = sum(path.stat().st_size for path in checkpoint.folder.iterdir())
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint's folder cannot be read: {error.strerror}", where=str(checkpoint.folder)
            ) from error
        deadline = begun + LOAD_SECONDS + size / LEAST_LOAD_BYTES_PER_SECOND
        frame = self._child.ask(Kind.LOAD, transport.pack(told), deadline, largest=transport.MAX_TEXT_BYTES)
        if frame.kind is Kind.FAULT:
            raise _error_of(frame)
        said = frame.json() if frame.kind is Kind.LOADED else {}
        if said.get("version") != told["version"]:
            raise FrameError("did not say that it loaded what it was told to")
        root: Any = said.get("root")
        if root is not None and root != manifest.weights_root.hex():
            raise CheckpointError(
                "a proof worker loaded other weights than the manifest names",
                where=str(checkpoint.folder),
                hint="remove this folder: it is fetched again; look at the disk",
            )
        self.version = manifest.digest
        log.event(
            "proof_worker_loaded",
            worker=self.number,
            version=told["version"],
            verified=root is not None,
            seconds=round(time.monotonic() - begun, 3),
        )

    def answer(self, request: Request[T]) -> T:
        """What is asked of one group, with the weights that the request names and a load has brought.

        Raises:
            FrameError: as `require_ready`, or an answer that is none. ProofError: there is none, and the child lives on.
            MachineFaultError: it could not compute it.
        """
        largest = max(request.answer_bytes, transport.MAX_TEXT_BYTES)
        frame = self._child.ask(request.asks, request.payload, time.monotonic() + GROUP_SECONDS, largest=largest)
        if frame.kind is Kind.FAULT:
            raise _error_of(frame)
        if frame.kind is not request.answered_by:
            raise FrameError(f"gave {frame.kind.name} in place of {request.answered_by.name}")
        return request.read(frame.payload)

    def kill(self) -> None:
        """From any thread: whoever waits for the child's answer learns that it ended."""
        handle = self._handle
        if handle is not None:
            handle.kill()

    def end(self, why: str = "") -> str:
        """Nothing is left of the child after this. Returns how it ended, and the last line that it said."""
        handle, self._handle = self._handle, None
        self.version, self.ready = None, False
        if handle is None:
            return why
        last = handle.last_line()
        code = handle.end(dying=why.startswith("ended"))
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with code {code}"
        return f"{why}{how}" + (f" ({last})" if last else "")

    @property
    def _child(self) -> ChildHandle[Kind]:
        if self._handle is None:
            raise FrameError("ended")
        return self._handle


def _error_of(frame: Frame[Kind]) -> GrailError:
    return error_of(frame.json(), frames.ERRORS, process="proof worker")
