"""`explain` needs the ledger and nothing else: no chain, no wallet, no network."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from grail_core.commands.explained import OF_WINDOW, SEAL_REFUSED, TO_DO
from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.files.evidence import GradeEvidence, GradeStability, RolloutEvidence
from grail_core.keys import LocalSigner, ss58
from grail_core.participant.settings import Settings, load_settings
from grail_core.participant.state import StateFolder
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.work import ComparedRollout, Leads, ReferenceMeasurement
from grail_core.protocol import (
    Finding,
    MinerStatus,
    MinerVerdict,
    Outcome,
    RolloutRecord,
    SignedVerdict,
    VerdictBody,
    Versions,
    WindowStatus,
    score_inputs,
)
from grail_core.protocol.constants import SKETCH_SCALE
from grail_core.protocol.types import Digest, Window
from grail_validator.cli import cli
from grail_validator.explain import explain_window, find_ledger
from grail_validator.explain_row import _row_of
from grail_validator.ledger import Ledger, PublishedFiles
from tooling.testing import plain_window as plain

NETWORK = Digest(bytes(32))
VALIDATORS = [LocalSigner.from_seed(bytes([number]) * 32) for number in (1, 2)]
WORKED: dict[str, Any] = {"declared": 32, "checked": True, "check_probability": Fraction(1), "coin": 0}
MINER = LocalSigner.from_seed(b"m" * 32).hotkey


def judged(
    path: Path,
    signer: LocalSigner,
    window: int,
    *,
    status: MinerStatus = MinerStatus.FAILED,
    reason: str = "proof 0.5 (threshold 0.3): coarse_error",
    findings: tuple[Finding, ...] = (),
) -> None:
    """A validator's ledger in which one window is judged."""
    miner = MinerVerdict(
        hotkey=MINER,
        uid=4,
        status=status,
        reason=reason,
        active=status is not MinerStatus.ABSENT,
        **({} if status is MinerStatus.ABSENT else WORKED),
        findings=findings,
    )
    body = VerdictBody(
        NETWORK,
        Window(window),
        WindowStatus.SCORED,
        Versions("a", "b", "c"),
        miners=(miner,),
        hotkeys={4: MINER},
        score_inputs={4: score_inputs([miner.miner_window(Window(window))], Window(window))},
    )
    verdict = SignedVerdict(body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey)))
    ledger = Ledger(path, network_id=NETWORK, hotkey=signer.hotkey)
    ledger.record_judged(Window(window), body, PublishedFiles(verdict.encode(), b""), {}, {})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Nothing but folders is there: no chain file, no wallet, no network of that name."""
    monkeypatch.chdir(tmp_path)
    return load_settings(
        bt_network="local",
        bt_chain_endpoint=str(tmp_path / "gone.sqlite"),
        network=str(tmp_path / "gone.json"),
        wallet_path=tmp_path / "gone",
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
    )


def ledger_of(settings: Settings, signer: LocalSigner) -> Path:
    return StateFolder(settings.state_dir / "localnet-0000", signer.hotkey).ledger


def test_it_answers_with_chain_wallet_and_network_gone(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30)
    explain_window(settings, 30, ledger=None, hotkey=None, as_json=False)
    assert "coarse_error" in capsys.readouterr().out
    explain_window(settings, 30, ledger=None, hotkey=ss58(MINER), as_json=True)
    value = json.loads(capsys.readouterr().out)
    assert [miner["status"] for miner in value["miners"]] == ["failed"]


def test_a_strangers_words_are_shown_as_words(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30, reason="class [/x] is\x1b[2J not \u202eadmitted")
    explain_window(settings, 30, ledger=None, hotkey=None, as_json=False)
    assert "class [/x] is\\x1b[2J not \\u202eadmitted" in capsys.readouterr().out
    explain_window(settings, 30, ledger=None, hotkey=None, as_json=True)
    assert capsys.readouterr().out.isascii()


def test_a_window_that_no_ledger_has_is_said_with_the_last_one_that_is_there(settings: Settings) -> None:
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30)
    with pytest.raises(ProtocolViolationError, match="window 60 has not been judged here") as caught:
        explain_window(settings, 60, ledger=None, hotkey=None, as_json=False)
    assert "30" in caught.value.hint


@pytest.mark.parametrize("window", [str(10**20), "-30"])
@pytest.mark.parametrize("command", ["explain", "replay"])
def test_a_number_that_is_no_block_is_wrong_usage(command: str, window: str) -> None:
    ran = CliRunner().invoke(cli, [command, "--", window])
    assert (ran.exit_code, "is not in the range" in ran.output) == (2, True)


def test_of_several_ledgers_the_one_with_the_window_is_taken_and_two_must_be_named(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [ledger_of(settings, signer) for signer in VALIDATORS]
    judged(paths[0], VALIDATORS[0], 30)
    judged(paths[1], VALIDATORS[1], 60)
    assert find_ledger(settings, Window(60)) == paths[1]
    judged(paths[0], VALIDATORS[0], 60)
    with pytest.raises(ConfigurationError, match="2 validators' ledgers") as caught:
        find_ledger(settings, Window(60))
    assert all(str(path) in caught.value.what for path in paths)
    assert "--ledger" in caught.value.hint
    explain_window(settings, 60, ledger=paths[0], hotkey=None, as_json=False)
    assert "coarse_error" in capsys.readouterr().out


def test_a_folder_of_another_user_is_told_apart_from_no_ledger(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settings.state_dir / "localnet-0000" / "5F"
    folder.mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != folder)  # root may look into everything
    with pytest.raises(ConfigurationError, match="may not look") as caught:
        find_ledger(settings, Window(30))
    assert caught.value.where == str(folder)


def test_a_machine_on_which_no_validator_ran_says_so(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="no validator has run"):
        find_ledger(settings, Window(30))


def test_a_ledger_whose_header_is_damaged_is_told_apart_from_none(settings: Settings) -> None:
    path = ledger_of(settings, VALIDATORS[0])
    judged(path, VALIDATORS[0], 30)
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        find_ledger(settings, Window(30))
    assert str(path) in caught.value.where
    judged(ledger_of(settings, VALIDATORS[1]), VALIDATORS[1], 60)
    assert find_ledger(settings, Window(30)) == ledger_of(settings, VALIDATORS[1])  # the whole one is looked into


@pytest.mark.parametrize(
    ("window", "words"), [(45, "block 45 is in window 30"), (90, "the last one judged is 30"), (0, "first")]
)
def test_a_window_that_is_not_there_is_answered_with_what_to_ask_instead(settings: Settings, window: int, words: str) -> None:
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30)
    with pytest.raises(ProtocolViolationError) as caught:
        explain_window(settings, window, ledger=None, hotkey=None, as_json=False)
    assert words in caught.value.hint


def test_every_verdict_has_a_sentence_that_says_what_to_do() -> None:
    assert set(TO_DO) == set(MinerStatus)
    assert set(OF_WINDOW) == set(WindowStatus) - {WindowStatus.SCORED}


def test_whoever_has_a_refused_seal_is_not_told_to_store_one(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    path = ledger_of(settings, VALIDATORS[0])
    refused = Finding("seal", Outcome.REJECT, 4, 1, "more groups are missing than may be")
    judged(path, VALIDATORS[0], 30, status=MinerStatus.ABSENT, reason="seal 4", findings=(refused,))
    judged(path, VALIDATORS[0], 60, status=MinerStatus.ABSENT, reason="no seal lay in its bucket")
    explain_window(settings, 30, ledger=None, hotkey=None, as_json=False)
    out = capsys.readouterr().out
    assert SEAL_REFUSED in out
    assert TO_DO[MinerStatus.ABSENT] not in out
    explain_window(settings, 60, ledger=None, hotkey=None, as_json=False)
    out = capsys.readouterr().out
    assert f"uid 4, {ss58(MINER)}: absent: no seal lay in its bucket; {TO_DO[MinerStatus.ABSENT]}" in out


def test_a_pipe_gets_whole_lines_and_hotkeys_that_can_be_asked_for(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30)
    explain_window(settings, 30, ledger=None, hotkey=None, as_json=False)
    to_do = TO_DO[MinerStatus.FAILED].format(over=30 + 14 * 30)  # the shortest look-back, where everybody is checked
    assert [line for line in capsys.readouterr().out.splitlines() if ss58(MINER) in line and to_do in line]


def test_a_ledger_of_another_version_does_not_hide_the_one_that_has_the_window(settings: Settings) -> None:
    old, current = (ledger_of(settings, signer) for signer in VALIDATORS)
    judged(old, VALIDATORS[0], 30)
    judged(current, VALIDATORS[1], 60)
    with closing(sqlite3.connect(old)) as db, db:
        db.execute("UPDATE meta SET value = '1' WHERE name = 'schema'")
    assert find_ledger(settings, Window(60)) == current
    with pytest.raises(ConfigurationError, match="schema 1"):
        find_ledger(settings, Window(30))  # it may be the one meant


def test_a_row_that_was_not_sampled_or_is_none_is_refused_with_what_may_be_asked(settings: Settings) -> None:
    judged(ledger_of(settings, VALIDATORS[0]), VALIDATORS[0], 30)
    with pytest.raises(ProtocolViolationError, match="was not sampled"):
        explain_window(settings, 30, ledger=None, hotkey=ss58(MINER), as_json=False, row="3:4")
    with pytest.raises(click.UsageError, match="GROUP:R"):
        explain_window(settings, 30, ledger=None, hotkey=ss58(MINER), as_json=False, row="three")
    with pytest.raises(click.UsageError, match="--hotkey"):
        explain_window(settings, 30, ledger=None, hotkey=None, as_json=False, row="3:4")


def test_a_ledger_that_still_lies_in_the_cache_is_found(settings: Settings) -> None:
    judged(settings.cache_dir / "validator" / "ledger.sqlite", VALIDATORS[0], 30)
    assert find_ledger(settings, Window(30)) == settings.cache_dir / "validator" / "ledger.sqlite"


def rollout_beside_a_reference(record: RolloutRecord) -> RolloutEvidence:
    """At the first two positions; the claims lie where they were measured, and 0.01 from the reference."""
    z = parse_sketches(record.sketches, record.completion_length + 1)[1:][[0, 1]].astype(np.float32) / np.float32(SKETCH_SCALE)
    ones = np.ones(2, np.float32)
    return RolloutEvidence(
        group=record.group,
        rollout=record.rollout,
        grade=GradeEvidence(1.0, True, GradeStability.STABLE),
        positions=np.array([0, 1], np.int32),
        z=z,
        logprob=-ones,
        margin=ones,
        reference=ReferenceMeasurement(z + np.float32(0.01), -ones, 0.5 * ones, 0.25 * ones, 0.0004 * ones, ones),
        compared=ComparedRollout(
            (0, 1), {"current": z, "int8": z}, {"top-p 0.95": Leads(ones, ones, np.ones(2, np.int32))}, ones, ones
        ),
    )


def test_a_row_is_told_beside_the_reference_and_what_it_was_compared_with() -> None:
    context = plain.window_context()
    record = next(one for one in plain.rollouts(context, plain.MINERS[0], [0]) if one.completion_length > 2)
    one = rollout_beside_a_reference(record)
    notes = _row_of(one, record).notes
    assert any("own sketches err by 0.01 RMS, a difference of two of its logits by 0.02" in note for note in notes)
    assert "the claimed sketches err by 0.01 RMS" in notes
    assert any("the tokens written lose 1 in all" in note and note.endswith("same noise 0.5") for note in notes)
    assert "compared at 2 positions with int8, top-p 0.95" in notes
    assert not any("claimed" in note and "RMS" in note for note in _row_of(one, None).notes)


def test_a_row_whose_reference_says_nothing_is_told_as_such() -> None:
    record = next(one for one in plain.rollouts(plain.window_context(), plain.MINERS[0], [0]) if one.completion_length > 2)
    one = rollout_beside_a_reference(record)
    assert one.reference is not None
    spoilt = replace(one.reference, noise=np.array([np.nan, 0], np.float32))
    for reference, told in ((None, "not held against a float32 reference"), (spoilt, "the rollout decides nothing")):
        assert any(told in note for note in _row_of(replace(one, reference=reference), record).notes)
