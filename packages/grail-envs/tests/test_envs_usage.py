"""Time in line for a processor is not an answer's time: not of its threads, and not of threads that have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grail_envs.sandbox.usage import Usage

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's clocks of other processes")

SLEEPER = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
THREADS = """
import threading, time
print('ready', flush=True)
while True:
    thread = threading.Thread(target=sum, args=(range(2000),))
    thread.start()
    thread.join()
"""
BURNER = "print('ready', flush=True)\nwhile True: pass\n"


@contextmanager
def running(script: str, count: int = 1, processor: int | None = None) -> Iterator[list[int]]:
    processes = []
    try:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            if processor is not None:
                os.sched_setaffinity(process.pid, {processor})
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def counted_share(pids: list[int], intervals: int) -> float:
    """What counts of the time that passes, as a share, read as a grade's is."""
    usage = Usage(pids)
    for number in range(intervals):
        time.sleep(0.05)
        usage.measure(last=number == intervals - 1)
    return usage.counted / (time.monotonic() - usage.started)


def test_time_asleep_counts() -> None:
    with running(SLEEPER) as pids:
        assert counted_share(pids, 6) > 0.5


def test_time_in_line_of_threads_that_have_ended_does_not_count() -> None:
    processor = min(os.sched_getaffinity(0))
    with running(BURNER, 7, processor), running(THREADS, 1, processor) as pids:
        assert counted_share(pids, 12) < 0.5  # an eighth of the processor is theirs, and they never sleep


def test_no_interval_counts_less_than_nothing() -> None:
    processor = min(os.sched_getaffinity(0))
    with running(BURNER, 3, processor) as pids:  # each waits two thirds of the time: twice the interval together
        usage = Usage(pids)
        seen = []
        for _ in range(4):
            time.sleep(0.05)
            usage.measure(last=False)
            seen.append(usage.counted)
        assert seen == sorted(seen)
        assert seen[0] >= 0.0
        assert usage.cpu > 0.0


def test_a_process_that_is_gone_keeps_its_last_reading() -> None:
    with running(BURNER) as pids:
        usage = Usage(pids)
        time.sleep(0.05)
        usage.measure(last=False)
        used = usage.cpu
    usage.measure(last=True)
    assert usage.cpu >= used
