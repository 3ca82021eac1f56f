"""One inference server's life: started, waited for, watched, ended. Which weights it has is `supervised`'s to know.

The server runs below a watcher (`watcher.py`) in a session of its own, and nothing of it outlives this process, whatever either
of them dies of: a server that nobody knows of would hold the GPU's memory against the next one. It has an environment without
anybody's secrets (`launch`), a port of this machine alone, chosen anew for every start, and a key chosen anew too. That the
port is answered is not enough: whoever listens there must be the server that was started.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from grail_core.disk import storage_errors
from grail_core.errors import EngineError
from grail_core.generation import server_log
from grail_core.generation.base import ServedWeights
from grail_core.generation.installed import installed_version
from grail_core.generation.launch import HOST, Launch, launch
from grail_core.generation.options import EngineOptions
from grail_core.generation.watcher import descendants
from grail_core.telemetry import get_logger

log = get_logger(__name__)

START_SECONDS: Final = 1_800.0  # weights from a slow disk, kernels that are compiled, graphs that are captured
STOP_SECONDS: Final = 15.0
LOG_BYTES: Final = 16 << 20
_MAX_PORTS: Final = 5
_ASK_SECONDS: Final = 0.25  # between two questions for health; the server's end is noticed at once
_ANSWER_SECONDS: Final = 5.0
_TELL_SECONDS: Final = 15.0
_LINES: Final = 12
_DYING_SECONDS: Final = 5.0  # for the watcher, beyond what the server has
_WATCHER: Final = Path(__file__).with_name("watcher.py")


class Launcher(Protocol):
    def __call__(
        self, options: EngineOptions, weights: ServedWeights, port: int, *, api_key: str, scratch: Path, own: Mapping[str, str]
    ) -> Launch: ...


class EngineServer:
    """At most one server at a time. Used by one thread, but for `stop` and `close`, which end a `start` that is under way.

    Args:
        options: of a server that we run; `state_dir` has its log, else a new temporary folder.
        launcher, check: what is started, and what is asked of the engine before (a test's own).
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        launcher: Launcher = launch,
        check: Callable[[EngineOptions], object] = installed_version,
        start_seconds: float = START_SECONDS,
        stop_seconds: float = STOP_SECONDS,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self._options, self._launcher, self._check = options, launcher, check
        self._start_seconds, self._stop_seconds, self._log_bytes = start_seconds, stop_seconds, log_bytes
        self._folder = options.state_dir or Path(tempfile.mkdtemp(prefix="grail-engine-"))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._stops, self._closed = 0, False
        self._port, self._key = 0, ""

    @property
    def url(self) -> str:
        """Of the server that was started last."""
        return f"http://{HOST}:{self._port}"

    @property
    def api_key(self) -> str:
        """What every request must carry as a bearer token; another one for every start."""
        return self._key

    @property
    def pid(self) -> int | None:
        """Of the watcher, the leader of the server's process group."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def log_file(self) -> Path:
        return self._folder / f"{self._options.backend}.log"

    def last_lines(self, count: int = _LINES) -> str:
        """What the server printed last, without its key."""
        lines = [line for line in server_log.tail(self.log_file).splitlines() if line.strip()]
        text = "\n".join(line[:500] for line in lines[-count:])
        return text.replace(self._key, "***") if self._key else text

    def start(self, weights: ServedWeights) -> None:
        """Start a server with these weights, and wait until it answers. One that runs is stopped first.

        Raises:
            ConfigurationError: the engine is not there, not one that this was tried with, or the options are wrong.
            EngineError: it ended, was stopped meanwhile, or does not answer in time; nothing of it is left.
            StorageError: its folder cannot be written.
        """
        stops = self._stops
        self._end()
        self._check(self._options)
        for attempt in range(1, _MAX_PORTS + 1):
            started = time.monotonic()
            scratch = self._begin(weights, stops)
            try:
                self._wait(started, stops)
            except BaseException as error:
                self._end()
                if attempt < _MAX_PORTS and isinstance(error, _PortTakenError):
                    log.event("engine_port_taken", backend=self._options.backend, port=self._port, attempt=attempt)
                    continue
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            seconds = round(time.monotonic() - started, 1)
            log.event("engine_started", backend=self._options.backend, url=self.url, seconds=seconds, log=str(self.log_file))
            return

    def stop(self) -> None:
        """Nothing is left of the server after this: asked to end, killed after a while. May be called when there is none."""
        self._stops += 1
        self._end()

    def close(self) -> None:
        """As `stop`, and for good: no `start` succeeds after it."""
        self._closed = True
        self.stop()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            try:
                process.terminate()
                if not self._ended.wait(self._stop_seconds + _DYING_SECONDS):
                    log.warning("the %s server does not die: a process of it hangs in the kernel", self._options.backend)
            finally:
                assert process.stdin is not None
                process.stdin.close()  # a watcher that does not answer sees that nobody wants it
                self._ended.set()

    def _begin(self, weights: ServedWeights, stops: int) -> Path:
        """Start the watcher and the server below it. Returns the folder of what it reads while it starts."""
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self._folder.glob(".start.*"):
                shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
            self.log_file.with_suffix(".log.1").unlink(missing_ok=True)
            if self.log_file.exists():
                self.log_file.replace(self.log_file.with_suffix(".log.before"))  # why it had to be started again
            scratch = Path(tempfile.mkdtemp(prefix=".start.", dir=self._folder))
        self._port, self._key = _free_port(), f"grail-{secrets.token_hex(24)}"
        try:
            made = self._launcher(self._options, weights, self._port, api_key=self._key, scratch=scratch, own=os.environ)
            with storage_errors(scratch):
                for path, text in made.files.items():
                    path.touch(mode=0o600)
                    path.write_text(text, encoding="ascii")
            arguments = [str(self.log_file), str(self._log_bytes), str(self._stop_seconds), *made.command]
            with self._lock:
                if self._is_unwanted(stops):
                    raise self._stopped()
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_WATCHER), *arguments],
                    stdin=subprocess.PIPE,  # never written to: when it is closed, all of it ends
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=dict(made.environment),
                    cwd=self._folder,
                    start_new_session=True,
                )
                self._ended = threading.Event()
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise EngineError(f"no process could be started: {error.strerror}", where=self._options.backend) from error
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        threading.Thread(target=_notice, args=(self._process, self._ended), name="engine", daemon=True).start()
        log.event("engine_starting", backend=self._options.backend, url=self.url, weights=weights.version[:16])
        return scratch

    def _is_unwanted(self, stops: int) -> bool:
        return self._closed or self._stops != stops

    def _wait(self, started: float, stops: int) -> None:
        """Until the server that was started answers."""
        process, ended = self._process, self._ended
        if process is None:
            raise self._stopped()
        told = started
        while not ended.wait(_ASK_SECONDS):
            if _is_healthy(self._port, self._key):
                if _listens(process.pid, self._port):
                    return
                raise _PortTakenError("another program listens on the port that was chosen", where=self.url)
            now = time.monotonic()
            if now - started > self._start_seconds:
                raise EngineError(
                    f"{self._options.backend} did not answer within {self._start_seconds:.0f} s; it printed last:\n"
                    f"{self.last_lines()}",
                    where=str(self.log_file),
                    hint="look at the log; weights on a slow disk and kernels that are compiled take long once",
                )
            if now - told > _TELL_SECONDS:
                told = now
                last = self.last_lines(1)
                log.event("engine_loading", backend=self._options.backend, seconds=round(now - started), said=last)
        raise self._stopped() if self._is_unwanted(stops) else self._death(process)

    def _stopped(self) -> EngineError:
        return EngineError(f"the {self._options.backend} server was stopped before it answered", where=self.url)

    def _death(self, process: subprocess.Popen[bytes]) -> EngineError:
        """What a server died of that never answered, by its code and by what it printed."""
        code = process.wait()
        known = server_log.cause_of(server_log.tail(self.log_file))
        if known is not None and known[0] == server_log.PORT_TAKEN:
            return _PortTakenError("the port was taken by another program", where=self.url)
        name, hint = known or ("", f"look at {self.log_file}")
        how = f"was killed by signal {code - 128}" if code > 128 else f"ended with code {code}"
        if code == 137 and not name:
            name, hint = "the system may have taken its memory back", "look at the system's log (dmesg) for its OOM killer"
        what = f"the {self._options.backend} server {how} before it answered"
        return EngineError(
            f"{what}{f' ({name})' if name else ''}; it printed last:\n{self.last_lines()}", where=str(self.log_file), hint=hint
        )


class _PortTakenError(EngineError):
    """Between our choice and its use somebody else took the port."""


def _notice(process: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Once the watcher has ended, whatever it left in its group is killed: it may have been killed itself."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its group's number is nobody else's before it is taken away
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int, api_key: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {api_key}"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False  # not yet, or not it
    finally:
        connection.close()


def _listens(watcher: int, port: int) -> bool:
    """Is it a process below the watcher that listens there? Elsewhere than on Linux nobody can say."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    fields = [line.split() for line in lines]
    sockets = {f"socket:[{row[9]}]" for row in fields if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port}
    for pid in descendants(watcher):
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path) in sockets:
                        return True
    return False
