"""`explain` of a round: every number of the body, a plain cause, what to do; from a ledger, or from a bucket alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.commands.standing_read import said_of
from grail_core.errors import ProtocolViolationError
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.settings import Settings, load_settings
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.judging import MinerFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.storage.layout import verdict_key
from grail_core.verification.gradient.causes import round_causes, round_lines
from grail_core.verification.model_checks import NOT_ENFORCED
from grail_core.verification.wording import accept, reject
from grail_validator.cli import cli
from grail_validator.explain import explain_window
from grail_validator.ledger import Ledger
from grail_validator.round_cases import RoundFiles, RoundMemory
from tooling.testing.gradient_rules import NETWORK, ROUND, digest, hotkey_of, losses, round_facts, unsigned_seal

VALIDATOR = LocalSigner.from_seed(bytes([1]) * 32)


def miner(uid: int, mean: int | None, *findings: Finding, reason: str = "", withheld: bool = False) -> MinerFacts:
    hotkey = hotkey_of(uid)
    return MinerFacts(
        uid=uid,
        hotkey=hotkey,
        seal=unsigned_seal(hotkey),
        reason=reason,
        seal_time_ms=1000,
        findings=tuple(findings),
        withheld=withheld,
        feedback_after=ZERO_ROOT,
        common=None if mean is None else losses(mean, uid),
        own=None if mean is None else losses(mean + 900, uid, "own", n=16),
        challenge_seed=digest("challenge", uid),
    )


@pytest.fixture(scope="module")
def verdict() -> SignedGradientVerdict:
    """Better, good, harmful, caught by replay, late, and nobody."""
    gradient = reject(
        "replay", value="0.41", threshold="0.12", detail="step 2, gradient: relative L2 of the committed gradient"
    )
    late = reject("file", detail="the update was stored 3.2 s after it was due")
    report = accept("replay", value="0.01", threshold="0.12", detail=f"step 0, gradient: so and so{NOT_ENFORCED}")
    facts = round_facts(
        [
            miner(2, 20_000, report),
            miner(3, 9_000),
            miner(4, -9_000),
            miner(5, None, gradient, reason="replay 0.41"),
            miner(6, None, late, reason="file: late", withheld=True),
            MinerFacts(7, hotkey_of(7), None),
        ],
        {uid: hotkey_of(uid) for uid in range(2, 9)},
    )
    body = judge_round(facts, GradientMemory())
    signature = VALIDATOR.sign(SignedGradientVerdict.message(body, VALIDATOR.hotkey))
    return SignedGradientVerdict(body, VALIDATOR.hotkey, signature)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: SignedGradientVerdict) -> Settings:
    """A machine with the ledger of a validator that judged the round, and nothing else."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        bt_network="local", bt_chain_endpoint=str(tmp_path / "gone.sqlite"), state_dir=tmp_path / "state", cache_dir=tmp_path
    )
    folder = settings.state_dir / "network" / "hotkey" / "validator"
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.sqlite", network_id=NETWORK, hotkey=VALIDATOR.hotkey)
    ledger.rounds.record_sealed(ROUND, [])
    ledger.rounds.record_judged(ROUND, RoundFiles(verdict.encode(), b""), RoundMemory())
    return settings


def test_a_round_in_a_ledger_is_told_with_numbers_causes_and_what_to_do(
    settings: Settings, capsys: pytest.CaptureFixture[str], verdict: SignedGradientVerdict
) -> None:
    explain_window(settings, ROUND, ledger=None, hotkey=None, as_json=False)
    text = capsys.readouterr().out
    assert f"round {ROUND}: scored" in text
    assert "! replay gradient: reject, 0.41 (bound 0.12): step 2" in text
    assert "cause: the drawn step is not taken on its assigned sequences" in text
    assert "try: train every step on the whole assigned batch" in text
    assert f"it earns nothing before round {ROUND + 14 * 30}" in text
    assert "cause: the update came after block V; typical of an upload that is slower" in text
    assert "did not lower the loss" in text
    row = verdict.body.miner(hotkey_of(2))
    assert row is not None
    assert row.score is not None
    assert f"{row.score.score / 2**20:.4f} ± {row.score.error / 2**20:.4f}" in text
    assert "reported and not enforced" not in text, "of accepted ones everything is said to who asks for one alone"


