"""A validator that runs: from first sight to weights on chain, and what one failed request costs it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.errors import ChainError
from grail_core.keys import ss58
from grail_core.participant import waiting
from grail_core.protocol import WindowStatus
from grail_core.protocol.types import Block, Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import window_key
from grail_validator import first_sight
from grail_validator.cases import WindowStage
from grail_validator.service import ValidatorService
from tooling.testing.faults import Outcome, always, events, faulty, first
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
NO_ANSWER = ChainError("no connection")


class Driven:
    """A chain whose clock goes to whatever block somebody waits for, but not past `limit`: there they wait for the stop."""

    def __init__(self, inner: LocalChain, limit: int) -> None:
        self.inner, self.limit, self.lock = inner, limit, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        if number > self.limit:
            stop.wait()
            return False
        with self.lock:
            seen = self.inner.finalised_block() if finalised else self.inner.current_block()
            if number > seen:
                self.inner.advance(number - seen)
        return True


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(first_sight, "_RETRY_SECONDS", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    network = SmallNetwork(tmp_path, model=model, miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def mine_and_upload(network: SmallNetwork) -> None:
    participant = network.participant("miner-0")
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, range(1))
    participant.own_store.put(window_key(ss58(participant.signer.hotkey), FIRST_WINDOW), data)


def started(network: SmallNetwork, window: Window, **outcomes: Outcome) -> ValidatorService:
    """A validator, and a chain that goes as far as this window's challenge."""
    limit = network.participant("validator-0").times(window).challenge_block
    return network.validator("validator-0", chain=faulty(Driven(network.chain, limit), **outcomes))


def run_one_window(validator: ValidatorService) -> None:
    assert validator.run(threading.Event(), windows=1) == 1


def in_force(network: SmallNetwork) -> dict[int, int]:
    network.chain.advance(5)  # a set of weights is a transaction: it is in a block and then final
    return dict(network.chain.weights()[network.signers["validator-0"].hotkey])


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_judged_windows_weights_are_on_chain_and_when_they_were_set_is_remembered(network: SmallNetwork) -> None:
    mine_and_upload(network)
    validator = started(network, FIRST_WINDOW)
    run_one_window(validator)
    chain: Any = validator.participant.chain
    assert chain.calls["set_weights"] == 1
    assert validator.ledger.weights_block() == network.chain.current_block()
    uid = next(n.uid for n in network.chain.metagraph().neurons if n.hotkey == network.signers["miner-0"].hotkey)
    assert in_force(network)[uid] > 0


def test_weights_are_set_once_an_interval(network: SmallNetwork) -> None:
    run_one_window(started(network, FIRST_WINDOW))
    validator = started(network, SECOND_WINDOW)
    set_at = validator.ledger.weights_block()
    assert set_at is not None
    validator.ledger.record_weights(Block(set_at + 1))  # one block short of an interval before the next window is judged
    run_one_window(validator)
    chain: Any = validator.participant.chain
    assert network.chain.current_block() == set_at + network.params.weight_interval
    assert chain.calls["set_weights"] == 0


def test_weights_are_set_again_after_an_interval(network: SmallNetwork) -> None:
    run_one_window(started(network, FIRST_WINDOW))
    validator = started(network, SECOND_WINDOW)
    run_one_window(validator)
    chain: Any = validator.participant.chain
    assert chain.calls["set_weights"] == 1
    assert validator.ledger.weights_block() == network.chain.current_block()


def test_weights_that_the_chain_refused_are_set_after_the_next_start(network: SmallNetwork) -> None:
    validator = started(network, FIRST_WINDOW, set_weights=always(ChainError("too fast")))
    with events() as names:
        run_one_window(validator)
    assert "weights_refused" in names
    assert validator.ledger.weights_block() is None
    run_one_window(started(network, SECOND_WINDOW))
    assert validator.ledger.weights_block() is not None  # at the start or after the window, as the chain's clock has it
    assert sum(in_force(network).values()) > 0


# --- first sight ------------------------------------------------------------------------------------------------------


def answering_at(network: SmallNetwork, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are asked now and answer when it is this block."""
    head, lock = FilesystemStore.head, threading.Lock()

    def late(store: FilesystemStore, key: str) -> ObjectInfo | None:
        with lock:  # stores are asked side by side
            network.advance_to(block)
        return head(store, key)

    monkeypatch.setattr(FilesystemStore, "head", late)


def test_what_a_store_answers_after_first_sight_is_no_sighting(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file could have been put there once the challenge was known."""
    mine_and_upload(network)
    validator = network.validator("validator-0")
    times = validator.participant.times(FIRST_WINDOW)
    network.advance_to(times.deadline_block)
    answering_at(network, times.first_sight_end_block + 1, monkeypatch)
    with events() as names:
        validator.first_sight.sight(FIRST_WINDOW)
    assert "first_sight_missed" in names
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.UNSEEN
    assert validator.ledger.sightings(FIRST_WINDOW) is None


def test_what_a_store_answers_in_the_last_block_of_first_sight_counts(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine_and_upload(network)
    validator = network.validator("validator-0")
    times = validator.participant.times(FIRST_WINDOW)
    network.advance_to(times.deadline_block)
    answering_at(network, times.first_sight_end_block, monkeypatch)
    validator.first_sight.sight(FIRST_WINDOW)
    assert sum(sighting.etag is not None for sighting in validator.ledger.sightings(FIRST_WINDOW) or ()) == 1


@pytest.mark.parametrize("method", ["wait_for_block", "current_block", "metagraph"])
def test_a_chain_that_fails_during_first_sight_costs_no_window(network: SmallNetwork, method: str) -> None:
    """Nor the thread: without it a validator cannot go on."""
    validator = started(network, FIRST_WINDOW, **{method: first(2, NO_ANSWER)})
    stop = threading.Event()
    seen: list[Window] = []

    def done(window: Window) -> None:
        seen.append(window)
        stop.set()

    with events() as names:
        validator.first_sight.run(FIRST_WINDOW, stop, done)
    assert names.count("chain_unreadable") == 2
    assert seen == [FIRST_WINDOW]
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.SIGHTED


def test_a_window_whose_first_sight_was_missed_is_recorded_in_its_turn(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    network.advance_to(validator.participant.times(FIRST_WINDOW).first_sight_end_block + 1)
    validator.first_sight.sight(FIRST_WINDOW)
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.UNSEEN
    assert validator.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.INCONCLUSIVE
