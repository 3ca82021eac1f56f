"""A pool of zygotes: grades from any thread, each alone in its lane, with the same verdict at any load.

A caller waits until a lane is free (back-pressure), a lane is renewed after a fixed number of grades or when it is lost,
and a job whose lane was lost is tried once more. No lane gets the job, and with it foreign code, before it has said that its
processes are confined. Until then a failure is ours and ends as inconclusive; what happens afterwards is graded: an answer
whose lane is lost has failed, as far as if it had used up a limit, so that no machine under pressure proves a claim false. A
grade that ends within a fifth of a limit is repeated once with every other lane empty, and that second one counts.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.sandbox.jobs import LOST, Job, Limits, Ruling
from grail_envs.sandbox.lane import HOME, Kind, Lane, LaneLostError, SandboxUnavailableError, own_home, remove_home

__all__ = ["LAYERS", "MATH", "PYTHON", "GraderPool", "Kind", "Lane", "LaneLostError", "SandboxUnavailableError", "shared_pool"]

SANDBOX_VARIABLE: Final = "GRAIL_SANDBOX"
LAYERS: Final = ("landlock", "seccomp", "namespaces")
MOST_FOREIGN: Final = 4
"""Foreign packages, each with its arguments, that one process holds at a time."""

RECYCLE_AFTER: Final = 2000
_PRELOAD: Final = """
abc array ast asyncio base64 bisect calendar cmath collections collections.abc contextlib copy csv ctypes dataclasses datetime
decimal difflib enum fractions functools hashlib heapq html io itertools json keyword locale math numbers operator os pathlib
pprint queue random re secrets statistics string struct sys textwrap threading time timeit traceback types typing unicodedata
uuid zlib _strptime encodings.idna encodings.latin_1 encodings.ascii
"""


PYTHON: Final = Kind("python", tuple(_PRELOAD.split()))
MATH: Final = Kind("math", ("grail_envs.sandbox.math_side",), ("flint",), "grail_envs.sandbox.math_side")


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
        self._count = lanes or min(os.cpu_count() or 1, kind.most_lanes)
        self._alone = threading.Lock()
        self._closed = self._retired = False
        self._handing_back = threading.Lock()
        self._home = own_home(kind) if kind.foreign and backend == "zygote" else HOME
        self._without_home = weakref.finalize(self, remove_home, self._home, os.getpid())
        self._free: queue.Queue[Lane | None] = queue.Queue()
        self.told: Mapping[str, Any] | None = None
        first = self._start()
        self.told = first.told
        self.layers: Mapping[str, Any] = first.layers
        self.problems: Mapping[str, str] = first.problems
        for lane in [None] * (self._count - 1) + [first]:
            self._free.put(lane)

    def grade(self, job: Job, limits: Limits = Limits()) -> Ruling:  # noqa: B008 - frozen
        """Run and grade an answer; blocks while all lanes are busy."""
        return self._twice_near_a_limit(asdict(job), limits)

    def ask(self, message: Mapping[str, Any], limits: Limits) -> Ruling:
        """Hand a message to the module of the pool's kind (`Kind.side`), alone in its process; blocks as `grade` does."""
        return self._twice_near_a_limit(message, limits)

    def ask_foreign(self, message: Mapping[str, Any], limits: Limits) -> Ruling:
        """Ask somebody else's environment (a pool of a kind with `foreign`); what it said is JSON in `output`."""
        return self._twice_near_a_limit(message, limits)

    def close(self) -> None:
        """End all zygotes; waits for grades under way."""
        self._closed = True
        for _ in range(self._count):
            lane = self._free.get()
            if lane is not None:
                lane.close()
        self._without_home()

    def retire(self) -> None:
        """End the zygotes that have nothing to do, and each other one after its grade. Waits for none, and breaks none.

        Whoever still holds the pool may go on asking: each grade then starts a zygote for itself.
        """
        idle: list[Lane | None] = []
        with self._handing_back:
            self._retired = True
            while True:
                try:
                    idle.append(self._free.get_nowait())
                except queue.Empty:
                    break
            for _ in idle:
                self._free.put(None)
        for lane in idle:
            if lane is not None:
                lane.close()

    def _hand_back(self, lane: Lane | None) -> None:
        with self._handing_back:
            over = lane if self._retired else None
            self._free.put(None if self._retired else lane)
        if over is not None:
            over.close()

    def _twice_near_a_limit(self, message: Mapping[str, Any], limits: Limits) -> Ruling:
        ruling = self._on_a_lane(message, limits)
        if ruling.conclusive and ruling.stage != LOST and 0.8 <= ruling.limit_share <= 1.2:
            with self._alone:
                others = [self._free.get() for _ in range(self._count - 1)]
                try:
                    ruling = self._on_a_lane(message, limits)
                finally:
                    for lane in others:
                        self._hand_back(lane)
        return ruling

    def _on_a_lane(self, message: Mapping[str, Any], limits: Limits) -> Ruling:
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
                return _ruling(*lane.run(message, limits), limits)
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
                self._hand_back(lane)
        return _lost(lost)

    def _start(self) -> Lane:
        lane = Lane.start(self.kind, self.backend, self._layers, self._home)
        missing = [layer for layer in LAYERS if not lane.layers.get(layer)]
        if missing and self.mode == "strict":
            lane.close()
            reasons = "; ".join(f"{layer}: {lane.problems.get(layer, 'not there')}" for layer in missing)
            raise SandboxUnavailableError(
                f"the sandbox is not complete here ({reasons})",
                where=f"{os.uname().sysname} {os.uname().release}",
                hint=f"allow unprivileged user namespaces, seccomp and Landlock, or set {SANDBOX_VARIABLE}=auto to go without",
            )
        if self.told is not None and lane.told != self.told:
            lane.close()
            raise EnvironmentUnavailableError(
                "it loads other rows or weights than the time before",
                where=self.kind.name,
                hint="an environment loads the same every time: pin its data, seed what it draws",
            )
        return lane


