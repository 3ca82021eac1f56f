"""What may fail around a validator while it judges, and what it costs: nothing, a comparison, or a window, never a miner."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from grail_core.chain.base import Metagraph
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.errors import ChainError, CheckpointError, DiskFullError, GrailError, StorageError
from grail_core.files.evidence import read_evidence
from grail_core.participant import waiting
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody, WindowStatus, weights
from grail_core.protocol.types import Block, Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import FILE_PREFIX, evidence_key, verdict_key
from grail_validator.cases import WindowStage
from grail_validator.service import ValidatorService
from tooling.testing.faults import Outcome, always, events, faulty, first
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

WINDOW = Window(FIRST_WINDOW + 30)
"""The first window with a checkpoint before its own."""
REFUSED = StorageError("the store refuses")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    """Where a window with two checkpoints was mined and sighted, its challenge is out, and nothing is judged yet."""
    network = SmallNetwork(tmp_path, model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    _publish_another_checkpoint(network, model)
    network.advance_to(WINDOW + 1)
    data = network.mine(network.mining("miner-0"), WINDOW, range(2))
    upload(network, network.mining("miner-0"), "miner-0", data, WINDOW)
    network.advance_to(WINDOW + 30)
    for name in ("validator-0", "validator-1"):
        network.validator(name).first_sight.sight(WINDOW)
    network.advance_to(WINDOW + 38)
    return network


def _publish_another_checkpoint(network: SmallNetwork, model: Path) -> None:
    participant, former = network.participant("trainer"), network.manifest
    state = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    parts = CheckpointParts(
        network_id=participant.network_id,
        window=FIRST_WINDOW,
        valid_from=WINDOW,
        environment=former.environment,
        policy=former.policy,
        end_token_ids=former.end_token_ids,
        thinking_mode=former.thinking_mode,
    )
    changed = {name: tensor * 1.25 for name, tensor in state.items()}
    publish(participant.own_checkpoints, parts, changed, read_model_files(model), participant.signer, participant.params)


def verdict(validator: ValidatorService) -> VerdictBody:
    return SignedVerdict.decode(validator.participant.own_store.get(verdict_key(WINDOW), max_bytes=10**7)).body


def alternatives(validator: ValidatorService) -> set[str]:
    raw = validator.participant.own_store.get(evidence_key(WINDOW), max_bytes=10**7)
    compared = [one.compared for miner in read_evidence(raw) for one in miner.rollouts if one.compared is not None]
    return {name for one in compared for name in one.z}


def expected(network: SmallNetwork) -> VerdictBody:
    """What a validator finds to whom nothing happens."""
    validator = network.validator("validator-1")
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert "previous-1" in alternatives(validator)
    return verdict(validator)


def before_fails(validator: ValidatorService, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    """The listing of the checkpoints before the window's own."""
    source = validator.participant.checkpoints
    monkeypatch.setattr(source, "before", faulty(source, before=outcome).before)


# --- the comparison with earlier checkpoints --------------------------------------------------------------------------


