"""Keeps the processes of a localnet alive, and ends them together.

Each process leads its own session and process group, writes to its own log file, and is restarted with a growing pause
when it dies unexpectedly. Exit code 0 means finished. The exit codes of a mistake that a restart cannot mend (a wrong
setting, an unreadable model, a missing data set, a full disk) are final for the whole run. `poll` does the work and never
blocks; it must be called from the thread that starts the processes, because on Linux a child's leash (see `shim.py`) is
tied to that thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from grail_core.errors import (
    CheckpointError,
    ConfigurationError,
    DiskFullError,
    EnvironmentUnavailableError,
    NotRegisteredError,
    ProtocolViolationError,
)

SHIM = Path(__file__).with_name("shim.py")
FINAL_EXIT_CODES = frozenset(
    error.exit_code
    for error in (
        ConfigurationError,
        NotRegisteredError,
        CheckpointError,
        EnvironmentUnavailableError,
        DiskFullError,
        ProtocolViolationError,
    )
) | {2}
"""Exit codes that no restart mends; 2 is a command line that the role's own parser refused."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
HEALTHY_AFTER_S = 20.0  # a process that lived so long starts again with the first pause
MAX_QUICK_DEATHS = 6  # deaths in a row, none of them healthy, after which the run is given up
MAX_DEATHS = 12  # of one process in a run


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    RESTARTING = "restarting"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ProcessSpec:
    """What to start: `name` also names its log files."""

    name: str
    role: str  # beacon | trainer | miner | validator
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    mortal: bool = False  # it kills itself on purpose: that is no reason to give it up


@dataclass(frozen=True)
class Death:
    """One process that ended without being asked to."""

    name: str
    exit_code: int  # negative: the signal that killed it
    restart_in_s: float | None  # None: not restarted
    last_lines: tuple[str, ...]

    @property
    def cause(self) -> str:
        if self.exit_code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.exit_code).name}"
        return f"exit code {self.exit_code}"


@dataclass
class SupervisedProcess:
    """One process under supervision. Only the supervisor changes it."""

    spec: ProcessSpec
    state: State = State.WAITING
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    restarts: int = 0
    quick_deaths: int = 0
    exit_codes: list[int] = field(default_factory=list)
    retired: bool = False  # its work is done: it was asked to end, and is not started again

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.state is State.RUNNING else None


