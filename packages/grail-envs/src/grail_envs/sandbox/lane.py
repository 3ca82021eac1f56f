"""One zygote process as the host sees it: what it is for, how it is started, asked and ended.

A zygote starts with an environment of its own, nothing of ours, and is believed only as far as it can be read within a time and
a length. One that holds a foreign package has a user id of its own where the host is root, and a home that is its pool's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.sandbox import wire_host
from grail_envs.sandbox.jobs import Limits

OWN_USER: Final = 64937
"""The user id that a zygote of root's takes; no account has it."""

FOREIGN_USERS: Final = range(OWN_USER + 1, OWN_USER + 257)
"""The user ids of zygotes that hold a foreign package, one for each package and its arguments, as far as they go: what loads
unconfined can write into the memory of its own user's processes, so it must be no other's."""

HOME: Final = "/tmp"
"""Of zygotes that hold no package, and where the homes of the others are made: any user may enter it."""

_MAX_LINE: Final = 4 * 2**20

_CONFINED_S: Final = 60.0
_GRACE_S: Final = 120.0


class SandboxUnavailableError(EnvironmentUnavailableError):
    """The sandbox cannot be had as asked for."""


class LaneLostError(Exception):
    """A zygote ended, or did not reply in time. `with_job`: it had been given the job."""

    def __init__(self, problem: str, *, with_job: bool = False) -> None:
        super().__init__(problem)
        self.with_job = with_job


@dataclass(frozen=True)
class Kind:
    """What a zygote is for: `python` grades code in two processes, the others one message in one process.

    `side` is the module of the latter, whose `grade` takes the message, and `room` the folder beside the sandbox's that it lies
    in, if it does; `packages` are what it may import beside the standard library, `variables` what its process finds in
    its environment, `extra` the extra that brings the packages; `most_lanes` bounds how many there are by default.

    One with `foreign` loads somebody else's environment with these options (`grail_envs.adapters.foreign_side`), may read the
    folders `readable` while it does, and gets `start_s` seconds for it. `hash_seed` orders its sets; grades are made with 0.
    """

    name: str
    preload: tuple[str, ...]
    packages: tuple[str, ...] = ()
    side: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    extra: str = ""
    room: str = ""
    most_lanes: int = 1024
    foreign: str = ""
    site: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    start_s: float = 180.0  # PyTorch and Triton from a cold disk
    hash_seed: int = 0


ONE_THREAD: Final = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "TOKENIZERS_PARALLELISM": "false",
}
"""For a process that loads other people's libraries and is forked: pools of threads would be lost in every fork."""


