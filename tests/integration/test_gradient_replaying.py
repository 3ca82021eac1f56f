"""A published round judged again: the same bytes from published files alone, and whatever was changed is found and named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.corpus import Corpus
from grail_core.files.confined.opening import Confined
from grail_core.files.gradient_evidence import MinerMeasured, read_round_evidence, write_round_evidence
from grail_core.participant.settings import load_settings
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.round_work import Scored
from grail_core.proof.trained_model import I32
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.judging import RoundFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody, MergeSeen
from grail_core.protocol.signed_verdicts import Adopted
from grail_core.protocol.types import Digest, Window
from grail_core.protocol.verdicts import MinerStatus, WindowInputs, WindowStatus
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import evidence_key, opening_key, seal_key, update_key, verdict_key
from grail_miner.gradient.training import Training
from grail_validator.gradient.judging import MinerCase, RoundCase, judge
from grail_validator.gradient.replaying import RoundCheckpoint, RoundReplayer, RoundSources, round_verdict
from grail_validator.published import BucketVerdicts, Published
from grail_validator.replay import Sources
from grail_validator.replay_command import Checkpoints, RoundsAgain
from grail_validator.replay_report import Outcome, Replay
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_specs import TINY
from tooling.testing.played_rounds import PlayedRound, play_round

SPEC = replace(TINY, common=6, own=4, guard=2, inner_steps=2)
NAMES = ("miner-0", "miner-1", "miner-2", "miner-3")
ROUNDS = (Window(30), Window(60))


class OtherData(Training):
    """Trains on what nobody assigned to it."""

    def batches(self, context: RoundContext, uid: int, batch: int) -> list[I32]:
        corpus: Corpus = self.corpus_of(context.manifest.environment)
        return [np.stack([corpus.sequence(index) for index in range(batch)])] * context.spec.inner_steps


@dataclass(frozen=True)
class Court:
    """A network, two judged rounds of it, and one validator's bucket in which they lie."""

    network: GradientNetwork
    played: tuple[PlayedRound, ...]
    bodies: tuple[GradientVerdictBody, ...]

    @property
    def bucket(self) -> ObjectStore:
        return self.network.participant("validator-0").own_store

    def publish(
        self, body: GradientVerdictBody, evidence: bytes, *, by: str = "validator-0", adopted: Adopted | None = None
    ) -> None:
        signer, store = self.network.signers[by], self.network.participant(by).own_store
        digest = Digest(hashlib.sha256(evidence).digest()) if evidence else None
        signature = signer.sign(SignedGradientVerdict.message(body, signer.hotkey, digest, adopted))
        store.put(evidence_key(body.window), evidence)
        verdict = SignedGradientVerdict(body, signer.hotkey, signature, digest, adopted)
        store.put(verdict_key(body.window), verdict.encode())

    def evidence(self, window: Window) -> bytes:
        return self.bucket.get(evidence_key(window), max_bytes=1 << 24)

    def published(self, *names: str, by: str = "validator-0") -> Published:
        """A validator's verdicts, and these buckets beside its own."""
        own, *beside = (self.network.participant(name).own_store for name in (by, *names))
        return Published(BucketVerdicts(own), own, beside)

    @property
    def beacon(self) -> dict[int, SignedRound]:
        return {b.round: b for one in self.played for b in (one.context.window.beacon, one.challenge.beacon) if b}

    def replayed(self, window: Window, *, by: str = "validator-0", beside: tuple[str, ...] = NAMES) -> Replay:
        model = self.played[0].model
        pinned = self.network.participant("trainer").checkpoints.table(model.manifest)
        shape = Shape(model.policy.layers, model.policy.hidden_size)
        checkpoint = RoundCheckpoint(model.manifest, model.theta, model.layout, shape, pinned.table, pinned.name)
        published = self.published(*beside, by=by)
        with Confined() as confined:
            sources = RoundSources(self.network.params, published, confined, lambda *_: checkpoint, self.beacon.get)
            verdict = round_verdict(published.verdicts.read(window))
            assert verdict is not None
            return RoundReplayer(sources).round(verdict, window)


