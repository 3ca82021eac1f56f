"""The windows of one start: read events, notice deaths, strike, move the clock, until every window is judged and learned from.

With a virtual clock the chain goes as far as the conductor lets it, and the run is over when there is nothing left to move it
for. With the real one blocks come by themselves, and a run that stands still after its last window is ended.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from grail_core.errors import GrailError
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Block, Window
from tooling.localnet import chaos
from tooling.localnet.checkpoints import published_manifests
from tooling.localnet.clock import VirtualClock, describe
from tooling.localnet.conductor import Known, Need, Over, Stands, Task, Timetable
from tooling.localnet.doomed import deaths_in
from tooling.localnet.events import Event, EventTail
from tooling.localnet.plan import Layout, Plan, State
from tooling.localnet.progress import Progress
from tooling.localnet.report import collect
from tooling.localnet.report.facts import NotWaitedFact
from tooling.localnet.setup import TRAINER, Network, newcomer_of
from tooling.localnet.status import MinerStatus, NetworkStatus
from tooling.localnet.supervisor import State as ProcessState
from tooling.localnet.supervisor import Supervisor
from tooling.localnet.view import View

POLL_S = 0.05
DRAW_S = 0.25  # between two looks at the chain's weights and drawings of the view
ENDED = frozenset({ProcessState.DONE, ProcessState.FAILED, ProcessState.STOPPED})


class RoleFailedError(GrailError):
    """A process ended with an error that no restart mends; the run ends with its exit code."""

    def __init__(self, what: str, *, where: str, hint: str, code: int) -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code


class Windows:
    """Watches the processes of one start. What earlier starts did is read from `state` and from the event files.

    A network of gradient work replaces what is asked of it in rounds (`rounds.windows`).

    Args:
        check_stop: raises where the person wants the run to end.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        network: Network,
        supervisor: Supervisor,
        view: View,
        state: State,
        check_stop: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._layout = layout
        self._network = network
        self._supervisor = supervisor
        self._view = view
        self._state = state
        self._check_stop = check_stop
        self.events: list[Event] = []
        self.struck = list(state.chaos_done)
        self.not_waited = list(state.not_waited)
        self._began: float | None = None  # monotonic seconds when this start first saw a window of the run
        self._ended: float | None = None  # and when it was over
        self._progress = self._new_progress()
        self._tails = [EventTail(name, layout.logs / f"{name}.jsonl") for name in event_writers(plan)]
        self._status = self._new_status()
        self._status.first_window = self._first_window()
        self._strikes = self._new_strikes()
        self._newcomer = newcomer_of(plan, network)
        self._due_since: dict[str, float] = {}  # process → when its strike's block was first seen
        self._drawn = 0.0
        self.read_events(aloud=False)

    # --- what depends on the kind of work -------------------------------------------------------------------------------

    last_of_mining = Task.MINE
    """What a miner does last in a window."""

    def _new_status(self) -> NetworkStatus:
        plan = self._plan
        return NetworkStatus(
            params=self._network.params,
            windows=plan.windows,
            miners={m.hotkey: MinerStatus(m) for m in self._network.miners},
            validators=plan.validator_names(),
            real_time=plan.real_time,
        )

    def _new_progress(self) -> Progress:
        return Progress()

    def _new_strikes(self) -> tuple[chaos.Strike, ...]:
        plan, params = self._plan, self._network.params
        return chaos.strikes([m.name for m in self._network.miners], plan.validator_names(), plan.windows, params)

    def _new_timetable(self) -> Stands:
        return Timetable(
            params=self._network.params,
            chain=self._network.chain.parameters,
            windows=self._plan.windows,
            trainer=TRAINER,
            validators=self._plan.validator_names(),
            miners=tuple(m.name for m in self._network.miners),
        )

    def _is_trained(self) -> bool:
        """The trainer ends by itself once it published the checkpoint of the last window."""
        return self._supervisor.processes[TRAINER].state is ProcessState.DONE

    # --- watching -------------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Real time in windows, of all starts."""
        if self._began is None:
            return self._state.seconds_in_windows
        ended = time.monotonic() if self._ended is None else self._ended
        return self._state.seconds_in_windows + ended - self._began

    def run(self) -> str:
        """Watch until every window is judged and trained on. Returns why it could not be ("" if it was)."""
        ended = self._by_the_wall_clock() if self._plan.real_time else self._by_the_work()
        while True:
            self._check_stop()
            self.read_events()
            self._note_deaths()
            self._look()
            self._retire_miners()
            why = ended()
            if why is not None:
                self._ended = time.monotonic()
                return why
            time.sleep(POLL_S)

    def read_events(self, *, aloud: bool = True) -> None:
        for tail in self._tails:
            for event in tail.read():
                self.events.append(event)
                self._progress.apply(event)
                line = self._status.apply(event)
                if line and aloud:
                    self._view.say(event.process, line)

    # --- two ways to go on ---------------------------------------------------------------------------------------------

    def _by_the_work(self) -> Callable[[], str | None]:
        """The virtual clock. What is returned moves it, and says why the run is over once it is."""
        chain, status = self._network.chain, self._status
        clock = VirtualClock(chain, self._new_timetable(), self._plan.patience_s, self._go_on_without)
        over_since: float | None = None

        def tick() -> str | None:
            nonlocal over_since
            if self._strike_due():
                return None
            first = status.first_window
            known = Known(None if first is None else Window(first), self._progress.done, self._progress.awaiting)
            halts = [chain.parameters.time_of_ms(block) for block in self._halts(first)] if first is not None else []
            taken = clock.tick(known, self._progress.signs, halts_ms=halts, away=self._away())
            status.waits_for = describe(taken)
            if not isinstance(taken, Over):
                return None
            over_since = time.monotonic() if over_since is None else over_since
            last = status.last_window
            learned = last is not None and Need(TRAINER, Task.TRAIN, Window(last)) in self._progress.done
            if not (status.windows_are_done() and learned):
                return self._unfinished()
            if self._is_trained():
                return ""
            if time.monotonic() - over_since > self._plan.patience_s:
                return f"the trainer did not end within {self._plan.patience_s:.0f} s; {self._unfinished()}"
            return None

        return tick

    def _by_the_wall_clock(self) -> Callable[[], str | None]:
        """Blocks come by themselves. What is returned says why the run is over once it is."""
        status, patience_s = self._status, self._plan.patience_s
        last_activity, quiet_since = -1, time.monotonic()

        def tick() -> str | None:
            nonlocal last_activity, quiet_since
            self._strike_due()
            if status.windows_are_done() and self._is_trained():
                return ""
            if status.activity != last_activity:
                last_activity, quiet_since = status.activity, time.monotonic()
            if self._overdue() and time.monotonic() - quiet_since > patience_s:
                return f"nothing happened for {patience_s:.0f} s; {self._unfinished()}"
            if self._overdue(by_blocks=self._network.params.void_after_D + 4 * WINDOW_LENGTH):
                return f"the last window's time is over; {self._unfinished()}"
            return None

        return tick

    def _go_on_without(self, fact: NotWaitedFact) -> None:
        self.not_waited.append(fact)
        self._note()
        self._view.say("localnet", f"goes on: {fact}", style="yellow")

    # --- what is seen --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        status = self._status
        status.block = self._network.chain.current_block()
        if status.first_window is None:
            status.first_window = self._first_window()
        if self._newcomer is not None and status.first_window is not None:
            line = self._newcomer.act(Window(status.first_window), status.block)
            if line:
                self._view.say("localnet", line, style="yellow")
        now = time.monotonic()
        if self._began is None and status.first_window is not None and status.block >= status.first_window:
            self._began = now
        if now - self._drawn >= DRAW_S:
            self._drawn = now
            status.set_weights(collect.current_shares(self._network))
            self._view.update(status, self._supervisor.processes)

    def _first_window(self) -> int | None:
        manifests = published_manifests(self._network, self._layout)
        return min((m.valid_from for m in manifests if m.sequence == 0), default=None)

    def _overdue(self, by_blocks: int = 0) -> bool:
        last = self._status.last_window
        if last is None:
            return self._status.block > 10 * WINDOW_LENGTH + by_blocks
        return self._status.block > self._status.judging_begins(Window(last)) + by_blocks

    def _unfinished(self) -> str:
        status = self._status
        without = f"; {self.not_waited[-1]}" if self.not_waited else ""
        if status.first_window is None:
            return f"no checkpoint was published{without}"
        return f"{status.windows_judged()} of {status.windows} windows were judged, {len(status.trained)} trained on{without}"

    def _retire_miners(self) -> None:
        """Whoever is done with the last window ends, and whoever is not when its time is over."""
        last = self._status.last_window
        for miner in self._network.miners:
            if self._supervisor.processes[miner.name].retired or last is None:
                continue
            if self._status.miners_are_done() or Need(miner.name, self.last_of_mining, Window(last)) in self._progress.done:
                self._supervisor.retire(miner.name)

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

    def _note(self) -> None:
        """What must survive a kill of the localnet itself."""
        noted = dataclasses.replace(self._state, chaos_done=tuple(self.struck), not_waited=tuple(self.not_waited))
        noted.write(self._layout.state)

    def _halts(self, first: int) -> list[Block]:
        """Blocks at which a virtual clock must stand once."""
        newcomer = self._newcomer.halts(Window(first)) if self._newcomer is not None else ()
        return [*(strike.block(first) for strike in self._ahead()), *newcomer]

    # --- chaos ---------------------------------------------------------------------------------------------------------

    def _ahead(self) -> list[chaos.Strike]:
        """Strikes that can still be made."""
        if not self._plan.chaos:
            return []
        processes = self._supervisor.processes
        return [s for s in chaos.ahead(self._strikes, self.struck) if processes[s.process].state not in ENDED]

    def _away(self) -> tuple[str, ...]:
        """Who died on purpose and lets a first sight pass."""
        name = self._plan.doomed
        deaths = deaths_in(self._layout.deaths) if name is not None else ()
        here = self._network.chain.current_block()
        return (name,) if name is not None and any(here <= death.last_block_away for death in deaths) else ()

    def _strike_due(self) -> bool:
        """Make the strikes whose moment has come. Returns whether one is due and still to be made."""
        due = chaos.due(self._ahead(), (), self._status)
        for strike in due:
            since = self._due_since.setdefault(strike.process, time.monotonic())
            if time.monotonic() - since >= strike.seconds and self._supervisor.processes[strike.process].pid is not None:
                self._strike(strike.process)
        return any(strike.process not in self.struck for strike in due)

    def _strike(self, process: str) -> None:
        self.struck.append(process)
        self._note()
        pid = self._supervisor.kill(process)
        self._view.say(process, f"killed on purpose (SIGKILL to {pid})", style="yellow")


def event_writers(plan: Plan) -> list[str]:
    """The processes that write events."""
    return [TRAINER, *plan.validator_names(), *(name for name, _ in plan.miner_strategies())]


def events_of(plan: Plan, logs: Path) -> list[Event]:
    """Everything that the processes of a run wrote, in all its starts."""
    return [event for name in event_writers(plan) for event in EventTail(name, logs / f"{name}.jsonl").read()]
