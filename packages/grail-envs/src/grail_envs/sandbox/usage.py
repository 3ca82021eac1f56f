"""What the processes of a grade used, so counted that the load of the machine does not show in it.

Read from the kernel's clocks and from /proc, where there is one; elsewhere time in line is not known and counts as time.
Standard library only: the zygote runs it.
"""

from __future__ import annotations

import contextlib
import os
from time import clock_gettime, monotonic  # the real ones: a zygote with a package has others in their place


class Usage:
    """CPU time of the busiest process, and the time of the pair without what it spent in line for a processor (seconds).

    The kernel counts the time in line per thread and forgets it with the thread. So it is read in intervals: from the threads
    that live, and where one of them is just runnable, the whole interval counts no more than the processor time used in it.
    What is taken off an interval is never more than the interval, so threads that wait side by side gain nothing.
    """

    def __init__(self, pids: list[int]) -> None:
        self._cpu = dict.fromkeys(pids, 0.0)
        self._waited: dict[str, float] = {}
        self.memory = 0
        self.counted = 0.0
        self.started = self._at = monotonic()
        self._own_wait = _in_line("/proc/self")
        for pid in pids:
            self._waited[f"/proc/{pid}/task/{pid}"] = _in_line(f"/proc/{pid}/task/{pid}")

    @property
    def cpu(self) -> float:
        """Of the process that used most."""
        return max(self._cpu.values())

    def measure(self, *, last: bool) -> None:
        """Read the clocks; a process that was reaped keeps its last values, so the last reading comes before that."""
        cpu, waited, runnable = sum(self._cpu.values()), 0.0, False
        for pid in self._cpu:
            with contextlib.suppress(OSError):  # ended: what it used comes with its exit status
                self._cpu[pid] = clock_gettime((~pid << 3) | 2)  # the kernel's number for another process's CPU clock
            for task in _tasks(pid):
                total = _in_line(task)
                waited += max(0.0, total - self._waited.get(task, 0.0))
                self._waited[task] = total
                runnable = runnable or (not last and _is_runnable(task))
        own_wait = _in_line("/proc/self")
        if last:  # the grader had ended while this process stood in line to see it
            waited += own_wait - self._own_wait
        self._own_wait = own_wait
        now = monotonic()
        elapsed, self._at = now - self._at, now
        counted = elapsed - waited
        if runnable:
            counted = min(counted, sum(self._cpu.values()) - cpu)
        self.counted += max(0.0, counted)

    def peak(self) -> None:
        """Read the memory of what still runs (bytes); a process that has ended told it to the kernel."""
        for pid in self._cpu:
            try:
                self.memory = max(self.memory, 1024 * int(_start_of(f"/proc/{pid}/status").partition(b"VmHWM:")[2].split()[0]))
            except (OSError, ValueError, IndexError):
                continue


def _tasks(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _in_line(task: str) -> float:
    """Seconds that a thread has stood in line for a processor; 0 where that is not known."""
    try:
        return int(_start_of(f"{task}/schedstat").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _is_runnable(task: str) -> bool:
    try:
        return _start_of(f"{task}/stat").rpartition(b") ")[2][:1] == b"R"
    except OSError:
        return False


def _start_of(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 4096)
    finally:
        os.close(handle)