_shared: dict[tuple[str, str, str], GraderPool] = {}
_making: dict[tuple[str, str, str], threading.Event] = {}
_shared_pid = os.getpid()
_shared_lock = threading.Lock()


def shared_pool(kind: Kind = PYTHON) -> GraderPool:
    """The pool of this process, made at first use; GRAIL_SANDBOX says how: strict (default), auto, bubblewrap, bubblewrap-auto.

    A package that takes its time to load keeps nobody waiting but who asks for the same.

    Raises:
        SandboxUnavailableError: the kernel does not offer what the mode asks for.
    """
    wanted = os.environ.get(SANDBOX_VARIABLE) or "strict"
    mode, backend = {
        "strict": ("strict", "zygote"),
        "auto": ("auto", "zygote"),
        "bubblewrap": ("strict", "bubblewrap"),
        "bubblewrap-auto": ("auto", "bubblewrap"),
    }.get(wanted, (wanted, "zygote"))
    key = (kind.name, mode, backend)
    while True:
        found, made = _there_or_making(key)
        if found is not None:
            return found
        if made is None:
            break
        made.wait()  # and look again: who made it may have failed
    out: list[GraderPool] = []
    try:
        lanes = min(4, os.cpu_count() or 1) if kind.foreign else None  # each has loaded the whole package
        pool = GraderPool(mode, backend, lanes=lanes, kind=kind)
        with _shared_lock:
            if kind.foreign:
                out = _too_many()
            _shared[key] = pool
    finally:
        with _shared_lock:
            _making.pop(key).set()
    for one in out:
        one.retire()
    return pool


def _there_or_making(key: tuple[str, str, str]) -> tuple[GraderPool | None, threading.Event | None]:
    """The pool, or what is set when somebody else has made it; neither, if it is now the caller's to make."""
    global _shared_pid
    with _shared_lock:
        if _shared_pid != os.getpid():  # a fork of the process that made them: they are not ours
            _shared.clear()
            _making.clear()
            _shared_pid = os.getpid()
        if key in _shared:
            _shared[key] = _shared.pop(key)  # the last one used is the last to go
            return _shared[key], None
        if key in _making:
            return None, _making[key]
        _making[key] = threading.Event()
        return None, None


def _too_many() -> list[GraderPool]:
    """Foreign pools that make room for one more, used the longest ago. A network may ask for ever new arguments."""
    foreign = [key for key, pool in _shared.items() if pool.kind.foreign]
    return [_shared.pop(key) for key in foreign[: max(0, len(foreign) - MOST_FOREIGN + 1)]]


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
