"""A validator that runs: from first sight to weights on chain, and what one failed request costs it."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.base import seconds_of
from grail_core.commands.published_verdicts import audit
from grail_core.errors import ChainError, StorageError
from grail_core.files.verdicts import read_verdict
from grail_core.keys import LocalSigner
from grail_core.participant import waiting
from grail_core.protocol import Adopted, WindowStatus
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage import time_limits
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemStore
from grail_validator import adoption, first_sight
from grail_validator.adoption import MAX_ASKED, MAX_BLOCKS, Adoption
from grail_validator.cases import SentWeights, WindowStage
from grail_validator.service import ValidatorService
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import Outcome, always, events, faulty, first
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
NO_ANSWER = ChainError("no connection")


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
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, range(1))
    upload(network, network.mining("miner-0"), "miner-0", data, FIRST_WINDOW)


def started(network: SmallNetwork, window: Window, **outcomes: Outcome) -> ValidatorService:
    """A validator, and a chain that goes as far as this window's challenge."""
    limit = network.participant("validator-0").times(window).challenge_block
    return network.validator("validator-0", chain=faulty(Driven(network.chain, limit), **outcomes))


def run_one_window(validator: ValidatorService) -> None:
    assert validator.run(threading.Event(), windows=1) == 1


def in_force(network: SmallNetwork) -> dict[int, int]:
    network.chain.advance(5)  # a set of weights is a transaction: it is in a block and then final
    return dict(network.chain.weights()[network.signers["validator-0"].hotkey])


def after(network: SmallNetwork, validator: ValidatorService, blocks: int = 5) -> list[str]:
    """What a validator says of its weights some blocks later."""
    network.chain.advance(blocks)
    with events() as names:
        validator._set_weights_if_due()
    return names


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_judged_windows_weights_are_on_chain_and_when_they_were_set_is_remembered(network: SmallNetwork) -> None:
    mine_and_upload(network)
    validator = started(network, FIRST_WINDOW)
    run_one_window(validator)
    chain: Any = validator.participant.chain
    assert chain.calls["set_weights"] == 1
    sent_at = network.chain.current_block()
    assert validator.ledger.weights_sent() == SentWeights(sent_at, FIRST_WINDOW, 1)
    assert validator.ledger.weights_block() is None  # that the call returned says nothing yet
    assert after(network, validator) == ["weights_set", "weights_kept"]
    assert (validator.ledger.weights_block(), validator.ledger.weights_sent()) == (sent_at, None)
    uid = next(n.uid for n in network.chain.metagraph().neurons if n.hotkey == network.signers["miner-0"].hotkey)
    assert in_force(network)[uid] > 0


def test_weights_are_set_once_an_interval(network: SmallNetwork) -> None:
    run_one_window(started(network, FIRST_WINDOW))
    validator = started(network, SECOND_WINDOW)
    sent = validator.ledger.weights_sent()
    assert sent is not None
    set_at = sent.block
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
    assert validator.ledger.weights_sent() == SentWeights(network.chain.current_block(), SECOND_WINDOW, 1)
    assert validator.ledger.weights_block() == network.chain.current_block() - network.params.weight_interval


def test_weights_that_the_chain_refused_are_set_after_the_next_start(network: SmallNetwork) -> None:
    validator = started(network, FIRST_WINDOW, set_weights=always(ChainError("too fast")))
    with events() as names:
        run_one_window(validator)
    assert "weights_refused" in names
    assert validator.ledger.weights_block() is None
    again = started(network, SECOND_WINDOW)
    run_one_window(again)  # sent at the start or after the window, as the chain's clock has it
    after(network, again)
    assert again.ledger.weights_block() is not None
    assert sum(in_force(network).values()) > 0


def test_a_uid_that_changed_hands_between_verdict_and_weights_gets_nothing_and_its_share_burns(network: SmallNetwork) -> None:
    mine_and_upload(network)
    validator = started(network, FIRST_WINDOW, set_weights=first(1, ChainError("too fast")))
    run_one_window(validator)
    miner = network.signers["miner-0"]
    before = {n.hotkey: n.uid for n in network.chain.metagraph().neurons}
    network.chain.deregister(miner)
    newcomer = LocalSigner.from_seed(b"n" * 32)
    assert network.chain.register(newcomer) == before[miner.hotkey]
    network.chain.advance(5)
    validator._set_weights_if_due()
    row = in_force(network)
    assert row.get(before[miner.hotkey], 0) == 0
    assert row[network.params.burn_uid] == sum(row.values()) == 65_535


