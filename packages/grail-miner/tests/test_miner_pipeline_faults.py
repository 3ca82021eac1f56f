"""What goes wrong in a stage ends up where it belongs: at its group, or at the window; and no thread outlives the window."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from grail_core.errors import ChainError, EngineError, MachineFaultError
from grail_core.generation.base import Completion, Drawn
from grail_miner.budget import TimeBudget
from grail_miner.groups import Assigned
from grail_miner.pipeline.stages import Made, Pipeline, Plan, WindowClock
from tooling.testing.faults import events
from tooling.testing.scripted_work import COMPLETION, END, ScriptedWork, standing_clock

WINDOW = 30
STEPS = ("assign", "generate", "judge", "prove", "pack")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def run(
    work: ScriptedWork,
    *,
    groups: int = 8,
    batch: int = 4,
    slots: int = 2,
    clock: WindowClock | None = None,
    stop: threading.Event | None = None,
) -> Made:
    budget = TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
    with Pipeline(work, Plan(WINDOW, groups, batch, slots), budget, clock or standing_clock()) as pipeline:
        return pipeline.run(stop or threading.Event())


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["assign", "judge", "prove"])
def test_a_group_that_cannot_be_had_is_dropped_and_counted_and_the_rest_goes_on(step: str) -> None:
    made = run(ScriptedWork(lost={2: step, 5: step}))
    assert [group.group for group in made.groups] == [0, 1, 3, 4, 6, 7]
    assert made.dropped == {2: f"lost at {step}", 5: f"lost at {step}"}
    assert (made.begun, made.cancelled) == (8, ())


def test_a_batch_of_which_nothing_can_be_had_is_passed_over() -> None:
    made = run(ScriptedWork(lost=dict.fromkeys(range(4), "assign")))
    assert [group.group for group in made.groups] == [4, 5, 6, 7]


# --- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [MachineFaultError("no memory"), EngineError("dead"), ZeroDivisionError("a mistake")])
def test_a_fault_of_a_stage_is_raised_as_it_is(step: str, error: Exception) -> None:
    def hook(at: str, group: int) -> None:
        if at == step and group == 5:
            raise error

    if step == "generate" and isinstance(error, EngineError):
        assert [group.group for group in run(ScriptedWork(hook=hook)).groups] == [0, 1, 2, 3, 4]
        return
    with pytest.raises(type(error)) as raised:
        run(ScriptedWork(hook=hook))
    assert raised.value is error


@pytest.mark.parametrize(("after", "whole"), [(40, [0, 1]), (16, [0])])
def test_an_engine_that_fails_ends_the_drawing_and_what_it_gave_before_is_used(after: int, whole: list[int]) -> None:
    work = Odd()
    work.answers = lambda honest: honest[:after]
    work.fails = True
    with events() as names:
        made = run(work)
    assert [group.group for group in made.groups] == whole
    assert set(made.cancelled) == set(range(4)) - set(whole)
    assert names.count("engine_failed") == 1


def test_an_engine_that_fails_before_one_group_is_whole_costs_the_window() -> None:
    work = Odd()
    work.answers = lambda honest: honest[:15]
    work.fails = True
    with pytest.raises(EngineError, match="dead"):
        run(work)


def test_a_chain_that_fails_is_the_windows_fault_whoever_asked_it() -> None:
    def no_answer() -> int:
        raise ChainError("no connection")

    with pytest.raises(ChainError):
        run(ScriptedWork(), clock=WindowClock(lambda: 1e6, no_answer))
    with pytest.raises(ChainError):
        run(ScriptedWork(), clock=WindowClock(lambda: float(no_answer()), lambda: 0))


@pytest.mark.parametrize("step", STEPS)
def test_a_stop_is_obeyed_whatever_stage_is_at_work(step: str) -> None:
    """The stage is in the middle of group 5 when the stop comes, and ends it after `run` has left."""
    stop, left = threading.Event(), threading.Event()

    def hook(at: str, group: int) -> None:
        if at == step and group == 5:
            stop.set()
            assert left.wait(60)

    budget = TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
    with Pipeline(ScriptedWork(hook=hook), Plan(WINDOW, 375, 4, 1), budget, standing_clock()) as pipeline:
        made = pipeline.run(stop)
        left.set()
    assert 5 in made.cancelled
    assert made.begun == len(made.groups) + len(made.cancelled)
    assert [group.group for group in made.groups] == list(range(len(made.groups)))


# --- what a generator may answer --------------------------------------------------------------------------------------


class Odd(ScriptedWork):
    """Draws as `answers` says."""

    answers: Callable[[list[Drawn]], list[Drawn]]
    fails = False  # after these

    def generate(self, assigned: Sequence[Assigned], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        honest = [Drawn(index, COMPLETION) for index in range(16 * len(assigned))]
        yield from self.answers(honest)
        if self.fails:
            raise EngineError("dead")


def with_first(tokens: tuple[int, ...]) -> Callable[[list[Drawn]], list[Drawn]]:
    return lambda honest: [Drawn(0, Completion(tokens)), *honest[1:]]


ODD: dict[str, tuple[Callable[[list[Drawn]], list[Drawn]], str]] = {
    "the same twice": (lambda honest: [honest[0], *honest], "what it was not asked"),
    "a whole group again": (lambda honest: [*honest[:16], *honest], "what it was not asked"),
    "a negative index": (lambda honest: [Drawn(-1, COMPLETION), *honest], "what it was not asked"),
    "one too many": (lambda honest: [*honest, Drawn(len(honest), COMPLETION)], "what it was not asked"),
    "nothing": (lambda honest: [], "ended without"),
    "no token": (with_first(()), "0 tokens"),
    "too many tokens": (with_first((5, 5, 5, 5, END)), "5 tokens"),
    "a foreign token": (with_first((16, END)), "token id 16"),
    "a negative token": (with_first((-1, END)), "token id -1"),
    "an end in the middle": (with_first((END, END)), "before the last"),
    "no end": (with_first((5, 5)), "neither at an end token nor at the limit"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_no_generator_may_answer_costs_the_window(name: str) -> None:
    answers, said = ODD[name]
    work = Odd()
    work.answers = answers
    with pytest.raises(EngineError, match=said):
        run(work, groups=4)


def test_a_completion_that_is_left_out_costs_its_group_and_no_other() -> None:
    work = Odd()
    work.answers = lambda honest: honest[:-1]  # of every batch of four groups
    made = run(work, groups=8)
    assert [group.group for group in made.groups] == [0, 1, 2, 4, 5, 6]
    assert set(made.dropped) == {3, 7}


def test_any_order_is_a_generators_right() -> None:
    work = Odd()
    work.answers = lambda honest: honest[::-1]
    assert [group.group for group in run(work).groups] == list(range(8))


def test_a_completion_of_exactly_the_limit_may_end_in_anything() -> None:
    work = Odd()
    work.answers = with_first((5, 5, 5, 5))
    assert len(run(work, groups=4).groups) == 4
