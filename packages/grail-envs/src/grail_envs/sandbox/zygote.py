"""The warm process that forks one pair of processes for every grade: the answer's and the grader's.

Started by `pool.py` as `python -s -S -P -B zygote.py OPTIONS` with an empty environment and one socket. It holds the
interpreter and the allowed imports, and nothing else: no secret, no data set, no test ever enters its memory, so what it
forks for an answer holds none either. The answer's process gets fresh namespaces, Landlock, seccomp and limits; the grader's
process gets everything but the namespaces. Time is counted without the time spent waiting for a processor, so that a
verdict does not depend on the load. Standard library only.

A child says that it is confined over a pipe of its own, which it closes before it reads anything that is foreign; when all have
said so, the host is told and sends the job. What happens before that is a fault of this side, what happens after it the
answer's doing, whatever exit codes, signals or silence it consists of.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import types
from collections.abc import Callable
from time import monotonic  # the real one: where a package is loaded, the module's is not
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
for _name, _folder in (("grail_envs", os.path.dirname(_HERE)), ("grail_envs.sandbox", _HERE)):  # no package code runs here
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__path__ = [_folder]

from grail_envs.sandbox import answer_side, confinement, grader_side, wire  # noqa: E402
from grail_envs.sandbox.steady import Steady  # noqa: E402
from grail_envs.sandbox.usage import Usage  # noqa: E402
from grail_envs.sandbox.warm import warm_up  # noqa: E402

SCRATCH = "/tmp"
SCRATCH_BYTES = 16 * 2**20
VIEW = "/mnt"
MAX_WAIT_S = 100.0
"""Time in line, beyond twice the limit of time, that a grade may take."""

_STEP_S = 0.05
_CONFINE_S = 30.0
_READY = b"r"
_PLACES = (3, 4, 5)  # descriptors that a child keeps, in order


class Zygote:
    """`options`: descriptor of the control socket, layers wanted, user id to take, modules to load, which of them grades."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.control = socket.socket(fileno=options["control"])
        self.layers: dict[str, Any] = {}
        self.readable: list[str] = []
        self.rules = -1
        self.ids = (-1, -1)
        self.filter = b""
        self.steady = Steady(waits=bool(options["foreign"]))
        for name, folder in options["room"].items():  # no package code runs there either
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [folder]
        self.foreign: Any = None

    def prepare(self) -> None:
        """Take the own user, load the imports, find out what the kernel offers, and say so."""
        problems: dict[str, str] = {}
        self.layers["own_user"] = self._take_user(problems)
        self.ids = (os.getuid(), os.getgid())
        sys.path += self.options["site"]
        for name in self.options["preload"]:
            importlib.import_module(name)
        self.readable = [path for path in [*sys.path, *self.options["readable"]] if os.path.exists(path)]
        if self.options["foreign"]:
            self._load_foreign()  # after: what it adds to the path is no folder that an answer may read
        for layer in ("landlock", "seccomp", "namespaces"):
            self.layers[layer] = False
        for layer in ("landlock", "seccomp", "namespaces"):
            if layer not in self.options["layers"]:
                problems[layer] = "not asked for"
                continue
            self.layers[layer] = True
            try:
                if layer == "landlock":
                    self.rules = confinement.landlock_rules(self.readable, [])
                if layer == "seccomp":
                    self.filter = confinement.seccomp_program()
                self._probe()
            except OSError as error:
                self.layers[layer] = False
                problems[layer] = error.strerror or str(error)
        if self.layers["landlock"]:
            self.layers["landlock_version"] = confinement.landlock_version()
        warm_up(self.steady)
        gc.collect()
        gc.freeze()
        gc.disable()
        told = self.foreign.told if self.foreign else {}
        self._say({"ready": True, "layers": self.layers, "problems": problems, "pid": os.getpid(), "foreign": told})

    def serve(self) -> None:
        """One grade after the other, until the control socket closes; the next pair of processes always stands ready."""
        pair: _Pair | None = None
        while True:
            raw, descriptors, _, _ = socket.recv_fds(self.control, 4096, 1)
            if not raw or not descriptors:
                return
            request = json.loads(raw)
            host = descriptors[0]
            if pair is None or pair.request != request or not pair.alive():
                if pair is not None:
                    pair.end()
                pair = self._pair(request)
            socket.send_fds(pair.channel, [b"h"], [host])
            os.close(host)
            lacking = pair.lacking(self.control)
            self._say({"ready": not lacking, "problem": lacking})
            if not lacking:
                self._say(self._watch(pair))
            pair.end()
            pair = self._pair(request)

    def _say(self, message: dict[str, Any]) -> None:
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def _load_foreign(self) -> None:
        """Load somebody else's environment, once; what it cannot be is said to the host, and this process ends."""
        from grail_envs.adapters import foreign_side  # only here is its code wanted
        from grail_envs.sandbox import left_behind

        try:
            if sys.platform == "linux":
                left_behind.adopt_orphans()
            self.foreign = foreign_side.load(self.options["foreign"], self.steady)
            if sys.platform == "linux":
                shared = left_behind.make_private()
                if shared:
                    raise foreign_side.RefusedError(f"loading it leaves {shared}", "judgements must not know of each other")
        except foreign_side.RefusedError as error:
            self._say({"ready": False, "problem": str(error), "refused": error.hint})
            os._exit(1)

    def _take_user(self, problems: dict[str, str]) -> bool:
        user = self.options["user"]
        if os.getuid() != 0 or user is None:
            return os.getuid() != 0
        try:
            confinement.own_mounts()
            self._show_tree(user)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            confinement.stay_dumpable(True)
            return True
        except OSError as error:
            problems["own_user"] = error.strerror or str(error)
            return False

    def _show_tree(self, user: int) -> None:
        """Make the interpreter's folders readable for the own user, by a read-only view where their place is not."""
        moved: dict[str, str] = {}
        places = [*sys.path, *self.options["site"], _HERE, *self.options["room"].values(), *self.options["readable"]]
        wanted = [path for path in places if os.path.isdir(path)]
        tops = [path for path in wanted if not any(path != other and path.startswith(other + "/") for other in wanted)]
        hidden = [path for path in dict.fromkeys(tops) if not _reachable(path)]
        if hidden:
            confinement.mount("tmpfs", VIEW, "tmpfs", 2 | 4, "size=64k,mode=755")
        for number, path in enumerate(hidden):
            target = f"{VIEW}/{number}/{os.path.basename(path)}"  # libraries know installed packages by such a folder's name
            os.makedirs(target)
            confinement.read_only_view(path, target)
            moved[path] = target

        def place(path: str) -> str:
            for source, target in moved.items():
                if path == source or path.startswith(source + "/"):
                    return target + path[len(source) :]
            return path

        sys.path[:] = [place(path) for path in sys.path]
        for key in ("readable", "site"):
            self.options[key] = [place(path) for path in self.options[key]]
        if self.options["foreign"]:
            foreign = self.options["foreign"]
            foreign["data_dir"] = place(foreign["data_dir"])
            foreign["modules"] = [[name, place(path)] for name, path in foreign["modules"]]
        for module in list(sys.modules.values()):
            if isinstance(getattr(module, "__path__", None), list):
                module.__path__ = [place(path) for path in module.__path__]
        sys.path_importer_cache.clear()

    def _probe(self) -> None:
        """A child that takes on every layer found so far.

        Raises:
            OSError: one of them is refused.
        """
        reading, writing = os.pipe()
        pid = self._fork(private=True)
        if pid == 0:
            try:
                self._confine(1 << 30, 5.0, private=True, keep=[writing], before_filter=_nothing)
                os.write(_PLACES[0], b"ok")
            except BaseException as error:  # noqa: BLE001 - the child must end here
                os.write(writing, f"{type(error).__name__}: {error}".encode()[:300])
            os._exit(0)
        os.close(writing)
        said = os.read(reading, 400)
        os.close(reading)
        os.waitpid(pid, 0)
        if said != b"ok":
            raise OSError(1, said.decode(errors="replace") or "the probe was killed")

    def _fork(self, private: bool) -> int:
        if sys.platform != "linux":
            return os.fork()
        return confinement.fork(private and bool(self.layers["namespaces"]))

    def _confine(self, memory: int, cpu_s: float, *, private: bool, keep: list[int], before_filter: Callable[[], None]) -> None:
        """In a child: keep only the given descriptors (as 3, 4, …) and take on every layer.

        Seccomp comes last, after `before_filter`.
        """
        linux = sys.platform == "linux"
        if linux:
            confinement.die_with_parent()
        ruleset = self.rules
        if private and self.layers["namespaces"]:
            confinement.map_own_ids(*self.ids)
            confinement.hide_host_name()
            confinement.private_scratch(SCRATCH, SCRATCH_BYTES)
            os.chdir(SCRATCH)
            if self.layers["landlock"]:
                confinement.allow(ruleset, SCRATCH, confinement.SCRATCH_RIGHTS)
        else:
            os.chdir("/")
            os.setpgid(0, 0)
        for limit, value in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, int(cpu_s * 1.2) + 2),
            (resource.RLIMIT_FSIZE, SCRATCH_BYTES),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 128),
        ):
            resource.setrlimit(limit, (value, value))
        if linux and (os.geteuid() == 0 or self.layers["namespaces"]):
            try:
                confinement.drop_capabilities()
            except OSError:
                if self.layers["namespaces"]:
                    raise
        if self.layers["landlock"] or self.layers["seccomp"]:
            confinement.no_new_privileges()
        if self.layers["landlock"]:
            confinement.landlock(ruleset)
        if linux:
            confinement.stay_dumpable(False)
        _keep_only(keep)
        before_filter()
        if self.layers["seccomp"]:
            confinement.seccomp(confinement.for_pid(self.filter, os.getpid()))

    def _pair(self, request: dict[str, Any]) -> _Pair:
        """Fork what a grade needs; the processes confine themselves and wait."""
        channel, its_end = socket.socketpair()
        pids: dict[str, int] = {}
        ready: dict[str, int] = {}
        if self.options["side"] or self.options["foreign"]:
            alone = self._grade_foreign if self.options["foreign"] else self._grade_by_side
            self._child("grader", pids, ready, request, True, [its_end.fileno()], alone)
        else:
            ours, theirs = socket.socketpair()
            answer = answer_side.AnswerSide(_PLACES[0], self.steady)
            self._child("answer", pids, ready, request, True, [theirs.fileno()], answer.serve)
            theirs.close()
            self._child("grader", pids, ready, request, False, [its_end.fileno(), ours.fileno()], _grade_code)
            ours.close()
        its_end.close()
        return _Pair(pids, ready, channel, request)

    def _grade_by_side(self) -> None:
        side = sys.modules[self.options["side"]]  # one of what this zygote has loaded
        wire.send(_PLACES[0], side.grade(wire.receive(_PLACES[0])))

    def _grade_foreign(self) -> None:
        wire.send(_PLACES[0], self.foreign.answer(wire.receive(_PLACES[0]), self.steady))

    def _child(
        self,
        name: str,
        pids: dict[str, int],
        ready: dict[str, int],
        request: dict[str, Any],
        private: bool,
        keep: list[int],
        work: Callable[[], None],
    ) -> None:
        """Fork one: it confines itself, says so over the pipe that `ready` gets the other end of, and does its work."""
        reading, writing = os.pipe()
        pids[name] = self._fork(private)
        if pids[name]:
            os.close(writing)
            ready[name] = reading
            return
        try:
            factor = 1 if private else 2  # the grading side holds what both sides made
            before = _host_in_place_of_channel if name == "grader" else _nothing
            self._confine(
                factor * request["memory"],
                factor * request["cpu_s"],
                private=private,
                keep=[*keep, writing],
                before_filter=before,
            )
            said = _PLACES[len(keep)]
            os.write(said, _READY)
            os.close(said)
            work()
        except BaseException:  # noqa: S110, BLE001 - a forked child never returns into the zygote's code
            pass
        os._exit(0)

    def _watch(self, pair: _Pair) -> dict[str, Any]:
        """Wait for the grader, keep the limits, and say what was used."""
        request, pids = pair.request, pair.pids
        usage = Usage(list(pids.values()))
        limit = ""
        poller = select.poll()
        for handle in (*pair.handles, self.control.fileno()):
            poller.register(handle, select.POLLIN)
        while not limit:
            graded = False
            for handle, _ in poller.poll((_STEP_S if pair.handles else 0.002) * 1000):
                if handle == self.control.fileno():
                    os._exit(0)  # the host is gone; the children die with this process
                poller.unregister(handle)
                graded = graded or handle == pair.handles[-1]
            usage.measure(last=graded)
            pair.collect(os.WNOHANG)
            if pids["grader"] in pair.ended:
                break
            if usage.cpu > 1.2 * request["cpu_s"]:
                limit = "cpu"
            elif usage.counted > 1.2 * request["wall_s"] or monotonic() - usage.started > _last_s(request):
                limit = "time"
        usage.peak()
        used = list(pair.ended.values())
        return {
            "limit": limit,
            "cpu_s": max([usage.cpu, *(one.ru_utime + one.ru_stime for one in used)]),
            "time_s": usage.counted,
            "memory": max([usage.memory, *(_bytes(one.ru_maxrss) for one in used)]),
            # Of the answer's process nothing is told: it ends as it likes. No foreign code runs in the grader's.
            "killed": pids["grader"] in pair.killed,
        }


