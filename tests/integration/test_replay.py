"""A published verdict is judged again from buckets alone: equal, or what differs first; and what is taken is named."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.errors import ProtocolViolationError, StorageError
from grail_core.files.evidence import MinerEvidence, read_evidence, write_evidence
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.settings import load_settings
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import evidence_key, file_key, seal_key, verdict_key, window_key
from grail_validator.replay_command import ReplayRequest, replay_command
from tooling.adversaries.miners import ZeroSketch
from tooling.testing.driven_chain import Driven
from tooling.testing.mining import upload
from tooling.testing.network import FIRST_WINDOW, GENESIS_S
from tooling.testing.small_network import SmallNetwork, make_model

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
NAMES = ("miner-0", "miner-1", "miner-2")


@dataclass(frozen=True)
class Run:
    """What two judged windows left behind; only the buckets are read again."""

    root: Path
    signers: dict[str, LocalSigner]
    network: Path

    def bucket(self, name: str) -> Path:
        return self.root / f"bucket-{name}"

    def verdict(self, window: Window) -> SignedVerdict:
        return SignedVerdict.decode((self.bucket("validator-0") / verdict_key(window)).read_bytes())

    def say(self, body: VerdictBody, evidence: bytes | None = None) -> None:
        """The validator publishes something else, in good form and signed."""
        signer, bucket = self.signers["validator-0"], self.bucket("validator-0")
        known = self.verdict(body.window).evidence_digest
        digest = known if evidence is None else Digest(hashlib.sha256(evidence).digest())
        if evidence is not None:
            (bucket / evidence_key(body.window)).write_bytes(evidence)
        message = SignedVerdict.message(body, signer.hotkey, digest)
        verdict = SignedVerdict(body, signer.hotkey, signer.sign(message), digest)
        (bucket / verdict_key(body.window)).write_bytes(verdict.encode())

    def evidence(self, window: Window) -> list[MinerEvidence]:
        return read_evidence((self.bucket("validator-0") / evidence_key(window)).read_bytes())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("network")
    network = SmallNetwork(root, model=make_model(tmp_path_factory.mktemp("model")), miners=3, validators=1)
    for window, factory in ((FIRST_WINDOW, ZeroSketch), (SECOND_WINDOW, None)):
        network.advance_to(window + 1)
        for name in NAMES:
            mining = network.mining(name, factory) if name == "miner-1" and factory else network.mining(name)
            upload(network, mining, name, network.mine(mining, window, range(5 if name == "miner-0" else 1)), window)
        limit = network.participant("validator-0").times(window).challenge_block + 15  # a file is asked for again and again
        if window == SECOND_WINDOW:  # sealed, and gone once the coins are known
            gone = ss58(network.signers["miner-2"].hotkey)
            (root / "buckets" / "bucket-miner-2" / window_key(gone, window)).unlink()
        validator = network.validator("validator-0", chain=Driven(network.chain, limit))
        assert validator.run(threading.Event(), windows=1) == 1
    parameters = root / "network.json"
    parameters.write_text(json.dumps(network.params.to_json()))
    return Run(root / "buckets", dict(network.signers), parameters)


@pytest.fixture
def run(judged: Run, tmp_path: Path) -> Run:
    """A copy that a test may spoil."""
    shutil.copytree(judged.root, tmp_path / "buckets")
    return replace(judged, root=tmp_path / "buckets")


@contextmanager
def relay() -> Iterator[str]:
    server = Relay(DevelopmentKey.from_seed(b"small network"), genesis_time_s=GENESIS_S, period_s=1, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()


Replaying = Callable[..., tuple[list[dict[str, Any]], type[BaseException] | None]]


@pytest.fixture
def replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replaying:
    def go(run: Run, *windows: int, beacon: str = "") -> tuple[list[dict[str, Any]], type[BaseException] | None]:
        """Each window's outcome, and the error that the command ends with. Nothing but buckets and parameters is told."""
        settings = load_settings(
            bt_network="local",
            bt_chain_endpoint=str(tmp_path / "no-chain"),
            wallet_path=tmp_path / "no-wallet",
            network=str(run.network),
            beacon_urls=beacon,
            cache_dir=tmp_path / "cache",
            state_dir=tmp_path / "state",
        )
        asked = ReplayRequest(windows, not windows, str(run.bucket("validator-0")), (), None, None)
        ended: type[BaseException] | None = None
        try:
            replay_command(settings, asked, as_json=True)
        except (ProtocolViolationError, StorageError) as error:
            ended = type(error)
        return json.loads(capsys.readouterr().out), ended

    return go


