"""D10, D11, D13: what comes from relays, keys and commitments: rounds nobody signed, keys that write, endpoints of one's own.

D10 asks real HTTP relays, one of which lies, through the client that roles use. D11 offers keys to the directory that commits
them, before a real S3 server that enforces policies. D13 commits texts and looks at a server that must not get a request.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grail_core.beacon.base import RoundNotYetError
from grail_core.beacon.chains import DEFAULT_CHAIN
from grail_core.beacon.development import DevelopmentKey, Relay, development_chain
from grail_core.beacon.drand import DrandBeacon
from grail_core.errors import BeaconError, ConfigurationError, GrailError, StorageError
from grail_core.participant.deployment import open_s3_directory
from grail_core.participant.settings import Settings
from grail_core.protocol import WindowStatus
from grail_core.protocol.beacon import BeaconChain
from grail_core.protocol.network import LOCALNET
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.storage.layout import PROBE_KEY
from grail_core.storage.s3_directory import S3Directory
from tooling.adversaries.crowd import HONEST, crowd_of, honest
from tooling.adversaries.rows import Row, Try
from tooling.testing.clock import ManualClock
from tooling.testing.driven_chain import Unhurried
from tooling.testing.s3_server import BUCKET, S3Server, s3_server
from tooling.testing.scripted_server import Answer, ScriptedServer

# --- D10 --------------------------------------------------------------------------------------------------------------

ROUND = 7
DEFAULT_ROUND = 1  # of the chained default chain; its signature is a true one
DEFAULT_SIGNATURE = (
    "8d61d9100567de44682506aea1a7a6fa6e5491cd27a0a0ed349ef6910ac5ac20ff7bc3e09d7c046566c9f7f3c6f3b101"
    "04990e7cb424998203d8f7de586fb7fa5f60045417a432684f85093b06ca91c769f0e7ca19268375e659c2a2352b4655"
)
QUICKNET_SIGNATURE = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
KEY, STRANGER = DevelopmentKey.from_seed(b"attacks"), DevelopmentKey.from_seed(b"a stranger")
CHAIN = BeaconChain(KEY.public_key, 1_700_000_000, 3)


def _answer(round_: object, signature: bytes, **more: object) -> Answer:
    return Answer(200, json.dumps({"round": round_, "signature": signature.hex(), **more}).encode())


def rounds() -> dict[str, Answer]:
    """What a lying relay answers to the question for round 7."""
    true = KEY.sign(ROUND).signature
    identity = bytes([0xC0]) + bytes(47)
    return {
        "wrong round": _answer(ROUND + 1, KEY.sign(ROUND + 1).signature),
        "stale: the round before": _answer(ROUND - 1, KEY.sign(ROUND - 1).signature),
        "another round under this number": _answer(ROUND, KEY.sign(ROUND - 1).signature),
        "another chain's round": _answer(ROUND, STRANGER.sign(ROUND).signature),
        "one bit turned": _answer(ROUND, true[:-1] + bytes([true[-1] ^ 1])),
        "the identity": _answer(ROUND, identity),
        "no signature": _answer(ROUND, b""),
        "two signatures": _answer(ROUND, true + true),
        "a chained chain's round": _answer(
            DEFAULT_ROUND, bytes.fromhex(DEFAULT_SIGNATURE), previous_signature=DEFAULT_CHAIN.group_hash.hex()
        ),
        "the same under this number": _answer(ROUND, bytes.fromhex(DEFAULT_SIGNATURE)),
        "a quicknet round under this number": _answer(ROUND, bytes.fromhex(QUICKNET_SIGNATURE)),
        "a round that is text": _answer(str(ROUND), true),
        "no JSON": Answer(200, b"<html>"),
        "a mebibyte": Answer(200, b" " * (1 << 20)),
        "nested without end": Answer(200, b"[" * 4000),
        "an error": Answer(500),
        "sent elsewhere": Answer(302, headers={"Location": "http://169.254.169.254/"}),
    }


def d10() -> dict[str, Any]:
    """Every lie alone and before an honest relay; then a validator that has nothing else."""
    row = Row("D10", "answers of a relay")
    clock = ManualClock(CHAIN.time_of_ms(ROUND + 3))
    with _relay(clock) as relay, tempfile.TemporaryDirectory(prefix="grail-attacks-") as folder:
        for number, (name, lie) in enumerate(rounds().items()):
            with ScriptedServer(lie) as liar:
                alone = _asked(Path(folder) / f"{number}", clock, liar.url)
                beside = _asked(Path(folder) / f"{number}-beside", clock, liar.url, relay.url)
            row.tries.append(Try(name, not isinstance(alone, BeaconError), "beacon", str(alone)[:200]))
            row.honest_tries += 1
            row.honest_false_rejects += beside != KEY.sign(ROUND)
        _relays_of_other_chains(row, clock, Path(folder), relay.url)
    _window_without_rounds(row)
    return row.to_json()


def _relays_of_other_chains(row: Row, clock: ManualClock, folder: Path, honest_url: str) -> None:
    """True rounds of true chains that are not the network's: refused, and the relay is called what it is."""
    chained = _answer(DEFAULT_ROUND, bytes.fromhex(DEFAULT_SIGNATURE), previous_signature=DEFAULT_CHAIN.group_hash.hex())
    bn254 = Answer(200, json.dumps({**DEFAULT_CHAIN.to_json(), "schemeID": "bls-bn254-unchained-on-g1"}).encode())
    strangers = development_chain(dataclasses.replace(CHAIN, public_key=STRANGER.public_key))
    for name, answers in {
        "a relay of the chained default chain": (chained, Answer(200, json.dumps(DEFAULT_CHAIN.to_json()).encode())),
        "a relay of another key's chain": (
            _answer(ROUND, STRANGER.sign(ROUND).signature),
            Answer(200, json.dumps(strangers.to_json()).encode()),
        ),
        "a relay of a chain over BN254": (_answer(ROUND, bytes(64)), bn254),
    }.items():
        with ScriptedServer(*answers) as other:
            alone = _asked(folder / name, clock, other.url)
        with ScriptedServer(*answers) as other:
            beside = _asked(folder / f"{name} beside", clock, other.url, honest_url)
        named = isinstance(alone, BeaconError) and "relay serves" in alone.what
        row.tries.append(Try(name, not named, "beacon", str(alone)[:200]))
        row.honest_tries += 1
        row.honest_false_rejects += beside != KEY.sign(ROUND)


