"""Weights are set when the chain shows them: calls that lie, processes that end, commit-reveal, UIDs that change hands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from grail_core.chain.development.state import ChainRules
from grail_core.errors import ChainError
from grail_core.keys import LocalSigner
from grail_core.protocol import SignedVerdict
from grail_core.protocol.types import Block, Window
from grail_validator.cases import SentWeights
from grail_validator.weight_setting import FIRST_LOOK_BLOCKS, Answer, answer_of
from tooling.testing.faults import always, events, faulty, first
from tooling.testing.judged_network import ME, MINER, judged, ledger_of, setting
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model


class KilledError(BaseException):
    """Ends whatever runs, as a kill does."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    return judged(SmallNetwork(tmp_path, model=model, miners=2, validators=1))


def uid_of(network: SmallNetwork, name: str) -> int:
    neuron = network.chain.metagraph().by_hotkey(network.signers[name].hotkey)
    assert neuron is not None
    return neuron.uid


def row(network: SmallNetwork) -> dict[int, int]:
    return dict(network.chain.weights().get(network.signers[ME].hotkey, {}))


def said(act: Callable[[], None]) -> list[str]:
    with events() as names:
        act()
    return names


# --- a call that says success -----------------------------------------------------------------------------------------


def test_a_call_that_says_success_while_last_update_stays_is_noticed_within_one_interval(
    network: SmallNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    network.chain.lose_weights(network.signers[ME].hotkey, 1)
    validator = setting(network)
    sent_at = network.chain.current_block()
    assert said(validator.turn) == ["weights_sent"]
    assert said(validator.turn) == ["weights_awaited"]
    blocks = 0
    caplog.set_level(logging.INFO)
    while "weights_not_on_chain" not in (names := said(validator.turn)):
        assert names == ["weights_awaited"]
        network.chain.advance(1)
        blocks += 1
    assert blocks == FIRST_LOOK_BLOCKS + network.chain.parameters.finality_lag <= network.params.weight_interval
    assert names == ["weights_not_on_chain", "weights_sent"]  # and sent again at once
    (told,) = [record for record in caplog.records if record.getMessage() == "weights_not_on_chain"]
    assert told.levelno == logging.ERROR
    assert validator.ledger.weights_block() is None
    network.chain.advance(3)
    assert said(validator.turn) == ["weights_set", "weights_kept"]
    assert validator.ledger.weights_block() == sent_at + blocks
    assert row(network)[uid_of(network, MINER)] > 0


def test_it_is_noticed_between_windows_too_and_looked_for_no_more_often_than_there_are_blocks(network: SmallNetwork) -> None:
    network.chain.lose_weights(network.signers[ME].hotkey, 1)
    counting = faulty(network.chain)
    validator = setting(network, counting)
    assert said(validator.look) == []
    assert counting.calls["metagraph"] == 0  # nothing was sent
    validator = setting(network, counting)
    validator.turn()
    network.chain.advance(6)
    assert said(validator.look) == ["weights_not_on_chain", "weights_sent"]
    asked = dict(counting.calls)
    assert said(validator.look) == []
    assert counting.calls == asked
    network.chain.advance(3)
    assert said(setting(network).look) == ["weights_set"]


def test_after_each_try_that_is_lost_the_next_comes_later_but_within_an_interval(network: SmallNetwork) -> None:
    network.chain.lose_weights(network.signers[ME].hotkey, 100)
    validator = setting(network)
    sent: list[Block] = []
    while len(sent) < 6:
        if "weights_sent" in said(validator.turn):
            sent.append(network.chain.current_block())
        network.chain.advance(1)
    lag, interval = network.chain.parameters.finality_lag, network.params.weight_interval
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps == [4 + lag, 8 + lag, 16 + lag, interval, interval]


@pytest.mark.parametrize(
    ("attempt", "update", "best", "finalised", "answer"),
    [
        (1, None, 100, 99, Answer.NOT_YET),
        (1, 101, 102, 101, Answer.SHOWN),
        (1, 100, 104, 103, Answer.NOT_YET),  # of before the call
        (1, 100, 105, 104, Answer.MISSING),
        (2, 100, 108, 107, Answer.NOT_YET),
        (2, None, 109, 108, Answer.MISSING),
        (9, None, 130, 129, Answer.MISSING),  # an interval
        (1, None, 130, 99, Answer.MISSING),  # of which nothing got final
        (10**6, None, 130, 130, Answer.MISSING),
        (10**6, 101, 500, 500, Answer.SHOWN),
        (1, None, 71, 70, Answer.NOT_YET),  # another node, a little behind
        (1, None, 70, 69, Answer.MISSING),  # the first node's block is not on this chain
    ],
)
def test_what_the_chain_shows_decides(attempt: int, update: int | None, best: int, finalised: int, answer: Answer) -> None:
    sent = SentWeights(Block(100), Window(60), attempt)
    shown = None if update is None else Block(update)
    assert answer_of(sent, shown, Block(best), Block(finalised), 30) is answer


# --- a process that ends ----------------------------------------------------------------------------------------------


def test_killed_between_the_call_and_what_the_chain_shows_it_asks_the_chain_and_sends_nothing_twice(
    network: SmallNetwork,
) -> None:
    setting(network).turn()
    network.chain.advance(3)
    counting = faulty(network.chain)
    again = setting(network, counting)
    assert said(again.turn) == ["weights_set", "weights_kept"]
    assert counting.calls["set_weights"] == 0


def test_killed_before_the_call_was_made_it_is_made_once_the_chain_does_not_show_it(network: SmallNetwork) -> None:
    with pytest.raises(KilledError):
        setting(network, faulty(network.chain, set_weights=always(KilledError()))).turn()
    assert said(setting(network).turn) == ["weights_awaited"]
    network.chain.advance(5)
    assert said(setting(network).turn) == ["weights_not_on_chain", "weights_sent"]
    network.chain.advance(3)
    assert said(setting(network).turn) == ["weights_set", "weights_kept"]


def test_a_ledger_that_was_brought_back_and_knows_of_no_call_sends_nothing_twice_in_an_interval(network: SmallNetwork) -> None:
    network.chain.set_weights(network.signers[ME], {0: 1})  # by the process whose ledger was lost
    counting = faulty(network.chain)
    for blocks in (3, 22):
        network.chain.advance(blocks)
        assert said(setting(network, counting).turn) == ["weights_kept"]
    assert counting.calls["set_weights"] == 0
    network.chain.advance(6)
    assert said(setting(network, counting).turn) == ["weights_sent"]


def test_a_call_that_was_cut_off_and_done_all_the_same_is_found_done(network: SmallNetwork) -> None:
    class CutOff:
        def __getattr__(self, name: str) -> object:
            return getattr(network.chain, name)

        def set_weights(self, *arguments: object) -> None:
            network.chain.set_weights(*arguments)  # type: ignore[arg-type]
            raise ChainError("the connection broke while the block was waited for")

    assert said(setting(network, CutOff()).turn) == ["weights_refused"]
    network.chain.advance(3)
    assert said(setting(network).turn) == ["weights_set", "weights_kept"]


def test_a_chain_that_does_not_answer_is_told_once_and_costs_no_weights(network: SmallNetwork) -> None:
    setting(network).turn()
    validator = setting(network, faulty(network.chain, finalised_block=first(3, ChainError("no connection"))))
    network.chain.advance(3)
    told = []
    for _ in range(4):
        validator._next_look = 0.0
        told += said(validator.look)
    assert told == ["weights_unseen", "weights_set"]


# --- commit-reveal ----------------------------------------------------------------------------------------------------


def test_with_commit_reveal_the_commit_counts_as_set_and_the_weights_come_into_force_by_themselves(
    tmp_path: Path, model: Path
) -> None:
    network = judged(SmallNetwork(tmp_path, model=model, miners=2, validators=1, rules=ChainRules(reveal_blocks=12)))
    validator = setting(network)
    assert said(validator.turn) == ["weights_sent"]
    network.chain.advance(3)
    assert said(validator.turn) == ["weights_set", "weights_kept"]
    assert row(network) == {}
    network.chain.advance(11)
    shares = row(network)
    assert (sum(shares.values()), shares[uid_of(network, MINER)] > 0) == (65_535, True)


def test_with_commit_reveal_a_lost_commit_is_noticed_before_it_would_have_been_revealed(tmp_path: Path, model: Path) -> None:
    network = judged(SmallNetwork(tmp_path, model=model, miners=2, validators=1, rules=ChainRules(reveal_blocks=20)))
    network.chain.lose_weights(network.signers[ME].hotkey, 1)
    validator = setting(network)
    validator.turn()
    network.chain.advance(5)
    assert said(validator.turn) == ["weights_not_on_chain", "weights_sent"]


# --- a UID that changes hands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reveal_blocks", [0, 12])
def test_on_a_full_subnet_a_uid_that_is_recycled_before_the_weights_pays_its_new_owner_nothing_and_its_share_burns(
    reveal_blocks: int, tmp_path: Path, model: Path
) -> None:
    """Recycled while the chain had lost the first call: the second is for who holds the UIDs then."""
    rules = ChainRules(max_uids=4, immunity_blocks=20, owner_uids=1, reveal_blocks=reveal_blocks)
    network = SmallNetwork(tmp_path, model=model, miners=2, validators=1, rules=rules)
    mine, burn = network.signers[ME], network.params.burn_uid
    network.advance_to(FIRST_WINDOW)
    network.chain.set_weights(mine, {uid_of(network, MINER): 2, uid_of(network, "miner-1"): 1})  # of earlier windows
    judged(network)
    files = ledger_of(network).files(FIRST_WINDOW)
    assert files is not None
    before = dict(SignedVerdict.decode(files.verdict).body.weights)
    uid = uid_of(network, "miner-1")
    assert before[uid] > 0
    network.chain.lose_weights(mine.hotkey, 1)
    validator = setting(network)
    validator.turn()
    newcomer = LocalSigner.from_seed(b"n" * 32)
    assert network.chain.register(newcomer) == uid  # of who earns least, but for the owner
    network.chain.advance(5)
    assert said(validator.turn) == ["weights_not_on_chain", "weights_sent"]
    network.chain.advance(5 + reveal_blocks)
    shares = row(network)
    assert network.chain.metagraph().neurons[uid].hotkey == newcomer.hotkey
    assert shares.get(uid, 0) == 0
    assert shares[burn] == before[burn] + before[uid]
    assert shares[uid_of(network, MINER)] == before[uid_of(network, MINER)]
    assert said(validator.turn) == ["weights_set", "weights_kept"]