@dataclass
class Lane:
    """One zygote process and the socket to it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    layers: Mapping[str, Any]
    problems: Mapping[str, str]
    told: Mapping[str, Any] = field(default_factory=dict)
    graded: int = 0
    _rest: bytes = field(default=b"", repr=False)

    @classmethod
    def start(cls, kind: Kind, backend: str, layers: tuple[str, ...], home: str) -> Lane:
        """A new zygote, ready.

        Raises:
            SandboxUnavailableError: it does not start.
        """
        ours, theirs = socket.socketpair()
        folder = Path(__file__).parent
        site = list(dict.fromkeys([*kind.site, *_package_folders(kind)]))
        room = str(folder.parent / kind.room) if kind.room else ""
        options = {
            "control": theirs.fileno(),
            "layers": list(layers),
            "user": user_of(kind) if hasattr(os, "geteuid") and os.geteuid() == 0 and backend != "bubblewrap" else None,
            "preload": list(kind.preload),
            "site": site,
            "side": kind.side,
            "room": {f"grail_envs.{kind.room}": room} if room else {},
            "readable": ["/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom", *kind.readable],
            "foreign": json.loads(kind.foreign) if kind.foreign else None,
        }
        command = [sys.executable, "-s", "-S", "-P", "-B", str(folder / "zygote.py"), json.dumps(options)]
        if backend == "bubblewrap":
            command = _bubblewrap([str(folder), *([room] if room else []), *site, *kind.readable]) + command
        try:
            process = _started(command, theirs, kind, home)
        except OSError as error:
            ours.close()
            raise SandboxUnavailableError(
                f"the sandbox's zygote could not be started: {error.strerror or error}",
                where=backend,
                hint="look at free memory and processes (`ulimit -u`, the limits of the container)",
            ) from error
        finally:
            theirs.close()
        lane = cls(process, ours, {}, {})
        try:
            hello = lane._line(time.monotonic() + kind.start_s)
        except LaneLostError:
            hello = {"problem": f"it ended or did not answer in {kind.start_s:g} s"}
        if not hello.get("ready"):
            lane.close()
            if kind.foreign:
                hint = str(hello.get("refused") or "does it exit, or wait for something? `grail-envs doctor` shows the sandbox")
                raise EnvironmentUnavailableError(str(hello.get("problem")), where=kind.name, hint=hint)
            raise SandboxUnavailableError(
                f"the sandbox's zygote did not start: {hello.get('problem')}",
                where=backend,
                hint="grail-envs doctor shows the layers",
            )
        lane.layers, lane.problems, lane.told = hello["layers"], hello["problems"], hello["foreign"]
        return lane

    def run(self, message: Mapping[str, Any], limits: Limits) -> tuple[Any, dict[str, Any]]:
        """One grade: what the grader said (None if it said nothing) and what was used.

        Raises:
            LaneLostError: the zygote ended or did not answer, before or after it was given the job; the lane is closed.
        """
        self.graded += 1
        ours, theirs = socket.socketpair()
        given = False
        try:
            request = {"cpu_s": limits.cpu_s, "wall_s": limits.wall_s, "memory": limits.memory_bytes}
            with theirs:
                socket.send_fds(self.control, [json.dumps(request).encode()], [theirs.fileno()])
            with ours:
                confined = self._line(time.monotonic() + _CONFINED_S)
                if not confined.get("ready"):
                    raise LaneLostError(str(confined.get("problem")))
                given = True
                deadline = time.monotonic() + 2 * limits.wall_s + _GRACE_S
                said = wire_host.converse(ours, message, deadline)
            return said, self._line(deadline)
        except (OSError, LaneLostError) as error:
            self.close()
            raise LaneLostError(str(error), with_job=given) from error

    def close(self) -> None:
        """End the zygote and everything that it forked."""
        self.control.close()
        self.process.kill()
        self.process.wait()

    def _line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self.control.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                part = self.control.recv(65536)
            except OSError as error:
                raise LaneLostError(str(error)) from error
            if not part:
                raise LaneLostError("the zygote ended")
            self._rest += part
            if len(self._rest) > _MAX_LINE:
                raise LaneLostError(f"the zygote said more than {_MAX_LINE} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LaneLostError("the zygote said nothing that can be read") from error
        if not isinstance(found, dict):
            raise LaneLostError("the zygote said nothing that can be read")
        return found


def _started(command: list[str], control: socket.socket, kind: Kind, home: str) -> subprocess.Popen[bytes]:
    own = {"PYTHONHASHSEED": str(kind.hash_seed), "LANG": "C.UTF-8", "TZ": "UTC", "HOME": home, "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=own | (ONE_THREAD if kind.foreign else {}) | dict(kind.variables),
        cwd="/",
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def own_home(kind: Kind) -> str:
    """A new folder for the package of a kind, its user's alone: what others laid into `HOME` is none of its files."""
    home = tempfile.mkdtemp(prefix="grail-home-", dir=HOME)
    if os.geteuid() == 0:
        os.chown(home, user_of(kind), user_of(kind))
    return home


def remove_home(home: str, owner: int) -> None:
    """Remove what `own_home` made, in the process that made it (not in its forks)."""
    if home != HOME and os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)


def user_of(kind: Kind) -> int:
    """The user id that root's zygotes of a kind take."""
    return FOREIGN_USERS[zlib.crc32(kind.foreign.encode()) % len(FOREIGN_USERS)] if kind.foreign else OWN_USER


def _package_folders(kind: Kind) -> list[str]:
    folders: dict[str, None] = {}
    for package in kind.packages:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise SandboxUnavailableError(
                f"the package {package} is not installed",
                where=kind.name,
                hint=f"pip install 'grail-envs[{kind.extra}]'"
                if kind.extra
                else "pip install grail-envs again: it is one of its dependencies",
            )
        folders[str(Path(next(iter(found.submodule_search_locations))).parent)] = None
    return list(folders)


def _bubblewrap(readable: list[str]) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxUnavailableError(
            "bubblewrap is not installed", where="bwrap", hint="apt-get install bubblewrap, or use the zygote back-end"
        )
    folders = ["/usr", "/etc/ld.so.cache", sys.base_prefix, sys.prefix, *readable]
    command = [program]
    for folder in dict.fromkeys(folder for folder in folders if os.path.exists(folder)):
        command += ["--ro-bind", folder, folder]
    for name in ("lib", "lib64", "bin"):
        if os.path.islink(f"/{name}"):
            command += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    own = "--proc /proc --dev /dev --tmpfs /tmp --tmpfs /mnt --unshare-all --die-with-parent --"
    return [*command, *own.split()]
