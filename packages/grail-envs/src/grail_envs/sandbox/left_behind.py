"""What loading foreign code leaves that a fork would share: memory mapped for several processes, and processes.

Forks copy what they write, but not where memory was mapped as shared: there a judgement could leave a note for the next one.
So every such mapping is replaced, in place, by a private copy. A process that goes on beside the zygote could do the same
over other ways, so none may be left. Standard library only; runs in the zygote, before it forks anything.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import NamedTuple

MAX_SHARED_BYTES = 256 * 2**20
_PR_SET_CHILD_SUBREAPER = 36
_MAP_FIXED, _MAP_PRIVATE, _MAP_ANONYMOUS = 0x10, 0x02, 0x20
_WALL = 0x4000_0000
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([sp]) \S+ \S+ \S+\s*(.*)")
_KEPT_BY_DEVICES = re.compile(r"/dev/(?!zero\b|shm/)")


class Mapping(NamedTuple):
    """A stretch of memory that is shared, or may become so; `protection` as mmap takes it."""

    start: int
    size: int
    protection: int
    file: str


def adopt_orphans() -> None:
    """Whatever a child starts and leaves becomes a child of this process, where `has_children` sees it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl: subreaper")


def has_children() -> bool:
    """Whether any process that this one started, or that was left to it, still runs. Those that ended are reaped."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG | _WALL)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def shared_mappings() -> list[Mapping]:
    """What is mapped as shared and can be written, now or after a change of its protection."""
    found: list[Mapping] = []
    last: Mapping | None = None
    with open("/proc/self/smaps") as stream:
        for line in stream:
            head = _LINE.match(line)
            if head:
                start, end = int(head[1], 16), int(head[2], 16)
                protection = (head[3] == "r") | (head[4] == "w") << 1 | (head[5] == "x") << 2
                last = Mapping(start, end - start, protection, head[7]) if head[6] == "s" else None
            elif last is not None and line.startswith("VmFlags:") and "sh" in line.split():
                found.append(last)  # the kernel clears `sh` where the file was opened for reading alone
    return found


def make_private() -> str:
    """Replace every shared mapping by a private copy of what it holds; "", or why that cannot be done."""
    mappings = shared_mappings()
    if any(_KEPT_BY_DEVICES.match(one.file) for one in mappings):
        return "memory of a device"
    if sum(one.size for one in mappings) > MAX_SHARED_BYTES:
        return f"more than {MAX_SHARED_BYTES} bytes of memory that processes share"
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
    )
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for one in mappings:
        if libc.mprotect(one.start, one.size, 1) != 0:
            return "memory that cannot be read"
        held = ctypes.string_at(one.start, one.size)
        flags = _MAP_FIXED | _MAP_PRIVATE | _MAP_ANONYMOUS
        if libc.mmap(one.start, one.size, 3, flags, -1, 0) != one.start:
            return "memory that cannot be replaced"
        ctypes.memmove(one.start, held, one.size)
        libc.mprotect(one.start, one.size, one.protection)
    return "memory that stays shared" if shared_mappings() else ""
