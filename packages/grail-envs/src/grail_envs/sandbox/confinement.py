"""What the kernel lets a graded process do: namespaces, Landlock, seccomp and resource limits, by plain system calls.

Runs inside the zygote and its children only (standard library and ctypes, nothing of the project), and loads nothing at
import time that other systems lack. Every function raises `OSError` where the kernel refuses; the zygote probes them once
at start, so that a grade never discovers a missing layer. The seccomp filter is a list of what may be called, so a
system call that we did not think of is refused.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
from collections.abc import Sequence

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
NEW_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
HOST_NAME = b"sandbox"

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SIGKILL, _SIGCHLD = 9, 17

X86_64, AARCH64 = 0xC000_003E, 0xC000_00B7
_CLONE_NUMBER = {X86_64: 56, AARCH64: 220}
_CLONE3 = 435
_PRLIMIT = {X86_64: 302, AARCH64: 261}
_SOCKETPAIR = {X86_64: 53, AARCH64: 199}
_IOCTL = {X86_64: 16, AARCH64: 29}
_TGKILL = {X86_64: 234, AARCH64: 131}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on both

# Opened descriptors, memory, threads, clocks, polling, and files of the private tmpfs: inclusive ranges of call numbers.
_ALLOWED = {
    X86_64: (
        (0, 15), (17, 28), (32, 39), (44, 45), (48, 48), (60, 60), (63, 63), (72, 85), (87, 87), (89, 89), (95, 100),
        (102, 102), (104, 104), (107, 108), (110, 111), (121, 121), (124, 124), (131, 131), (137, 138), (143, 143),
        (145, 145), (186, 186), (201, 202), (204, 204), (213, 213), (217, 218), (228, 233), (257, 258), (262, 264),
        (267, 267), (269, 271), (273, 273), (281, 281), (284, 284), (290, 293), (295, 296), (316, 316), (318, 318),
        (324, 324), (332, 332), (334, 334), (439, 439), (441, 441),
    ),
    AARCH64: (
        (17, 17), (19, 25), (32, 32), (34, 35), (38, 38), (43, 44), (46, 46), (48, 50), (56, 57), (59, 59), (61, 68),
        (72, 73), (78, 80), (82, 83), (93, 94), (96, 96), (98, 99), (101, 103), (113, 115), (120, 121), (123, 124),
        (132, 132), (134, 135), (139, 139), (153, 153), (155, 156), (160, 160), (163, 163), (165, 166), (169, 169),
        (172, 179), (206, 207), (210, 210), (214, 216), (222, 222), (226, 227), (232, 233), (276, 276), (278, 278),
        (283, 283), (291, 291), (293, 293), (439, 439), (441, 441),
    ),
}  # fmt: skip

_libc: ctypes.PyDLL | None = None


def _library() -> ctypes.PyDLL:
    global _libc
    if _libc is None:
        _libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter lock: a fork in between stays whole
        for name in ("syscall", "prctl", "mount", "capset", "unshare", "sethostname"):
            getattr(_libc, name, None)  # looked up once here, not again in every fork
    return _libc


def _raise_errno(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{os.strerror(number)}: {what}")


def _call(number: int, *arguments: object) -> int:
    """A raw system call.

    Raises:
        OSError: the kernel's error.
    """
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(_library().syscall(ctypes.c_long(number), *words))
    if result < 0:
        _raise_errno(f"system call {number}")
    return result


def _prctl(option: int, *values: object) -> None:
    padded = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in (*values, 0, 0, 0, 0)[:4]]
    if _library().prctl(ctypes.c_int(option), *padded) != 0:
        _raise_errno(f"prctl {option}")


@functools.cache
def architecture() -> int:
    """The audit number of this machine's architecture.

    Raises:
        OSError: neither x86-64 nor arm64 on Linux.
    """
    machine = platform.machine()
    if os.uname().sysname != "Linux" or machine not in ("x86_64", "aarch64"):
        raise OSError(38, f"no filter for {os.uname().sysname} {machine}")
    return X86_64 if machine == "x86_64" else AARCH64


def fork(namespaces: bool) -> int:
    """`fork`, if asked with the child alone in fresh user, pid, net, ipc, uts and mount namespaces (child: 0; parent: its pid).

    In a pid namespace the child is the first process: when it ends, the kernel kills whatever it left. It is a raw clone, past
    the interpreter's fork hooks: they repair what other threads held, and this process has one thread; running them would
    copy hundreds of pages for every grade.
    """
    return _call(_CLONE_NUMBER[architecture()], (NEW_NAMESPACES if namespaces else 0) | _SIGCHLD, 0, 0, 0, 0)


def map_own_ids(uid: int, gid: int) -> None:
    """In a fresh user namespace: be the only user there is, 1000."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def hide_host_name() -> None:
    """In a fresh uts namespace: the same name on every machine."""
    if _library().sethostname(HOST_NAME, len(HOST_NAME)) != 0:
        _raise_errno("sethostname")


def private_scratch(folder: str, size: int) -> None:
    """In a fresh mount namespace: an empty tmpfs of `size` bytes over `folder`, seen by this process alone."""
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=256,mode=700")


def read_only_view(source: str, target: str) -> None:
    """In a mount namespace of our own: `source` once more at `target`, read-only."""
    mount(source, target, None, _MS_BIND | _MS_REC)
    mount(source, target, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID)


def own_mounts() -> None:
    """Leave the machine's mount namespace (needs root)."""
    if _library().unshare(CLONE_NEWNS) != 0:
        _raise_errno("unshare")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """The system call of that name."""
    result = _library().mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode() or None
    )
    if result != 0:
        _raise_errno(f"mount {target}")


