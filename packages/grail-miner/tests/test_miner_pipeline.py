"""No stage of a window waits for another that could have gone on: the real stages, on scripted work and a clock of its own."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from grail_miner.budget import TimeBudget
from grail_miner.pipeline.stages import Made, Pipeline, Plan
from grail_miner.pipeline.trace import GENERATE, HELD, PROVE, Trace, gantt
from tooling.testing.scripted_work import ScriptedWork, clock_of, standing_clock
from tooling.testing.simulated_threads import SimulatedThreads

WINDOW = 30


def experienced(generate: float, judge: float, prove: float, *, finish: float = 0.0) -> TimeBudget:
    """A miner that has been here before."""
    return TimeBudget(generate, finish, generate, judge, prove)


def simulated(
    *,
    groups: int,
    batch: int = 8,
    slots: int = 1,
    deadline: float = 1e6,
    budget: TimeBudget | None = None,
    **script: Any,
) -> tuple[Made, ScriptedWork, Trace]:
    threads = SimulatedThreads()
    work = ScriptedWork(sleep=threads.sleep, **script)
    budget = budget or experienced(work.generate_s, work.judge_s, work.prove_s)
    with Pipeline(work, Plan(WINDOW, groups, batch, slots), budget, clock_of(threads, deadline), threads) as pipeline:
        made = pipeline.run(threading.Event())
    return made, work, pipeline.trace


# --- throughput -------------------------------------------------------------------------------------------------------

RATIOS = [
    (1.0, 0.1, 0.5),
    (1.0, 0.25, 1.0),
    (0.5, 0.1, 1.0),
    (0.2, 1.0, 0.3),
    (1.0, 1.0, 1.0),
    (0.05, 0.02, 1.0),
    (1.0, 0.0, 0.01),
]
"""Seconds a group of generating, judging and proving: each of them the slowest, two alike, all alike."""


@pytest.mark.parametrize(("generate", "judge", "prove"), RATIOS)
def test_a_window_takes_what_its_slowest_stage_takes_and_one_groups_way_through_the_others(
    generate: float, judge: float, prove: float
) -> None:
    count, times = 64, (generate, judge, prove)
    made, _, _ = simulated(groups=count, generate_s=generate, judge_s=judge, prove_s=prove)
    assert [group.group for group in made.groups] == list(range(count))
    assert made.seconds == pytest.approx(sum(times) + (count - 1) * max(times))
    assert count * max(times) >= 0.9 * made.seconds


@pytest.mark.parametrize(("generate", "judge", "prove"), RATIOS)
def test_an_engine_that_finishes_a_batch_all_at_once_costs_one_batchs_way_through_the_rest(
    generate: float, judge: float, prove: float
) -> None:
    """Batch N + 1 is drawn while batch N is judged and proved: only the last one, or the first, is not hidden."""
    count, batch, times = 160, 8, (generate, judge, prove)
    made, _, _ = simulated(groups=count, batch=batch, generate_s=generate, judge_s=judge, prove_s=prove, together=True)
    assert count * max(times) >= 0.9 * made.seconds


@pytest.mark.parametrize("slots", [1, 2, 4, 7])
def test_as_many_groups_are_proved_at_a_time_as_there_are_slots(slots: int) -> None:
    made, _, trace = simulated(groups=56, slots=slots, generate_s=0.1, judge_s=0.01, prove_s=1.0)
    assert made.seconds <= (56 / slots + 1) * 1.0
    assert {span.lane for span in trace.spans if span.stage == PROVE} == set(range(slots))


# --- order ------------------------------------------------------------------------------------------------------------


def test_generation_never_rests_while_a_group_is_proved() -> None:
    """Between the first batch's beginning and the last one's end there is no moment in which nothing is drawn."""
    _, work, trace = simulated(groups=48, generate_s=1.0, judge_s=0.2, prove_s=0.9, together=True)
    drawn = [span for span in trace.spans if span.stage == GENERATE]
    assert all(before.end == after.start for before, after in pairwise(drawn))
    order = work.order()
    for first in range(0, 40, 8):
        assert order["begins", "generate", first + 8] < order["begins", "prove", first]
        assert order["ends", "prove", first + 7] < order["ends", "generate", first + 8]


def test_a_finished_group_is_proved_while_others_of_its_batch_are_drawn() -> None:
    _, work, _ = simulated(groups=8, generate_s=1.0, judge_s=0.1, prove_s=0.5)
    order = work.order()
    assert order["ends", "prove", 0] < order["ends", "prove", 6] < order["ends", "generate", 0]


def test_with_real_threads_a_proof_sees_the_next_batch_begun() -> None:
    """The first proof waits for the second batch's beginning: one stage at a time would never get there."""
    begun = threading.Event()
    seen = []

    def hook(step: str, group: int) -> None:
        if step == "generate" and group == 4:
            begun.set()
        if step == "prove" and group == 0:
            seen.append(begun.wait(60))  # far beyond what it takes: without the second batch this would end all the same

    budget = experienced(0.0, 0.0, 0.0)
    with Pipeline(ScriptedWork(hook=hook), Plan(WINDOW, 8, 4, 1), budget, standing_clock()) as pipeline:
        made = pipeline.run(threading.Event())
    assert seen == [True]
    assert len(made.groups) == 8


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_a_slow_prover_holds_the_generator_and_memory_stays_bounded(batch: int) -> None:
    _, work, trace = simulated(groups=64, batch=batch, generate_s=0.01, judge_s=0.01, prove_s=1.0)
    in_hand = 1 + 1 + 1  # held in front, judged, proved
    assert work.most_between <= 2 * batch + in_hand
    assert trace.seconds(HELD) > 0
    assert trace.seconds(GENERATE) == pytest.approx(64 * 0.01)


