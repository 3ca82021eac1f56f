"""`grail status` and `grail explain`: what validators have published of a hotkey; chain, buckets and signatures are real."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grail_core.chain.development.yuma import emission
from grail_core.commands import network_view, standing_read
from grail_core.commands.grail import cli
from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError
from grail_core.files.verdicts import RefusedVerdictError, read_any_verdict
from grail_core.keys import ss58, write_wallet
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody, WindowStatus, score_inputs, weights
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.scores import WEIGHT_TOTAL
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import seal_key, verdict_key, window_key
from grail_core.telemetry import progress
from grail_core.verification.wording import accept, reject
from grail_validator.cli import cli as of_validator
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.speaking import VERSIONS, say, scored, unscored

HIS = reject("proof", value="0.5", threshold="0.3", detail="coarse_error: worst RMS sketch error of 4 rollouts", group=6)


def judged(network: Network, status: MinerStatus, window: Window = FIRST_WINDOW, **changed: Any) -> VerdictBody:
    """What an honest validator says of miner-0 (as told) and miner-1 (accepted), with the weights that follow."""
    body = scored(network, {"miner-0": (b"zero", status), "miner-1": (b"one", MinerStatus.ACCEPTED)}, window)
    miners = tuple(
        dataclasses.replace(miner, **changed, findings=(HIS,)) if miner.status is MinerStatus.FAILED
        else dataclasses.replace(miner, unique_valid=48, findings=(accept("file", value=48),))
        for miner in body.miners
    )  # fmt: skip
    inputs = {miner.uid: score_inputs([miner.miner_window(window)], window) for miner in miners}
    return dataclasses.replace(body, miners=miners, score_inputs=inputs, weights=weights(inputs, network.params))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """miner-0 failed by both validators in the first window; its seal of that window lies in its bucket."""
    network = Network(tmp_path_factory.mktemp("network"))
    network.advance_to(FIRST_WINDOW + 5)
    own, address = network.participant("miner-0").own_store, ss58(network.signers["miner-0"].hotkey)
    own.put(window_key(address, FIRST_WINDOW), b"a file")
    own.put(seal_key(address, FIRST_WINDOW), b"a seal")
    body = judged(network, MinerStatus.FAILED)
    say(network, "validator-0", body)
    say(network, "validator-1", body)
    (network.root / "network.json").write_text(json.dumps(network.params.to_json()))
    seed = hashlib.sha256(b"miner-0").digest()
    write_wallet(network.root / "wallets", "c", "miner-0", coldkey_seed=bytes(32), hotkey_seed=seed)
    return network


def described(root: Path, **changed: Any) -> Network:
    """A network with its file; `changed` are parameters of the file that the network does not have."""
    network = Network(root)
    (root / "network.json").write_text(json.dumps(dataclasses.replace(network.params, **changed).to_json()))
    return network


def of(network: Network, name: str = "miner-0") -> tuple[str, str]:
    return "--hotkey", ss58(network.signers[name].hotkey)


def environment(network: Network) -> dict[str, str]:
    return {
        "GRAIL_NETWORK": str(network.root / "network.json"),
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "BT_WALLET_PATH": str(network.root / "wallets"),
        "BT_WALLET_COLD": "c",
        "BT_WALLET_HOT": "miner-0",
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_CACHE_DIR": str(network.root / "reader"),
        "GRAIL_STATE_DIR": str(network.root / "reader-state"),
    }


def grail(network: Network, *arguments: str, beside: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment(network) | dict(beside or {}), catch_exceptions=True)


def out(network: Network, *arguments: str) -> str:
    ran = grail(network, *arguments)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return ran.stdout


def refused(network: Network, *arguments: str) -> GrailError:
    ran = grail(network, *arguments)
    assert isinstance(ran.exception, GrailError), (ran.output, ran.exception)
    return ran.exception


def test_a_failed_miner_is_told_by_what_and_when_it_is_paid_again(network: Network) -> None:
    said = out(network, "status")
    failed = judged(network, MinerStatus.FAILED).miners[0].miner_window(FIRST_WINDOW)
    left = (failed.paid_again_from - 60) // 30
    assert f"{ss58(network.signers['miner-0'].hotkey)}: miner, uid" in said
    assert "rejected by proof: `grail explain 30` tells why" in said
    assert f"worth 0 before window {failed.paid_again_from}, {left} windows from now" in said
    assert f"it lowers what audits show for {(failed.forgotten_from - 60) // 30} windows (by 100 % of the stake asked)" in said
    assert re.search(r"30: file of 0.0 KiB, sealed \d+.\d s before the deadline", said)
    assert said.count("30: failed") == 1, "validators that say the same are told once"


def test_what_is_expected_is_what_the_chain_would_make_of_these_weights(network: Network) -> None:
    value = json.loads(out(network, "status", "--hotkey", ss58(network.signers["miner-1"].hotkey), "--json"))
    neurons = network.chain.metagraph().neurons
    row = judged(network, MinerStatus.FAILED).weights
    stakes = {neuron.uid: neuron.stake for neuron in neurons if neuron.validator_permit and neuron.stake}
    paid = emission(stakes, dict.fromkeys(stakes, row))
    assert value["expected"]["incentive"] == f"{float(paid.incentive[value['uid']]):.9g}" != "0"
    assert (value["expected"]["rank"], value["expected"]["earning"]) == (1, 1)
    assert value["validators"][0]["weight"] == row[value["uid"]]
    assert [line for line in value["danger"] if "failed" in line] == []


def test_explain_needs_no_ledger_and_says_the_words_of_a_validators_own_explain(network: Network) -> None:
    mine = out(network, "explain", "latest")
    bucket = f"fs:{network.directory('validator-0').commitment().removeprefix('fs:')}"
    asked = ["explain", "30", "--hotkey", ss58(network.signers["miner-0"].hotkey), "--from", bucket]
    theirs = CliRunner().invoke(of_validator, asked, env=environment(network))
    assert theirs.exit_code == 0, theirs.output
    assert "! proof coarse_error: reject, 0.5 (threshold 0.3" in mine
    assert set(theirs.stdout.splitlines()) <= set(mine.splitlines())
    assert all(ss58(network.signers[name].hotkey) in mine for name in ("validator-0", "validator-1")), "whole, in a pipe"


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("command", [["status"], ["explain", "latest"]])
def test_on_a_terminal_nothing_is_wider_and_what_is_folded_is_indented(
    network: Network, command: list[str], width: int
) -> None:
    ran = grail(network, *command, beside={"COLUMNS": str(width), "FORCE_COLOR": "1"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout).splitlines()
    assert max(map(len, lines)) <= width
    folded = next(number for number, line in enumerate(lines) if line.startswith((" ! proof", "  failed in window")))
    indents = [len(line) - len(line.lstrip()) for line in lines[folded : folded + 2]]
    assert width == 120 or indents[1] == indents[0] + 2
    assert "".join(line.strip() for line in lines).count(ss58(network.signers["miner-0"].hotkey)) >= 1, "hotkeys are not cut"


def test_a_beginning_that_one_hotkey_has_will_do_and_of_several_all_are_named(network: Network) -> None:
    addresses = sorted(ss58(signer.hotkey) for signer in network.signers.values())
    unique = next(
        one[:length] for one in addresses for length in range(5, 9) if sum(a.startswith(one[:length]) for a in addresses) == 1
    )
    whole = next(address for address in addresses if address.startswith(unique))
    assert out(network, "status", "--hotkey", f"{unique}…").startswith(whole)
    assert "too few letters" in refused(network, "status", "--hotkey", "5").what
    assert isinstance(refused(network, "status", "--hotkey", "5zzzzzz"), ProtocolViolationError)
    assert isinstance(refused(network, "status", "--hotkey", "not a key\x1b[2J"), ConfigurationError)
    stranger = ss58(type(network.signers["miner-0"].hotkey)(bytes(range(32))))
    assert f"{stranger}: not registered on this subnet" in out(network, "status", "--hotkey", stranger)


def test_of_a_validator_and_of_the_trainer_it_says_what_they_published(network: Network) -> None:
    validator = out(network, "status", "--hotkey", ss58(network.signers["validator-0"].hotkey))
    assert "validator, uid" in validator
    assert "has never set weights since it was registered" in validator
    assert "verdicts: 30 scored" in validator
    trainer = out(network, "status", "--hotkey", ss58(network.signers["trainer"].hotkey))
    assert f"checkpoint 0, {network.manifest.digest.hex()}" in trainer
    assert "danger" not in trainer


def test_a_slow_validator_is_not_waited_for_beyond_its_time(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing_read, "VALIDATOR_SECONDS", -1.0)
    problems = [one["problem"] for one in json.loads(out(network, "status", "--json"))["validators"]]
    assert all("takes longer than" in problem for problem in problems)
    assert len(problems) == 2


def test_a_window_that_nobody_judged_and_a_number_that_is_none_are_said(network: Network) -> None:
    assert "no validator has a verdict of window 90" in refused(network, "explain", "90").what
    ran = grail(network, "explain", "31")
    assert (ran.exit_code, "block 31 is in window 30" in ran.output) == (2, True)
    assert "whose standing is asked for" in _without_wallet(network)


def _without_wallet(network: Network) -> str:
    ran = grail(network, "status", beside={"BT_WALLET_HOT": "nobody"})
    assert isinstance(ran.exception, ConfigurationError)
    return ran.exception.what


def test_what_differs_between_validators_is_told_apart_and_a_strangers_words_stay_words(tmp_path: Path) -> None:
    network = Network(tmp_path)
    say(network, "validator-0", judged(network, MinerStatus.FAILED, reason="not\x1b[2J \u202eadmitted"))
    say(network, "validator-1", judged(network, MinerStatus.ACCEPTED))
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    told = out(network, "explain", "latest", "--all")
    assert told.count("window 30: scored") == 2
    standing = out(network, "status", "--hotkey", ss58(network.signers["miner-0"].hotkey))
    assert "30: accepted" in standing
    assert "(by 50 % of the stake asked)" in standing
    assert all(bad not in text for bad in "\x1b\u202e" for text in (told, standing))


def test_a_failure_that_is_older_than_what_is_shown_is_still_found(tmp_path: Path) -> None:
    network, later = Network(tmp_path), Window(FIRST_WINDOW + 30)
    failed, body = judged(network, MinerStatus.FAILED), judged(network, MinerStatus.ACCEPTED, later)
    history = {miner.uid: [miner.miner_window(FIRST_WINDOW)] for miner in failed.miners}
    inputs = {m.uid: score_inputs([*history[m.uid], m.miner_window(later)], later) for m in body.miners}
    say(network, "validator-0", failed)
    say(network, "validator-0", dataclasses.replace(body, score_inputs=inputs, weights=weights(inputs, network.params)))
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    said = out(network, "status", "--windows", "1", "--hotkey", ss58(network.signers["miner-0"].hotkey))
    assert "30: failed" not in said
    assert "failed in window 30: worth 0 before" in said


@pytest.mark.parametrize("lying", [b"{}", b"\xff" * 2000, b"[" * 100_000], ids=["no verdict", "no text", "deep"])
def test_a_bucket_with_something_else_costs_what_it_would_have_told(tmp_path: Path, lying: bytes) -> None:
    network = Network(tmp_path)
    say(network, "validator-1", judged(network, MinerStatus.FAILED))
    network.participant("validator-0").own_store.put(verdict_key(FIRST_WINDOW), lying)
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    address = ss58(network.signers["miner-0"].hotkey)
    standing = json.loads(out(network, "status", "--hotkey", address, "--json"))
    problems = {one["validator"]: one["problem"] for one in standing["validators"]}
    assert "not a verdict" in problems[ss58(network.signers["validator-0"].hotkey)]
    assert problems[ss58(network.signers["validator-1"].hotkey)] == ""
    told = json.loads(out(network, "explain", "latest", "--hotkey", address, "--json"))
    assert [len(told["verdicts"]), len(told["silent"])] == [1, 1]


def test_a_verdict_that_another_signed_says_nothing(tmp_path: Path) -> None:
    network = Network(tmp_path)
    body, liar = judged(network, MinerStatus.FAILED), network.signers["miner-1"]
    forged = SignedVerdict(body, network.signers["validator-0"].hotkey, liar.sign(SignedVerdict.message(body, liar.hotkey)))
    network.participant("validator-0").own_store.put(verdict_key(FIRST_WINDOW), forged.encode())
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    error = refused(network, "explain", "30", "--hotkey", ss58(network.signers["miner-0"].hotkey))
    assert "not this validator's" in error.what


def test_a_validator_that_was_not_there_does_not_silence_the_one_that_judged(tmp_path: Path) -> None:
    network = described(tmp_path)
    say(network, "validator-0", judged(network, MinerStatus.FAILED))
    away = dataclasses.replace(unscored(network, WindowStatus.MISSED), reason="it was away")
    say(network, "validator-1", away)
    told = out(network, "explain", "30", *of(network))
    assert "window 30: missed: it was away" in told
    assert "! proof coarse_error: reject" in told
    bodies = json.loads(out(network, "explain", "30", "--json", *of(network)))["verdicts"]
    assert sorted(len(one["body"]["miners"]) for one in bodies) == [0, 1]
    say(network, "validator-0", away)
    error = refused(network, "explain", "30", *of(network))
    assert (error.exit_code, "missed, it was away" in error.what) == (11, True)


def test_a_void_window_is_everybodys_and_is_told_to_who_asks_for_one(tmp_path: Path) -> None:
    network = described(tmp_path)
    say(network, "validator-0", unscored(network, WindowStatus.VOID, Window(0)))
    network.advance_to(40)
    assert "window 0: void" in out(network, "explain", "0", *of(network))


def test_a_round_that_was_not_scored_names_nobody_and_is_told(tmp_path: Path) -> None:
    network = described(tmp_path)
    network.advance_to(70)
    body = GradientVerdictBody(network.participant("trainer").network_id, FIRST_WINDOW, WindowStatus.VOID, VERSIONS, "no seed")
    signer = network.signers["validator-0"]
    signed = SignedGradientVerdict(body, signer.hotkey, signer.sign(SignedGradientVerdict.message(body, signer.hotkey)))
    network.participant("validator-0").own_store.put(verdict_key(FIRST_WINDOW), signed.encode())
    assert "round 30: void: no seed" in out(network, "explain", "latest", *of(network))


def test_the_newest_is_an_ended_window_that_was_read_and_that_a_second_validator_judged(tmp_path: Path) -> None:
    network = described(tmp_path)
    later, store = Window(FIRST_WINDOW + 30), network.participant("validator-0").own_store
    for name in ("validator-0", "validator-1"):
        say(network, name, judged(network, MinerStatus.FAILED))
    for running in (later, Window(later + 30)):  # garbage where nobody can have judged yet, and then where somebody could
        store.put(verdict_key(running), b"{}")
        assert json.loads(out(network, "explain", "latest", "--json", *of(network)))["window"] == FIRST_WINDOW
        assert "30: failed" in out(network, "status", *of(network)), "what lies beside verdicts does not hide them"
        network.advance_to(later + 35)
    say(network, "validator-0", judged(network, MinerStatus.FAILED, later))
    assert json.loads(out(network, "explain", "latest", "--json", *of(network)))["window"] == FIRST_WINDOW
    say(network, "validator-1", judged(network, MinerStatus.FAILED, later))
    assert json.loads(out(network, "explain", "latest", "--json", *of(network)))["window"] == later


def test_buckets_are_asked_for_the_newest_side_by_side_with_a_line_and_one_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = described(tmp_path)
    for name in ("validator-0", "validator-1"):
        say(network, name, judged(network, MinerStatus.FAILED))
    both, told, head = threading.Barrier(2, timeout=20), threading.Event(), network_view.NetworkView.has_verdict
    lines: list[str] = []

    def stalls(view: network_view.NetworkView, store: ObjectStore, window: Window) -> bool:
        both.wait()  # one after the other this is never passed
        assert told.wait(20)
        return head(view, store, window)

    def say_it(line: str) -> None:
        lines.append(line)
        told.set()

    monkeypatch.setattr(network_view.NetworkView, "has_verdict", stalls)
    monkeypatch.setattr(progress, "FIRST_S", 0.01)
    monkeypatch.setattr(progress, "say", say_it)
    assert "window 30: scored" in out(network, "explain", "latest", *of(network))
    assert lines[0].startswith("0 of 2 validators' buckets have answered")
    monkeypatch.setattr(network_view, "NEWEST_SECONDS", -1.0)
    assert "has not shown a verdict in" in refused(network, "explain", "latest", *of(network)).what


def test_without_a_validator_explain_ends_as_its_help_says(tmp_path: Path) -> None:
    network = Network(tmp_path, validators=0)
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    network.advance_to(70)
    assert refused(network, "explain", "latest", *of(network)).exit_code == 11
    assert "danger" in out(network, "status", *of(network))


def test_with_the_file_of_another_network_every_command_names_the_setting(tmp_path: Path) -> None:
    network = described(tmp_path, burn_share_permille=800)
    for name in ("validator-0", "validator-1"):
        say(network, name, judged(network, MinerStatus.FAILED))
    said = out(network, "status", *of(network))
    assert "every verdict that was read is signed for another network than GRAIL_NETWORK names here" in said
    assert "nobody judged" not in said
    asked = [["explain", "30", *of(network)], ["explain", "latest", *of(network)]]
    asked += [["rollouts", "export", window, str(tmp_path / f"of-{window}")] for window in ("30", "latest")]
    for command in asked:
        error = refused(network, *command)
        assert (error.exit_code, "GRAIL_NETWORK" in str(error), "standings" in str(error)) == (11, True, False), command


def test_a_refused_verdict_is_refused_by_the_form_that_it_claims(tmp_path: Path) -> None:
    network = described(tmp_path)
    signed = say(network, "validator-0", judged(network, MinerStatus.FAILED))
    store = network.participant("validator-0").own_store
    asked = (store, FIRST_WINDOW, signed.validator, network.participant("trainer").network_id)
    for damage, why in (({"miners": 5}, "not a verdict: .*miners"), ({"standings": 5}, "not a verdict of gradient work: ")):
        value = json.loads(signed.encode())
        value["body"] |= damage
        store.put(verdict_key(FIRST_WINDOW), json.dumps(value, separators=(",", ":")).encode())
        with pytest.raises(RefusedVerdictError, match=why):
            read_any_verdict(*asked)


def test_of_an_accepted_file_a_check_is_a_line_and_with_v_all_numbers(tmp_path: Path) -> None:
    network = described(tmp_path)
    body = judged(network, MinerStatus.ACCEPTED)
    findings = (
        accept("schema"),
        accept("proof", value="0.1", detail="energy: x"),
        accept("proof", value="0.2", detail="int8: y"),
    )
    miners = tuple(dataclasses.replace(miner, findings=findings) for miner in body.miners)
    say(network, "validator-0", dataclasses.replace(body, miners=miners))
    short = out(network, "explain", "30", *of(network))
    assert ("   proof: accept, 2 findings" in short.splitlines(), "energy" in short) == (True, False)
    whole = out(network, "explain", "30", "-v", *of(network))
    assert "proof energy: accept, 0.1" in whole


def test_what_is_burnt_anyway_and_what_each_count_is_of_stand_beside_the_numbers(network: Network, tmp_path: Path) -> None:
    said = out(network, "status", *of(network, "miner-1"))
    assert "  burnt: 90 %, whoever works, by the network's parameters: that says nothing of this hotkey\n" in said
    assert "counted: 48 rollouts declared in the last 12 windows; 1 audit of the last 72 windows found 48 valid" in said
    expected = json.loads(out(network, "status", "--json", *of(network, "miner-1")))["expected"]
    assert float(expected["burnt"]) >= float(expected["always_burnt"]) == 0.9
    idle = described(tmp_path)
    say(
        idle, "validator-0", dataclasses.replace(judged(idle, MinerStatus.FAILED), weights={idle.params.burn_uid: WEIGHT_TOTAL})
    )
    assert "burnt: 100 %, 90 % of it whoever works" in out(idle, "status", *of(idle))
