"""`grail storage` as an operator runs it: a rotated key, and what the doctor says of a bucket."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from grail_core.chain.development.local import LocalChain
from grail_core.clock import wall_clock_ms
from grail_core.examination.bucket import Examined, committed, examine
from grail_core.keys import load_hotkey, write_wallet
from grail_core.participant.settings import Settings
from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET
from grail_core.storage import s3_requests
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.s3_directory import S3Directory
from tooling.testing.bucket_owners import READS, Owner, registered_owners, virtual_chain
from tooling.testing.s3_server import REGION, S3Server
from tooling.testing.scripted_server import Answer, ScriptedServer


@pytest.fixture
def chain(tmp_path: Path) -> LocalChain:
    return virtual_chain(tmp_path)


@pytest.fixture
def owners(s3: S3Server, chain: LocalChain) -> tuple[Owner, Owner]:
    return registered_owners(s3, chain)


@pytest.fixture
def operator(tmp_path: Path, s3: S3Server, chain: LocalChain, owners: tuple[Owner, Owner]) -> Iterator[dict[str, str]]:
    """What an operator of Adam's bucket sets, with a first read key that the chain names and a second one made."""
    adam, _ = owners
    old, new = adam.key(1), adam.key(2)
    signer = write_wallet(tmp_path / "wallets", "cold", "hot", coldkey_seed=bytes(32), hotkey_seed=bytes([1]) * 32)
    chain.register(signer)
    params = dataclasses.replace(LOCALNET, store_hosts=(s3.url,), trainer_hotkey=signer.hotkey)
    (tmp_path / "network.json").write_text(json.dumps(params.to_json()))
    settings = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(tmp_path / "chain.sqlite"),
        "NETUID": str(params.netuid),
        "BT_WALLET_PATH": str(tmp_path / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "hot",
        "GRAIL_NETWORK": str(tmp_path / "network.json"),
        "R2_BUCKET_ID": "adam",
        "R2_ACCOUNT_ID": "acme",
        "R2_REGION": REGION,
        "R2_READ_ACCESS_KEY_ID": new.key_id,
        "R2_READ_SECRET_ACCESS_KEY": new.secret,
        "R2_WRITE_ACCESS_KEY_ID": adam.write.key_id,
        "R2_WRITE_SECRET_ACCESS_KEY": adam.write.secret,
    }
    with s3.enforcing():
        chain.commit(signer, adam.directory(old).commitment())
        chain.advance(40)
        yield settings