class Supervisor:
    """Starts, watches, restarts and stops processes.

    Args:
        clock: monotonic seconds; a test passes its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._processes: dict[str, SupervisedProcess] = {}

    @property
    def processes(self) -> Mapping[str, SupervisedProcess]:
        return self._processes

    def start(self, spec: ProcessSpec) -> None:
        if spec.name in self._processes:
            raise ValueError(f"there is a process {spec.name!r} already")
        supervised = self._processes[spec.name] = SupervisedProcess(spec)
        self._launch(supervised)

    def poll(self) -> list[Death]:
        """Notice deaths, restart what is due. Returns the deaths noticed since the last call."""
        deaths = []
        for supervised in self._processes.values():
            if supervised.state is State.RUNNING and (death := self._noticed(supervised)):
                deaths.append(death)
            elif supervised.state is State.RESTARTING and self._clock() >= supervised.restart_at:
                supervised.restarts += 1
                self._launch(supervised)
        return deaths

    def kill(self, name: str) -> int:
        """SIGKILL one process and its children, as a power cut would. Returns its pid. The next `poll` notices."""
        supervised = self._processes[name]
        pid = supervised.pid
        if pid is None:
            raise ValueError(f"{name} is not running")
        _signal_group(pid, signal.SIGKILL)
        return pid

    def retire(self, name: str) -> None:
        """Ask one process to end, because its work is done, and wait for nothing; `poll` sees its end, which is no death."""
        supervised = self._processes[name]
        supervised.retired = True
        if supervised.state is State.RUNNING and supervised.process is not None:
            supervised.process.send_signal(signal.SIGTERM)  # a localnet in the background may have SIGINT ignored
        elif supervised.state in (State.WAITING, State.RESTARTING):
            supervised.state = State.STOPPED

    def stop_all(self) -> None:
        """Stop everything; see `stop`."""
        self.stop(self._processes)

    def stop(self, names: Iterable[str], *, interrupt_s: float = 12.0, terminate_s: float = 4.0) -> None:
        """SIGINT to these processes, SIGTERM to what is left, SIGKILL to the groups of what is left after that.

        What was retired was asked before: a second signal would not let it end what it has in hand.

        The first two go to the process only, which ends its own children; the last goes to the whole group, always, so
        that no child of a role survives it.
        """
        chosen = [self._processes[name] for name in names]
        running = [s for s in chosen if s.state is State.RUNNING]
        for how, patience in ((signal.SIGINT, interrupt_s), (signal.SIGTERM, terminate_s)):
            alive = [s for s in running if s.process is not None and s.process.poll() is None]
            for supervised in alive:
                assert supervised.process is not None
                if not (supervised.retired and how is signal.SIGINT):
                    supervised.process.send_signal(how)
            _wait_for_all([s.process for s in alive if s.process is not None], patience)
        for supervised in running:
            assert supervised.process is not None
            _signal_group(supervised.process.pid, signal.SIGKILL)
            supervised.exit_codes.append(supervised.process.wait())
        for supervised in chosen:
            if supervised.state in (State.RUNNING, State.RESTARTING, State.WAITING):
                supervised.state = State.STOPPED

    def _launch(self, supervised: SupervisedProcess) -> None:
        spec = supervised.spec
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            _stamp(log, f"--- start {supervised.restarts + 1}: {' '.join(spec.argv)}")
            supervised.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), *spec.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.env),
                cwd=spec.log.parent,  # a .env or grail.toml where localnet was started is somebody else's
                start_new_session=True,
            )
        supervised.started_at = self._clock()
        supervised.state = State.RUNNING

    def _noticed(self, supervised: SupervisedProcess) -> Death | None:
        assert supervised.process is not None
        code = supervised.process.poll()
        if code is None:
            return None
        _signal_group(supervised.process.pid, signal.SIGKILL)  # whatever it left behind
        supervised.exit_codes.append(code)
        if code == 0 or supervised.retired:
            supervised.state = State.STOPPED if supervised.retired else State.DONE
            return None
        lived = self._clock() - supervised.started_at
        meant = -signal.SIGKILL if supervised.spec.mortal else None
        if code != meant:
            supervised.quick_deaths = 0 if lived >= HEALTHY_AFTER_S else supervised.quick_deaths + 1
        lines = last_lines(supervised.spec.log)
        deaths = sum(one != meant for one in supervised.exit_codes)
        hopeless = supervised.quick_deaths >= MAX_QUICK_DEATHS or deaths >= MAX_DEATHS
        if code in FINAL_EXIT_CODES or hopeless:
            supervised.state = State.FAILED
            return Death(supervised.spec.name, code, None, lines)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, supervised.quick_deaths - 1))
        supervised.state, supervised.restart_at = State.RESTARTING, self._clock() + pause
        return Death(supervised.spec.name, code, pause, lines)


def last_lines(log: Path, count: int = 12) -> tuple[str, ...]:
    """The end of a log file since its process was last started, at most `count` lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ()
    starts = [i for i, line in enumerate(lines) if line.startswith("--- start ")]
    return tuple(line for line in lines[starts[-1] + 1 if starts else 0 :] if line.strip())[-count:]


def _stamp(log: BinaryIO, text: str) -> None:
    log.write(f"{text}\n".encode())
    log.flush()


def _signal_group(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


def _wait_for_all(processes: list[subprocess.Popen[bytes]], patience_s: float) -> None:
    until = time.monotonic() + patience_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, until - time.monotonic()))
