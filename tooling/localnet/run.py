"""The run itself, top to bottom: network → model → processes → windows → evaluation → summary and report.

Everything that takes long can be interrupted; what was done stays, and a second start goes on from there. The processes end
with the run, whatever ends it.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from grail_core.disk import write_atomically
from grail_core.errors import ChainError, GrailError, StorageError
from grail_core.protocol import WindowTimes
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from tooling.localnet import chaos
from tooling.localnet.checkpoints import EvaluationPlanner, published_manifests
from tooling.localnet.evaluation import run_evaluations
from tooling.localnet.events import Event, EventTail
from tooling.localnet.plan import Layout, Plan, State, load_or_create_state
from tooling.localnet.processes import BEACON, Processes, init_command, init_environment
from tooling.localnet.report import collect
from tooling.localnet.report.facts import EvaluationFact, ProcessFact, RunFacts
from tooling.localnet.report.report import render
from tooling.localnet.report.summary import Summary, summarise, write_summary
from tooling.localnet.setup import TRAINER, Network, beacon_key, folder_of, make_network, prepare_folder
from tooling.localnet.status import MinerStatus, NetworkStatus
from tooling.localnet.supervisor import State as ProcessState
from tooling.localnet.supervisor import Supervisor, last_lines
from tooling.localnet.view import View

POLL_S = 0.2
READY_S = 20.0  # for the beacon relay to listen


class InterruptedRunError(GrailError):
    """Ctrl-C or SIGTERM: the processes are stopped, and a second start resumes."""

    exit_code = 130


class RoleFailedError(GrailError):
    """A process ended with an error that no restart mends; the run ends with its exit code."""

    def __init__(self, what: str, *, where: str, hint: str, code: int) -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code


class Localnet:
    """One run in one folder."""

    def __init__(self, plan: Plan, layout: Layout, view: View, command: str) -> None:
        self._plan = plan
        self._layout = layout
        self._view = view
        self._command = command
        self._supervisor = Supervisor()
        self._events: list[Event] = []
        self._tails: list[EventTail] = []
        self._struck: list[str] = []
        self._stop_asked = False
        self.evaluations: list[EvaluationFact] = []
        self._started = time.monotonic()

    def run(self) -> Summary:
        """Run to the end. Raises the error that ended it, after the processes were stopped and what there is was reported."""
        plan, layout = self._plan, self._layout
        if plan.model is not None:
            folder_of(plan.model)
        prepare_folder(layout)
        state, resumed = load_or_create_state(plan, layout)
        self._struck = list(state.chaos_done)
        if resumed:
            self._view.say("localnet", f"resuming in {layout.root} (start {state.starts})")
        with self._signals():
            self._make_model()
            network = make_network(plan, layout)
            why = self._run_network(network, state) if not state.finished else ""
            return self._conclude(network, state, why)

    # --- before the windows -------------------------------------------------------------------------------------------

    def _make_model(self) -> None:
        """`grail-trainer init`, unless a model was given or made before."""
        if self._plan.model is not None or (self._layout.model / "config.json").exists():
            return
        argv = init_command(self._plan, self._layout)
        log = self._layout.logs / "init.log"
        log.parent.mkdir(exist_ok=True)
        self._view.say("trainer", f"making a tiny model for {self._plan.env_id} from scratch (grail-trainer init)")
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv, env=init_environment(self._plan), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
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
        self._view.say("trainer", f"the model is ready ({time.monotonic() - self._started:.0f} s)")

    def _start_processes(self, network: Network) -> Processes:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        processes = Processes(self._plan, self._layout, network, url)
        processes.write_settings()
        beacon_key(self._plan.seed).save(self._layout.root / "beacon.key")
        self._supervisor.start(processes.beacon(port))
        _wait_for_port(port, self._check_stop, self._supervisor)
        self._supervisor.start(processes.trainer())
        for name in self._plan.validator_names():
            self._supervisor.start(processes.validator(name))
        for name, strategy in self._plan.miner_strategies():
            self._supervisor.start(processes.miner(name, strategy))
        return processes

    # --- the windows --------------------------------------------------------------------------------------------------

    def _run_network(self, network: Network, state: State) -> str:
        """Run until every window is judged and trained on. Returns why it could not be ("" if it was)."""
        status = NetworkStatus(
            params=network.params,
            windows=self._plan.windows,
            miners={m.hotkey: MinerStatus(m) for m in network.miners},
            validators=self._plan.validator_names(),
        )
        status.first_window = self._first_window(network)
        self._tails = [EventTail(name, self._layout.logs / f"{name}.jsonl") for name in self._names(network)]
        self._read_events(status, aloud=False)  # what an earlier start did
        why = "interrupted"
        try:
            self._start_processes(network)
            why = self._watch(network, status, state)
            return why
        finally:
            self._view.say("localnet", "stopping the processes")
            self._supervisor.stop_all()
            self._read_events(status)
            self._remember(state, finished=not why)

    def _remember(self, state: State, *, finished: bool) -> None:
        """Write the state file, with what this start has added to it."""
        dataclasses.replace(
            state,
            finished=finished,
            seconds_before=state.seconds_before + time.monotonic() - self._started,
            chaos_done=tuple(self._struck),
            processes=self._process_facts(state),
        ).write(self._layout.state)

    def _process_facts(self, state: State) -> tuple[ProcessFact, ...]:
        """Processes of this start and of those before it."""
        facts = {fact.name: fact for fact in state.processes}
        for supervised in self._supervisor.processes.values():
            name = supervised.spec.name
            before = facts.get(name, ProcessFact(name, supervised.spec.role, 0, ()))
            facts[name] = dataclasses.replace(
                before,
                restarts=before.restarts + supervised.restarts,
                exit_codes=(*before.exit_codes, *supervised.exit_codes),
                killed_on_purpose=self._struck.count(name),
            )
        return tuple(facts.values())

    def _watch(self, network: Network, status: NetworkStatus, state: State) -> str:
        plan = self._plan
        strikes = chaos.strikes([m.name for m in network.miners], plan.validator_names(), plan.windows) if plan.chaos else ()
        last_activity, quiet_since, miners_stopped = -1, time.monotonic(), False
        while True:
            self._check_stop()
            self._read_events(status)
            self._note_deaths()
            status.block = network.chain.current_block()
            if status.first_window is None:
                status.first_window = self._first_window(network)
            status.set_weights(collect.current_shares(network))
            self._view.update(status, self._supervisor.processes)
            for strike in chaos.due(strikes, self._struck, status):
                self._strike(strike.process, state)
            if status.miners_are_done() and not miners_stopped:
                miners_stopped = True
                self._supervisor.stop([m.name for m in network.miners])
            if status.windows_are_done() and self._is_trained(status):
                return ""
            if status.activity != last_activity:
                last_activity, quiet_since = status.activity, time.monotonic()
            if self._overdue(status) and time.monotonic() - quiet_since > plan.patience_s:
                return f"nothing happened for {plan.patience_s:.0f} s; {self._unfinished(status)}"
            if self._overdue(status, by_blocks=network.params.void_after_D + 4 * WINDOW_LENGTH):
                return f"the last window's time is over; {self._unfinished(status)}"
            time.sleep(POLL_S)

    def _is_trained(self, status: NetworkStatus) -> bool:
        """The trainer ends by itself once it published the checkpoint of the last window."""
        return self._supervisor.processes[TRAINER].state is ProcessState.DONE

    def _overdue(self, status: NetworkStatus, by_blocks: int = 0) -> bool:
        last = status.last_window
        if last is None:
            return status.block > 10 * WINDOW_LENGTH + by_blocks
        return status.block > WindowTimes(Window(last), status.params).challenge_block + by_blocks

    def _unfinished(self, status: NetworkStatus) -> str:
        if status.first_window is None:
            return "no checkpoint was published"
        return f"{status.windows_judged()} of {status.windows} windows were judged, {len(status.trained)} trained on"

    def _first_window(self, network: Network) -> int | None:
        manifests = published_manifests(network, self._layout)
        return min((m.valid_from for m in manifests if m.sequence == 0), default=None)

    def _strike(self, process: str, state: State) -> None:
        if self._supervisor.processes[process].pid is None:
            return  # it is being restarted; its turn comes with the next poll
        self._struck.append(process)
        dataclasses.replace(state, chaos_done=tuple(self._struck)).write(self._layout.state)
        pid = self._supervisor.kill(process)
        self._view.say(process, f"killed on purpose (SIGKILL to {pid})", style="yellow")

    def _note_deaths(self) -> None:
        for death in self._supervisor.poll():
            log = self._layout.logs / f"{death.name}.log"
            if death.restart_in_s is None:
                lines = "\n  ".join(death.last_lines[-8:])
                raise RoleFailedError(
                    f"{death.name} ended with {death.cause} and is not started again:\n  {lines}",
                    where=str(log),
                    hint="the message above says what to mend",
                    code=max(1, death.exit_code),
                )
            last = f": {death.last_lines[-1].strip()}" if death.exit_code > 0 and death.last_lines else ""
            self._view.say(death.name, f"died ({death.cause}{last}), restarting in {death.restart_in_s:.1f} s", style="yellow")

    def _read_events(self, status: NetworkStatus, *, aloud: bool = True) -> None:
        for tail in self._tails:
            for event in tail.read():
                self._events.append(event)
                line = status.apply(event)
                if line and aloud:
                    self._view.say(event.process, line)

    # --- after the windows --------------------------------------------------------------------------------------------

    def _conclude(self, network: Network, state: State, why: str) -> Summary:
        """Evaluate, collect, and write summary and report."""
        windows_done = not why
        if windows_done:
            self.evaluations, why = self._evaluate(network)
        facts = self._facts(network, state, self.evaluations, why)
        self._remember(state, finished=windows_done)
        if self._plan.control and facts.finished:
            facts = dataclasses.replace(facts, control=self._control())
        summary = summarise(facts)
        write_summary(summary, self._layout.summary)
        write_atomically(self._layout.report, render(facts, summary).encode())
        return summary

    def _evaluate(self, network: Network) -> tuple[list[EvaluationFact], str]:
        planner = EvaluationPlanner(self._plan, self._layout, network)
        tasks = planner.tasks()
        self._view.say("evaluation", f"{len(tasks)} checkpoints on {self._plan.evaluation_problems:,} held-out problems each")

        def told(fact: EvaluationFact) -> None:
            self._view.say(
                "evaluation",
                f"after {fact.window_index} windows: {100 * fact.success:.2f} % ± {100 * fact.success_error:.2f} solved, "
                f"{100 * fact.well_formed:.1f} % well formed",
            )

        try:
            return run_evaluations(tasks, on_result=told, pause=self._check_stop), ""
        except (StorageError, ChainError, OSError) as error:
            return [], f"the checkpoints could not be evaluated: {error}"

    def _control(self) -> EvaluationFact | None:
        """The same run with learning rate 0, in a folder of its own; the evaluation of its last checkpoint."""
        self._view.say("control", "the same run again, with learning rate 0")
        plan = dataclasses.replace(
            self._plan, control=False, chaos=False, learning_rate="0", model=str(self._plan.model or self._layout.model)
        )
        control = Localnet(plan, Layout(self._layout.control), self._view, self._command)
        control._stop_asked = self._stop_asked
        control.run()
        return control.evaluations[-1] if control.evaluations else None

    def _facts(self, network: Network, state: State, evaluations: list[EvaluationFact], why: str) -> RunFacts:
        plan = self._plan
        manifests = published_manifests(network, self._layout)
        first = min((m.valid_from for m in manifests if m.sequence == 0), default=None)
        windows = range(first, first + WINDOW_LENGTH * plan.windows, WINDOW_LENGTH) if first is not None else range(0)
        stores = {name: collect.bucket(self._layout, name) for name in plan.validator_names()}
        verdicts = collect.verdicts(network, stores, windows)
        miner_windows, rejects = collect.miner_facts(verdicts, network)
        events = self._events or self._old_events(network)
        return RunFacts(
            env_id=plan.env_id,
            seed=plan.seed,
            quick=plan.quick,
            model=plan.model or "made by grail-trainer init",
            windows_asked=plan.windows,
            first_window=first,
            block_time_ms=network.params.block_time_ms,
            started_at=state.started_at,
            seconds_total=state.seconds_before + time.monotonic() - self._started,
            finished=not why,
            why_unfinished=why,
            miners=network.miners,
            validators=plan.validator_names(),
            windows=collect.window_facts(verdicts, first or 0, plan.validator_names()),
            miner_windows=miner_windows,
            rejects=rejects,
            checkpoints=collect.checkpoint_facts(manifests),
            training=collect.training_facts(events),
            evaluations=tuple(evaluations),
            weights=collect.weight_facts(network, events),
            phases=collect.phase_facts(events),
            processes=self._process_facts(state),
            parameters=collect.parameter_facts(network),
            versions=collect.versions(),
            machine=collect.machine(),
            command=self._command,
            parameters_total=collect.model_parameters(Path(plan.model) if plan.model else self._layout.model),
        )

    def _old_events(self, network: Network) -> list[Event]:
        return [e for name in self._names(network) for e in EventTail(name, self._layout.logs / f"{name}.jsonl").read()]

    def _names(self, network: Network) -> list[str]:
        """The processes that write events."""
        return [TRAINER, *self._plan.validator_names(), *(m.name for m in network.miners)]

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, check: object, supervisor: Supervisor) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        check()  # type: ignore[operator]
        supervisor.poll()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.05)
    raise RoleFailedError(
        "the beacon relay does not answer:\n  " + "\n  ".join(last_lines(supervisor.processes[BEACON].spec.log, 6)),
        where=f"127.0.0.1:{port}",
        hint="see logs/beacon.log",
        code=9,
    )