def test_a_hotkey_that_holds_another_uid_now_is_paid_there(network: SmallNetwork) -> None:
    mine_and_upload(network)
    validator = started(network, FIRST_WINDOW, set_weights=first(1, ChainError("too fast")))
    run_one_window(validator)
    miner = network.signers["miner-0"]
    former = next(n.uid for n in network.chain.metagraph().neurons if n.hotkey == miner.hotkey)
    network.chain.deregister(miner)
    network.chain.register(LocalSigner.from_seed(b"n" * 32))
    now = network.chain.register(miner)
    assert now != former
    network.chain.advance(5)
    validator._set_weights_if_due()
    row = in_force(network)
    assert (row.get(former, 0), row[now] > 0) == (0, True)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_validator_without_memory_takes_over_the_leaders_and_says_so(tmp_path: Path, model: Path) -> None:
    network = SmallNetwork(tmp_path, model=model, miners=1, validators=2)
    network.advance_to(FIRST_WINDOW + 1)
    mine_and_upload(network)
    run_one_window(started(network, FIRST_WINDOW))
    limit = network.participant("validator-1").times(SECOND_WINDOW).challenge_block
    late = network.validator("validator-1", chain=Driven(network.chain, limit))
    run_one_window(late)
    participant = late.participant
    verdict = read_verdict(participant.own_store, SECOND_WINDOW, participant.signer.hotkey, participant.network_id)
    assert verdict is not None
    leader = network.signers["validator-0"].hotkey
    assert verdict.adopted == Adopted(leader, FIRST_WINDOW, FIRST_WINDOW)
    uid = next(n.uid for n in network.chain.metagraph().neurons if n.hotkey == network.signers["miner-0"].hotkey)
    assert verdict.body.score_inputs[uid].supported > 0
    assert late.ledger.untold() is None
    again = audit(participant.own_store, [network.participant("validator-0").own_store], network.params)
    assert [(one.window, one.word) for one in again.windows] == [(SECOND_WINDOW, "equal")]
    assert again.windows[0].found is not None
    assert again.windows[0].found.filled_in == {leader: (FIRST_WINDOW,)}


def test_a_validator_that_lost_its_ledger_remembers_what_it_has_published_itself(tmp_path: Path, model: Path) -> None:
    """Others compute its scores again from its own verdicts, not from the leader's: that of the leader says less here."""
    network = SmallNetwork(tmp_path, model=model, miners=1, validators=2)
    network.advance_to(FIRST_WINDOW + 1)
    mine_and_upload(network)
    limit = network.participant("validator-1").times(FIRST_WINDOW).challenge_block
    run_one_window(network.validator("validator-1", chain=Driven(network.chain, limit)))
    shutil.rmtree(network.root / "state" / "validator-1")
    limit = network.participant("validator-1").times(SECOND_WINDOW).challenge_block
    again = network.validator("validator-1", chain=Driven(network.chain, limit))
    run_one_window(again)
    participant = again.participant
    verdict = read_verdict(participant.own_store, SECOND_WINDOW, participant.signer.hotkey, participant.network_id)
    assert verdict is not None
    assert verdict.adopted is None
    uid = next(n.uid for n in network.chain.metagraph().neurons if n.hotkey == network.signers["miner-0"].hotkey)
    assert verdict.body.score_inputs[uid].supported > 0
    audited = audit(participant.own_store, [], network.params)
    assert [(one.window, one.word) for one in audited.windows] == [(FIRST_WINDOW, "equal"), (SECOND_WINDOW, "equal")]


