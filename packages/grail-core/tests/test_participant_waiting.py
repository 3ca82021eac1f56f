"""Waiting for a window: what ends a wait, what is tried again and how often, and when it is too late."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.beacon.base import RoundNotYetError
from grail_core.beacon.development import DevelopmentBeacon, DevelopmentKey
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.manifests import RollbackError
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import (
    BeaconError,
    ChainError,
    CheckpointError,
    DiskFullError,
    GrailError,
    MissingObjectError,
    StorageError,
)
from grail_core.participant import waiting
from grail_core.participant.faults_told import QUIET_S, FaultsTold
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import LEAST_TRIES, until_had, wait_for_challenge, wait_for_window
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectNotFoundError, PreconditionFailedError
from grail_core.storage.filesystem import FilesystemDirectory
from tooling.testing.checkpoints import PARAMS, TRAINER, WeightsTrainer
from tooling.testing.faults import always, events, faulty, first

WINDOW = Window(30)
GENESIS_S = 1_700_000_000
LATE = WINDOW + 30 + PARAMS.void_after_D + 1
FAULTS = (BeaconError("no relay answers"), ChainError("no connection"), StorageError("503"))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(waiting, "BEACON_SECONDS", 0)


@pytest.fixture
def participant(tmp_path: Path) -> Participant:
    """The trainer, seen from its own machine: a chain whose clock is moved, a beacon, and one checkpoint."""
    key = DevelopmentKey.from_seed(b"waiting")
    beacon = DevelopmentBeacon(key, BeaconChain(key.public_key, GENESIS_S, 1))
    chain = LocalChain.create(
        tmp_path / "chain.sqlite",
        seed="waiting",
        netuid=PARAMS.netuid,
        block_time_ms=PARAMS.block_time_ms,
        genesis_time_ms=GENESIS_S * 1000,
        clock=ClockMode.VIRTUAL,
    )
    (tmp_path / "buckets").mkdir()
    directory = FilesystemDirectory(tmp_path / "buckets", "bucket-trainer", clock=chain.now_ms)
    params = dataclasses.replace(PARAMS, beacon=beacon.chain)
    chain.register(TRAINER)
    chain.commit(TRAINER, directory.commitment())
    chain.advance(3)
    WeightsTrainer(directory.own(), tmp_path / "trainer", params.network_id(chain.genesis_hash), params).publish(0)
    return Participant(
        params=params,
        chain=chain,
        directory=directory,
        beacon=beacon,
        signer=TRAINER,
        cache_dir=tmp_path / "cache",
        state_dir=tmp_path / "state",
    )


def at(participant: Participant, block: int) -> Participant:
    chain = participant.chain
    assert isinstance(chain, LocalChain)
    chain.advance(block - chain.current_block())
    return participant


def instead(participant: Participant, **parts: Any) -> Participant:
    """The same participant behind other handles."""
    return dataclasses.replace(participant, **parts)


class Tries:
    """An attempt that raises these, one a try, the last one again and again; then, if it is no error, is had."""

    def __init__(self, *answers: BaseException | str | None) -> None:
        self.answers, self.made = answers, 0

    def __call__(self) -> str | None:
        answer = self.answers[min(self.made, len(self.answers) - 1)]
        self.made += 1
        assert self.made < 50, "it is tried for ever"
        if isinstance(answer, BaseException):
            raise answer
        return answer


def had(participant: Participant, tries: Tries, *, too_late: Callable[[], bool] | None = None) -> Opened[str] | Void | Stopped:
    return until_had(participant, WINDOW, threading.Event(), tries, too_late=too_late)


# --- how a wait ends --------------------------------------------------------------------------------------------------


def test_what_is_there_is_had_at_the_first_try(participant: Participant) -> None:
    tries = Tries("it")
    assert had(participant, tries) == Opened("it")
    assert tries.made == 1


def test_a_checkpoint_that_is_not_valid_ends_it_at_once(participant: Participant) -> None:
    tries = Tries(CheckpointError("its digest differs"))
    assert had(participant, tries) == Void("no valid checkpoint: its digest differs")
    assert tries.made == 1


def test_a_full_disk_is_raised_to_the_operator(participant: Participant) -> None:
    tries = Tries(DiskFullError("no space is left"))
    with pytest.raises(DiskFullError, match="no space"):
        had(participant, tries)
    assert tries.made == 1


def test_an_attempt_that_was_stopped_ends_it(participant: Participant) -> None:
    assert had(participant, Tries(None)) == Stopped()


def test_stopped_before_it_begins_nothing_is_tried(participant: Participant) -> None:
    stop, tries = threading.Event(), Tries("it")
    stop.set()
    assert until_had(participant, WINDOW, stop, tries) == Stopped()
    assert tries.made == 0


@pytest.mark.parametrize("error", [*FAULTS, RoundNotYetError("round 7 is due")], ids=lambda error: type(error).__name__)
def test_a_stop_between_two_tries_ends_it(participant: Participant, error: GrailError) -> None:
    stop, made = threading.Event(), Counter[str]()

    def attempt() -> str | None:
        made["attempt"] += 1
        stop.set()
        raise error

    assert until_had(participant, WINDOW, stop, attempt) == Stopped()
    assert made["attempt"] == 1


# --- what is tried again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_fault_that_heals_in_time_is_told_and_costs_nothing(participant: Participant, error: GrailError) -> None:
    tries = Tries(*[error] * 10, "it")
    with events() as names:
        assert had(participant, tries) == Opened("it")
    assert names == ["window_input_late"] * 10


def test_an_outage_of_hours_is_told_about_once_a_minute(participant: Participant) -> None:
    made = Counter[str]()

    def attempt() -> str:
        made["attempt"] += 1
        if made["attempt"] <= 3600:
            raise BeaconError("no relay answers")
        return "it"

    with events() as names:
        assert until_had(participant, WINDOW, threading.Event(), attempt, too_late=lambda: False) == Opened("it")
    assert len(names) == 10 + 3600 // 60


def test_an_outage_that_costs_many_windows_is_one_outage_in_the_log(participant: Participant) -> None:
    with events() as names:
        for _ in range(40):  # windows, each with fifteen tries of the round and a block that the chain has
            left = iter([False] * 14 + [True])
            gone = Tries(BeaconError("no relay answers"))
            assert isinstance(had(participant, gone, too_late=lambda left=left: next(left, True)), Void)  # type: ignore[misc]
            assert had(participant, Tries("a block")) == Opened("a block")
    assert len(names) == 10 + sum(1 for tries in range(11, 40 * 17 + 1) if tries % 60 == 0)


def test_an_outage_after_a_quiet_time_is_told_from_its_beginning() -> None:
    now = [0.0]
    told = FaultsTold(lambda: now[0])
    assert [told.failed() for _ in range(11)] == [True] * 10 + [False]
    now[0] += QUIET_S + 1
    assert told.failed()


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_role_that_is_late_loses_no_window_to_fewer_than_the_least_tries(participant: Participant, error: GrailError) -> None:
    tries = Tries(*[error] * (LEAST_TRIES - 1), "it")
    assert had(at(participant, LATE), tries) == Opened("it")


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_after_the_least_tries_a_window_whose_time_is_over_is_void(participant: Participant, error: GrailError) -> None:
    tries = Tries(error)
    assert had(at(participant, LATE), tries) == Void(f"an input could not be had in time: {error.what}")
    assert tries.made == LEAST_TRIES


def test_a_list_of_earlier_costs_no_window_and_a_store_that_was_rolled_back_does(participant: Participant) -> None:
    gone = RollbackError("the checkpoints end at sequence 3, but 4 was seen before")
    with events() as names:
        assert had(participant, Tries(*[gone] * (LEAST_TRIES - 1), "it")) == Opened("it")
    assert names == ["window_input_late"] * (LEAST_TRIES - 1)
    tries = Tries(gone)
    assert had(participant, tries) == Void(f"no valid checkpoint: {gone.what}")
    assert tries.made == LEAST_TRIES


def test_a_window_is_not_over_before_its_void_block_has_passed(participant: Participant) -> None:
    at(participant, LATE - 1)
    tries = Tries(*[StorageError("503")] * 10, "it")
    assert had(participant, tries) == Opened("it")


def test_a_round_that_is_not_due_yet_is_waited_for_without_a_word(participant: Participant) -> None:
    with events() as names:
        assert had(participant, Tries(*[RoundNotYetError("round 7 is due")] * 10, "it")) == Opened("it")
    assert names == []


def test_a_round_that_is_not_out_at_the_void_block_voids_the_window_at_once(participant: Participant) -> None:
    tries = Tries(RoundNotYetError("round 7 is due"))
    assert isinstance(had(at(participant, LATE), tries), Void)
    assert tries.made == 1


# --- too late ---------------------------------------------------------------------------------------------------------


def test_while_the_chain_does_not_answer_nothing_is_known_to_be_too_late(participant: Participant) -> None:
    chain = faulty(at(participant, LATE).chain, current_block=first(7, ChainError("no connection")))
    tries = Tries(StorageError("503"))
    assert isinstance(had(instead(participant, chain=chain), tries), Void)
    assert tries.made == LEAST_TRIES + 7


def test_a_role_with_a_deadline_of_its_own_is_asked_instead(participant: Participant) -> None:
    asked: list[bool] = [False, False, True]
    tries = Tries(StorageError("503"))
    assert isinstance(had(participant, tries, too_late=lambda: asked.pop(0)), Void)
    assert (tries.made, asked) == (LEAST_TRIES + 2, [])
    tries = Tries(*[StorageError("503")] * 10, "it")
    assert had(at(participant, LATE), tries, too_late=lambda: False) == Opened("it")


def test_a_deadline_of_its_own_that_the_chain_cannot_tell_is_not_past(participant: Participant) -> None:
    answers: list[BaseException | bool] = [ChainError("no connection"), ChainError("no connection"), True]

    def too_late() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert isinstance(had(participant, Tries(StorageError("503")), too_late=too_late), Void)
    assert answers == []


# --- the two waits of the roles ---------------------------------------------------------------------------------------


def test_a_window_opens_once_its_seed_round_is_out(participant: Participant) -> None:
    opened = wait_for_window(at(participant, WINDOW + 1), WINDOW, threading.Event())
    assert isinstance(opened, Opened)
    assert (opened.value.window, opened.value.manifest.sequence) == (WINDOW, 0)
    assert opened.value.beacon is not None


def test_a_window_without_a_checkpoint_is_void(participant: Participant) -> None:
    for info in list(participant.own_store.list("")):
        participant.own_store.delete(info.key)
    outcome = wait_for_window(at(participant, WINDOW + 1), WINDOW, threading.Event())
    assert isinstance(outcome, Void)
    assert outcome.reason.startswith("no valid checkpoint")


def test_a_chain_that_fails_while_a_block_is_waited_for_is_asked_again(participant: Participant) -> None:
    chain = faulty(at(participant, WINDOW + 40).chain, wait_for_block=first(2, ChainError("no connection")))
    with events() as names:
        assert isinstance(wait_for_window(instead(participant, chain=chain), WINDOW, threading.Event()), Opened)
    assert names == ["window_input_late"] * 2
    chain = faulty(participant.chain, wait_for_block=first(2, ChainError("no connection")))
    assert isinstance(wait_for_challenge(instead(participant, chain=chain), WINDOW, threading.Event()), Opened)


def test_a_windows_own_deadline_reaches_its_wait(participant: Participant) -> None:
    beacon = faulty(at(participant, WINDOW + 1).beacon, get=always(BeaconError("no relay answers")))
    outcome = wait_for_window(instead(participant, beacon=beacon), WINDOW, threading.Event(), too_late=lambda: True)
    assert outcome == Void("an input could not be had in time: no relay answers")
    assert beacon.calls["get"] == LEAST_TRIES


def test_a_stop_while_a_block_is_waited_for_ends_it(participant: Participant) -> None:
    class Stopping(threading.Event):
        """Set by the first wait for it."""

        def wait(self, timeout: float | None = None) -> bool:
            self.set()
            return True

    assert wait_for_window(participant, WINDOW, Stopping()) == Stopped()
    assert wait_for_challenge(participant, WINDOW, Stopping()) == Stopped()


def test_a_challenge_is_drawn_from_a_final_block_only(participant: Participant) -> None:
    """A block that may still be replaced gives no challenge: two validators would draw different ones."""
    asked: list[tuple[int, bool]] = []

    class Watched:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def wait_for_block(self, number: int, *, stop: threading.Event, finalised: bool = False) -> bool:
            asked.append((number, finalised))
            return bool(self.inner.wait_for_block(number, stop=stop, finalised=finalised))

    block = participant.times(WINDOW).challenge_block
    at(participant, block + 5)
    opened = wait_for_challenge(instead(participant, chain=Watched(participant.chain)), WINDOW, threading.Event())
    assert isinstance(opened, Opened)
    assert opened.value.challenge.beacon is not None
    assert asked == [(block, True)]


# --- loading a checkpoint ---------------------------------------------------------------------------------------------


class OneFault:
    """The trainer's bucket as others read it, one request of which fails once."""

    def __init__(self, inner: Any, at: int, error: BaseException) -> None:
        self.inner, self.at, self.error, self.asked = inner, at, error, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.asked += 1
            if self.asked == self.at:
                raise self.error
            return found(*arguments, **options)

        return call if name in ("get", "head", "list") else found