def test_one_miner_is_told_with_all_its_checks(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    explain_window(settings, ROUND, ledger=None, hotkey=ss58(hotkey_of(2)), as_json=False)
    assert "   replay: accept\n" in capsys.readouterr().out
    explain_window(settings, ROUND, ledger=None, hotkey=ss58(hotkey_of(2)), as_json=False, whole=True)
    text = capsys.readouterr().out
    assert "replay gradient: accept, 0.01 (bound 0.12), reported and not enforced" in text
    assert "rating 0.00 (25.00 ± 8.33) before" in text
    assert "nats a token, summed over the common sequences" in text
    assert "uid 3" not in text


def test_a_program_gets_the_body_with_causes(settings: Settings, verdict: SignedGradientVerdict) -> None:
    done = CliRunner().invoke(cli, ["explain", str(ROUND), "--json"], env={"GRAIL_STATE_DIR": str(settings.state_dir)})
    told = json.loads(done.output)
    assert told["kind"] == "gradient"
    assert told["weights"] == [[uid, weight] for uid, weight in verdict.body.weights.items()]
    by_uid = {one["uid"]: one for one in told["miners"]}
    assert by_uid[5]["causes"][0]["certainty"] == "likely"
    assert by_uid[5]["findings"][0]["statistic"] == "gradient"
    assert by_uid[2]["f"] == str(verdict.body.powers[2])
    assert by_uid[7]["to_do"].startswith("no seal counted")


def test_a_published_verdict_is_told_without_a_ledger(
    tmp_path: Path, verdict: SignedGradientVerdict, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(bt_network="local", state_dir=tmp_path / "none", cache_dir=tmp_path)
    path = tmp_path / "bucket" / verdict_key(ROUND)
    path.parent.mkdir(parents=True)

    def told(window: int = ROUND) -> str:
        explain_window(settings, window, ledger=None, hotkey=None, as_json=False, bucket=str(tmp_path / "bucket"))
        return capsys.readouterr().out

    path.write_bytes(verdict.encode())
    assert f"round {ROUND}: scored" in told()
    with pytest.raises(ProtocolViolationError, match="no verdict of window"):
        told(ROUND + 30)
    path.write_bytes(verdict.encode().replace(b'"reason":"replay 0.41"', b'"reason":"replay 0.42"'))
    with pytest.raises(ProtocolViolationError, match="its signature is not its validator's"):
        told()
    path.write_bytes(b"{}")
    with pytest.raises(ProtocolViolationError, match="neither a window's nor a round's"):
        told()


def test_a_round_has_no_rollouts(settings: Settings) -> None:
    with pytest.raises(ProtocolViolationError, match="which has no rollouts"):
        explain_window(settings, ROUND, ledger=None, hotkey=ss58(hotkey_of(2)), as_json=False, row="1:2")


def test_a_window_that_neither_kind_of_work_has_says_what_was_judged_last(settings: Settings) -> None:
    with pytest.raises(ProtocolViolationError) as raised:
        explain_window(settings, ROUND + 30, ledger=None, hotkey=None, as_json=False)
    assert raised.value.hint is not None
    assert f"the last one judged is {ROUND}" in raised.value.hint


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (reject("seal", value=60, threshold=30, detail="wrong round"), "another round"),
        (reject("file", detail="the update that was sealed is not in its bucket"), "was not shown"),
        (reject("file", detail="other bytes than those that were sealed"), "two different packings"),
        (reject("file", detail="wrong checkpoint digest"), "another checkpoint"),
        (reject("layout", detail="$update.streams[3].indices: not increasing"), "no update of this checkpoint"),
        (reject("feedback", value="aa" * 32, threshold="bb" * 32, detail="x"), "not what this hotkey's last file left"),
        (reject("chunks", detail="the opening is not in its bucket"), "was not opened"),
        (reject("chunks", detail="$opening.chunks[0].delta: not θ_0 − θ_H"), "does not follow|is not what follows"),
        (reject("proof", value="0.4", threshold="0.3", detail="coarse_error: rms"), "other hidden states"),
        (reject("proof", value="9", threshold="3", detail="previous-2: log evidence"), "an earlier checkpoint"),
        (reject("proof", value="9", threshold="3", detail="sketch_ratio: ln"), "further from the float32 copy"),
        (
            reject("replay", value="2", threshold="1", detail="step 3, step: θ after the step"),
            "does not follow from the committed",
        ),
        (Finding("measure", Outcome.INCONCLUSIVE, detail="no memory"), "could not find out"),
        (reject("unheard-of", detail="whatever it says"), "whatever it says"),
    ],
)
def test_every_check_has_a_plain_cause(finding: Finding, words: str) -> None:
    (cause,) = round_causes([accept("similar", value=3), finding])
    assert re.search(words, str(cause))
    assert any(line.startswith("  cause: ") for line in round_lines([finding]))


def test_digests_are_shortened_for_a_person() -> None:
    (line, *_) = round_lines([reject("feedback", value="ab" * 32, threshold="cd" * 32, detail="x")])
    assert line == "! feedback: reject, abababababababab… (bound cdcdcdcdcdcdcdcd…): x"


def test_a_hotkeys_standing_in_a_round_is_what_the_verdict_says_of_it(verdict: SignedGradientVerdict) -> None:
    body = verdict.body
    for row in body.miners:
        said = said_of(verdict, row.hotkey)
        assert (said.window, said.miner, said.declared, said.valid) == (ROUND, row.status.value, row.declared, row.valid)
        assert said.weight == body.weights.get(row.uid, 0)
        assert said.paid_again_from == (body.standings[row.uid].unpaid_until if row.status.value == "failed" else None)
    assert [said_of(verdict, hotkey_of(uid)).rejected_by for uid in (4, 5, 6)] == [(), ("replay",), ("file",)]
    assert said_of(verdict, hotkey_of(99)).miner is None
