"""The conductor on plain values: what the clock waits for, where it goes, and what it goes on without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import pairwise

import pytest

from grail_core.chain.development.parameters import LocalChainParameters
from grail_core.chain.development.state import ChainRules
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Window
from grail_trainer.data.intake import PATIENCE_BLOCKS
from tooling.localnet.conductor import SAFETY_BLOCKS, Advance, Hold, Known, Need, Over, Step, Task, Timetable, step
from tooling.localnet.events import Event
from tooling.localnet.progress import Progress

CHAIN = LocalChainParameters(81, "seed", LOCALNET.block_time_ms, 1_767_225_600_400, 1, ChainRules())
TRAINER, VALIDATORS, MINERS = "trainer", ("validator-1", "validator-2"), ("miner-1", "miner-2")
ALL = (TRAINER, *VALIDATORS, *MINERS)
TIMES = Timetable(LOCALNET, CHAIN, 2, TRAINER, VALIDATORS, MINERS)
FIRST, SECOND, BEFORE, AFTER = Window(30), Window(60), Window(0), Window(90)
STARTED = frozenset({*(Need(name, Task.START) for name in ALL), Need(TRAINER, Task.PUBLISH)})


def needs(task: Task, window: Window, *roles: str) -> frozenset[Need]:
    return frozenset(Need(role, task, window) for role in roles)


def mined(window: Window, *miners: str) -> frozenset[Need]:
    """Groups made, file and seal stored."""
    return needs(Task.PRODUCE, window, *miners) | needs(Task.MINE, window, *miners)


def judged(window: Window, *validators: str) -> frozenset[Need]:
    return needs(Task.JUDGE, window, *validators) | needs(Task.WEIGH, window, *validators)


MINED_FIRST = STARTED | needs(Task.SIGHT, BEFORE, *VALIDATORS) | needs(Task.JUDGE, BEFORE, *VALIDATORS)
MINED_FIRST |= mined(FIRST, *MINERS)
IN_SECOND = MINED_FIRST | needs(Task.SIGHT, FIRST, *VALIDATORS)


def block(number: int, extra_ms: int = 0) -> int:
    return CHAIN.time_of_ms(number) + extra_ms


def at(now_ms: int, done: frozenset[Need], first: Window | None = FIRST, **options: object) -> Step:
    return step(TIMES, Known(first, done), now_ms, **options)  # type: ignore[arg-type]


def held(taken: Step) -> set[str]:
    assert isinstance(taken, Hold), taken
    return set(map(str, taken.waits_for))


OPEN_FIRST, OPEN_SECOND, OPEN_AFTER = block(34), block(64), block(94)
CHALLENGE_BEFORE, CHALLENGE_FIRST, CHALLENGE_SECOND = block(37), block(67), block(97)
UPLOAD_FIRST, UPLOAD_SECOND = block(60 - SAFETY_BLOCKS), block(90 - SAFETY_BLOCKS)
OVERDUE_FIRST, OVERDUE_SECOND = block(36 + 30 + PATIENCE_BLOCKS), block(36 + 60 + PATIENCE_BLOCKS)


def test_no_block_comes_before_every_role_has_joined_and_the_first_checkpoint_is_out() -> None:
    assert held(at(block(2), frozenset(), first=None)) == {
        *(f"{name} to start" for name in ALL),
        "trainer to publish the first checkpoint",
    }
    assert held(at(block(2), STARTED - {Need("miner-2", Task.START)})) == {"miner-2 to start"}
    assert held(at(block(2), STARTED - {Need(TRAINER, Task.PUBLISH)}, first=None)) == {
        "trainer to publish the first checkpoint"
    }
    assert at(block(2), STARTED) == Advance(OPEN_FIRST)


def test_without_a_first_checkpoint_there_is_nothing_to_go_on_for() -> None:
    missing = Need(TRAINER, Task.PUBLISH)
    assert at(block(2), STARTED - {missing}, first=None, absent={TRAINER}) == Over((missing,))


def test_first_sight_is_not_over_before_every_validator_has_seen_the_uploads() -> None:
    assert held(at(OPEN_SECOND, MINED_FIRST)) == {f"{name} to see the uploads of window 30" for name in VALIDATORS}
    assert at(OPEN_SECOND, IN_SECOND) == Advance(CHALLENGE_FIRST)


def test_the_last_blocks_do_not_come_before_every_miner_has_made_its_groups_or_said_why_not() -> None:
    done = MINED_FIRST - mined(FIRST, "miner-2")
    assert held(at(CHALLENGE_BEFORE, done)) == {"miner-2 to make the groups of window 30"}
    assert at(CHALLENGE_BEFORE, MINED_FIRST) == Advance(block(36 + PATIENCE_BLOCKS))
    assert at(block(36 + PATIENCE_BLOCKS), MINED_FIRST) == Advance(UPLOAD_FIRST)


def test_the_deadline_is_not_passed_before_every_miner_has_stored_file_and_seal() -> None:
    assert held(at(UPLOAD_FIRST, MINED_FIRST - needs(Task.MINE, FIRST, "miner-2"))) == {
        "miner-2 to store file and seal of window 30"
    }
    assert at(UPLOAD_FIRST, MINED_FIRST) == Advance(OPEN_SECOND)


def test_a_validator_that_asks_for_a_drawn_file_again_is_given_the_blocks_it_waits_for() -> None:
    done = IN_SECOND | mined(SECOND, *MINERS) | judged(FIRST, "validator-1")
    awaiting = needs(Task.JUDGE, FIRST, "validator-2")
    assert held(at(CHALLENGE_FIRST, done)) >= {"validator-2 to judge window 30"}
    assert step(TIMES, Known(FIRST, done, awaiting), CHALLENGE_FIRST) == Advance(OVERDUE_FIRST)
    assert "validator-2 to judge window 30" in held(step(TIMES, Known(FIRST, done, awaiting), OVERDUE_FIRST))


def test_a_window_is_mined_while_the_one_before_is_judged_and_both_are_waited_for() -> None:
    assert held(at(CHALLENGE_FIRST, IN_SECOND)) == {
        *(f"{name} to judge window 30" for name in VALIDATORS),
        *(f"{name} to set weights after window 30" for name in VALIDATORS),
        *(f"{name} to make the groups of window 60" for name in MINERS),
    }


def test_the_trainer_is_waited_for_once_every_verdict_is_there() -> None:
    done = IN_SECOND | mined(SECOND, *MINERS) | judged(FIRST, *VALIDATORS)
    assert held(at(CHALLENGE_FIRST, done)) == {"trainer to train on window 30"}
    assert at(CHALLENGE_FIRST, done | needs(Task.TRAIN, FIRST, TRAINER)) == Advance(OVERDUE_FIRST)


def test_weights_are_waited_for_so_that_every_validator_sets_them_at_the_same_blocks() -> None:
    done = IN_SECOND | mined(SECOND, *MINERS) | judged(FIRST, *VALIDATORS) | needs(Task.TRAIN, FIRST, TRAINER)
    done -= needs(Task.WEIGH, FIRST, "validator-1")
    assert held(at(CHALLENGE_FIRST, done)) == {"validator-1 to set weights after window 30"}


def test_a_moment_of_the_beacon_is_reached_only_when_its_round_is_due() -> None:
    late = dataclasses.replace(TIMES, chain=dataclasses.replace(CHAIN, block_time_ms=100, genesis_time_ms=1_767_225_600_050))
    stands = {stand.name: stand.at_ms for stand in late.stands(Known(FIRST, STARTED))[1:4]}
    beacon, params = LOCALNET.beacon, LOCALNET
    seed = late.chain.time_of_ms(30 + params.seed_beacon_after_T)
    assert stands["open"] >= beacon.time_of_ms(beacon.round_at(seed)) > seed
    challenge = late.chain.time_of_ms(30 + params.challenge_after_D)
    assert stands["challenge"] >= beacon.time_of_ms(beacon.round_at(challenge)) > challenge


def test_stands_follow_each_other_and_a_validator_is_never_sent_past_first_sight() -> None:
    for known in (Known(FIRST, STARTED), Known(Window(900), IN_SECOND)):
        times = [stand.at_ms for stand in TIMES.stands(known)]
        assert all(earlier <= later for earlier, later in pairwise(times))
    opening = next(s for s in TIMES.stands(Known(FIRST, STARTED)) if s.name == "open")
    assert opening.at_ms < block(30 + LOCALNET.first_sight_ends_after_D + 1)


# --- roles that are dead or hang ------------------------------------------------------------------------------------------


def test_a_miner_that_is_absent_holds_nothing() -> None:
    done = MINED_FIRST - mined(FIRST, "miner-2")
    taken = at(CHALLENGE_BEFORE, done, absent={"miner-2"})
    assert taken == Advance(block(36 + PATIENCE_BLOCKS), tuple(needs(Task.PRODUCE, FIRST, "miner-2")))


def test_without_one_validator_the_trainer_is_given_the_blocks_it_waits_for() -> None:
    three = dataclasses.replace(TIMES, validators=(*VALIDATORS, "validator-3"))
    third = needs(Task.SIGHT, BEFORE, "validator-3") | needs(Task.JUDGE, BEFORE, "validator-3")
    done = IN_SECOND | third | mined(SECOND, *MINERS) | judged(FIRST, *VALIDATORS)
    taken = step(three, Known(FIRST, done), CHALLENGE_FIRST, absent={"validator-3"})
    assert isinstance(taken, Advance)
    assert taken.to_ms == OVERDUE_FIRST
    assert held(step(three, Known(FIRST, done), OVERDUE_FIRST, absent={"validator-3"})) == {"trainer to train on window 30"}


def test_with_half_of_the_stake_the_trainer_goes_on_and_is_waited_for() -> None:
    done = IN_SECOND | mined(SECOND, *MINERS) | judged(FIRST, "validator-1")
    assert held(at(OVERDUE_FIRST, done, absent={"validator-2"})) == {"trainer to train on window 30"}


def test_where_more_than_half_of_the_stake_is_silent_the_trainer_can_do_nothing_and_is_not_waited_for() -> None:
    done = IN_SECOND | mined(SECOND, *MINERS)
    taken = at(OVERDUE_FIRST, done, absent=set(VALIDATORS))
    assert isinstance(taken, Advance)
    assert TRAINER not in {need.role for need in taken.without}
    later = done | needs(Task.SIGHT, SECOND, *VALIDATORS) | judged(SECOND, *VALIDATORS)
    assert isinstance(at(CHALLENGE_SECOND, later, absent=set(VALIDATORS)), Advance), "it takes windows in their order"


def test_a_run_without_its_trainer_goes_through_all_windows_and_names_what_is_missing() -> None:
    everything = {*everything_done()} - {need for need in everything_done() if need.task is Task.TRAIN}
    now, done = block(2), frozenset(everything)
    for _ in range(20):
        taken = at(now, done, absent={TRAINER})
        if isinstance(taken, Over):
            break
        assert isinstance(taken, Advance)
        now = taken.to_ms
    assert isinstance(taken, Over)


# --- the whole way ----------------------------------------------------------------------------------------------------------


def everything_done() -> Iterator[Need]:
    yield from STARTED
    for window in (BEFORE, FIRST, SECOND):
        yield from needs(Task.SIGHT, window, *VALIDATORS) | judged(window, *VALIDATORS)
        if window is not BEFORE:
            yield from mined(window, *MINERS) | needs(Task.TRAIN, window, TRAINER)


def test_every_single_need_of_a_run_is_waited_for_somewhere() -> None:
    everything = set(everything_done()) - needs(Task.WEIGH, BEFORE, *VALIDATORS)
    for one in everything:
        now, done = block(2), frozenset(everything - {one})
        for _ in range(20):
            taken = at(now, done)
            if isinstance(taken, Hold):
                break
            assert isinstance(taken, Advance), f"the run ended without {one}"
            now = taken.to_ms
        assert isinstance(taken, Hold)
        assert set(taken.waits_for) == {one}


def test_a_run_ends_with_what_was_last_sent_in_a_final_block() -> None:
    now, moves = block(2), []
    while isinstance(taken := at(now, frozenset(everything_done())), Advance):
        assert taken.to_ms > now
        moves.append(now := taken.to_ms)
    assert taken == Over()
    assert {OPEN_FIRST, CHALLENGE_BEFORE, OPEN_SECOND, CHALLENGE_FIRST, OPEN_AFTER, CHALLENGE_SECOND} < set(moves)
    assert now >= CHALLENGE_SECOND + (1 + CHAIN.finality_lag) * CHAIN.block_time_ms


@pytest.mark.parametrize("offset_ms", [1, 700, 20_000])
def test_a_run_that_was_stopped_between_two_stands_goes_on_to_the_next(offset_ms: int) -> None:
    done = IN_SECOND | mined(SECOND, *MINERS) | judged(FIRST, *VALIDATORS)
    assert held(at(CHALLENGE_FIRST + offset_ms, done)) == {"trainer to train on window 30"}
    assert at(CHALLENGE_FIRST + offset_ms, done | needs(Task.TRAIN, FIRST, TRAINER)) == Advance(OVERDUE_FIRST)


@pytest.mark.parametrize("windows", [1, 2, 7])
def test_a_step_looks_at_the_stands_around_it_and_takes_the_same_way(windows: int) -> None:
    times = dataclasses.replace(TIMES, windows=windows)
    done = {*everything_done()}
    for window in map(Window, range(FIRST, FIRST + 30 * windows, 30)):
        done |= needs(Task.SIGHT, window, *VALIDATORS) | judged(window, *VALIDATORS)
        done |= mined(window, *MINERS) | needs(Task.TRAIN, window, TRAINER)
    known = Known(FIRST, frozenset(done))
    now, moves = block(2), []
    while isinstance(taken := step(times, known, now), Advance):
        moves.append(now := taken.to_ms)
    assert moves == [stand.at_ms for stand in times.stands(known)[1:]]


def test_the_clock_stands_once_where_it_was_told_to() -> None:
    done = frozenset(everything_done())
    halts = [block(69), block(70), block(20)]
    assert at(CHALLENGE_FIRST, done, halts_ms=halts) == Advance(block(69))
    assert at(block(69), done, halts_ms=halts) == Advance(block(70))
    assert at(block(70), done, halts_ms=halts) == Advance(OVERDUE_FIRST)


# --- what the roles' events say ----------------------------------------------------------------------------------------------


def told(*events: tuple[str, str, dict[str, object]]) -> set[Need]:
    progress = Progress()
    for process, name, fields in events:
        progress.apply(Event(process, name, 0.0, dict(fields)))
    assert sum(progress.signs.values()) == len(events)
    return progress.done


def test_every_way_to_be_done_with_a_window_counts_as_done() -> None:
    for name in ("window_mined", "window_already_mined", "window_skipped", "window_empty"):
        assert told(("miner-1", name, {"window": 30})) == mined(FIRST, "miner-1")
    assert told(("miner-1", "groups_produced", {"window": 30})) == needs(Task.PRODUCE, FIRST, "miner-1")
    assert told(("miner-1", "upload_failed", {"window": 30})) == needs(Task.MINE, FIRST, "miner-1")
    for name in ("first_sight", "first_sight_kept", "first_sight_missed"):
        assert told(("validator-1", name, {"window": 30})) == needs(Task.SIGHT, FIRST, "validator-1")
    for name in ("weights_sent", "weights_awaited", "weights_kept", "weights_refused"):
        assert told(("validator-1", name, {"window": 30, "block": 67})) == needs(Task.WEIGH, FIRST, "validator-1")
    for name in ("window_trained", "window_not_trained"):
        assert told((TRAINER, name, {"window": 30})) == needs(Task.TRAIN, FIRST, TRAINER)
    assert told(("miner-1", "miner_started", {})) == {Need("miner-1", Task.START)}


def test_a_trainer_that_was_killed_before_it_could_tell_tells_with_its_next_start() -> None:
    start = {Need(TRAINER, Task.PUBLISH)}
    assert told((TRAINER, "training_begun", {"window": 30})) == start
    before = needs(Task.TRAIN, Window(FIRST - 30), TRAINER)
    assert told((TRAINER, "training_resumed", {"window": 30, "pending": 1, "published": 0})) == start | before
    assert told((TRAINER, "training_resumed", {"window": 30, "pending": 0, "published": 30})) == start | needs(
        Task.TRAIN, FIRST, TRAINER
    )


def test_a_judged_window_counts_only_once_its_verdict_is_published() -> None:
    assert told(("validator-1", "window_not_scored", {"window": 30}), ("validator-1", "window_judged", {"window": 30})) == set()
    assert told(("validator-1", "verdict_published", {"window": 30})) == needs(Task.JUDGE, FIRST, "validator-1")