def test_a_store_that_answers_again_costs_no_comparison(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    validator = network.validator("validator-0")
    before_fails(validator, monkeypatch, first(2, REFUSED))
    with events() as names:
        assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert names.count("window_input_late") == 2
    assert verdict(validator).canonical() == expected(network).canonical()
    assert "previous-1" in alternatives(validator)


def test_an_earlier_checkpoint_that_loads_at_a_later_try_is_compared_with(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    validator.checkpoint = faulty(validator.checkpoint, at=lambda call: REFUSED if call in (1, 3) else None)
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert "previous-1" in alternatives(validator)


def test_earlier_checkpoints_that_cannot_be_had_in_time_weaken_the_window_and_cost_nobody_it(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = expected(network)
    validator = network.validator("validator-0")

    def until_it_is_too_late(call: int) -> BaseException | None:
        assert call < 20, "it is tried for ever"
        if call == 5:
            network.advance_to(validator.participant.times(WINDOW).void_block + 1)
        return REFUSED

    before_fails(validator, monkeypatch, until_it_is_too_late)
    with events() as names:
        assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert "alternatives_unavailable" in names
    assert alternatives(validator) == {"current", "own", "int8", "int8-groups", "int4-groups"}
    assert [(m.status, m.unique_valid) for m in verdict(validator).miners] == [(m.status, m.unique_valid) for m in body.miners]


def test_a_full_disk_ends_the_validator_and_leaves_the_window_to_its_next_start(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    before_fails(validator, monkeypatch, always(DiskFullError("no space is left")))
    with pytest.raises(DiskFullError):
        validator.advance(WINDOW, threading.Event())
    assert validator.ledger.stage(WINDOW) is WindowStage.SIGHTED
    again = network.validator("validator-0")
    assert again.advance(WINDOW, threading.Event()) is WindowStatus.SCORED


# --- what it judges with ----------------------------------------------------------------------------------------------


def test_a_chain_that_once_does_not_say_who_is_registered_is_asked_again(network: SmallNetwork) -> None:
    chain = faulty(network.chain, metagraph=first(1, ChainError("no connection")))
    validator = network.validator("validator-0", chain=chain)
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert verdict(validator).canonical() == expected(network).canonical()


@pytest.mark.parametrize("error", [CheckpointError("its digest differs"), GrailError("out of memory")])
def test_a_validator_without_the_checkpoint_gives_no_score_and_says_why(network: SmallNetwork, error: GrailError) -> None:
    validator = network.validator("validator-0")
    validator.checkpoint = faulty(validator.checkpoint, at=always(error))
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.INCONCLUSIVE
    body = verdict(validator)
    assert (body.status, body.miners) == (WindowStatus.INCONCLUSIVE, ())
    assert error.what in body.reason


# --- what it leaves behind --------------------------------------------------------------------------------------------


def test_who_sees_a_verdict_can_read_what_it_names(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    validator = network.validator("validator-0")
    put, seen = FilesystemStore.put, []

    def recorded(store: FilesystemStore, key: str, data: bytes, *, if_absent: bool = False) -> Any:
        seen.append((key, validator.ledger.stage(WINDOW)))
        return put(store, key, data, if_absent=if_absent)

    monkeypatch.setattr(FilesystemStore, "put", recorded)
    validator.advance(WINDOW, threading.Event())
    (shared, stage), *rest = seen
    assert (shared.startswith(FILE_PREFIX), stage) == (True, WindowStage.SIGHTED)  # the bytes, before anything is said of them
    keys = (evidence_key(WINDOW), verdict_key(WINDOW))
    assert rest == [(key, WindowStage.JUDGED) for key in keys]  # in the ledger before anybody can see it


def test_what_a_killed_validator_had_judged_is_out_before_it_waits_for_anything(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "put", faulty(validator.participant.own_store, put=always(REFUSED)).put)
        validator.advance(WINDOW, threading.Event())
    assert validator.ledger.unfinished() == [WINDOW]
    stopped = threading.Event()
    stopped.set()
    again = network.validator("validator-0")
    assert again.run(stopped) == 0
    assert again.ledger.unfinished() == []
    assert verdict(again).status is WindowStatus.SCORED


def test_fetched_files_of_a_judged_window_leave_the_cache(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    validator.advance(WINDOW, threading.Event())
    assert validator.participant.files.bytes_used() == 0


def test_a_window_nobody_could_judge_takes_nobodys_score(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    validator.advance(WINDOW, threading.Event())
    scored = verdict(validator)
    hotkey = network.signers["miner-0"].hotkey
    miner = scored.miner(hotkey)
    assert miner is not None
    assert miner.status is MinerStatus.ACCEPTED
    following = Window(WINDOW + 30)
    network.advance_to(following + 38)  # first sight of the next one is over
    assert validator.advance(following, threading.Event()) is WindowStatus.INCONCLUSIVE
    raw = validator.participant.own_store.get(verdict_key(following), max_bytes=10**7)
    body = SignedVerdict.decode(raw).body
    assert body.score_inputs[miner.uid].supported == scored.score_inputs[miner.uid].supported > 0
    assert body.weights == weights(body.score_inputs, network.params)
    assert body.weights[miner.uid] > 0


def test_a_window_whose_blocks_the_chain_has_forgotten_is_told_and_holds_no_later_one_up(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    network.advance_to(WINDOW + 400)
    chain = validator.participant.chain
    now = chain.metagraph

    def forgetful(block: Block | None = None) -> Metagraph:
        if block is not None:
            raise ChainError(f"the state of block {block} is gone")
        return now()

    monkeypatch.setattr(chain, "metagraph", forgetful)
    assert validator.advance(WINDOW, threading.Event()) is WindowStatus.INCONCLUSIVE
    assert "is gone" in verdict(validator).reason


# --- its own disk -----------------------------------------------------------------------------------------------------


def test_a_cache_and_a_memory_that_are_damaged_cost_no_window(network: SmallNetwork) -> None:
    validator = network.validator("validator-0")
    source = validator.participant.checkpoints
    source.materialise(source.valid_at(WINDOW))
    damaged = [path for path in source.cache.root.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(damaged) > 5
    for path in [*damaged, validator.participant.state.seen]:
        path.write_bytes(b"\x00" + path.read_bytes()[1:])
    again = network.validator("validator-0")
    with events() as names:
        assert again.advance(WINDOW, threading.Event()) is WindowStatus.SCORED
    assert {"seen_restored", "cached_object_dropped"} <= set(names)
    assert verdict(again).canonical() == expected(network).canonical()
