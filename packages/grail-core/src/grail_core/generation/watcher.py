"""Stands between us and an inference server: no process of the engine outlives this one, and this one not its parent.

`python -I -S watcher.py LOG BYTES GRACE COMMAND…` leads a process group, runs the command in it, and adopts whatever the
command's own children leave behind. It ends everything, and then itself with the command's exit code (128 + the signal's number
where a signal ended it), when

    its standard input is closed    the parent has died, however: all are killed at once, a new server needs their memory
    it gets SIGTERM                 SIGTERM for all, GRACE seconds later SIGKILL
    the command has ended           what it left behind is killed at once

Whatever they print goes to LOG, and where that grows beyond BYTES to LOG with `.1` behind, which is replaced. A disk that is
full costs lines and no more. The standard library alone: it is started by its path, without site packages. Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
NOT_STARTED = 127
_ROUND = 0.05  # seconds between two looks at what is left, while it is being ended


class Log:
    """Two files of at most `limit` bytes, whichever the device takes."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        self._descriptor, self._size = -1, 0
        self._begin()

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # lines are lost; the engine goes on
            if self._size + len(data) > self._limit:
                os.replace(self._path, f"{self._path}.1")
                self._begin()
            self._size += os.write(self._descriptor, data)

    def _begin(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor, self._size = os.open(self._path, flags, 0o600), 0


class Watcher:
    """One command. `parent` is a descriptor that reads as ended once the parent has gone."""

    def __init__(self, command: list[str], log: Log, grace: float, *, parent: int) -> None:
        self._log, self._grace, self._parent = log, grace, parent
        self._told = False
        self._code: int | None = None
        self._woken, wake = os.pipe()
        for descriptor in (self._woken, wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it wakes
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is the parent's to answer
        self._printed, output = os.pipe()
        os.set_blocking(self._printed, False)
        self._engine = os.fork()
        if self._engine == 0:
            _become(command, output)
        os.close(output)

    def run(self) -> int:
        """Returns once nothing of it is left."""
        orphaned = False
        while not orphaned and not self._told and self._code is None:
            orphaned = self._look(None)
            self._reap()
        if not orphaned and self._code is None:
            self._end(signal.SIGTERM, time.monotonic() + self._grace)
        self._end(signal.SIGKILL, None)
        self._look(0.0)
        return self._code or 0

    def _tell(self, *_: object) -> None:
        self._told = True

    def _look(self, seconds: float | None) -> bool:
        """Wait for anything, and put what was printed into the log. Whether the parent has gone."""
        watched = [descriptor for descriptor in (self._woken, self._parent, self._printed) if descriptor >= 0]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._printed in ready:
            data = os.read(self._printed, 1 << 16)
            self._log.write(data)
            if not data:
                self._printed = -1  # nobody is left who could print
        if self._parent in ready and not os.read(self._parent, 4096):
            self._parent = -1
            return True
        return False

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
                if found[0] == self._engine:
                    code = os.waitstatus_to_exitcode(found[1])
                    self._code = code if code >= 0 else 128 - code

    def _end(self, how: signal.Signals, deadline: float | None) -> bool:
        """Signal all that descends from this process until nothing does or the deadline has passed. Whether the parent went,
        which ends the wait too."""
        signalled: set[int] = set()
        while left := descendants(os.getpid()):
            for pid in left if deadline is None else left - signalled:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, how)
            signalled |= left
            gone = self._look(_ROUND)
            self._reap()
            if deadline is not None and (gone or time.monotonic() >= deadline):
                return gone
        self._reap()
        return False


def descendants(pid: int) -> set[int]:
    """All living processes below this one, as /proc has them now."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path("/proc", name, "stat").read_bytes()
                state, parent = stat[stat.rindex(b")") + 2 :].split(b" ", 2)[:2]
                if state not in (b"Z", b"X"):
                    below.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in below.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _become(command: list[str], output: int) -> None:
    """In the child: the command, which dies with the watcher. Does not return."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_STARTED)


def main(argv: list[str]) -> int:
    log, grace, command = Log(Path(argv[1]), int(argv[2])), float(argv[3]), argv[4:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return Watcher(command, log, grace, parent=0).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