def case_of(played: PlayedRound, memory: GradientMemory) -> RoundCase:
    network, times = played.network, played.context.times
    merged = played.revealed("miner-0", memory.of(network.signers["miner-0"].hotkey).standing.feedback or Digest(bytes(32)))
    seen = MergeSeen(Digest(bytes(32)), ((merged.sealer.uid, merged.sealer.seal.content_digest),))
    pinned = network.participant("trainer").checkpoints.table(played.model.manifest)
    return RoundCase(
        round=played.round,
        challenge=played.challenge,
        scene=played.scene,
        miners=tuple(MinerCase(played.neuron(name), *played.objects(name)) for name in NAMES),
        memory=memory,
        registered={one.uid: one.hotkey for one in played.neurons},
        rule=network.params,
        start_ms=network.block_time_ms(times.first_block),
        deadline_ms=network.block_time_ms(times.deadline_block),
        highest_uid=max(one.uid for one in played.neurons),
        merged=seen,
        pair=lambda proof_class: pinned.table.lookup(proof_class, DEFAULT_CLASS),
        calibration=pinned.name,
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Court:
    """Two honest miners, one of which opens nothing in the second round, one on other data, one that shows nothing."""
    network = GradientNetwork(tmp_path_factory.mktemp("network"), SPEC, miners=4, validators=2)
    memory, played, bodies, evidence = GradientMemory(), list[PlayedRound](), list[GradientVerdictBody](), list[bytes]()
    for window in ROUNDS:
        unopened = ("miner-1",) if memory.last else ()
        one = play_round(network, NAMES, window, factories={"miner-2": OtherData}, silent=("miner-3",), unopened=unopened)
        result = judge(case_of(one, memory))
        memory = memory.after(result.body, SPEC)
        played.append(one)
        bodies.append(result.body)
        evidence.append(write_round_evidence(result.measured))
    court = Court(network, tuple(played), tuple(bodies))
    for body, data in zip(bodies, evidence, strict=True):
        court.publish(body, data)
    return court


@pytest.fixture
def court(judged: Court) -> Iterator[Court]:
    """As published; whatever a test changes is put back."""
    kept: list[tuple[ObjectStore, str, bytes]] = []
    for name in ("validator-0", "validator-1", *NAMES):
        store = judged.network.participant(name).own_store
        kept += [(store, info.key, store.get(info.key, max_bytes=1 << 26)) for info in store.list("grail/")]
    yield judged
    for store, key, data in kept:
        if store.get(key, max_bytes=1 << 26) != data:  # else it keeps its time
            store.put(key, data)


def statuses(body: GradientVerdictBody, court: Court) -> dict[str, MinerStatus]:
    found = {name: body.miner(court.network.signers[name].hotkey) for name in NAMES}
    return {name: one.status for name, one in found.items() if one is not None}


def test_the_rounds_are_worth_replaying(judged: Court) -> None:
    for body in judged.bodies:
        said = statuses(body, judged)
        assert said["miner-0"] is MinerStatus.ACCEPTED
        assert any("sketch_ratio" in one.detail and "not enforced" not in one.detail for m in body.miners for one in m.findings)
        assert said["miner-3"] is MinerStatus.FAILED
        assert said["miner-2"] is MinerStatus.FAILED
    assert statuses(judged.bodies[1], judged)["miner-1"] is MinerStatus.FAILED


@pytest.mark.parametrize("window", ROUNDS)
def test_a_round_is_the_same_from_published_files_alone(court: Court, window: Window) -> None:
    again = court.replayed(window)
    assert (again.outcome, again.faults, again.difference) == (Outcome.EQUAL, (), None)
    assert again.rejudged == 4
    assert "inputs" in {one.what for one in again.taken}


def test_evidence_of_better_losses_gives_another_score_and_is_found(court: Court) -> None:
    body = court.bodies[1]
    first, *rest = read_round_evidence(court.evidence(ROUNDS[1]))
    assert first.common is not None
    better = replace(first, common=Scored(first.common.before, first.common.after - 1))
    court.publish(body, write_round_evidence([better, *rest]))
    again = court.replayed(ROUNDS[1])
    assert again.outcome is Outcome.DIFFERENT
    assert again.difference is not None
    assert again.difference.path.startswith("miners[uid 1]")


Change = Callable[[MinerMeasured], MinerMeasured]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda one: replace(one, content_digest=Digest(b"x" * 32)), "about another file"),
        (lambda one: replace(one, step=None, replayed=None), "has not the replayed step of uid 1"),
        (lambda one: replace(one, sketches=None), "has not the sketches of uid 1"),
        (lambda one: replace(one, common=None, own=None), "has not the losses of uid 1"),
        (lambda one: replace(one, common=Scored(one.common.before + 1, one.common.after + 1)), "losses before"),
        (lambda one: replace(one, numerics_class="bf16-eager-cuda-transformers"), "may measure in numerics class"),
    ],
)
def test_evidence_that_no_verdict_can_rest_on_is_named(court: Court, change: Change, fault: str) -> None:
    first, *rest = read_round_evidence(court.evidence(ROUNDS[0]))
    court.publish(court.bodies[0], write_round_evidence([change(first), *rest]))
    again = court.replayed(ROUNDS[0])
    assert again.outcome is Outcome.DIFFERENT
    assert any(fault in one for one in again.faults), again.faults