def _asked(folder: Path, clock: ManualClock, *urls: str) -> object:
    beacon = DrandBeacon(CHAIN, urls, folder, clock=clock, attempts=1, stagger_s=0.0)
    try:
        return beacon.get(ROUND)
    except RoundNotYetError as error:
        return f"taken for early: {error}"
    except BeaconError as error:
        return error


def _window_without_rounds(row: Row) -> None:
    """All relays lie until it is too late: the window is void for everybody, and the next one is judged."""
    with crowd_of({}) as crowd, ScriptedServer(Answer(200, b"{}")) as liar:
        network = crowd.network
        crowd.mine()
        network.advance_to(60)
        lying = DrandBeacon(network.params.beacon, [liar.url], network.root / "rounds", clock=None, attempts=1, stagger_s=0.0)
        validator = crowd.validator(beacon=lying)
        validator.first_sight.sight(crowd.window)
        network.advance_to(validator.participant.times(crowd.window).void_block + 1)
        status = validator.advance(crowd.window, Unhurried())
        void = status is WindowStatus.VOID
        row.tries.append(
            Try("no relay tells the truth", not void, "void", f"the window is {status.value if status else 'open'}")
        )
        again = crowd.next_window(after=network.chain.current_block())
        crowd.mine(again)
        (body,) = crowd.judge(crowd.validator(), window=again)
        honest(row, crowd.verdict(body, HONEST))


