"""A pool of zygotes: grades from any thread, each alone in its lane, with the same verdict at any load.

A caller waits until a lane is free (back-pressure), a lane is renewed after a fixed number of grades or when it is lost,
and a job whose lane was lost is tried once more. No lane gets the job, and with it foreign code, before it has said that its
processes are confined. Until then a failure is ours and ends as inconclusive; what happens afterwards is graded: an answer
whose lane is lost has failed, as far as if it had used up a limit, so that no machine under pressure proves a claim false. A
grade that ends within a fifth of a limit is repeated once with every other lane empty, and that second one counts.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.sandbox import wire_host
from grail_envs.sandbox.jobs import LOST, Job, Limits, Ruling

SANDBOX_VARIABLE: Final = "GRAIL_SANDBOX"
LAYERS: Final = ("landlock", "seccomp", "namespaces")
OWN_USER: Final = 64937
"""The user id that a zygote of root's takes; no account has it."""

RECYCLE_AFTER: Final = 2000
_START_S: Final = 60.0
_CONFINED_S: Final = 60.0
_GRACE_S: Final = 120.0
_PRELOAD: Final = """
abc array ast asyncio base64 bisect calendar cmath collections collections.abc contextlib copy csv ctypes dataclasses datetime
decimal difflib enum fractions functools hashlib heapq html io itertools json keyword locale math numbers operator os pathlib
pprint queue random re secrets statistics string struct sys textwrap threading time timeit traceback types typing unicodedata
uuid zlib _strptime encodings.idna encodings.latin_1 encodings.ascii
"""


class SandboxUnavailableError(EnvironmentUnavailableError):
    """The sandbox cannot be had as asked for."""


class LaneLostError(Exception):
    """A zygote ended, or did not reply in time. `with_job`: it had been given the job."""

    def __init__(self, problem: str, *, with_job: bool = False) -> None:
        super().__init__(problem)
        self.with_job = with_job


@dataclass(frozen=True)
class Kind:
    """What a zygote is for: `python` grades code, `math` grades formulas and has the packages for it."""

    name: str
    preload: tuple[str, ...]
    packages: tuple[str, ...] = ()


PYTHON: Final = Kind("python", tuple(_PRELOAD.split()))
MATH: Final = Kind("math", ("grail_envs.sandbox.math_side",), ("flint",))


