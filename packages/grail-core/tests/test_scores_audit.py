"""`grail scores` gives a verdict's weights again from published verdicts, names what it lacked, and trusts no stranger."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import pytest

from grail_core.commands.grail import cli
from grail_core.commands.published_verdicts import Audit, audit
from grail_core.errors import ConfigurationError
from grail_core.keys import LocalSigner, ss58
from grail_core.protocol import Adopted, MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.judging import judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.scores import MinerWindow, score_inputs, weights
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import Versions
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import VERDICT_PREFIX, verdict_key
from tooling.testing.gradient_rules import round_facts
from tooling.testing.keys import ALICE, BOB, EVE
from tooling.testing.s3_server import BUCKET, REGION, S3Server

NETWORK = Digest(b"n" * 32)
MINERS = {uid: Hotkey(bytes([uid]) * 32) for uid in range(1, 5)}


def bucket(root: Path, name: str) -> FilesystemStore:
    return FilesystemStore(root, name)


class Validator:
    """What a validator remembers, and what it publishes of it."""

    def __init__(self, signer: LocalSigner, store: FilesystemStore, seed: int = 1) -> None:
        self.signer, self.store, self.random = signer, store, random.Random(seed)
        self.memory: dict[Window, dict[Hotkey, MinerWindow]] = {}

    def body(self, window: int, status: WindowStatus = WindowStatus.SCORED) -> VerdictBody:
        at, miners = Window(window), []
        for uid, hotkey in MINERS.items():
            declared, chance = 16 * self.random.randint(1, 300), Fraction(self.random.randint(1, 10), 10)
            fate = self.random.choice(["accepted", "accepted", "not_selected", "absent", "failed"])
            if fate == "absent":
                miners.append(MinerVerdict(hotkey, uid, MinerStatus.ABSENT))
                continue
            drawn = fate in ("accepted", "failed")
            miners.append(
                MinerVerdict(
                    hotkey,
                    uid,
                    MinerStatus(fate),
                    active=True,
                    declared=declared,
                    checked=drawn,
                    unique_valid=min(5000, declared) if fate == "accepted" else 0,
                    check_probability=chance,
                    coin=7,
                )
            )
        scored = status is WindowStatus.SCORED
        own = {m.hotkey: m.miner_window(at) for m in miners} if scored else {}
        past = {w: entries for w, entries in sorted(self.memory.items()) if w < window}
        history = {hotkey: [e[hotkey] for e in (*past.values(), own) if hotkey in e] for hotkey in MINERS.values()}
        inputs = {uid: score_inputs(history[hotkey], at) for uid, hotkey in MINERS.items()}
        return VerdictBody(
            network_id=NETWORK,
            window=at,
            status=status,
            versions=Versions("test", "test", "test"),
            miners=tuple(miners) if scored else (),
            hotkeys=MINERS,
            score_inputs=inputs,
            weights=weights(inputs, LOCALNET),
        )

    def publish(self, body: VerdictBody, adopted: Adopted | None = None) -> SignedVerdict:
        message = SignedVerdict.message(body, self.signer.hotkey, None, adopted)
        verdict = SignedVerdict(body, self.signer.hotkey, self.signer.sign(message), None, adopted)
        self.store.put(verdict_key(body.window), verdict.encode())
        return verdict

    def judge(self, window: int, status: WindowStatus = WindowStatus.SCORED, adopted: Adopted | None = None) -> VerdictBody:
        body = self.body(window, status)
        self.publish(body, adopted)
        self.remember(body)
        return body

    def remember(self, body: VerdictBody) -> None:
        if body.miners:
            self.memory[body.window] = {m.hotkey: m.miner_window(body.window) for m in body.miners}


def words(found: Audit) -> list[str]:
    return [one.word for one in found.windows]


def window_of(found: Audit, window: int) -> Any:
    return next(one for one in found.windows if one.window == window)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_every_windows_weights_come_out_to_the_byte_beyond_the_memory_of_72_windows(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    bodies: list[VerdictBody] = []
    for window in range(0, 90 * 30, 30):
        status = WindowStatus.VOID if window % 210 == 120 else WindowStatus.SCORED
        bodies.append(alice.judge(window, status))
    found = audit(alice.store, [], LOCALNET)
    assert words(found) == ["equal"] * 90
    assert (found.validator, found.network_id) == (ss58(ALICE.hotkey), NETWORK)
    for body, one in zip(bodies, found.windows, strict=True):
        assert one.weights_json.encode() == canonical_json(body.to_json()["weights"])
        assert one.weights_json.encode() in body.canonical()
        assert one.found is not None
        assert one.found.lacked == ()
    assert any(w.weights_json != found.windows[0].weights_json for w in found.windows)


def test_a_weight_or_a_score_that_does_not_follow_is_found(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    for window in range(0, 300, 30):
        alice.judge(window)
    body = alice.body(300)
    worst = min(body.score_inputs, key=lambda uid: body.score_inputs[uid].power)
    richer = {**body.weights, 0: body.weights[0] - 1, worst: body.weights[worst] + 1}
    alice.publish(dataclasses.replace(body, weights=richer))
    one = window_of(audit(alice.store, [], LOCALNET), 300)
    assert (one.word, one.rule_differs) == ("differs", True)
    inputs = {**body.score_inputs, worst: dataclasses.replace(body.score_inputs[worst], in_lookback=True, work=60_000)}
    alice.publish(dataclasses.replace(body, score_inputs=inputs, weights=weights(inputs, LOCALNET)))
    one = window_of(audit(alice.store, [], LOCALNET), 300)
    assert (one.word, one.rule_differs) == ("differs", False)
    assert any(f"UIDs {worst}" in note for note in one.notes)


def test_another_networks_rule_gives_other_weights_and_is_told_apart(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    alice.judge(0)
    alice.judge(30)
    found = audit(alice.store, [], SUBNET_81)
    assert any(one.word == "differs" and one.rule_differs for one in found.windows)


# --- memory that was adopted, and memory that is lacking -----------------------------------------------------------------


def late_and_leader(root: Path) -> tuple[Validator, Validator]:
    """BOB comes at window 300 and fills in what ALICE scored; window 150 she found void."""
    alice, bob = Validator(ALICE, bucket(root, "alice")), Validator(BOB, bucket(root, "bob-bucket"), seed=2)
    for window in range(0, 300, 30):
        bob.remember(alice.judge(window, WindowStatus.VOID if window == 150 else WindowStatus.SCORED))
    bob.judge(300, adopted=Adopted(ALICE.hotkey, Window(0), Window(270)))
    bob.judge(330, WindowStatus.INCONCLUSIVE)
    for window in (300, 330):
        body = alice.judge(window)
        if window == 330:
            bob.remember(body)
    bob.judge(360, adopted=Adopted(ALICE.hotkey, Window(330), Window(330)))
    return bob, alice


def test_what_a_validator_filled_in_is_taken_from_the_verdicts_it_names(tmp_path: Path) -> None:
    bob, alice = late_and_leader(tmp_path)
    found = audit(bob.store, [alice.store], LOCALNET)
    assert words(found) == ["equal"] * 3
    one = window_of(found, 360)
    own = {300}  # what BOB scored himself is not ALICE's, though she has it too
    adopted = tuple(w for w in range(0, 360, 30) if w not in own and w != 150)
    assert one.found.filled_in == {ALICE.hotkey: adopted}
    assert one.found.lacked == (150,)
    assert any(ss58(ALICE.hotkey) in note and "0 … 120" in note for note in one.notes)
    assert window_of(found, 330).found.filled_in == {ALICE.hotkey: tuple(w for w in adopted if w < 300)}  # told at 360 only


def test_without_the_verdicts_it_filled_in_from_it_is_said_what_is_lacking(tmp_path: Path) -> None:
    bob, _ = late_and_leader(tmp_path)
    found = audit(bob.store, [], LOCALNET)
    assert set(words(found)) == {"differs"}
    assert window_of(found, 360).found.lacked == (*range(0, 300, 30), 330)
    assert any("windows 0 … 270, 330 of its memory" in note for note in window_of(found, 360).notes)


def test_a_gap_that_made_no_difference_is_named_and_equal(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    for window in (0, 30, 90):
        alice.judge(window)
    one = window_of(audit(alice.store, [], LOCALNET), 90)
    assert (one.word, one.found.lacked) == ("equal", (60,))


def test_one_window_needs_no_more_than_its_memory(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    for window in range(0, 120, 30):
        alice.judge(window)
    (one,) = audit(alice.store, [], LOCALNET, only=Window(90)).windows
    assert (one.window, one.word, one.found is not None and one.found.lacked) == (90, "equal", ())


# --- strangers' files ---------------------------------------------------------------------------------------------------


def test_what_is_no_verdict_costs_its_own_window_and_is_named(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    for window in range(0, 330, 30):
        alice.judge(window)
    genuine = json.loads(alice.store.get(verdict_key(Window(60)), max_bytes=2**25))
    eve = Validator(EVE, bucket(tmp_path, "eve-bucket"))
    strange: Mapping[int, bytes] = {
        0: b"",
        30: b"[" * 100_000,
        60: json.dumps(genuine | {"signature": "00" * 64}).encode(),
        90: json.dumps(genuine).encode(),  # of window 60
        120: eve.publish(eve.body(120)).encode(),
        150: eve.publish(dataclasses.replace(eve.body(150), network_id=Digest(b"x" * 32))).encode(),
        180: json.dumps(genuine | {"more": 1}).encode(),
        210: b"\xff\xfe",
    }
    for window, data in strange.items():
        alice.store.put(verdict_key(Window(window)), data)
    (tmp_path / "alice" / "grail" / "verdicts" / "240" / "verdict.json").unlink()
    (tmp_path / "alice" / "grail" / "verdicts" / "240" / "verdict.json").symlink_to("/etc/passwd")
    with (tmp_path / "alice" / "grail" / "verdicts" / "270" / "verdict.json").open("wb") as file:
        file.truncate(33 * 2**20)
    found = audit(alice.store, [eve.store], LOCALNET)
    assert found.validator == ss58(ALICE.hotkey)
    by_window = {one.window: one for one in found.windows}
    assert {w for w, one in by_window.items() if one.word == "refused"} == {*strange, 270}
    assert 240 not in by_window  # a link is no object
    assert by_window[Window(300)].found.lacked == tuple(range(0, 300, 30))  # type: ignore[union-attr]
    assert all(one.notes for one in by_window.values())


def test_two_verdicts_of_one_window_are_told_and_never_equal(tmp_path: Path) -> None:
    bob, alice = late_and_leader(tmp_path)
    twofaced = Validator(ALICE, bucket(tmp_path, "mirror"), seed=9)
    twofaced.judge(60)
    found = audit(bob.store, [alice.store, twofaced.store], LOCALNET)
    assert set(words(found)) == {"contradicted"}
    assert window_of(found, 360).found.contradicted == ((ALICE.hotkey, 60),)
    assert not any(one.ok for one in found.windows)
    unused = audit(alice.store, [bob.store], LOCALNET)  # BOB's other view of 300 is his own
    assert set(words(unused)) == {"equal"}


def a_round(signer: LocalSigner, network: Digest) -> SignedGradientVerdict:
    body = judge_round(dataclasses.replace(round_facts([], {}, Window(60)), network_id=network), GradientMemory())
    return SignedGradientVerdict(body, signer.hotkey, signer.sign(SignedGradientVerdict.message(body, signer.hotkey)))


def test_a_round_of_gradient_work_is_named_and_contradicts_nothing(tmp_path: Path) -> None:
    alice = Validator(ALICE, bucket(tmp_path, "alice"))
    for window in (0, 30):
        alice.judge(window)
    verdict = a_round(ALICE, NETWORK)
    strange = (
        dataclasses.replace(verdict, signature=Signature(bytes(64))),
        a_round(EVE, NETWORK),
        a_round(ALICE, Digest(b"x" * 32)),
    )
    for found, word in ((verdict, "round"), *((one, "refused") for one in strange)):
        alice.store.put(verdict_key(Window(60)), found.encode())
        assert words(audit(alice.store, [], LOCALNET)) == ["equal", "equal", word]


# --- the command ------------------------------------------------------------------------------------------------------


def grail(*arguments: str, network: Path, **more: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom grail_core.commands.grail import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'transformers', 'pyarrow', 'bittensor'} & set(sys.modules)\n"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path), "GRAIL_NETWORK": str(network), **more}
    return subprocess.run(
        [sys.executable, "-c", code, "scores", *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_the_command_prints_the_verdicts_bytes_and_ends_with_11_where_a_window_differs(tmp_path: Path) -> None:
    bob, _ = late_and_leader(tmp_path)
    network = tmp_path / "network.json"
    params = dataclasses.replace(LOCALNET, trainer_hotkey=Hotkey(bytes([7]) * 32))
    network.write_text(json.dumps(params.to_json()))
    here, there = str(tmp_path / "bob-bucket"), f"file://{tmp_path}/alice/grail/verdicts"
    ran = grail("--from", here, "--also", there, "--window", "360", network=network)
    assert ran.returncode == 0, ran.stderr
    verdict = SignedVerdict.decode(bob.store.get(verdict_key(Window(360)), max_bytes=2**25))
    assert ran.stdout.encode() == canonical_json(verdict.body.to_json()["weights"]) + b"\n"
    assert "window 360: equal" in ran.stderr
    assert "filled in from" in ran.stderr
    lacking = grail("--from", here, "--json", network=network)
    assert lacking.returncode == 11
    assert [row["result"] for row in json.loads(lacking.stdout)["windows"]] == ["differs"] * 3
    assert "--also" in json.loads(lacking.stderr)["hint"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--from", "{root}"), ConfigurationError, "no verdict to compute again"),
        (("--from", "{root}/nobody"), ConfigurationError, "no such bucket"),
        (("--from", "{bucket}", "--window", "361"), click.UsageError, "multiple of 30"),
        (("--from", "{bucket}", "--window", "3000"), ConfigurationError, "no verdict of window 3000"),
        (("--from", "{bucket}", "--hotkey", ss58(EVE.hotkey)), ConfigurationError, "no verdict to compute again"),
        (("--from", "{bucket}", "--hotkey", "5nonsense"), ConfigurationError, "SS58"),
        (("--from", "{bucket}", "--genesis-hash", "zz"), click.UsageError, "hexadecimal"),
        (("--from", "{bucket}", "--genesis-hash", "00" * 32), ConfigurationError, "no verdict to compute again"),
        (("--from", "s3:0:x"), ConfigurationError, "has no store hosts"),
        (("--from", "fs:bob"), ConfigurationError, "needs the folder of buckets"),
    ],
)
def test_what_is_no_bucket_or_no_verdict_is_said(
    arguments: tuple[str, ...],
    error: type[Exception],
    words: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path_factory.mktemp("verdicts")
    Validator(ALICE, bucket(root, "alice")).judge(0)
    monkeypatch.chdir(root)
    monkeypatch.setattr("grail_core.telemetry.configure", lambda *_, **__: None)
    monkeypatch.setenv("GRAIL_NETWORK", "localnet")
    given = [text.format(root=root, bucket=root / "alice") for text in arguments]
    with pytest.raises(error, match=words):
        cli.main(["scores", *given], standalone_mode=False)


def test_buckets_are_read_by_what_their_owners_committed(tmp_path: Path, s3: S3Server) -> None:
    bob, _ = late_and_leader(tmp_path)
    store = s3.store()
    for info in bob.store.list(VERDICT_PREFIX):
        store.put(info.key, bob.store.get(info.key, max_bytes=2**25))
    network = tmp_path / "network.json"
    params = dataclasses.replace(LOCALNET, trainer_hotkey=Hotkey(bytes([7]) * 32), store_hosts=(s3.url,))
    network.write_text(json.dumps(params.to_json()))
    address = BucketAddress(0, "account", BUCKET, Credentials("anyone", "secret")).to_text()
    ran = grail("--from", address, "--also", str(tmp_path / "alice"), "--json", network=network, R2_REGION=REGION)
    assert ran.returncode == 0, ran.stderr
    assert [row["result"] for row in json.loads(ran.stdout)["windows"]] == ["equal"] * 3
    alone = grail("--from", address, network=network, R2_REGION=REGION)
    assert alone.returncode == 11
    assert "secret" not in alone.stdout + alone.stderr  # of a bucket's key no more is repeated than its beginning
