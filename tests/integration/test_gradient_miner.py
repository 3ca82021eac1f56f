"""A miner's round of gradient work: resumed at any step, sealed once, and what fails around it costs no more than it must.

A first round is trained and settled once; every test plays the second in a copy of its network, with the shipped service.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import (
    BeaconError,
    ConfigurationError,
    DamagedStateError,
    EnvironmentUnavailableError,
    MachineFaultError,
    MissingObjectError,
    StorageError,
)
from grail_core.gradient.update_file import read_front
from grail_core.protocol.context import WindowContext
from grail_core.protocol.gradient.records import ZERO_ROOT, UpdateHeader
from grail_core.protocol.types import Window
from grail_miner.gradient.service import GradientMiner
from grail_trainer.gradient_presets import TINY
from tooling.testing.driven_chain import Driven, Unhurried
from tooling.testing.faults import Faulty, always, events, faulty, first
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.network import FIRST_WINDOW

SECOND = Window(FIRST_WINDOW + 30)
NAME = "miner-0"


class Died(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> GradientRound:
    network = GradientNetwork(tmp_path_factory.mktemp("miner") / "network", TINY, miners=1, validators=0)
    one = GradientRound.trained(network, FIRST_WINDOW)
    one.seal()
    one.reveal()
    one.open()
    one.settle()
    return one


@pytest.fixture
def network(begun: GradientRound, tmp_path: Path) -> GradientNetwork:
    copied = begun.network.copied(tmp_path / "network")
    copied.advance_to(SECOND + 1)
    return copied


def of(network: GradientNetwork) -> GradientRound:
    return GradientRound(network, network.round(SECOND), {})


def window_of(network: GradientNetwork) -> WindowContext:
    return network.participant("trainer").open_window(SECOND)


def with_store(network: GradientNetwork, **outcomes: Any) -> tuple[GradientMiner, Faulty]:
    """The miner started again, over a store that fails so, and a clock that goes where it is waited for."""
    directory = network.directory(NAME)
    store = Faulty(directory.own(), **outcomes)
    mine = faulty(directory)
    mine.own = lambda: store
    return network.miner(NAME, directory=mine, chain=Driven(network.chain, SECOND + 40)), store


def header(update: bytes | None) -> UpdateHeader:
    assert update is not None
    return UpdateHeader.from_canonical(read_front(update)[0])


def test_a_round_leaves_seal_update_and_opening_and_the_feedback_that_the_next_one_begins_with(
    network: GradientNetwork, begun: GradientRound
) -> None:
    miner, store = with_store(network)
    assert miner.mine(window_of(network), threading.Event())
    one, before = of(network), header(begun.pending[NAME].update)
    update = one.stored(NAME, "update")
    assert header(update).feedback_before == before.feedback_after
    assert one.stored(NAME, "opening")
    assert store.calls["put"] == 3
    feedback = miner.state.feedback()
    assert feedback is not None
    assert (feedback.round, feedback.root) == (SECOND, header(update).feedback_after)
    assert miner.mine(window_of(network), threading.Event()) is False, "a round is mined once"
    assert store.calls["put"] == 3


@pytest.mark.parametrize("put", [1, 2, 3])
def test_a_miner_whose_process_ends_at_a_put_goes_on_with_the_same_file_and_never_seals_twice(
    network: GradientNetwork, put: int
) -> None:
    miner, _ = with_store(network, put=lambda call: Died() if call == put else None)
    with pytest.raises(Died):
        miner.mine(window_of(network), threading.Event())
    pending = miner.state.pending()
    assert pending is not None
    miner, store = with_store(network)
    assert miner.mine(window_of(network), threading.Event())
    assert store.calls["put"] == 4 - put
    one = of(network)
    assert one.stored(NAME, "seal") == pending.seal
    assert one.stored(NAME, "update") == pending.update


def test_a_store_that_refuses_for_a_while_costs_nothing(network: GradientNetwork) -> None:
    refused = first(2, StorageError("not now"))
    for at in range(3):  # of the seal, of the update, of the opening

        def outcome(call: int, at: int = at) -> BaseException | None:
            return refused(call - at) if call > at else None

        place = network.copied(network.root.with_name(f"put-{at}"))
        miner, store = with_store(place, put=outcome)
        assert miner.mine(window_of(place), Unhurried()), f"put {at}"
        assert store.calls["put"] == 5


def test_a_put_that_says_it_failed_and_did_not_is_no_second_seal(network: GradientNetwork) -> None:
    directory = network.directory(NAME)
    inner = directory.own()

    class Lying(Faulty):
        def put(self, key: str, data: bytes) -> object:
            self.calls["put"] += 1
            said = inner.put(key, data)
            if self.calls["put"] == 1:
                raise StorageError("the answer was lost")
            return said

    store, mine = Lying(inner), faulty(directory)
    mine.own = lambda: store
    miner = network.miner(NAME, directory=mine, chain=Driven(network.chain, SECOND + 40))
    assert miner.mine(window_of(network), Unhurried())
    assert store.calls["put"] == 3


def test_what_is_sealed_is_revealed_though_the_store_was_away_until_after_the_deadline(network: GradientNetwork) -> None:
    """Sealed and not shown costs many rounds: whether the seal is there is asked until updates are due."""
    directory, chain = network.directory(NAME), Driven(network.chain, SECOND + 40)
    inner, context = directory.own(), network.round(SECOND)

    class Away(Faulty):
        def put(self, key: str, data: bytes) -> object:
            said = inner.put(key, data)
            if "/seals/" not in key or self.calls["put"]:
                return said
            self.calls["put"] += 1
            chain.advance(context.times.deadline_block + 2 - chain.current_block())
            raise StorageError("the answer was lost")

    store, mine = Away(inner), faulty(directory)
    mine.own = lambda: store
    assert network.miner(NAME, directory=mine, chain=chain).mine(window_of(network), Unhurried())
    assert of(network).stored(NAME, "update")


def test_a_seal_that_comes_too_late_is_not_stored_and_nothing_is_revealed(
    network: GradientNetwork, begun: GradientRound
) -> None:
    miner, store = with_store(network)
    context = network.round(SECOND)
    pending = miner.prepare(context, threading.Event())
    assert pending is not None
    network.advance_to(context.times.deadline_block + 1)
    assert miner.mine(window_of(network), threading.Event()) is False
    assert store.calls["put"] == 0
    feedback = miner.state.feedback()
    assert feedback is not None
    assert feedback.round == FIRST_WINDOW, "the next round begins with what this one did"
    assert miner.state.pending() is None


def test_a_round_without_a_challenge_is_left_when_openings_are_due_and_the_next_one_begins_anew(
    network: GradientNetwork,
) -> None:
    miner, _ = with_store(network)
    silent = faulty(network.beacon, get=lambda call: BeaconError("no rounds") if call > 1 else None)
    miner.participant = replace(miner.participant, beacon=silent)

    with events() as said:
        assert miner.mine(window_of_with(network, silent), Unhurried(lambda _: network.chain.advance(1))) is False
    assert "round_void" in said
    assert of(network).stored(NAME, "update") is not None
    third = Window(SECOND + 30)
    assert network.chain.current_block() < third, "the next round is not lost with it"
    network.advance_to(third + 1)
    pending = network.miner(NAME).prepare(network.round(third), threading.Event())
    assert pending is not None
    assert header(pending.update).feedback_before == ZERO_ROOT


def test_a_file_that_came_too_late_leaves_the_feedback_of_before(network: GradientNetwork, begun: GradientRound) -> None:
    miner, _ = with_store(network)
    context = network.round(SECOND)
    pending = miner.prepare(context, threading.Event())
    assert pending is not None
    assert miner.seal(context, pending)
    network.advance_to(context.times.reveal_block + 1)
    assert miner.reveal(context, pending)
    miner.settle(context)
    third = Window(SECOND + 30)
    network.advance_to(third + 1)
    following = network.miner(NAME).prepare(network.round(third), threading.Event())
    assert following is not None
    assert header(following.update).feedback_before == header(begun.pending[NAME].update).feedback_after


def window_of_with(network: GradientNetwork, beacon: object) -> WindowContext:
    return replace(network.participant("trainer"), beacon=beacon).open_window(SECOND)  # type: ignore[arg-type]


def test_feedback_of_another_round_than_the_last_that_was_revealed_is_forgotten(network: GradientNetwork) -> None:
    miner, _ = with_store(network)
    folder = miner.state.folder
    shutil.copytree(folder, folder.with_name("copy"))
    assert miner.mine(window_of(network), threading.Event())
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)  # the machine is restored from yesterday's copy
    third = Window(SECOND + 30)
    network.advance_to(third + 1)
    with events() as said:
        pending = network.miner(NAME).prepare(network.round(third), threading.Event())
    assert pending is not None
    assert header(pending.update).feedback_before == ZERO_ROOT
    assert "feedback_forgotten" in said


def test_a_round_that_is_sealed_from_a_state_that_is_lost_is_left_alone(network: GradientNetwork) -> None:
    miner, _ = with_store(network)
    context = network.round(SECOND)
    pending = miner.prepare(context, threading.Event())
    assert pending is not None
    assert miner.seal(context, pending)
    shutil.rmtree(miner.state.folder)
    miner, store = with_store(network)
    assert miner.mine(window_of(network), threading.Event()) is False
    assert store.calls["put"] == 0


@pytest.mark.parametrize("seconds", [1e-9, 1e9])
def test_as_many_sequences_are_trained_as_fit_before_the_deadline(
    network: GradientNetwork, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """By this machine's clock, which here goes so many seconds at every look."""
    looks = iter(range(1 << 30))
    monkeypatch.setattr("grail_miner.gradient.service.time.perf_counter", lambda: next(looks) * seconds)
    miner = network.miner(NAME, batch=None)
    pending = miner.prepare(network.round(SECOND), threading.Event())
    assert pending is not None
    assert header(pending.update).batch == (TINY.batch_most if seconds < 1 else TINY.batch_least)


