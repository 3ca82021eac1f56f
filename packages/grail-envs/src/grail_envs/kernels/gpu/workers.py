"""Processes that time kernels, one for each GPU and purpose: kept, recycled, replaced when their context is broken.

A persistent worker keeps its context over many jobs and is renewed after a number of them; a fresh process is one that is
renewed after every job. One that ends, or whose context an error has spoiled, is replaced and its job tried once more;
whoever breaks two has failed. A job that takes longer than the limit ends its process and is not tried again.
"""

from __future__ import annotations

import queue
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from grail_core.child_process import frames as child_frames
from grail_core.child_process.faults import error_of
from grail_core.child_process.frames import FrameError
from grail_core.child_process.handle import ChildHandle, boot_command
from grail_core.errors import EnvironmentUnavailableError, MachineFaultError
from grail_envs.kernels.gpu.frames import ERRORS, MAX_ANSWER_BYTES, Kind
from grail_envs.kernels.gpu.settings import TimingSettings

CHILD: Final = "grail_envs.kernels.gpu.child"
START_SECONDS: Final = 300.0
_PACKAGES: Final = ("grail_core", "grail_envs", "torch", "triton", "numpy")


class Worker:
    """The process of one device and purpose; made at its first job."""

    def __init__(self, device: str, settings: TimingSettings, module: str = CHILD) -> None:
        self._device = device
        self._settings = settings
        self._module = module
        self._child: ChildHandle[Kind] | None = None
        self._jobs = 0
        self.started = 0

    def ask(self, kind: Kind, message: dict[str, Any]) -> dict[str, Any]:
        """What the process says of a job; `{"problem": …}` where the job has broken two of them, or took too long.

        Raises:
            MachineFaultError: no process comes up on this device.
        """
        problem = ""
        for _ in range(2):
            child = self._ready()
            self._jobs += 1
            try:
                deadline = time.monotonic() + self._settings.timeout_s
                frame = child.ask(kind, child_frames.pack(message), deadline, largest=MAX_ANSWER_BYTES)
                said = frame.json()
            except FrameError as error:
                self.close()
                problem = f"the process {error}"
                if "in time" in problem:
                    break
                continue
            if frame.kind is Kind.FAULT:
                self.close()
                problem = str(said.get("what", "a fault"))
            elif said.get("sticky"):
                self.close()
                problem = str(said.get("problem", "a broken context"))
            else:
                if self._jobs >= self._settings.recycle_after:
                    self.close()
                return said
        return {"problem": problem}

    def close(self) -> None:
        """End the process; the next job gets another one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _ready(self) -> ChildHandle[Kind]:
        if self._child is None:
            more = {"TRITON_INTERPRET": "1"} if self._device == "cpu" else {}
            child = ChildHandle(
                boot_command(self._module, 1),
                (self._device,),
                folders=_folders(self._module),
                kinds=Kind,
                name="timing process",
                more=more,
            )
            try:
                first = child.first_word(time.monotonic() + START_SECONDS)
            except FrameError as error:
                last = child.last_line()
                child.end()
                raise MachineFaultError(
                    f"no process that times kernels came up: it {error}; {last}", where=self._device
                ) from None
            if first.kind is not Kind.READY:
                child.end()
                raise error_of(first.json(), ERRORS, process="timing process")
            self._child, self._jobs = child, 0
            self.started += 1
        return self._child


class Workers:
    """Two workers for each GPU: one for kernels, one for what they are compared with. Asked from any thread."""

    def __init__(self, settings: TimingSettings, *, devices: tuple[str, ...] | None = None, module: str = CHILD) -> None:
        self._pairs: queue.Queue[tuple[Worker, Worker]] = queue.Queue()
        self.workers: list[Worker] = []
        for device in devices or tuple(f"cuda:{number}" for number in settings.gpus):
            pair = (Worker(device, settings, module), Worker(device, settings, module))
            self.workers += pair
            self._pairs.put(pair)

    def both(self, kernels: dict[str, Any], reference: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run both jobs on one device, one after the other; waits for a free one.

        Raises:
            MachineFaultError: no process comes up.
        """
        pair = self._pairs.get()
        try:
            return pair[0].ask(Kind.KERNELS, kernels), pair[1].ask(Kind.REFERENCE, reference)
        finally:
            self._pairs.put(pair)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.close()


def _folders(module: str) -> tuple[str, ...]:
    """Where the child finds its packages."""
    folders: dict[str, None] = {}
    for name in (*_PACKAGES, module.partition(".")[0]):
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentUnavailableError(
                f"kernels cannot be timed: {name} is not installed",
                where="triton_kernel",
                hint="pip install 'grail-envs[triton]'",
            )
        folders[str(Path(next(iter(spec.submodule_search_locations))).parent)] = None
    return tuple(folders)
