"""One run in one folder, whatever its work: the processes from the network to their end, resuming, and what ends it early.

Everything that takes long can be interrupted; what was done stays, and a second start goes on from there. The processes end
with the run, whatever ends it. What is made before the first window and said at the end depends on the work (`run`,
`rounds.run`).
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Generic, TypeVar

from grail_core.devnet.network import free_port
from grail_core.errors import GrailError
from grail_core.participant.state import only_process
from tooling.localnet.plan import Layout, Plan, State, load_or_create_state
from tooling.localnet.processes import (
    BEACON,
    STORE,
    STORE_LINE,
    Processes,
    init_command,
    init_environment,
    store_line,
    store_server,
)
from tooling.localnet.remote_stores import remote_stores_of
from tooling.localnet.report.facts import ProcessFact
from tooling.localnet.setup import Network, beacon_key, folder_of, make_network, prepare_folder
from tooling.localnet.supervisor import Supervisor, last_lines
from tooling.localnet.view import View
from tooling.localnet.windows import RoleFailedError, Windows

POLL_S = 0.2
READY_S = 20.0  # for the beacon relay to listen

T = TypeVar("T")
"""What a run says of itself at its end."""


class InterruptedRunError(GrailError):
    """Ctrl-C or SIGTERM: the processes are stopped, and a second start resumes."""

    exit_code = 130


class Running(Generic[T]):
    """One run in one folder. Subclasses say how a network begins and what is told at the end."""

    def __init__(self, plan: Plan, layout: Layout, view: View, command: str) -> None:
        self._plan = plan
        self._layout = layout
        self._view = view
        self._command = command
        self._supervisor = Supervisor()
        self._windows: Windows | None = None  # of this start
        self._stop_asked = False
        self._started = time.monotonic()

    def run(self) -> T:
        """Run to the end. Raises the error that ended it, after the processes were stopped and what there is was reported."""
        plan, layout = self._plan, self._layout
        if plan.model is not None:
            folder_of(plan.model)
        prepare_folder(layout)
        with only_process(
            layout.lock,
            "a run is going on in this folder",
            hint="wait for it, stop it, or choose another folder with --out",
        ):
            return self._run_alone()

    def _run_alone(self) -> T:
        plan, layout = self._plan, self._layout
        state, resumed = load_or_create_state(plan, layout)
        if resumed:
            self._view.say("localnet", f"resuming in {layout.root} (start {state.starts})")
        with self._signals():
            try:
                network = self._begin()
                why = self._run_network(network, state) if not state.finished else ""
                return self._conclude(network, state, why)
            finally:
                self._supervisor.stop_all()

    def _begin(self) -> Network:
        """Make the network and everything that it needs before its first window, unless it was made before."""
        network = make_network(self._plan, self._layout)
        stores = remote_stores_of(self._layout)
        if stores is not None:
            self._supervisor.start(store_server(self._layout))
            _wait_for_port(STORE, stores.port, self._check_stop, self._supervisor)
            if stores.line is not None and self._plan.store_faults is not None:
                self._supervisor.start(store_line(self._layout, stores, self._plan.store_faults))
                _wait_for_port(STORE_LINE, stores.line, self._check_stop, self._supervisor)
        return network

    def _make_model(self) -> None:
        """`grail-trainer init`, unless a model was given or made before."""
        if self._plan.model is not None or (self._layout.model / "config.json").exists():
            return
        self._view.say("trainer", f"making a tiny model for {self._plan.env_id} from scratch (grail-trainer init)")
        self._run_to_its_end(init_command(self._plan, self._layout), init_environment(self._plan))
        self._view.say("trainer", f"the model is ready ({time.monotonic() - self._started:.0f} s)")

    def _conclude(self, network: Network, state: State, why: str) -> T:
        """Write down what became of the run, finished or not. `why`: it is not; "" if it is."""
        raise NotImplementedError

    # --- processes ----------------------------------------------------------------------------------------------------

    def _run_to_its_end(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """`grail-trainer init`. Errors: RoleFailedError with the end of its log."""
        log = self._layout.logs / "init.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            while process.poll() is None:
                self._check_stop()
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
        if process.returncode != 0:
            lines = last_lines(log, 8)
            raise RoleFailedError(
                "\n  ".join(["no model could be made:", *lines]), where=str(log), hint="see the log", code=process.returncode
            )

    def _start_processes(self, network: Network) -> Processes:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        processes = Processes(self._plan, self._layout, network, url)
        processes.write_settings()
        beacon_key(self._plan.seed).save(self._layout.root / "beacon.key")
        self._supervisor.start(processes.beacon(port))
        _wait_for_port(BEACON, port, self._check_stop, self._supervisor)
        self._supervisor.start(processes.trainer())
        for name in self._plan.validator_names():
            self._supervisor.start(processes.validator(name))
        for name, strategy in self._plan.miner_strategies():
            self._supervisor.start(processes.miner(name, strategy))
        return processes

    # --- the windows --------------------------------------------------------------------------------------------------

    def _run_network(self, network: Network, state: State) -> str:
        """Run until every window is judged and trained on. Returns why it could not be ("" if it was)."""
        windows = self._windows_of(network, state)
        self._windows = windows
        why = "interrupted"
        try:
            self._start_processes(network)
            why = windows.run()
            return why
        finally:
            self._remember(state, finished=not why)
            self._view.say("localnet", "stopping the processes")
            self._supervisor.stop(name for name in self._supervisor.processes if name not in (STORE, STORE_LINE))
            windows.read_events()
            self._remember(state, finished=not why)

    def _windows_of(self, network: Network, state: State) -> Windows:
        return Windows(self._plan, self._layout, network, self._supervisor, self._view, state, self._check_stop)

    def _remember(self, state: State, *, finished: bool) -> None:
        """Write the state file, with what this start has added to it."""
        self._added(state, finished=finished).write(self._layout.state)

    def _added(self, state: State, *, finished: bool) -> State:
        """The state with what this start has added to it."""
        windows = self._windows
        return dataclasses.replace(
            state,
            finished=finished,
            seconds_before=state.seconds_before + time.monotonic() - self._started,
            chaos_done=state.chaos_done if windows is None else tuple(windows.struck),
            processes=self._process_facts(state),
            seconds_in_windows=state.seconds_in_windows if windows is None else windows.seconds,
            not_waited=state.not_waited if windows is None else tuple(windows.not_waited),
        )

    def _process_facts(self, state: State) -> tuple[ProcessFact, ...]:
        """Processes of this start and of those before it."""
        facts = {fact.name: fact for fact in state.processes}
        struck = state.chaos_done if self._windows is None else self._windows.struck
        for supervised in self._supervisor.processes.values():
            name = supervised.spec.name
            before = facts.get(name, ProcessFact(name, supervised.spec.role, 0, ()))
            facts[name] = dataclasses.replace(
                before,
                restarts=before.restarts + supervised.restarts,
                exit_codes=(*before.exit_codes, *supervised.exit_codes),
                killed_on_purpose=struck.count(name),
            )
        return tuple(facts.values())

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _check_stop(self) -> None:
        if self._stop_asked:
            raise InterruptedRunError(
                "stopped", where=str(self._layout.root), hint="start again with the same options to resume"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run cleanly; a second one kills what is left at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stop_asked:
                for name, supervised in self._supervisor.processes.items():
                    if supervised.pid is not None:
                        self._supervisor.kill(name)
                sys.exit(InterruptedRunError.exit_code)
            self._stop_asked = True
            self._view.say("localnet", "stopping (once more to kill everything at once)")

        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def reproduce_command(argv: list[str]) -> str:
    """The command line of this run as a person types it."""
    return "hatch run localnet" + "".join(f" {shlex.quote(a)}" for a in argv)


def _wait_for_port(name: str, port: int, check: object, supervisor: Supervisor) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        check()  # type: ignore[operator]
        supervisor.poll()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.05)
    raise RoleFailedError(
        f"the {name} does not answer:\n  " + "\n  ".join(last_lines(supervisor.processes[name].spec.log, 6)),
        where=f"127.0.0.1:{port}",
        hint=f"see logs/{name}.log",
        code=9 if name == BEACON else 5,
    )
