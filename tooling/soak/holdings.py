"""What the processes of a run hold: memory, descriptors and threads by /proc, bytes by folder. Linux alone.

A role's children (the model process, proof workers) are counted with it: a leak that moves into a child is one all the same.
Memory is `RssAnon`, what a process has for itself: pages of mapped files come and go with the machine's page cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Holding:
    """Of one process and all below it."""

    pid: int  # of the one that was started
    processes: int
    memory: int  # bytes
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """At one moment of a run. Folders are named by whose they are: `state/validator-1`, `cache/miner-1`, …"""

    window: int  # index in the run
    seconds: float  # real time since its first window
    holdings: Mapping[str, Holding]  # by process name
    folders: Mapping[str, int]  # bytes


def holdings(pids: Mapping[str, int]) -> dict[str, Holding]:
    """What each of these processes and its descendants hold now; one that ended meanwhile is left out.

    Args:
        pids: by the name that the answer has too.
    """
    parents = {int(path.name): _parent(path) for path in PROC.iterdir() if path.name.isdigit()}
    found = {}
    for name, pid in pids.items():
        read = [one for member in _below(pid, parents) if (one := _process(member)) is not None]
        if read:
            memory, descriptors, threads = (sum(column) for column in zip(*read, strict=True))
            found[name] = Holding(pid, len(read), memory, descriptors, threads)
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below it, as they are long; what goes meanwhile counts nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _below(pid: int, parents: Mapping[int, int]) -> Iterable[int]:
    """The process itself and its descendants."""
    chosen, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in chosen} - chosen
        chosen |= more
        grown = bool(more)
    return chosen


def _process(pid: int) -> tuple[int, int, int] | None:
    """Memory in bytes, descriptors, threads; None of one that is gone."""
    place = PROC / str(pid)
    try:
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
        return 1024 * int(status["RssAnon"].split()[0]), len(os.listdir(place / "fd")), int(status["Threads"])
    except (OSError, ValueError, KeyError):
        return None