def grail(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_", "R2_"))}
    command = [sys.executable, "-c", "from grail_core.commands.grail import main; main()", *arguments]
    return subprocess.run(
        command, env=environment | settings, capture_output=True, text=True, timeout=120, cwd=settings["BT_WALLET_PATH"]
    )


def test_the_command_commits_the_new_key_and_says_until_when_the_old_one_is_needed(
    operator: dict[str, str], chain: LocalChain
) -> None:
    ran = grail(operator, "storage", "rotate-key", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    window = window_of(chain.current_block())
    until = WindowTimes(window, LOCALNET).void_block + WINDOW_LENGTH
    assert told == {
        "committed": True,
        "old_key_reads": True,
        "last_window_of_old_key": window,
        "old_key_until_block": until,
        "old_key_until": told["old_key_until"],
    }
    assert told["old_key_until"].endswith("Z")
    assert operator["R2_READ_SECRET_ACCESS_KEY"] not in ran.stdout + ran.stderr
    chain.advance(5)
    again = grail(operator, "storage", "rotate-key", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, told | {"committed": False})
    doctor = grail(operator, "storage", "doctor", "--json")
    (on_chain,) = [row for row in json.loads(doctor.stdout)["checks"] if row["name"] == "on chain"]
    assert on_chain["detail"] == "the bucket and read key of these settings"


def on_chain(operator: dict[str, str], chain: LocalChain, s3: S3Server, url: str = "", **changes: str) -> Examined:
    """What the doctor says of the chain, with an operator's settings but for these."""
    given = {name: value for name, value in (operator | changes).items() if value}
    settings = Settings.model_validate(given)
    params = dataclasses.replace(LOCALNET, store_hosts=(s3.url,))
    read = Credentials(given["R2_READ_ACCESS_KEY_ID"], given["R2_READ_SECRET_ACCESS_KEY"])
    write = Credentials(given["R2_WRITE_ACCESS_KEY_ID"], given["R2_WRITE_SECRET_ACCESS_KEY"])
    address = BucketAddress(0, "acme", given["R2_BUCKET_ID"], read)
    return committed(settings, chain, S3Directory((url or s3.url,), address, write, region=REGION), params)


def test_the_doctor_calls_broken_what_readers_cannot_use_and_only_that(
    operator: dict[str, str], chain: LocalChain, s3: S3Server, owners: tuple[Owner, Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.001)
    adam, _ = owners
    signer = load_hotkey(operator["BT_WALLET_PATH"], "cold", "hot")
    lives = on_chain(operator, chain, s3)
    assert (lives.ok, "another read key of this bucket, which reads" in lives.detail) == (True, True)
    moved = on_chain(operator, chain, s3, R2_BUCKET_ID="bert")
    assert (moved.ok, moved.cause) == (False, "another bucket")
    assert "names bucket adam at" in moved.detail
    assert "these settings bert at" in moved.detail
    assert "rotate-key" not in moved.detail  # it refuses another bucket
    for text in (adam.directory(Credentials("AKIAGONE", "x" * 40)).untried_commitment(), "fs:adam"):
        chain.commit(signer, text)
        chain.advance(5)
        found = on_chain(operator, chain, s3)
        assert (found.ok, found.cause) == (False, "unreadable"), text
        assert "x" * 40 not in found.detail
    read = Credentials(operator["R2_READ_ACCESS_KEY_ID"], operator["R2_READ_SECRET_ACCESS_KEY"])
    chain.commit(signer, adam.directory(read).untried_commitment())
    chain.advance(5)
    with ScriptedServer(Answer(200)) as server:
        gone = server.url
    same = on_chain(operator, chain, s3, url=gone)  # a store that is away is no fault of the chain's
    assert (same.ok, same.detail) == (True, "the bucket and read key of these settings")


def test_the_doctor_says_why_the_chain_was_not_asked_and_ends_well_only_where_no_setting_is_wrong(
    operator: dict[str, str], chain: LocalChain, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = on_chain(operator, chain, s3, BT_WALLET_HOT="other")
    assert (missing.ok, missing.cause) == (False, "settings")
    write_wallet(tmp_path / "wallets", "cold", "new", coldkey_seed=bytes(32), hotkey_seed=bytes([9]) * 32)
    stranger = on_chain(operator, chain, s3, BT_WALLET_HOT="new")
    assert (stranger.ok, stranger.cause) == (False, "not registered")
    assert "grail devnet add" in stranger.detail
    path = tmp_path / "wallets" / "cold" / "hotkeys" / "hot"
    path.write_bytes(b"$NACL" + bytes(200))  # of an encrypted one without its password nothing more is looked at
    locked = on_chain(operator, chain, s3)
    monkeypatch.setenv("HOME", str(tmp_path))
    unset = on_chain(operator, chain, s3, BT_WALLET_PATH="", BT_WALLET_COLD="", BT_WALLET_HOT="")
    for found in (locked, unset):
        assert (found.ok, found.asked, found.word) == (True, False, "-")
        assert found.detail.startswith("not asked: ")


@pytest.mark.parametrize(
    ("actions", "row", "who"),
    [
        ((*READS, "s3:PutObject"), "remove", "write"),
        (("s3:GetObject",), "read by others", "read"),
        (("s3:ListBucket",), "read by others", "read"),
    ],
)
def test_the_doctor_names_the_promise_that_a_permission_is_missing_for(
    s3: S3Server, owners: tuple[Owner, Owner], actions: tuple[str, ...], row: str, who: str
) -> None:
    adam, _ = owners
    lesser, read = adam.key(1, *actions), adam.key(2)
    one = adam if who == "read" else dataclasses.replace(adam, write=lesser)
    with s3.enforcing():
        findings = examine(one.directory(lesser if who == "read" else read), wall_clock_ms)
    assert [(found.name, found.cause) for found in findings if not found.ok] == [(row, "no permission")]


@pytest.mark.parametrize(
    ("answer", "cause", "said"),
    [
        (Answer(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), "clock", "clock wrong"),
        (Answer(400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), "region or account", "R2_REGION"),
        (Answer(301, b"<Error><Code>PermanentRedirect</Code></Error>"), "region or account", "never followed"),
        (Answer(503, b"<Error><Code>SlowDown</Code></Error>"), "no answer", "not ready"),
        (Answer(401, b"<Error><Code>Unauthorized</Code></Error>"), "no permission", "denies access"),
        (None, "unreachable", "cannot be reached"),
    ],
)
def test_the_doctor_tells_what_is_wrong_with_a_store_apart(
    answer: Answer | None, cause: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.001)
    address = BucketAddress(0, "acme", "adam", Credentials("reads", "a-secret"))
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer(answer or Answer(200)))
        if answer is None:
            stack.close()  # nobody listens there any more
        (found,) = examine(S3Directory((server.url,), address, Credentials("writes", "another")), lambda: 0)
    assert (found.name, found.ok, found.cause) == ("bucket", False, cause)
    assert said in found.detail


@pytest.mark.parametrize(
    ("changes", "cause", "said"),
    [
        ({"R2_WRITE_ACCESS_KEY_ID": "AKIAWRONG"}, "wrong key", "knows no such access key"),
        ({"R2_WRITE_SECRET_ACCESS_KEY": "wrong"}, "wrong key", "not this access key's"),
        ({"R2_BUCKET_ID": "no-such-bucket"}, "no such bucket", "no such bucket"),
        ({"R2_BUCKET_ID": "bert"}, "no permission", "denies access"),
    ],
)
def test_the_doctor_tells_what_is_wrong_with_a_bucket_apart(
    s3: S3Server, owners: tuple[Owner, Owner], changes: dict[str, str], cause: str, said: str
) -> None:
    adam, _ = owners
    read = adam.key(1)
    write = Credentials(
        changes.get("R2_WRITE_ACCESS_KEY_ID", adam.write.key_id), changes.get("R2_WRITE_SECRET_ACCESS_KEY", adam.write.secret)
    )
    # Whoever asks for a bucket that is not there is told so where the key may do anything anywhere.
    if cause == "no such bucket":
        write = s3.user("anywhere", "s3:*", bucket="*")
    with s3.enforcing():
        address = BucketAddress(0, "acme", changes.get("R2_BUCKET_ID", "adam"), read)
        (found,) = examine(S3Directory((s3.url,), address, write, region=REGION), lambda: 0)
    assert (found.name, found.ok, found.cause) == ("bucket", False, cause)
    assert said in found.detail