def outcome_of(found: tuple[list[dict[str, Any]], type[BaseException] | None]) -> tuple[str, str]:
    (one,), _ = found
    return one["outcome"], " ".join([str(one["difference"]), *one["faults"]])


def test_every_body_comes_out_again_from_the_buckets_alone(run: Run, replayed: Replaying) -> None:
    statuses = {m.status for w in (FIRST_WINDOW, SECOND_WINDOW) for m in run.verdict(w).body.miners}
    assert statuses >= {MinerStatus.ACCEPTED, MinerStatus.FAILED}
    found, ended = replayed(run)
    assert ended is None
    assert [(one["window"], one["outcome"]) for one in found] == [(FIRST_WINDOW, "equal"), (SECOND_WINDOW, "equal")]
    assert [one["rejudged"] for one in found] == [3, 1]  # in a look-back one is hardly drawn
    taken = " ".join(taken["what"] + " " + taken["why"] for taken in found[1]["taken"])
    assert "which bytes this validator could not have" in taken
    assert "beacon round" in taken  # nobody gave it: coins and samples are as said, and that is told


def test_with_the_challenge_round_coins_and_samples_are_made_again_too(run: Run, replayed: Replaying) -> None:
    with relay() as url:
        found, ended = replayed(run, beacon=url)
        assert ended is None
        assert not any(taken["what"] == "challenge" for one in found for taken in one["taken"])
        body = run.verdict(FIRST_WINDOW).body
        miners = tuple(m if m.coin is None else replace(m, coin=m.coin ^ 1) for m in body.miners)
        run.say(replace(body, miners=miners))
        outcome, why = outcome_of(replayed(run, FIRST_WINDOW, beacon=url))
    assert outcome == "different"
    assert "coin" in why


def test_a_validator_that_opens_other_rollouts_than_were_drawn_is_found_out(run: Run, replayed: Replaying) -> None:
    """Its evidence is truthful and its body follows from it; only the sample is its own choice."""
    body, evidence = run.verdict(FIRST_WINDOW).body, run.evidence(FIRST_WINDOW)
    at = max(range(len(evidence)), key=lambda i: len(evidence[i].rollouts))
    shorter = replace(evidence[at], rollouts=evidence[at].rollouts[:-1])
    data = write_evidence([*evidence[:at], shorter, *evidence[at + 1 :]])
    sampled = tuple((one.group, one.rollout) for one in shorter.rollouts)
    run.say(
        replace(body, miners=tuple(replace(m, sampled=sampled) if m.hotkey == shorter.hotkey else m for m in body.miners)), data
    )
    with relay() as url:
        outcome, why = outcome_of(replayed(run, FIRST_WINDOW, beacon=url))
    assert outcome == "different"
    assert "other rollouts than the challenge draws" in why


def test_a_false_word_about_a_miner_is_shown_with_both_values(run: Run, replayed: Replaying) -> None:
    body = run.verdict(FIRST_WINDOW).body
    honest = next(m for m in body.miners if m.status is MinerStatus.ACCEPTED)
    lie = replace(honest, unique_valid=honest.unique_valid - 16)
    run.say(replace(body, miners=tuple(lie if m.hotkey == honest.hotkey else m for m in body.miners)))
    ((one,), ended) = replayed(run, FIRST_WINDOW)
    assert ended is ProtocolViolationError
    assert one["difference"] == {
        "path": f"miners[uid {honest.uid}].unique_valid",
        "theirs": honest.unique_valid - 16,
        "ours": honest.unique_valid,
    }


def test_a_score_that_does_not_follow_from_earlier_verdicts_is_found(run: Run, replayed: Replaying) -> None:
    body = run.verdict(SECOND_WINDOW).body
    uid, inputs = next((uid, one) for uid, one in body.score_inputs.items() if one.work)
    run.say(replace(body, score_inputs={**body.score_inputs, uid: replace(inputs, work=inputs.work + 1)}))
    outcome, why = outcome_of(replayed(run, SECOND_WINDOW))
    assert outcome == "different"
    assert "score_inputs" in why


def test_evidence_that_is_not_what_was_signed_or_is_of_nothing_judged_is_said(run: Run, replayed: Replaying) -> None:
    path, evidence = run.bucket("validator-0") / evidence_key(FIRST_WINDOW), run.evidence(FIRST_WINDOW)
    path.write_bytes(write_evidence(evidence[:1]))
    outcome, why = outcome_of(replayed(run, FIRST_WINDOW))
    assert outcome == "different"
    assert "digest" in why
    stranger = replace(evidence[0], content_digest=Digest(bytes(32)))
    run.say(run.verdict(FIRST_WINDOW).body, write_evidence([*evidence, stranger]))
    outcome, why = outcome_of(replayed(run, FIRST_WINDOW))
    assert outcome == "different"
    assert "not only" in why