def test_another_weight_rating_or_status_is_the_first_member_that_differs(court: Court) -> None:
    body, evidence = court.bodies[1], court.evidence(ROUNDS[1])
    weights = dict(body.weights)
    uid, other = sorted(weights)[:2]
    weights[uid], weights[other] = weights[uid] - 1, weights[other] + 1
    court.publish(replace(body, weights=weights), evidence)
    again = court.replayed(ROUNDS[1])
    assert again.difference is not None
    assert again.difference.path.startswith("weights[")
    honest = body.miner(court.network.signers["miner-0"].hotkey)
    assert honest is not None
    assert honest.rating_after is not None
    raised = replace(honest, rating_after=replace(honest.rating_after, mu=honest.rating_after.mu + 1))
    court.publish(replace(body, miners=tuple(raised if one is honest else one for one in body.miners)), evidence)
    again = court.replayed(ROUNDS[1])
    assert again.difference is not None
    assert again.difference.path == f"miners[uid {honest.uid}].rating_after[0]"


def test_without_the_round_before_scores_are_others_and_it_is_said(court: Court) -> None:
    forged = replace(court.bodies[0], reason="another body")
    signer = court.network.signers["miner-0"]
    signature = signer.sign(SignedGradientVerdict.message(forged, signer.hotkey))
    court.bucket.put(verdict_key(ROUNDS[0]), SignedGradientVerdict(forged, signer.hotkey, signature).encode())
    again = court.replayed(ROUNDS[1])
    assert again.outcome is Outcome.DIFFERENT, "a body that another signed is not remembered"


def test_evidence_that_was_not_signed_is_not_read(court: Court) -> None:
    court.bucket.put(evidence_key(ROUNDS[0]), write_round_evidence([]))
    again = court.replayed(ROUNDS[0])
    assert again.outcome is Outcome.DIFFERENT
    assert "not those whose digest" in again.faults[0]


def test_a_verdict_of_somebody_else_or_another_round_is_refused(court: Court) -> None:
    raw = court.bucket.get(verdict_key(ROUNDS[0]), max_bytes=1 << 24)
    court.bucket.put(verdict_key(ROUNDS[1]), raw)
    assert "copied to another key" in court.replayed(ROUNDS[1]).faults[0]
    court.bucket.put(verdict_key(ROUNDS[0]), raw.replace(b'"ineligible":[]', b'"ineligible":[1]'))
    assert "signature" in court.replayed(ROUNDS[0]).faults[0]


def test_another_calibration_than_the_pinned_one_is_named(court: Court) -> None:
    body = court.bodies[0]
    other = replace(body, versions=replace(body.versions, calibration="mine/1 0123456789abcdef"))
    court.publish(other, court.evidence(ROUNDS[0]))
    again = court.replayed(ROUNDS[0])
    assert again.outcome is Outcome.DIFFERENT
    assert "judged by calibration mine/1" in again.faults[0]