def test_every_group_has_a_span_in_each_stage_and_the_drawing_a_bar_for_it() -> None:
    made, _, trace = simulated(groups=16, generate_s=1.0, judge_s=0.5, prove_s=1.5)
    for stage in ("judge", "prove", "pack"):
        assert sorted(span.what for span in trace.spans if span.stage == stage) == [one.group for one in made.groups]
    drawing = gantt(trace.spans, "a window")
    assert drawing.count("<title>") == len(trace.spans)
    assert drawing == gantt(trace.spans, "a window")


# --- time -------------------------------------------------------------------------------------------------------------


def test_what_is_begun_is_finished_before_the_deadline_and_little_time_is_left() -> None:
    """With stages that take what they took before, nothing is cancelled, and no whole batch would have fitted."""
    for deadline in (20.0, 33.3, 47.0):
        budget = experienced(1.0, 0.1, 0.8, finish=1.0)
        made, _, trace = simulated(groups=375, deadline=deadline, budget=budget, generate_s=1.0, judge_s=0.1, prove_s=0.8)
        assert made.cancelled == ()
        assert made.begun == len(made.groups)
        assert max(span.end for span in trace.spans) <= deadline - budget.reserve
        assert made.seconds >= deadline - budget.reserve - 0.9 * 8 - 1.0


def test_a_deadline_in_mid_generation_ends_it_and_counts_what_was_not_whole() -> None:
    """The machine has become ten times slower than it was."""
    budget = experienced(0.1, 0.0, 0.0)
    made, work, _ = simulated(groups=64, deadline=5.05, budget=budget, generate_s=1.0)
    assert [group.group for group in made.groups] == [0, 1, 2, 3, 4]
    assert made.begun == 8
    assert made.cancelled == (5, 6, 7)
    assert ("ends", "generate", 0) not in work.log


def test_drawing_ends_when_a_group_could_not_be_proved_any_more() -> None:
    budget = experienced(0.1, 0.0, 2.0)
    made, work, _ = simulated(groups=64, batch=4, deadline=12.0, budget=budget, generate_s=2.0, prove_s=2.0)
    last = max(group for what, step, group in work.log if step == "prove")
    assert [group.group for group in made.groups] == list(range(last + 1))  # no proof was begun for nothing
    assert made.begun == len(made.groups) + len(made.cancelled)


def test_a_proof_that_takes_too_long_is_not_waited_for() -> None:
    """What is whole is stored in time; the proof in hand ends by itself, and its group is no part of the file."""
    budget = experienced(0.1, 0.0, 0.1)
    made, work, _ = simulated(groups=2, deadline=5.0, budget=budget, generate_s=0.1, prove_s=4.0)
    assert [group.group for group in made.groups] == [0]
    assert made.cancelled == (1,)
    assert made.seconds <= 5.1
    assert ("ends", "prove", 1) in work.log  # no thread outlives the window


def test_the_first_group_of_a_run_goes_alone_and_then_whole_batches() -> None:
    _, work, _ = simulated(groups=17, budget=TimeBudget(finish_seconds=0.0), generate_s=1.0, judge_s=0.1, prove_s=0.5)
    order = work.order()
    assert order["ends", "pack", 0] < order["begins", "generate", 1]
    assert [group for what, step, group in work.log if (what, step) == ("begins", "generate")] == [0, 1, 9]


def test_no_time_begins_nothing() -> None:
    made, work, _ = simulated(groups=8, deadline=0.0)
    assert (made.groups, made.begun, work.log) == ([], 0, [])