def test_measurements_that_were_changed_lead_to_another_body(run: Run, replayed: Replaying) -> None:
    body, evidence = run.verdict(FIRST_WINDOW).body, run.evidence(FIRST_WINDOW)
    accepted = {m.hotkey for m in body.miners if m.status is MinerStatus.ACCEPTED}

    def moved(one: MinerEvidence) -> MinerEvidence:
        """The own pass's sketches wherever they stand."""
        rollouts = []
        for r in one.rollouts:
            others = r.compared
            if others is not None:
                others = replace(others, z={**others.z, "own": others.z["own"] + np.float32(1)})
            rollouts.append(replace(r, z=r.z + np.float32(1), compared=others))
        return replace(one, rollouts=tuple(rollouts))

    run.say(body, write_evidence([moved(one) if one.hotkey in accepted else one for one in evidence]))
    outcome, why = outcome_of(replayed(run, FIRST_WINDOW))
    assert outcome == "different"
    assert "accepted" in why
    assert "failed" in why


@pytest.mark.parametrize("size", ["layers", "hidden_size"])
def test_evidence_of_a_model_of_another_size_than_the_checkpoints_is_a_fault(run: Run, replayed: Replaying, size: str) -> None:
    """For a model so large no table enforces anything: what is enforced is not for the evidence to say."""
    evidence = run.evidence(FIRST_WINDOW)
    larger = [replace(one, **{size: 10**6}) for one in evidence]  # type: ignore[arg-type]
    run.say(run.verdict(FIRST_WINDOW).body, write_evidence(larger))
    outcome, why = outcome_of(replayed(run, FIRST_WINDOW)[0:2])
    assert outcome == "different"
    assert "the evidence is of a model of" in why


def test_a_verdict_that_nobody_signed_or_another_did_is_no_verdict(run: Run, replayed: Replaying) -> None:
    path, verdict = run.bucket("validator-0") / verdict_key(FIRST_WINDOW), run.verdict(FIRST_WINDOW)
    path.write_bytes(replace(verdict, body=replace(verdict.body, reason="changed")).encode())
    assert outcome_of(replayed(run, FIRST_WINDOW))[0] == "different"
    path.write_bytes(b"{}")
    assert "signature" in outcome_of(replayed(run, FIRST_WINDOW))[1]


def test_what_is_gone_is_named_and_taken_or_leaves_the_window_unreadable(run: Run, replayed: Replaying) -> None:
    body = run.verdict(FIRST_WINDOW).body
    honest = next(m for m in body.miners if m.status is MinerStatus.ACCEPTED and m.content_digest is not None)
    name = next(name for name in NAMES if run.signers[name].hotkey == honest.hotkey)
    own = ss58(honest.hotkey)
    assert honest.content_digest is not None
    (run.bucket(name) / seal_key(own, FIRST_WINDOW)).unlink()
    ((one,), ended) = replayed(run, FIRST_WINDOW)  # the shared file tells what was sealed
    assert (one["outcome"], one["rejudged"], ended) == ("equal", 3, None)
    (run.bucket("validator-0") / file_key(honest.content_digest)).unlink()
    (run.bucket(name) / window_key(own, FIRST_WINDOW)).unlink()
    ((one,), ended) = replayed(run, FIRST_WINDOW)
    assert (one["outcome"], one["rejudged"], ended) == ("equal", 2, None)
    assert any(taken["what"] == f"verdict of uid {honest.uid}" for taken in one["taken"])
    (run.bucket("validator-0") / evidence_key(FIRST_WINDOW)).unlink()
    ((one,), ended) = replayed(run, FIRST_WINDOW)
    assert (one["outcome"], ended) == ("unreadable", StorageError)
    assert "evidence" in one["reason"]


def test_what_is_no_verdict_evidence_or_file_costs_a_bounded_look_and_no_crash(run: Run, replayed: Replaying) -> None:
    bucket, body = run.bucket("validator-0"), run.verdict(FIRST_WINDOW).body
    run.say(body, b"PAR1 and then nothing")
    outcome, why = outcome_of(replayed(run, FIRST_WINDOW))
    assert outcome == "different"
    assert "evidence" in why
    for junk in (b"", b"[" * 100_000, b"\xff" * 1000):
        (bucket / verdict_key(FIRST_WINDOW)).write_bytes(junk)
        assert outcome_of(replayed(run, FIRST_WINDOW))[0] == "different"
    with (bucket / verdict_key(FIRST_WINDOW)).open("wb") as file:
        file.truncate(8 << 30)  # a hole in a disk: nobody reads it
    assert outcome_of(replayed(run, FIRST_WINDOW))[0] == "unreadable"