@contextmanager
def _relay(clock: ManualClock) -> Iterator[Relay]:
    chain = CHAIN
    with Relay(KEY, genesis_time_s=chain.genesis_time_s, period_s=chain.period_s, port=0, clock=clock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# --- D11 --------------------------------------------------------------------------------------------------------------


def d11() -> dict[str, Any]:
    """Keys that write, offered to be committed for everybody to read."""
    row = Row("D11", "pairs of keys")
    with s3_server() as server:
        server.reset()
        reader, writer = server.user("reader", "s3:GetObject", "s3:ListBucket"), server.user("writer", "s3:*")
        reads = ("s3:GetObject", "s3:ListBucket")
        putter = server.user("putter", *reads, "s3:PutObject", "s3:DeleteObject")
        keeper, deleter = server.user("keeper", *reads, "s3:PutObject"), server.user("deleter", *reads, "s3:DeleteObject")
        with server.enforcing():
            for name, (read, write) in {
                "the write key": (writer, writer),
                "its secret under another name": (Credentials("AKIAOTHER", writer.secret), writer),
                "another key that may do everything": (writer, putter),
                "another key that may put": (putter, writer),
                "another key that may put and not delete what it tried": (keeper, writer),
                "another key that may delete alone": (deleter, writer),
            }.items():
                refused, message = _committed(server, read, write)
                row.tries.append(Try(name, not refused, "start-up", message))
            refused, _ = _committed(server, reader, writer)
            row.honest_tries, row.honest_false_rejects = 1, int(refused)
            own = server.store(writer)
            left = own.head(PROBE_KEY) is not None or own.abandon_uploads("") > 0
            row.tries.append(Try("what was tried stays in the bucket", left, "start-up", "nothing is left"))
    return row.to_json()


def _committed(server: S3Server, read: Credentials, write: Credentials) -> tuple[bool, str]:
    """Whether the pair is refused, and the message."""
    settings = _settings(read, write)
    try:
        text = open_s3_directory(settings, dataclasses.replace(LOCALNET, store_hosts=(server.url,))).commitment()
    except ConfigurationError as error:
        return error.exit_code == ConfigurationError.exit_code and bool(error.hint), error.what
    return False, f"committed: {text[:24]}"


def _settings(read: Credentials, write: Credentials, **more: str) -> Settings:
    return Settings.model_validate(
        {
            "R2_BUCKET_ID": BUCKET,
            "R2_ACCOUNT_ID": "acme",
            "R2_READ_ACCESS_KEY_ID": read.key_id,
            "R2_READ_SECRET_ACCESS_KEY": read.secret,
            "R2_WRITE_ACCESS_KEY_ID": write.key_id,
            "R2_WRITE_SECRET_ACCESS_KEY": write.secret,
            **more,
        }
    )


# --- D13 --------------------------------------------------------------------------------------------------------------

READ, WRITE = Credentials("reader", "secret"), Credentials("writer", "other")


def commitments(inner: str) -> dict[str, str]:
    """Texts that somebody commits; `inner` is host and port of a server that nobody is to ask."""
    return {
        "a URL": f"http://{inner}/bucket",
        "a URL for an account": f"s3:0:bucket:http://{inner}:key:secret",
        "a host for an account": f"s3:0:bucket:{inner}/:key:secret",
        "a host before the network's": f"s3:0:bucket:{inner}#:key:secret",
        "user information": f"s3:0:bucket:a@{inner}:key:secret",
        "a query": f"s3:0:bucket:{inner}?x=:key:secret",
        "a bucket that is a path": f"s3:0:../../{inner}:acme:key:secret",
        "a bucket that is a URL": f"s3:0:http-{inner}/x:acme:key:secret",
        "dots for an account": "s3:0:bucket:..:key:secret",
        "a host that the network has not": "s3:7:bucket:acme:key:secret",
        "a negative host": "s3:-1:bucket:acme:key:secret",
        "a line of headers": "s3:0:bucket:acme:key\r\nHost: inner:secret",
        "another script": "s3:0:bucket:аcme:key:secret",
        "a percent": f"s3:0:bucket:%2f%2f{inner}:key:secret",
        "a folder": "fs:bucket",
        "a file": "file:///etc/passwd",
        "nothing": "",
        "a kilobyte": "s3:0:bucket:acme:key:" + "s" * 1024,
        "the address of the machine's own metadata": "s3:0:bucket:169.254.169.254:key:secret",
    }


def d13() -> dict[str, Any]:
    """Own endpoints in commitments and settings, and a store that sends its readers elsewhere."""
    row = Row("D13", "endpoints")
    with ScriptedServer(Answer(200, b"inner")) as inner, tempfile.TemporaryDirectory(prefix="grail-attacks-") as folder:
        networks = S3Directory(("r2.example.com",), BucketAddress(0, "acme", "own-bucket", READ), WRITE)
        folders = FilesystemDirectory(folder, "own-bucket")
        for name, text in commitments(inner.url.removeprefix("http://")).items():
            _refused_before_any_request(row, name, text, networks, inner)
        for name, text in {"a folder outside": "fs:../../etc", "a folder's folder": "fs:a/b", "hidden": "fs:.ssh"}.items():
            _refused_before_any_request(row, name, text, folders, inner)
        with ScriptedServer(Answer(307, headers={"Location": f"{inner.url}/x"})) as sends:
            redirecting = S3Directory((sends.url,), BucketAddress(0, "acme", "own-bucket", READ), WRITE)
            outcome = _read(redirecting, BucketAddress(0, "mallory", "some-bucket", READ).to_text())
            followed = inner.requests > 0 or not isinstance(outcome, StorageError)
            row.tries.append(Try("sent to an inner host", followed, "store", str(outcome)[:200]))
        _endpoint_of_settings(row, inner)
        with ScriptedServer(Answer(200, b"file", {"ETag": '"e"'})) as host:
            honest_directory = S3Directory((host.url,), BucketAddress(0, "acme", "own-bucket", READ), WRITE)
            row.honest_tries += 1
            row.honest_false_rejects += (
                _read(honest_directory, BucketAddress(0, "bob", "his-bucket", READ).to_text()) != b"file"
            )
    return row.to_json()


def _refused_before_any_request(
    row: Row, name: str, text: str, directory: S3Directory | FilesystemDirectory, inner: ScriptedServer
) -> None:
    try:
        directory.open(text)
        outcome: object = "opened"
    except StorageError as error:
        outcome = error
    refused = isinstance(outcome, StorageError) and inner.requests == 0
    row.tries.append(Try(name, not refused, "commitment", str(outcome)[:200]))


def _read(directory: S3Directory, text: str) -> object:
    try:
        return directory.open(text).get("grail/seals/x.json", max_bytes=100)
    except GrailError as error:
        return error


def _endpoint_of_settings(row: Row, inner: ScriptedServer) -> None:
    """One's own endpoint in one's own settings: others would read elsewhere."""
    params = dataclasses.replace(LOCALNET, store_hosts=("r2.example.com",))
    try:
        open_s3_directory(_settings(READ, WRITE, R2_ENDPOINT_URL=inner.url), params)
        outcome: object = "opened"
    except ConfigurationError as error:
        outcome = error
    refused = isinstance(outcome, ConfigurationError) and inner.requests == 0
    row.tries.append(Try("in one's own settings", not refused, "start-up", str(outcome)[:200]))


ATTACKS: dict[str, Callable[..., dict[str, Any]]] = {"D10": d10, "D11": d11, "D13": d13}