class _Pair:
    """The processes of one grade, and the socket over which they are given the host's."""

    def __init__(self, pids: dict[str, int], ready: dict[str, int], channel: socket.socket, request: dict[str, Any]) -> None:
        self.pids = pids
        self.ready = ready
        self.channel = channel
        self.request = request
        self.ended: dict[int, resource.struct_rusage] = {}
        self.killed: set[int] = set()
        self.handles = [os.pidfd_open(pid) for pid in pids.values()] if hasattr(os, "pidfd_open") else []

    def alive(self) -> bool:
        """Whether no process has ended while the pair waited."""
        self.collect(os.WNOHANG)
        return not self.ended

    def collect(self, options: int) -> None:
        """Reap what has ended."""
        for pid in self.pids.values():
            if pid not in self.ended:
                found, status, used = os.wait4(pid, options)
                if found:
                    self.ended[pid] = used
                    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                        self.killed.add(pid)

    def lacking(self, host: socket.socket) -> str:
        """Wait until every process has said that it is confined; "", or what is wrong."""
        deadline = monotonic() + _CONFINE_S
        for name, handle in self.ready.items():
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            poller.register(host, 0)
            found = dict(poller.poll(max(0.0, deadline - monotonic()) * 1000))
            if host.fileno() in found:
                os._exit(0)  # the host is gone; the children die with this process
            if not found:
                return f"the {name}'s process was not confined in {_CONFINE_S:g} s"
            if os.read(handle, len(_READY)) != _READY:
                return f"the {name}'s process ended before it was confined"
        return ""

    def end(self) -> None:
        """Leave nothing behind."""
        for pid in self.pids.values():
            if pid not in self.ended:
                _kill(pid)
        self.collect(0)
        self.channel.close()
        for handle in (*self.handles, *self.ready.values()):
            os.close(handle)


