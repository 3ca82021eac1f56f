"""One window from mining to verdict, with real files, keys, chain, beacon, store and model: who is paid, and why not."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.errors import ProtocolViolationError, StorageError
from grail_core.files.evidence import read_evidence, write_evidence
from grail_core.files.verdicts import read_verdict
from grail_core.keys import ss58
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.protocol import MinerStatus, MinerVerdict, MinerWindow, Seal, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import evidence_key, file_key, seal_key, window_key
from grail_core.verification import model_checks, reward
from grail_core.verification.challenged import MOST_COMPARED_FIRST
from grail_validator.compared_models import ComparedModels
from grail_validator.ledger import Ledger
from grail_validator.service import ValidatorService
from tooling.adversaries.tampering import (
    Tamper,
    change_rollout,
    end_put_first,
    last_token_cut,
    map_rollouts,
    prompt_changed,
    tokens_changed,
    zero_sketches,
)
from tooling.testing import mining
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

GROUPS = range(2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    network = SmallNetwork(tmp_path, model=model)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def upload(network: SmallNetwork, name: str, data: bytes) -> None:
    mining.upload(network, network.mining(name), name, data, FIRST_WINDOW)


def sight(network: SmallNetwork, validator: ValidatorService) -> None:
    network.advance_to(FIRST_WINDOW + 30)
    validator.first_sight.sight(FIRST_WINDOW)


def judge(network: SmallNetwork, validator: ValidatorService) -> VerdictBody:
    network.advance_to(FIRST_WINDOW + 42)
    validator.advance(FIRST_WINDOW, threading.Event())
    return published(validator).body


def published(validator: ValidatorService) -> SignedVerdict:
    participant = validator.participant
    verdict = read_verdict(participant.own_store, FIRST_WINDOW, participant.signer.hotkey, participant.network_id)
    assert verdict is not None
    return verdict


def verdict_on(network: SmallNetwork, name: str, data: bytes) -> MinerVerdict:
    upload(network, name, data)
    validator = network.validator("validator-0")
    sight(network, validator)
    miner = judge(network, validator).miner(network.signers[name].hotkey)
    assert miner is not None
    return miner


def tampered(network: SmallNetwork, change: Tamper) -> bytes:
    """A correctly signed and bound file of changed rows: what a miner who lies consistently uploads."""
    miner = network.mining("miner-0")
    context = network.participant("miner-0").open_window(FIRST_WINDOW)
    loaded = miner.select_model(context)
    return miner.pack(context, loaded, change(miner.produce_groups(context, loaded, GROUPS)))


def test_two_validators_accept_an_honest_file_and_publish_the_same_body(network: SmallNetwork) -> None:
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS)
    upload(network, "miner-0", data)
    validators = [network.validator("validator-0"), network.validator("validator-1")]
    for validator in validators:
        sight(network, validator)
    bodies = [judge(network, validator) for validator in validators]
    assert bodies[0].canonical() == bodies[1].canonical()
    assert bodies[0].status is WindowStatus.SCORED
    miner = bodies[0].miner(network.signers["miner-0"].hotkey)
    assert miner is not None
    assert (miner.status, miner.declared, miner.checked) == (MinerStatus.ACCEPTED, 32, True)
    assert miner.unique_valid > 0
    assert bodies[0].weights[miner.uid] > 0
    absent = bodies[0].miner(network.signers["miner-1"].hotkey)
    assert absent is not None
    assert (absent.status, bodies[0].weights[absent.uid]) == (MinerStatus.ABSENT, 0)


def test_the_published_files_are_those_the_verdict_names(network: SmallNetwork) -> None:
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS)
    upload(network, "miner-0", data)
    validator = network.validator("validator-0")
    sight(network, validator)
    judge(network, validator)
    store = validator.participant.own_store
    (accepted,) = (miner for miner in published(validator).body.miners if miner.status is MinerStatus.ACCEPTED)
    assert accepted.content_digest is not None
    assert store.get(file_key(accepted.content_digest), max_bytes=10**7) == data
    evidence = store.get(evidence_key(FIRST_WINDOW), max_bytes=10**7)
    assert write_evidence(read_evidence(evidence)) == evidence
    rollouts = read_evidence(evidence)[0].rollouts
    assert len(rollouts) == 32
    assert all(one.reference is not None for one in rollouts)
    compared = [one for one in rollouts if one.compared is not None]
    assert len(compared) in (MOST_COMPARED_FIRST, 32)
    for one in compared:
        assert one.compared is not None
        # No earlier checkpoint is there in the first window; its own rounded ones, and the ways to sample, always are.
        assert sorted(one.compared.z) == ["current", *ROUNDED, "own"]
        assert sorted(one.compared.leads) == sorted([*ROUNDED, *SAMPLING_ALTERNATIVES])
        assert set(one.positions.tolist()) <= set(one.compared.positions)


ROUNDED = ["int4-groups", "int8", "int8-groups"]


def test_an_operator_may_compare_with_less_and_the_ways_to_sample_stay(network: SmallNetwork) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    validator.compared = ComparedModels(earlier=0, rounded=False)
    sight(network, validator)
    verdict = judge(network, validator).miner(network.signers["miner-0"].hotkey)
    assert verdict is not None
    assert verdict.status is MinerStatus.ACCEPTED
    miner = read_evidence(validator.participant.own_store.get(evidence_key(FIRST_WINDOW), max_bytes=10**7))[0]
    compared = [one.compared for one in miner.rollouts if one.compared is not None]
    assert len(compared) in (MOST_COMPARED_FIRST, 32)
    assert all(sorted(one.z) == ["current", "own"] for one in compared)
    assert all(sorted(one.leads) == sorted(SAMPLING_ALTERNATIVES) for one in compared)


def test_no_alternative_is_run_for_a_file_that_fails_without_it(network: SmallNetwork) -> None:
    miner = network.mining("miner-0")
    context = network.participant("trainer").open_window(FIRST_WINDOW)
    loaded = miner.select_model(context)
    groups = miner.produce_groups(context, loaded, GROUPS)
    upload(network, "miner-0", miner.pack(context, loaded, map_rollouts(zero_sketches)(groups)))
    validator = network.validator("validator-0")
    sight(network, validator)
    verdict = judge(network, validator).miner(network.signers["miner-0"].hotkey)
    assert verdict is not None
    assert verdict.status is MinerStatus.FAILED
    evidence = read_evidence(validator.participant.own_store.get(evidence_key(FIRST_WINDOW), max_bytes=10**7))[0]
    assert len(evidence.rollouts) == 32
    assert all(one.compared is None for one in evidence.rollouts)


def test_checks_six_to_nine_run_once_a_rollout_also_for_files_that_go_on_to_the_alternatives(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    sight(network, validator)
    asked: Counter[str] = Counter()

    def counting(owner: object, name: str, places: Callable[..., list[tuple[int, int]]]) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            asked.update(f"{name} {place}" for place in places(*arguments, **options))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    counting(reward, "check_rewards", lambda submission, evidence: [(one.group, one.rollout) for one in evidence.rollouts])
    counting(model_checks, "compare", lambda group, rollout, **_: [(group, rollout)])
    counting(model_checks, "own_statistics", lambda sample, *_, **__: [(one.group, one.rollout) for one in sample])
    judge(network, validator)
    evidence = read_evidence(validator.participant.own_store.get(evidence_key(FIRST_WINDOW), max_bytes=10**7))[0]
    assert any(one.compared is not None for one in evidence.rollouts)
    # Each is put beside what was measured once more, to see whether its reference says anything at all.
    times = {"check_rewards": 1, "own_statistics": 1, "compare": 2}
    assert len(asked) == len(times) * 32
    assert all(count == times[name.split()[0]] for name, count in asked.items())


def test_evidence_whose_alternatives_cannot_be_judged_is_none(network: SmallNetwork) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    sight(network, validator)
    judge(network, validator)
    miner = read_evidence(validator.participant.own_store.get(evidence_key(FIRST_WINDOW), max_bytes=10**7))[0]
    at = next(at for at, one in enumerate(miner.rollouts) if one.compared is not None)
    first = miner.rollouts[at]
    assert first.compared is not None
    without = {name: z for name, z in first.compared.z.items() if name != "current"}
    for spoilt in ({"z": without}, {"positions": first.compared.positions[:-1]}, {"noise": first.compared.noise[:-1]}):
        broken = dataclasses.replace(first, compared=dataclasses.replace(first.compared, **spoilt))
        rest = [one for number, one in enumerate(miner.rollouts) if number != at]
        with pytest.raises(ProtocolViolationError, match="not evidence"):
            read_evidence(write_evidence([dataclasses.replace(miner, rollouts=(broken, *rest))]))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (map_rollouts(zero_sketches), "proof"),
        (map_rollouts(tokens_changed(200)), "proof"),
        (map_rollouts(prompt_changed(200)), "prompt"),
        (map_rollouts(end_put_first(END_TOKEN_ID)), "termination"),
        (map_rollouts(last_token_cut), "termination"),
        (change_rollout(0, 3, reward=1.0, success=True), "reward"),
        (change_rollout(1, 0, tokens=np.full(40, 299, np.int32), prompt_length=32), "schema"),
    ],
    ids=["zero sketches", "changed tokens", "other prompt", "early end token", "cut", "false reward", "vocabulary"],
)
def test_a_lie_fails_the_window_and_names_its_check(network: SmallNetwork, change: Tamper, check: str) -> None:
    miner = verdict_on(network, "miner-0", tampered(network, change))
    assert miner.status is MinerStatus.FAILED, miner
    assert miner.reason.startswith(check), miner.reason
    assert miner.unique_valid == 0


def test_a_gap_within_the_allowance_costs_seven_groups_more(network: SmallNetwork) -> None:
    miner = verdict_on(network, "miner-0", tampered(network, lambda groups: list(groups[1:])))
    assert (miner.status, miner.gaps, miner.declared) == (MinerStatus.ACCEPTED, 1, 0)


def test_another_miners_file_signed_anew_fails(network: SmallNetwork) -> None:
    victim = network.mining("miner-0")
    context = network.participant("miner-0").open_window(FIRST_WINDOW)
    loaded = victim.select_model(context)
    groups = victim.produce_groups(context, loaded, GROUPS)
    copier = network.mining("miner-1")
    miner = verdict_on(network, "miner-1", copier.pack(context, copier.select_model(context), groups))
    assert miner.status is MinerStatus.FAILED
    assert miner.reason.startswith("prompt")  # problems follow from the hotkey, and so do sampling seeds


def test_garbage_that_was_sealed_counts_as_a_failed_window_never_as_absent(network: SmallNetwork) -> None:
    mine = network.mining("miner-0")
    data = network.mine(mine, FIRST_WINDOW, GROUPS)
    seal = mining.upload(network, mine, "miner-0", data, FIRST_WINDOW)
    garbage = b"PAR1 nothing of the kind"
    digest = Digest(hashlib.sha256(garbage).digest())
    message = Seal.message(network.participant("miner-0").network_id, seal.kind, seal.header, digest, len(garbage))
    sealed = replace(seal, content_digest=digest, size=len(garbage), signature=mine.signer.sign(message))
    own, store = ss58(mine.signer.hotkey), network.participant("miner-0").own_store
    store.put(window_key(own, FIRST_WINDOW), garbage)
    store.put(seal_key(own, FIRST_WINDOW), sealed.encode())
    validator = network.validator("validator-0")
    sight(network, validator)
    miner = judge(network, validator).miner(mine.signer.hotkey)
    assert miner is not None
    assert (miner.status, miner.checked, miner.declared) == (MinerStatus.FAILED, True, 32)
    assert miner.reason.startswith("file")


@pytest.mark.parametrize("fate", ["replaced", "deleted", "denied", "longer"])
def test_a_sealed_file_that_is_not_there_when_it_is_drawn_fails(network: SmallNetwork, fate: str) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    upload(network, "miner-1", network.mine(network.mining("miner-1"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    sight(network, validator)
    store, key = network.participant("miner-0").own_store, window_key(ss58(network.signers["miner-0"].hotkey), FIRST_WINDOW)
    if fate == "replaced":
        store.put(key, network.mine(network.mining("miner-0"), FIRST_WINDOW, range(1)))
    elif fate == "longer":
        store.put(key, b"x" + store.get(key, max_bytes=10**8))
    else:
        store.delete(key)
    body = judge(network, validator)
    miner = body.miner(network.signers["miner-0"].hotkey)
    assert miner is not None
    assert (miner.status, miner.declared) == (MinerStatus.FAILED, 32)
    assert "could not be had" in miner.reason
    honest = body.miner(network.signers["miner-1"].hotkey)
    assert honest is not None
    assert honest.status is MinerStatus.ACCEPTED


def test_a_file_deleted_between_two_validators_reads_is_judged_alike_from_the_firsts_bucket(network: SmallNetwork) -> None:
    for name in ("miner-0", "miner-1"):
        upload(network, name, network.mine(network.mining(name), FIRST_WINDOW, GROUPS))
    validators = [network.validator("validator-0"), network.validator("validator-1")]
    for validator in validators:
        sight(network, validator)
    first = judge(network, validators[0])
    store, key = network.participant("miner-0").own_store, window_key(ss58(network.signers["miner-0"].hotkey), FIRST_WINDOW)
    store.delete(key)
    assert judge(network, validators[1]).canonical() == first.canonical()
    assert {miner.status for miner in first.miners if miner.coin is not None} == {MinerStatus.ACCEPTED}


def test_a_seal_without_its_file_at_the_deadline_fails_and_a_file_without_its_seal_is_absent(network: SmallNetwork) -> None:
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS)
    upload(network, "miner-0", data)
    upload(network, "miner-1", network.mine(network.mining("miner-1"), FIRST_WINDOW, GROUPS))
    own = {name: ss58(network.signers[name].hotkey) for name in ("miner-0", "miner-1")}
    network.participant("miner-0").own_store.delete(window_key(own["miner-0"], FIRST_WINDOW))
    network.participant("miner-1").own_store.delete(seal_key(own["miner-1"], FIRST_WINDOW))
    validator = network.validator("validator-0")
    sight(network, validator)
    body = judge(network, validator)
    statuses = {name: body.miner(network.signers[name].hotkey).status for name in own}  # type: ignore[union-attr]
    assert statuses == {"miner-0": MinerStatus.FAILED, "miner-1": MinerStatus.ABSENT}


def test_a_file_stored_after_the_deadline_is_no_window_file(network: SmallNetwork) -> None:
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS)
    network.advance_to(FIRST_WINDOW + 31)
    upload(network, "miner-0", data)
    validator = network.validator("validator-0")
    validator.first_sight.sight(FIRST_WINDOW)
    miner = judge(network, validator).miner(network.signers["miner-0"].hotkey)
    assert miner is not None
    assert (miner.status, miner.active) == (MinerStatus.ABSENT, False)


def test_a_validator_that_missed_first_sight_says_so_and_costs_nobody_anything(network: SmallNetwork) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    network.advance_to(FIRST_WINDOW + 40)
    validator.first_sight.sight(FIRST_WINDOW)
    body = judge(network, validator)
    assert body.status is WindowStatus.INCONCLUSIVE
    assert "first sight" in body.reason
    assert not body.miners


def test_a_validator_killed_at_any_step_counts_a_window_once(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    sight(network, network.validator("validator-0"))
    reference = network.validator("validator-1")
    sight(network, reference)
    expected = judge(network, reference)
    for owner, name in ((Ledger, "record_judged"), (FilesystemStore, "put"), (Ledger, "record_published")):
        validator = network.validator("validator-0")  # a new process: only what is on disk is left
        with monkeypatch.context() as patch:

            def killed(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(owner, name, killed)
            with pytest.raises(KeyboardInterrupt):
                _resume(validator)
    validator = network.validator("validator-0")
    _resume(validator)
    assert published(validator).body.canonical() == expected.canonical()
    history = validator.ledger.history(FIRST_WINDOW + 30)  # type: ignore[arg-type]
    assert [len(windows) for windows in history.values()] == [1] * len(history)


def test_a_result_that_the_store_refused_goes_out_with_the_next_window(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    sight(network, validator)
    network.advance_to(FIRST_WINDOW + 38)
    with monkeypatch.context() as patch:

        def refused(*_: object, **__: object) -> None:
            raise StorageError("the disk is full")

        patch.setattr(FilesystemStore, "put", refused)
        validator.advance(FIRST_WINDOW, threading.Event())
    assert validator.ledger.unfinished() == [FIRST_WINDOW]
    validator.publish_the_rest(threading.Event())
    assert validator.ledger.unfinished() == []
    assert published(validator).body.status is WindowStatus.SCORED


def test_a_store_that_takes_nothing_is_tried_once_a_turn_however_many_windows_wait(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = network.validator("validator-0")
    tries: list[str] = []

    def refused(store: FilesystemStore, key: str, *_: object, **__: object) -> None:
        tries.append(key)
        raise StorageError("no answer")

    monkeypatch.setattr(FilesystemStore, "put", refused)
    network.advance_to(FIRST_WINDOW + 98)  # of these windows it has seen nothing
    windows = [Window(FIRST_WINDOW + 30 * number) for number in range(3)]
    for window in windows:
        validator.advance(window, threading.Event())
    assert validator.ledger.unfinished() == windows
    tries.clear()
    validator.publish_the_rest(threading.Event())
    assert tries == [evidence_key(FIRST_WINDOW)]


def test_a_validator_whose_ledger_is_an_older_copy_leaves_and_remembers_the_verdict_it_has_published(
    network: SmallNetwork,
) -> None:
    upload(network, "miner-0", network.mine(network.mining("miner-0"), FIRST_WINDOW, GROUPS))
    validator = network.validator("validator-0")
    sight(network, validator)
    said = judge(network, validator)
    shutil.rmtree(network.root / "state" / "validator-0")
    restored = network.validator("validator-0")
    assert restored.ledger.last_judged() is None
    restored.advance(FIRST_WINDOW, threading.Event())  # it was never there at first sight, as far as it knows
    assert published(restored).body.canonical() == said.canonical()
    assert restored.ledger.unfinished() == []
    kept = restored.ledger.files(FIRST_WINDOW)
    assert kept is not None
    assert SignedVerdict.decode(kept.verdict) == published(restored)  # weights are of what is published, too
    following = Window(FIRST_WINDOW + 30)
    assert restored.ledger.history(following) == validator_history(said, following)
    restored.ledger.require_whole()


def validator_history(body: VerdictBody, before: Window) -> dict[Hotkey, list[MinerWindow]]:
    """What is to be remembered of one window's body."""
    assert body.window < before
    return {miner.hotkey: [miner.miner_window(body.window)] for miner in sorted(body.miners, key=lambda one: one.hotkey)}


def _resume(validator: ValidatorService) -> None:
    """What a restarted validator does first, without waiting for further windows."""
    validator.publish_the_rest(threading.Event())
    validator.advance(FIRST_WINDOW, threading.Event())