def test_a_leader_whose_store_takes_its_time_holds_no_window_up_by_more_than_some_blocks(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SmallNetwork(tmp_path, model=model, miners=1, validators=2)
    late = network.validator("validator-1")
    before, asked = Window(FIRST_WINDOW * 60), Counter[Window]()
    network.advance_to(before)

    def dripping(store: object, window: Window, validator: Hotkey, *_: object) -> None:
        if validator == late.participant.signer.hotkey:
            return  # its own bucket has nothing
        asked[window] += 1
        left = time_limits.seconds_left()
        assert 0 < left <= seconds_of(MAX_BLOCKS, network.params.block_time_ms)
        if asked.total() == 3:
            clock.now += 10_000  # the store has used it up
        raise StorageError("a few bytes came")

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(time_limits, "time", clock)
    monkeypatch.setattr(adoption, "read_verdict", dripping)
    filling = Adoption(late.participant, late.ledger)
    assert filling.fill(before) == 0
    first = list(asked)
    assert len(first) == 3
    assert filling.fill(before) == 0
    assert set(asked) == set(late.ledger.unremembered(before))
    assert filling.fill(before) == filling.fill(before) == 0
    assert set(asked.values()) == {MAX_ASKED}


def test_a_leaders_verdict_that_does_what_nobody_thought_of_costs_that_verdict(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SmallNetwork(tmp_path, model=model, miners=1, validators=2)
    late = network.validator("validator-1")
    network.advance_to(SECOND_WINDOW)

    def strange(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(adoption, "read_verdict", strange)
    assert Adoption(late.participant, late.ledger).fill(SECOND_WINDOW) == 0


# --- first sight ------------------------------------------------------------------------------------------------------


def answering_at(network: SmallNetwork, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are asked now and answer when it is this block."""
    read, lock = FilesystemStore.read, threading.Lock()

    def late(store: FilesystemStore, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        with lock:  # stores are asked side by side
            network.advance_to(block)
        return read(store, key, max_bytes=max_bytes)

    monkeypatch.setattr(FilesystemStore, "read", late)


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
    assert sum(sighting.seal is not None for sighting in validator.ledger.sightings(FIRST_WINDOW) or ()) == 1


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


class Inventing:
    """A chain of which the first `lies` answers about its head are 1000 blocks further than what it has."""

    def __init__(self, inner: Any, lies: int) -> None:
        self.inner, self.lies = inner, lies

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _ahead(self) -> int:
        self.lies -= 1
        return 1000 if self.lies >= 0 else 0

    def current_block(self) -> Block:
        return Block(self.inner.current_block() + self._ahead())

    def finalised_block(self) -> Block:
        return Block(self.inner.finalised_block() + self._ahead())

    def wait_for_block(self, number: Block, *, stop: threading.Event, finalised: bool = False) -> bool:
        return self._ahead() > 0 or bool(self.inner.wait_for_block(number, stop=stop, finalised=finalised))


@pytest.mark.parametrize("lies", [2, 5])
def test_a_head_of_which_no_block_can_be_shown_makes_no_window_missed(network: SmallNetwork, lies: int) -> None:
    """Whatever the adapter to the chain was made to believe: the window is looked at when its time has come."""
    limit = network.participant("validator-0").times(FIRST_WINDOW).challenge_block
    validator = network.validator("validator-0", chain=Inventing(Driven(network.chain, limit), lies))
    stop = threading.Event()
    with events() as names:
        validator.first_sight.run(FIRST_WINDOW, stop, lambda window: stop.set())
    assert "chain_unreadable" in names
    assert "first_sight_missed" not in names
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.SIGHTED


def test_a_head_that_is_invented_while_buckets_are_read_makes_no_seal_late(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine_and_upload(network)
    limit = network.participant("validator-0").times(FIRST_WINDOW).challenge_block
    chain = Inventing(Driven(network.chain, limit), 0)
    validator = network.validator("validator-0", chain=chain)
    read, lied = FilesystemStore.read, threading.Lock()

    def lying(store: FilesystemStore, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        if lied.acquire(blocking=False):
            chain.lies = 1
        return read(store, key, max_bytes=max_bytes)

    monkeypatch.setattr(FilesystemStore, "read", lying)
    stop = threading.Event()
    validator.first_sight.run(FIRST_WINDOW, stop, lambda window: stop.set())
    assert sum(sighting.seal is not None for sighting in validator.ledger.sightings(FIRST_WINDOW) or ()) == 1
    assert not lied.acquire(blocking=False)


def test_nothing_is_signed_of_a_window_whose_deadline_the_chain_cannot_show(network: SmallNetwork) -> None:
    validator = network.validator("validator-0", chain=Inventing(network.chain, 12))
    looked = 0

    class Looking(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal looked
            looked += 1
            if looked > 20:
                self.set()
            return self.is_set()

    assert validator.advance(SECOND_WINDOW, Looking()) is None  # neither while it lies nor while the window has not come
    assert looked > 20
    assert validator.ledger.stage(SECOND_WINDOW) is WindowStage.UNSEEN


def test_a_head_that_is_invented_voids_no_window(network: SmallNetwork) -> None:
    """An input that could not be had for as long as the lie lasts was not too late."""
    mine_and_upload(network)
    limit = network.participant("validator-0").times(FIRST_WINDOW).challenge_block
    chain = Inventing(Driven(network.chain, limit), 0)
    validator = network.validator("validator-0", chain=chain)
    stop = threading.Event()
    validator.first_sight.run(FIRST_WINDOW, stop, lambda window: stop.set())
    chain.lies = 10
    assert validator.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED


def test_a_window_whose_first_sight_was_missed_is_recorded_in_its_turn(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    network.advance_to(validator.participant.times(FIRST_WINDOW).first_sight_end_block + 1)
    validator.first_sight.sight(FIRST_WINDOW)
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.UNSEEN
    assert validator.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.INCONCLUSIVE