def _host_in_place_of_channel() -> None:
    """Wait for the host's socket, and put it where the channel that brings it was."""
    channel = socket.socket(fileno=_PLACES[0])
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    channel.detach()
    os.dup2(descriptors[0], _PLACES[0])
    os.close(descriptors[0])


def _nothing() -> None:
    """An answer's process has nothing to wait for but its socket."""


def _grade_code() -> None:
    host, answer, _ = _PLACES
    wire.send(host, grader_side.grade(answer, wire.receive(host)))


def _last_s(request: dict[str, Any]) -> float:
    """Real seconds after which a grade is over its time, whatever it waited for; the host itself waits a little longer."""
    return float(2 * request["wall_s"] + MAX_WAIT_S)


def _bytes(maxrss: int) -> int:
    return maxrss * (1 if sys.platform == "darwin" else 1024)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _keep_only(keep: list[int]) -> None:
    """Descriptors 0 to 2 stay (they are /dev/null), the kept ones become 3, 4, …, all others close."""
    copies = [os.dup(descriptor) for descriptor in keep]
    for place, descriptor in enumerate(copies):
        while descriptor < 3 + len(copies):
            descriptor = os.dup(descriptor)
        copies[place] = descriptor
    for place, descriptor in enumerate(copies):
        os.dup2(descriptor, 3 + place)
    os.closerange(3 + len(copies), 65536)


def _reachable(path: str) -> bool:
    """Whether any user may enter the folder: every part of the way is open to others."""
    parts = os.path.realpath(path).split("/")
    return all(os.stat("/".join(parts[: end + 1]) or "/").st_mode & 0o005 == 0o005 for end in range(len(parts)))


def main() -> None:
    """Serve with the options of the command line (one JSON object)."""
    zygote = Zygote(json.loads(sys.argv[1]))
    try:
        zygote.prepare()
        zygote.serve()
    except (OSError, ValueError) as error:
        zygote._say({"ready": False, "problem": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
