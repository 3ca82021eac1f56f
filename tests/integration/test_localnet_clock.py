"""The virtual clock of a localnet on a real chain: it moves with the work, and for nobody does it stand for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Window
from tooling.localnet.clock import VirtualClock, describe
from tooling.localnet.conductor import Advance, Hold, Known, Need, Over, Task, Timetable
from tooling.localnet.report.facts import NotWaitedFact

FIRST = Window(30)
TRAINER, VALIDATOR, MINER = "trainer", "validator-1", "miner-1"
PATIENCE_S = 60.0


class Run:
    """One trainer, one validator and one miner; what they do is said by hand, and the time of this machine too."""

    def __init__(self, folder: Path) -> None:
        self.chain = LocalChain.create(
            folder / "chain.sqlite", seed=1, clock=ClockMode.VIRTUAL, genesis_time_ms=1_767_225_600_000
        )
        timetable = Timetable(LOCALNET, self.chain.parameters, 1, TRAINER, (VALIDATOR,), (MINER,))
        self.told: list[NotWaitedFact] = []
        self.now = 1000.0
        self.done: set[Need] = set()
        self.signs: dict[str, int] = {}
        self.first: Window | None = None
        self.clock = VirtualClock(self.chain, timetable, PATIENCE_S, self.told.append, clock=lambda: self.now)

    def does(self, role: str, task: Task, window: Window | None = None) -> None:
        self.done.add(Need(role, task, window))
        self.signs[role] = self.signs.get(role, 0) + 1

    def joined(self) -> None:
        for role in (TRAINER, VALIDATOR, MINER):
            self.does(role, Task.START)
        self.does(TRAINER, Task.PUBLISH)
        self.first = FIRST

    def tick(self) -> Hold | Advance | Over:
        return self.clock.tick(Known(self.first, self.done), self.signs)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_chain_goes_as_far_as_the_work_and_no_further(run: Run) -> None:
    assert isinstance(run.tick(), Hold)
    assert run.chain.current_block() == 0
    run.joined()
    assert isinstance(run.tick(), Advance)
    assert run.chain.current_block() == 34
    held = run.tick()
    assert describe(held) == "validator-1 to see the uploads of window 0"
    assert run.chain.current_block() == 34


def test_whoever_holds_the_clock_too_long_is_gone_on_without_and_named(run: Run) -> None:
    run.joined()
    run.does(VALIDATOR, Task.SIGHT, Window(0))
    run.does(VALIDATOR, Task.JUDGE, Window(0))
    while isinstance(run.tick(), Advance):
        pass
    run.now += PATIENCE_S - 1
    assert describe(run.tick()) == "miner-1 to make the groups of window 30"
    assert run.told == []
    run.now += 1
    run.tick()
    assert run.told == [NotWaitedFact(MINER, Task.PRODUCE.value, FIRST, 37, PATIENCE_S)]
    assert isinstance(run.tick(), Advance)


def test_a_role_that_is_away_on_purpose_is_not_waited_for_and_not_held_against_it(run: Run) -> None:
    run.joined()
    known = Known(run.first, run.done)
    while isinstance(run.clock.tick(known, run.signs), Advance):
        pass
    held = run.clock.tick(known, run.signs)
    assert isinstance(held, Hold)
    assert {need.role for need in held.waits_for} == {VALIDATOR}
    assert isinstance(run.clock.tick(known, run.signs, away=[VALIDATOR]), Advance)
    assert run.told == []


def test_patience_begins_anew_with_every_stand_and_for_whoever_is_waited_for_later(run: Run) -> None:
    run.joined()
    run.tick()
    run.tick()
    run.now += PATIENCE_S - 1
    run.does(VALIDATOR, Task.SIGHT, Window(0))
    assert isinstance(run.tick(), Advance)
    run.tick()
    run.now += PATIENCE_S - 1
    run.tick()
    assert run.told == []


def test_a_role_that_was_given_up_is_waited_for_again_after_a_sign_of_life(run: Run) -> None:
    run.joined()
    run.tick()
    run.tick()
    run.now += PATIENCE_S
    run.tick()
    assert [fact.role for fact in run.told] == [VALIDATOR]
    assert isinstance(run.tick(), Advance)  # to the challenge, where the same role is not waited for
    assert describe(run.tick()) == "miner-1 to make the groups of window 30"
    run.signs[VALIDATOR] += 1
    assert describe(run.tick()) == "validator-1 to judge window 0, miner-1 to make the groups of window 30"


def test_a_role_that_stays_away_costs_its_patience_once(run: Run) -> None:
    run.joined()
    for task in (Task.SIGHT, Task.JUDGE, Task.WEIGH):
        for window in (Window(0), FIRST):
            run.does(VALIDATOR, task, window)
    run.does(TRAINER, Task.TRAIN, FIRST)
    waited = 0
    while not isinstance(taken := run.tick(), Over):
        if isinstance(taken, Hold):
            waited += 1
            run.now += PATIENCE_S
    assert waited <= 2  # one to begin, one to see that it is over
    assert [fact.role for fact in run.told] == [MINER]


def test_roles_that_live_and_fail_hold_the_clock_for_their_patience_and_not_for_ever(run: Run) -> None:
    """Signs of life do not make anything done: whatever is waited for is waited for once."""
    run.joined()
    seconds = 0
    while not isinstance(run.tick(), Over):
        run.now += 1
        seconds += 1
        for role in (TRAINER, VALIDATOR, MINER):
            run.signs[role] += 1
        assert seconds < 10 * PATIENCE_S