@pytest.mark.parametrize(
    "error",
    [StorageError("503"), ObjectNotFoundError("not here"), PreconditionFailedError("another")],
    ids=lambda error: type(error).__name__,
)
def test_one_fault_of_the_store_at_any_request_costs_no_window(participant: Participant, error: StorageError) -> None:
    at(participant, WINDOW)
    loaded = 0
    for number in range(1, 50):
        store = OneFault(participant.directory.open(participant.directory.commitment()), number, error)
        source = CheckpointSource(
            participant.chain,
            OneStore(store),
            participant.params,
            participant.network_id,
            participant.cache_dir / str(number),
            seen=participant.cache_dir / str(number) / "seen.json",
        )

        def load(source: CheckpointSource = source) -> Path:
            return source.materialise(source.valid_at(WINDOW))

        found = until_had(participant, WINDOW, threading.Event(), load)
        assert isinstance(found, Opened), (number, found)
        if store.asked < number:
            break
        loaded += 1
    assert 3 < loaded < 49  # every request was the one that failed


@dataclasses.dataclass
class OneStore:
    """Every commitment leads to this store."""

    store: Any

    def open(self, commitment: str) -> Any:
        return self.store

    def own(self) -> Any:
        raise AssertionError

    def commitment(self) -> str:
        raise AssertionError


def test_an_object_that_is_not_there_is_asked_for_a_few_times_and_then_it_is_void(participant: Participant) -> None:
    tries = Tries(MissingObjectError("gone"), MissingObjectError("gone"), "it")
    assert had(participant, tries) == Opened("it")
    tries = Tries(MissingObjectError("gone"))
    assert isinstance(had(participant, tries), Void)
    assert tries.made == LEAST_TRIES