def die_with_parent() -> None:
    """Be killed when the process that forked this one ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def stay_dumpable(yes: bool) -> None:
    """Whether /proc/self belongs to this process's user (needed once to write the id maps)."""
    _prctl(_PR_SET_DUMPABLE, int(yes))


def drop_capabilities() -> None:
    """No capability; with no new privileges and without exec there is no way to one either."""
    header = struct.pack("=Ii", 0x2008_0522, 0)
    if _library().capset(header, bytes(24)) != 0:
        _raise_errno("capset")


def no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def landlock_version() -> int:
    """The Landlock ABI of this kernel, 0 where there is none."""
    try:
        return _call(_LANDLOCK_CREATE, 0, 0, 1)
    except OSError:
        return 0


def landlock_rules(readable: Sequence[str], writable: Sequence[str]) -> int:
    """A ruleset, as a descriptor: files below `readable` may be read, below `writable` also made, written and removed.

    Everything else in the file system is refused, and so are TCP (ABI 4), abstract sockets and signals to outside (ABI 6).
    """
    version = landlock_version()
    if version == 0:
        raise OSError(38, "the kernel has no Landlock")
    files = (1 << 13) - 1  # execute … make_sym
    files |= (1 << 13) if version >= 2 else 0  # refer
    files |= (1 << 14) if version >= 3 else 0  # truncate
    files |= (1 << 15) if version >= 5 else 0  # ioctl on devices
    attributes = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes[:size], size)
    ruleset = _call(_LANDLOCK_CREATE, buffer, size, 0)
    read = (1 << 2) | (1 << 3)  # read_file, read_dir
    for paths, rights in ((readable, read), (writable, files & ~1)):
        for path in paths:
            allow(ruleset, path, rights)
    return ruleset


def allow(ruleset: int, path: str, rights: int) -> None:
    """One rule more; a path that is not there is passed over."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= (1 << 1) | (1 << 2) | (1 << 14)  # what a file can have: write, read, truncate
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
        _call(_LANDLOCK_ADD, ruleset, 1, rule, 0)
    finally:
        os.close(handle)


SCRATCH_RIGHTS = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8))
"""write_file, read_file, read_dir, remove_dir, remove_file, make_dir, make_reg."""


def landlock(ruleset: int) -> None:
    """Be bound by a ruleset from now on, with every thread and child to come."""
    _call(_LANDLOCK_RESTRICT, ruleset, 0)


_LOAD, _AND, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _ANSWER = 0x20, 0x54, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _MISSING, _KILL = 0x7FFF_0000, 0x0005_0001, 0x0005_0026, 0x8000_0000
_FIRST_ARGUMENT, _SECOND_ARGUMENT = 16, 24  # offsets of the low words


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(number: int, *body: bytes) -> list[bytes]:
    """What to do for one call number; the body ends in answers on every way through it."""
    return [_step(_EQUAL, number, 0, len(body)), *body]


_ANY_PID = 0x7FFF_FF5A


def for_pid(program: bytes, pid: int) -> bytes:
    """A filter of `seccomp_program` for the process that knows itself as `pid`."""
    return program.replace(struct.pack("=I", _ANY_PID), struct.pack("=I", pid))


def seccomp_program() -> bytes:
    """The filter as classic BPF, to be fitted by `for_pid`.

    Calls not listed return EPERM; another architecture kills. `clone` only makes threads and `clone3` says that it does not
    exist (the C library then uses `clone`); `socketpair` only makes connected AF_UNIX streams; `prlimit64` and `tgkill` only
    reach the process itself.
    """
    machine = architecture()
    itself = (_step(_ANSWER, _ALLOW), _step(_ANSWER, _REFUSE))
    program = [_step(_LOAD, 4), _step(_EQUAL, machine, 1, 0), _step(_ANSWER, _KILL), _step(_LOAD, 0)]
    program += _when(
        _CLONE_NUMBER[machine],
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, 0x0001_0000, 0, 2),  # CLONE_THREAD
        _step(_ANY_BIT, 0x7E02_0000, 1, 0),  # any namespace
        *itself,
    )
    program += _when(_CLONE3, _step(_ANSWER, _MISSING))
    program += _when(
        _SOCKETPAIR[machine],
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_EQUAL, 1, 0, 4),  # AF_UNIX
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_AND, 0xF),
        _step(_EQUAL, 1, 0, 1),  # SOCK_STREAM
        *itself,
    )
    program += _when(
        _IOCTL[machine],
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_EQUAL, 0x5421, 2, 0),  # FIONBIO: event loops
        _step(_EQUAL, 0x5401, 1, 0),  # TCGETS: isatty
        _step(_EQUAL, 0x5451, 0, 1),  # FIOCLEX
        *itself,
    )
    program += _when(_PRLIMIT[machine], _step(_LOAD, _FIRST_ARGUMENT), _step(_EQUAL, 0, 0, 1), *itself)
    program += _when(_TGKILL[machine], _step(_LOAD, _FIRST_ARGUMENT), _step(_EQUAL, _ANY_PID, 0, 1), *itself)
    for low, high in _ALLOWED[machine]:
        program += [_step(_AT_LEAST, low, 0, 2), _step(_GREATER, high, 1, 0), _step(_ANSWER, _ALLOW)]
    program.append(_step(_ANSWER, _REFUSE))
    return b"".join(program)


def seccomp(program: bytes) -> None:
    """Be bound by a filter from now on; needs `no_new_privileges` first."""
    steps = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(steps)), 16)
    _prctl(_PR_SET_SECCOMP, 2, header)
