"""A command under what deploy/*/compose.yaml asks of a container engine, by the same system calls and without an engine.

A root file system of its own that is read-only, with this machine's system and interpreter in it; a tmpfs at /tmp; two folders
at /state and /cache; user 10001, no capability, no new privileges. `filtered` refuses beside it what engines' own seccomp
profiles refuse a process without CAP_SYS_ADMIN of what the sandbox needs: namespaces, mounts, a host name. What is not as in a
container: processes and network are this machine's. Needs root on Linux.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

USER = 10001
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_DEVICES = ("null", "zero", "random", "urandom")
_MOUNTS = """set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=4m root "$ROOT"
mkdir "$ROOT/tmp"
mount -t tmpfs -o mode=1777,size=2g,nosuid,nodev,noexec tmp "$ROOT/tmp"
place() { mkdir -p "$ROOT$2"; mount --bind "$1" "$ROOT$2"; mount -o remount,bind,$3 "$ROOT$2"; }
for path in $READABLE; do place "$path" "$path" ro; done
place "$STATE" /state rw; place "$CACHE" /cache rw
for path in $WRITABLE; do place "$path" "$path" rw; done
mkdir -p "$ROOT/proc" "$ROOT/dev/shm" "$ROOT/work"
mount --rbind /proc "$ROOT/proc"
mount -t tmpfs -o mode=1777,size=64m,nosuid,nodev,noexec shm "$ROOT/dev/shm"
for name in $DEVICES; do touch "$ROOT/dev/$name"; mount --bind "/dev/$name" "$ROOT/dev/$name"; done
if [ -n "$DOTENV" ]; then touch "$ROOT/work/.env"; mount --bind "$DOTENV" "$ROOT/work/.env"; fi
mkdir "$ROOT/old"
mount -o remount,ro "$ROOT"
cd "$ROOT"
pivot_root . old
exec chroot . /bin/sh -c 'umount -l /old; cd /work; exec "$@"' contained setpriv --reuid 10001 --regid 10001 --clear-groups \
  --bounding-set -all --inh-caps -all --no-new-privs "$@"
"""

_FILTER = """
import ctypes, os, struct, sys
LOAD, EQUAL, ANY, ANSWER = 0x20, 0x15, 0x45, 0x06
step = lambda code, value, yes=0, no=0: struct.pack("=HBBI", code, yes, no, value)
program = [step(LOAD, 4), step(EQUAL, 0xC000003E, 1, 0), step(ANSWER, 0x80000000), step(LOAD, 0)]
for number in (155, 165, 166, 170, 272, 308):  # pivot_root, mount, umount2, sethostname, unshare, setns
    program += [step(EQUAL, number, 0, 1), step(ANSWER, 0x00050001)]
program += [step(EQUAL, 435, 0, 1), step(ANSWER, 0x00050026)]  # clone3: not there, so that clone is used
program += [step(EQUAL, 56, 0, 3), step(LOAD, 16), step(ANY, 0x7E020000, 0, 1), step(ANSWER, 0x00050001)]
program = b"".join([*program, step(ANSWER, 0x7FFF0000)])
steps = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(steps)), 16)
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, header, 0, 0) != 0:
    sys.exit("no filter")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def refusal() -> str | None:
    """Why this machine cannot do it, or `None`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes root on Linux to make a read-only root for another user"
    for program in ("unshare", "setpriv", "pivot_root"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "this machine gives no mount namespace"


def _words(paths: Iterable[str | Path]) -> str:
    """Those that are there, each once, as the shell splits them."""
    return shlex.join(path for path in dict.fromkeys(map(str, paths)) if Path(path).exists())


@dataclass(frozen=True)
class Contained:
    """A place for contained commands. `code` is a folder that is imported from; `writable` are mounted as they are (a
    development chain's folder, which stands for what is outside); `state_of` is one whose state it shares.
    """

    root: Path
    code: Path
    dotenv: Path | None = None
    writable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    state_of: Contained | None = None

    @property
    def state(self) -> Path:
        return self.state_of.state if self.state_of else self.root / "state"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def popen(self, command: Sequence[str], *, filtered: bool = False) -> subprocess.Popen[str]:
        """Start it; the process is the command itself, so that a signal reaches it."""
        for folder in (self.root / "root", self.state, self.cache):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.state, self.cache):
            os.chown(folder, USER, USER)
        readable = [*_SYSTEM, sys.prefix, sys.base_prefix, str(self.code)]
        shell = {
            "ROOT": str(self.root / "root"),
            "STATE": str(self.state),
            "CACHE": str(self.cache),
            "READABLE": _words(readable),
            "WRITABLE": _words(self.writable),
            "DEVICES": " ".join(_DEVICES),
            "DOTENV": str(self.dotenv or ""),
        }
        inside = {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "PYTHONPATH": str(self.code),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": "/tmp/numba",
            "OMP_NUM_THREADS": "1",
            "GRAIL_STATE_DIR": "/state",
            "GRAIL_CACHE_DIR": "/cache",
            **self.environment,
        }
        wrapped = ["python", "-c", _FILTER, *command] if filtered else list(command)
        cleared = ["env", "-i", *(f"{name}={value}" for name, value in inside.items())]
        return subprocess.Popen(
            ["unshare", "-m", "/bin/sh", "-c", _MOUNTS, "contained", *cleared, *wrapped],
            env={"PATH": os.environ["PATH"], **shell},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(
        self, command: Sequence[str], *, filtered: bool = False, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.popen(command, filtered=filtered) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                raise
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)