@dataclass
class Lane:
    """One zygote process and the socket to it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    layers: Mapping[str, Any]
    problems: Mapping[str, str]
    graded: int = 0
    _rest: bytes = field(default=b"", repr=False)

    @classmethod
    def start(cls, kind: Kind, backend: str, layers: tuple[str, ...]) -> Lane:
        """A new zygote, ready.

        Raises:
            SandboxUnavailableError: it does not start.
        """
        ours, theirs = socket.socketpair()
        folder = Path(__file__).parent
        site = _package_folders(kind)
        options = {
            "control": theirs.fileno(),
            "layers": list(layers),
            "user": OWN_USER if hasattr(os, "geteuid") and os.geteuid() == 0 and backend != "bubblewrap" else None,
            "preload": list(kind.preload),
            "site": site,
            "readable": ["/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"],
        }
        command = [sys.executable, "-s", "-S", "-P", "-B", str(folder / "zygote.py"), json.dumps(options)]
        if backend == "bubblewrap":
            command = _bubblewrap([str(folder), *site]) + command
        try:
            process = _started(command, theirs)
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
            hello = lane._line(time.monotonic() + _START_S)
        except LaneLostError:
            hello = {"problem": "it ended or did not answer"}
        if not hello.get("ready"):
            lane.close()
            raise SandboxUnavailableError(
                f"the sandbox's zygote did not start: {hello.get('problem')}",
                where=backend,
                hint="grail-envs doctor shows the layers",
            )
        lane.layers, lane.problems = hello["layers"], hello["problems"]
        return lane

    def run(self, work: str, message: Mapping[str, Any], limits: Limits) -> tuple[Any, dict[str, Any]]:
        """One grade: what the grader said (None if it said nothing) and what was used.

        Raises:
            LaneLostError: the zygote ended or did not answer, before or after it was given the job; the lane is closed.
        """
        self.graded += 1
        ours, theirs = socket.socketpair()
        given = False
        try:
            request = {"work": work, "cpu_s": limits.cpu_s, "wall_s": limits.wall_s, "memory": limits.memory_bytes}
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
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


class GraderPool:
    """Zygotes of one kind.

    Args:
        mode: `strict` refuses to grade unless namespaces, seccomp and Landlock all hold; `auto` uses what there is.
        backend: `zygote`, or `bubblewrap` (the zygote runs inside bwrap and confines each grade as well as it can there).
        lanes: grades at the same time; the number of processors by default.
        layers: which layers to use, for tests of `auto`.
    """

    def __init__(
        self,
        mode: str = "strict",
        backend: str = "zygote",
        lanes: int | None = None,
        kind: Kind = PYTHON,
        layers: tuple[str, ...] = LAYERS,
    ) -> None:
        if mode not in ("strict", "auto") or backend not in ("zygote", "bubblewrap"):
            raise SandboxUnavailableError(
                f"there is no sandbox {mode!r}/{backend!r}",
                where=SANDBOX_VARIABLE,
                hint="mode: strict, auto; backend: zygote, bubblewrap",
            )
        self.mode, self.backend, self.kind = mode, backend, kind
        self._layers = layers
        self._count = lanes or os.cpu_count() or 1
        self._alone = threading.Lock()
        self._closed = False
        self._free: queue.Queue[Lane | None] = queue.Queue()
        first = self._start()
        self.layers: Mapping[str, Any] = first.layers
        self.problems: Mapping[str, str] = first.problems
        for lane in [None] * (self._count - 1) + [first]:
            self._free.put(lane)

    def grade(self, job: Job, limits: Limits = Limits()) -> Ruling:  # noqa: B008 - frozen
        """Run and grade an answer; blocks while all lanes are busy."""
        return self._twice_near_a_limit("tests", asdict(job), limits)

    def grade_formula(self, message: Mapping[str, Any], limits: Limits) -> Ruling:
        """Compare a formula with the right one (a pool of kind `MATH`)."""
        return self._twice_near_a_limit("math", message, limits)

    def close(self) -> None:
        """End all zygotes; waits for grades under way."""
        self._closed = True
        for _ in range(self._count):
            lane = self._free.get()
            if lane is not None:
                lane.close()

    def _twice_near_a_limit(self, work: str, message: Mapping[str, Any], limits: Limits) -> Ruling:
        ruling = self._on_a_lane(work, message, limits)
        if ruling.conclusive and ruling.stage != LOST and 0.8 <= ruling.limit_share <= 1.2:
            with self._alone:
                others = [self._free.get() for _ in range(self._count - 1)]
                try:
                    ruling = self._on_a_lane(work, message, limits)
                finally:
                    for lane in others:
                        self._free.put(lane)
        return ruling

    def _on_a_lane(self, work: str, message: Mapping[str, Any], limits: Limits) -> Ruling:
        lost: LaneLostError | None = None
        started = time.monotonic()
        for _ in range(2):
            if self._closed:
                raise SandboxUnavailableError("the sandbox is closed", where=self.backend, hint="open another pool")
            lane = self._free.get()
            try:
                if lane is None or lane.graded >= RECYCLE_AFTER:
                    if lane is not None:
                        lane.close()
                    lane = None
                    lane = self._start()
                return _ruling(*lane.run(work, message, limits), limits)
            except LaneLostError as error:
                lane = None
                lost = error if lost is None or error.with_job else lost
                if error.with_job and time.monotonic() - started > limits.wall_s:
                    break  # it can make every try wait as long
            except SandboxUnavailableError:
                if lost is None or not lost.with_job:
                    raise
                break  # the job may be what has used up the machine
            finally:
                self._free.put(lane)
        return _lost(lost)

    def _start(self) -> Lane:
        lane = Lane.start(self.kind, self.backend, self._layers)
        missing = [layer for layer in LAYERS if not lane.layers.get(layer)]
        if missing and self.mode == "strict":
            lane.close()
            reasons = "; ".join(f"{layer}: {lane.problems.get(layer, 'not there')}" for layer in missing)
            raise SandboxUnavailableError(
                f"the sandbox is not complete here ({reasons})",
                where=f"{os.uname().sysname} {os.uname().release}",
                hint=f"allow unprivileged user namespaces, seccomp and Landlock, or set {SANDBOX_VARIABLE}=auto to go without",
            )
        return lane


_shared: dict[tuple[str, str, str], GraderPool] = {}
_shared_pid = os.getpid()
_shared_lock = threading.Lock()


def shared_pool(kind: Kind = PYTHON) -> GraderPool:
    """The pool of this process, made at first use; GRAIL_SANDBOX says how: strict (default), auto, bubblewrap, bubblewrap-auto.

    Raises:
        SandboxUnavailableError: the kernel does not offer what the mode asks for.
    """
    global _shared_pid
    wanted = os.environ.get(SANDBOX_VARIABLE) or "strict"
    mode, backend = {
        "strict": ("strict", "zygote"),
        "auto": ("auto", "zygote"),
        "bubblewrap": ("strict", "bubblewrap"),
        "bubblewrap-auto": ("auto", "bubblewrap"),
    }.get(wanted, (wanted, "zygote"))
    with _shared_lock:
        if _shared_pid != os.getpid():  # a fork of the process that made them: they are not ours
            _shared.clear()
            _shared_pid = os.getpid()
        key = (kind.name, mode, backend)
        if key not in _shared:
            _shared[key] = GraderPool(mode, backend, kind=kind)
        return _shared[key]


@atexit.register
def _close_shared() -> None:
    if _shared_pid == os.getpid():
        for pool in _shared.values():
            pool.close()
        _shared.clear()


def _ruling(said: Any, used: Mapping[str, Any], limits: Limits) -> Ruling:
    shares = {
        "cpu": used["cpu_s"] / limits.cpu_s,
        "time": used["time_s"] / limits.wall_s,
        "memory": used["memory"] / limits.memory_bytes,
    }
    share = max(shares.values())
    over = [name for name in ("cpu", "time") if shares[name] > 1.0]
    limit = used["limit"] or (over[0] if over else "")
    if not isinstance(said, dict) and used["killed"] and not limit:
        limit = "memory"  # the kernel's way to say it, whoever's memory it was
    if limit:
        return Ruling(False, "limit", f"over the limit of {limit}", limit=limit, limit_share=max(share, 1.0))
    if not isinstance(said, dict):
        return Ruling(False, "grader", "the grading side gave no verdict (memory?)", limit_share=share)
    return Ruling(
        said.get("passed") is True,
        str(said.get("stage", "")),
        str(said.get("detail", "")).encode("utf-8", "replace").decode(),  # an answer's words go into logs and verdicts
        output=str(said.get("out", "")),
        limit_share=share,
    )


def _lost(error: LaneLostError | None) -> Ruling:
    detail = f"the grading process was lost: {error}"
    if error is None or not error.with_job:
        return Ruling(False, LOST, detail, conclusive=False)
    return Ruling(False, LOST, detail, limit_share=1.0)


def _started(command: list[str], control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "HOME": "/tmp", "PATH": "/usr/bin:/bin"},
        cwd="/",
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def _package_folders(kind: Kind) -> list[str]:
    folders: dict[str, None] = {}
    for package in kind.packages:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise SandboxUnavailableError(
                f"the package {package} is not installed",
                where=kind.name,
                hint="pip install grail-envs again: it is one of its dependencies",
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
