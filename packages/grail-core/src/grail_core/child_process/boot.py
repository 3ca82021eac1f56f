"""The child's own side: it says that it is ready, answers one job after the other, and ends with its parent.

The parent holds the other end of its standard input, and when that end is gone, however, the kernel kills the child (elsewhere
than on Linux a thread of its own does).
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeAlias

from grail_core.child_process import frames
from grail_core.child_process.faults import ErrorNames, fault_of
from grail_core.child_process.frames import Frame, K, Payload

MAX_REQUEST_BYTES = 256 << 20
"""Our parents' requests are below 16 MiB: 80 rows of 12,288 tokens."""

Answers: TypeAlias = Mapping[K, tuple[K, Callable[[memoryview], Payload]]]
"""What is asked: the kind of its answer, and what computes the answer's payload from its own."""


def serve(prepare: Callable[[], Answers[K]], *, kinds: type[K], ready: K, fault: K, names: ErrorNames) -> NoReturn:
    """Answer the parent, whose connection's descriptor is the first argument of this process, until it has gone.

    Args:
        prepare: imports what takes long and tries the device. Its error is told, and ends this process.
        ready, fault: the kinds that say that it is prepared, and that a job's answer is an error.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops all processes at once lets the parent end the step it is in
    connection = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent()
    faulthandler.enable()
    answer = partial(frames.send, connection, deadline=math.inf)
    try:
        answers = prepare()
    except Exception as error:  # noqa: BLE001 - the parent decides what it means
        answer(fault, 0, frames.pack(fault_of(error, names)))
        os._exit(1)
    answer(ready, 0, frames.pack({}))
    while True:
        try:
            asked = frames.receive(connection, math.inf, largest=MAX_REQUEST_BYTES, kinds=kinds)
        except frames.FrameError:
            os._exit(0)  # the parent has gone
        kind, payload = _answer(answers, asked, fault, names)
        answer(kind, asked.job, payload)


def _answer(answers: Answers[K], asked: Frame[K], fault: K, names: ErrorNames) -> tuple[K, Payload]:
    kind, compute = answers[asked.kind]
    try:
        return kind, compute(asked.payload)
    except Exception as error:  # noqa: BLE001 - told to the parent, which decides what becomes of this process
        return fault, frames.pack(fault_of(error, names))


def end_with_parent() -> None:
    """From now on this process lives no longer than the one that holds the other end of its standard input."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")  # rather this process than the one that holds a verdict
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