@pytest.mark.parametrize(
    ("key_of", "reason"),
    [(seal_key, "the seal of uid 1"), (update_key, "the update of uid 1"), (opening_key, "the opening of uid 1")],
)
def test_what_is_not_there_any_more_is_no_difference(court: Court, key_of: Callable[[str, Window], str], reason: str) -> None:
    store = court.network.participant("miner-0").own_store
    store.put(key_of(court.network.signers["miner-0"].ss58, ROUNDS[0]), b"something else")
    again = court.replayed(ROUNDS[0])
    assert again.outcome is Outcome.UNREADABLE
    assert reason in again.reason


def test_the_command_finds_verdict_checkpoint_and_files_in_buckets_alone(court: Court, tmp_path: Path) -> None:
    settings = load_settings(bt_network="local", cache_dir=tmp_path, state_dir=tmp_path)
    published = court.published(*NAMES, "trainer")
    checkpoints = Checkpoints(settings, court.network.params, published)
    with Confined() as confined:
        sources = Sources(court.network.params, published, confined, checkpoints.at, court.beacon.get, lambda _: True)
        rounds = RoundsAgain(sources, checkpoints, None)
        found = [rounds.replayed(window) for window in (*ROUNDS, Window(90))]
    assert [one and one.outcome for one in found] == [Outcome.EQUAL, Outcome.EQUAL, None]


def test_a_round_that_was_void_is_the_same_again(court: Court) -> None:
    memory = GradientMemory()
    for body in court.bodies:
        memory = memory.after(body, SPEC)
    last = court.bodies[1]
    facts = RoundFacts(
        network_id=last.network_id,
        spec=SPEC,
        window=Window(90),
        versions=last.versions,
        inputs=WindowInputs(),
        rule=court.network.params,
        registered=last.hotkeys,
        status=WindowStatus.VOID,
        reason="no beacon",
    )
    court.publish(judge_round(facts, memory), b"")
    again = court.replayed(Window(90))
    assert (again.outcome, again.difference) == (Outcome.EQUAL, None)
    assert {one.what for one in again.taken} == {"inputs", "spec", "status"}
    court.publish(judge_round(facts, GradientMemory()), b"")
    assert court.replayed(Window(90)).outcome is Outcome.DIFFERENT, "who earns in a void round follows from the rounds before"


def test_a_validator_that_began_with_anothers_body_is_replayed_from_that(court: Court) -> None:
    memory = GradientMemory().with_files_missed().after(court.bodies[0], SPEC)
    result = judge(case_of(court.played[1], memory))
    leader = court.network.signers["validator-0"].hotkey
    adopted = Adopted(leader, ROUNDS[0], ROUNDS[0])
    court.publish(result.body, write_round_evidence(result.measured), by="validator-1", adopted=adopted)
    assert court.replayed(ROUNDS[1], by="validator-1", beside=(*NAMES, "validator-0")).outcome is Outcome.EQUAL
    alone = court.replayed(ROUNDS[1], by="validator-1")
    assert alone.outcome is Outcome.UNREADABLE
    assert "was adopted from" in alone.reason


def test_without_the_beacon_nothing_is_decided(court: Court) -> None:
    nowhere = replace(court, played=())
    assert nowhere.beacon == {}
    with Confined() as confined:
        model = court.played[0].model
        pinned = court.network.participant("trainer").checkpoints.table(model.manifest)
        checkpoint = RoundCheckpoint(model.manifest, model.theta, model.layout, Shape(2, 48), pinned.table, pinned.name)
        sources = RoundSources(
            court.network.params, court.published(*NAMES), confined, lambda *_: checkpoint, nowhere.beacon.get
        )
        verdict = round_verdict(court.bucket.get(verdict_key(ROUNDS[0]), max_bytes=1 << 24))
        assert verdict is not None
        again = RoundReplayer(sources).round(verdict, ROUNDS[0])
    assert again.outcome is Outcome.UNREADABLE
    assert "beacon round" in again.reason