@pytest.mark.parametrize("batch", [TINY.batch_least - 1, TINY.batch_most + 1])
def test_a_batch_that_the_network_does_not_take_is_told_with_those_that_it_does(network: GradientNetwork, batch: int) -> None:
    with pytest.raises(ConfigurationError, match=f"has 4 to 8 sequences, not {batch}"):
        network.miner(NAME, batch=batch).prepare(network.round(SECOND), threading.Event())


def test_damaged_state_is_said_with_what_to_do_and_nothing_is_sealed(network: GradientNetwork) -> None:
    miner, store = with_store(network)
    path = miner.state.folder / "journal.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, "pending": {"round": SECOND}}))
    with pytest.raises(DamagedStateError, match="move the folder away"):
        miner.mine(window_of(network), threading.Event())
    path.unlink()
    assert miner.mine(window_of(network), threading.Event()), "what it says to do helps"
    assert store.calls["put"] == 3


@pytest.mark.parametrize(
    ("error", "made"),
    [
        (lambda: MissingObjectError("its shards are not up yet"), True),
        (lambda: StorageError("not now"), True),
        (lambda: EnvironmentUnavailableError("the corpus is not here"), False),
    ],
)
def test_a_checkpoint_that_is_not_up_yet_is_waited_for_and_a_corpus_that_is_nowhere_costs_the_round(
    network: GradientNetwork, error: Callable[[], Exception], made: bool
) -> None:
    miner, store = with_store(network)
    miner.training.models = faulty(miner.training.models, at=first(2, error()))
    if made:
        assert miner.mine(window_of(network), Unhurried())
        return
    with pytest.raises(MachineFaultError, match="the corpus is not here"):
        miner.mine(window_of(network), Unhurried())
    assert store.calls["put"] == 0


def test_a_hotkey_without_a_uid_at_the_rounds_beginning_has_no_work(network: GradientNetwork) -> None:
    network.chain.deregister(network.signers[NAME])
    third = Window(SECOND + 30)
    network.advance_to(third + 1)
    with events() as said:
        assert network.miner(NAME).prepare(network.round(third), threading.Event()) is None
    assert said.count("window_skipped") == 1


def test_a_store_that_is_gone_costs_the_round_and_ends_with_it(network: GradientNetwork) -> None:
    miner, _ = with_store(network, put=always(StorageError("gone")))
    with events() as said:
        assert miner.mine(window_of(network), Unhurried(lambda _: network.chain.advance(1))) is False
    assert "window_skipped" in said
    assert of(network).stored(NAME, "seal") is None
