"""The S3 store against a real HTTP S3 server, with users and policies enforced where that is what is tested."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError, StorageError
from grail_core.participant.deployment import open_s3_directory
from grail_core.participant.settings import Settings
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.storage.base import (
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoreDirectory,
)
from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of, parse_commitment
from grail_core.storage.s3 import AccessDeniedError, S3Store

KEY = "grail/windows/5F-window-60.parquet"
ANYONE = Credentials("anyone", "secret")
REGION = "us-east-1"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A moto server process; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:  # it says when it listens
        if "Running on" in line:
            break
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def admin(server: str, service: str = "s3") -> object:
    return boto3.client(service, endpoint_url=server, aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION)


@pytest.fixture
def store(server: str) -> S3Store:
    httpx.post(server + "/moto-api/reset")
    admin(server).create_bucket(Bucket="alice")  # type: ignore[attr-defined]
    return S3Store(server, "alice", ANYONE, region=REGION)


def test_what_is_put_is_read_with_its_etag_and_the_stores_time(store: S3Store) -> None:
    before = int(time.time()) * 1000
    typed: ObjectStore = store
    info = typed.put(KEY, b"rollouts")
    assert (info.key, info.size) == (KEY, 8)
    assert info.etag == hashlib.md5(b"rollouts").hexdigest()
    assert before <= info.stored_at_ms <= time.time() * 1000
    assert info.stored_at_ms % 1000 == 0
    assert store.head(KEY) == info
    assert store.get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
    assert store.put("empty", b"").size == 0
    assert store.get("empty", max_bytes=0) == b""


def test_even_a_large_object_is_one_put(store: S3Store) -> None:
    data = bytes(range(256)) * (70 * 4096)
    info = store.put(KEY, data)
    assert info.size == 70 << 20
    assert "-" not in info.etag
    assert store.get(KEY, max_bytes=len(data), if_match=info.etag) == data


def test_an_object_that_is_not_there_is_none_or_not_found(store: S3Store) -> None:
    assert store.head(KEY) is None
    with pytest.raises(ObjectNotFoundError):
        store.get(KEY, max_bytes=10)
    store.delete(KEY)
    assert list(store.list("")) == []


def test_a_file_replaced_after_first_sight_is_not_read(store: S3Store) -> None:
    seen = store.put(KEY, b"first")
    store.put(KEY, b"other")
    for length in (None, 2, 0):
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=10, if_match=seen.etag, length=length)


def test_a_conditional_put_keeps_what_is_there_and_of_many_one_wins(store: S3Store, server: str) -> None:
    store.put("first", b"first", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.put("first", b"first", if_absent=True)
    won: list[int] = []

    def race(number: int) -> None:
        try:
            S3Store(server, "alice", ANYONE, region=REGION).put(KEY, bytes([number]), if_absent=True)
            won.append(number)
        except StorageError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get(KEY, max_bytes=1) == bytes(won)


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(0, None, b"abcdef"), (2, None, b"cdef"), (2, 3, b"cde"), (4, 9, b"ef"), (0, 0, b"")]
)
def test_ranges_are_read_and_pinned(store: S3Store, offset: int, length: int | None, expected: bytes) -> None:
    etag = store.put(KEY, b"abcdef").etag
    assert store.get(KEY, max_bytes=6, if_match=etag, offset=offset, length=length) == expected


def test_no_more_than_max_bytes_are_read(store: S3Store) -> None:
    store.put(KEY, b"abcdef")
    with pytest.raises(ObjectTooLargeError):
        store.get(KEY, max_bytes=5)
    assert store.get(KEY, max_bytes=5, length=5) == b"abcde"
    with pytest.raises(StorageError):
        store.get(KEY, max_bytes=5, offset=7)


def test_list_pages_through_keys_by_prefix(store: S3Store) -> None:
    keys = [f"grail/objects/{n:04d}" for n in range(1005)]
    client = store._client
    for key in keys:
        client.put_object(Bucket="alice", Key=key, Body=b"")
    store.put("top", b"1")
    assert [info.key for info in store.list("grail/objects/")] == keys
    assert [info.key for info in store.list("t")] == ["top"]
    store.delete("top")
    assert list(store.list("t")) == []


@pytest.mark.parametrize("key", ["", "/x", "..", "a/../b", "a b", "ä"])
def test_keys_that_are_no_keys_are_refused(store: S3Store, key: str) -> None:
    for attempt in (
        lambda: store.put(key, b""),
        lambda: store.head(key),
        lambda: store.get(key, max_bytes=1),
        lambda: store.delete(key),
    ):
        with pytest.raises(StorageError, match="relative path"):
            attempt()


def test_a_wrong_bucket_and_a_dead_server_are_named(server: str, store: S3Store) -> None:
    with pytest.raises(StorageError, match="no such bucket") as caught:
        S3Store(server, "nobody", ANYONE, region=REGION).put(KEY, b"")
    assert "R2_BUCKET_ID" in caught.value.hint
    with socket.create_server(("127.0.0.1", 0)) as probe:
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        S3Store(dead, "alice", ANYONE, region=REGION).head(KEY)
    assert caught.value.where == f"{dead}/alice/{KEY}"


class Scripted(ThreadingHTTPServer):
    """An HTTP server that gives prepared answers in turn and counts requests."""

    daemon_threads = True

    def __init__(self, answers: list[tuple[int, dict[str, str], bytes]]) -> None:
        self.answers, self.requests = answers, 0
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _ScriptedHandler(BaseHTTPRequestHandler):
    server: Scripted

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = self.server.answers[min(self.server.requests, len(self.server.answers) - 1)]
        self.server.requests += 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    elsewhere = Scripted([(200, {}, b"poison")])
    redirecting = Scripted([(status, {"Location": elsewhere.url + "/alice/x", "x-amz-bucket-region": "eu-west-1"}, b"")])
    store = S3Store(redirecting.url, "alice", ANYONE, region=REGION)
    with pytest.raises(StorageError):
        store.get("x", max_bytes=100)
    with pytest.raises(StorageError):
        store.head("x")
    assert redirecting.requests >= 2
    assert elsewhere.requests == 0
    for each in (elsewhere, redirecting):
        each.shutdown()
        each.server_close()


DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


def test_a_body_that_lies_about_its_length_is_refused() -> None:
    short = Scripted([(200, {"Content-Length": "10", "ETag": '"e"', "Last-Modified": DATE}, b"abc")])
    with pytest.raises(StorageError):
        S3Store(short.url, "alice", ANYONE, region=REGION).get("x", max_bytes=100)
    ignoring = Scripted([(200, {"ETag": '"e"', "Last-Modified": DATE}, b"abcdef")])
    with pytest.raises(StorageError, match="ignored the range"):
        S3Store(ignoring.url, "alice", ANYONE, region=REGION).get("x", max_bytes=100, offset=2, length=2)
    for each in (short, ignoring):
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize(("held", "ours"), [(b"data", True), (b"else", False)])
def test_a_conditional_put_whose_first_answer_was_lost_is_told_from_a_lost_race(held: bytes, ours: bool) -> None:
    found = {"ETag": '"e"', "Last-Modified": DATE}
    flaky = Scripted([(503, {}, b""), (412, {}, b""), (200, found, held), (200, found, held)])
    store = S3Store(flaky.url, "alice", ANYONE, region=REGION)
    if ours:
        assert store.put("x", b"data", if_absent=True).stored_at_ms == 1_700_000_000_000
    else:
        with pytest.raises(PreconditionFailedError):
            store.put("x", b"data", if_absent=True)
    flaky.shutdown()
    flaky.server_close()


def network(server: str) -> NetworkParameters:
    return dataclasses.replace(LOCALNET, store_hosts=(server,))


def user(server: str, name: str, *actions: str) -> Credentials:
    """A user of the store with a key that may do these actions in bucket alice."""
    iam = admin(server, "iam")
    iam.create_user(UserName=name)  # type: ignore[attr-defined]
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": ["arn:aws:s3:::alice", "arn:aws:s3:::alice/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)  # type: ignore[attr-defined]
    key = iam.create_access_key(UserName=name)["AccessKey"]  # type: ignore[attr-defined]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def settings_with(server: str, read: Credentials, write: Credentials, **changes: str) -> Settings:
    values = {
        "R2_BUCKET_ID": "alice",
        "R2_ACCOUNT_ID": "acme",
        "R2_REGION": REGION,
        "R2_READ_ACCESS_KEY_ID": read.key_id,
        "R2_READ_SECRET_ACCESS_KEY": read.secret,
        "R2_WRITE_ACCESS_KEY_ID": write.key_id,
        "R2_WRITE_SECRET_ACCESS_KEY": write.secret,
        **changes,
    }
    return Settings(**values)  # type: ignore[arg-type]


@pytest.fixture
def guarded(server: str, store: S3Store) -> Iterator[tuple[Credentials, Credentials]]:
    """A reader's and a writer's key of bucket alice, on a server that enforces them."""
    reader, writer = user(server, "reader", "s3:GetObject", "s3:ListBucket"), user(server, "writer", "s3:*")
    httpx.post(server + "/moto-api/reset-auth", content=b"0")
    yield reader, writer
    httpx.post(server + "/moto-api/reset-auth", content=b"inf")


def test_others_read_through_the_commitment_and_cannot_write(server: str, guarded: tuple[Credentials, Credentials]) -> None:
    reader, writer = guarded
    directory: StoreDirectory = open_s3_directory(settings_with(server, reader, writer), network(server))
    info = directory.own().put(KEY, b"rollouts")
    text = directory.commitment()
    assert len(text) <= 128
    assert writer.key_id not in text
    assert writer.secret not in text
    other = open_s3_directory(settings_with(server, writer, reader), network(server)).open(text)
    assert other.head(KEY) == info
    assert other.get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
    for write in (lambda: other.put(KEY, b""), lambda: other.delete(KEY)):
        with pytest.raises(StorageError, match="read only"):
            write()
    with pytest.raises(AccessDeniedError):
        S3Store(server, "alice", reader, region=REGION).put(KEY, b"")


def test_a_read_key_that_can_write_is_never_committed(server: str, guarded: tuple[Credentials, Credentials]) -> None:
    _, writer = guarded
    directory = open_s3_directory(settings_with(server, writer, Credentials("AKIAOTHER", "other")), network(server))
    with pytest.raises(ConfigurationError, match="can write"):
        directory.commitment()
    assert list(S3Store(server, "alice", writer, region=REGION).list("")) == []


def test_wrong_keys_are_a_clear_error(server: str, guarded: tuple[Credentials, Credentials]) -> None:
    with pytest.raises(StorageError, match="denies access"):
        S3Store(server, "alice", Credentials("AKIAWRONG", "wrong"), region=REGION).put(KEY, b"")


HEX_READ, HEX_WRITE = Credentials("ab" * 16, "cd" * 32), Credentials("12" * 16, "34" * 32)


def test_offering_the_write_key_for_the_commitment_is_refused_at_once(server: str) -> None:
    with pytest.raises(ConfigurationError, match="is the write key"):
        open_s3_directory(settings_with(server, HEX_WRITE, HEX_WRITE), network(server))


def test_missing_settings_are_all_named(server: str) -> None:
    settings = settings_with(server, HEX_READ, HEX_WRITE, R2_BUCKET_ID="", R2_WRITE_SECRET_ACCESS_KEY="")
    with pytest.raises(ConfigurationError) as caught:
        open_s3_directory(settings, network(server))
    assert caught.value.where == "R2_BUCKET_ID, R2_WRITE_SECRET_ACCESS_KEY"


def test_an_endpoint_that_the_network_does_not_allow_is_refused() -> None:
    params = dataclasses.replace(LOCALNET, store_hosts=("r2.example.com", "eu.r2.example.com"))
    good = settings_with("", HEX_READ, HEX_WRITE, R2_ENDPOINT_URL="https://acme.eu.r2.example.com/")
    assert open_s3_directory(good, params)._address.host_index == 1
    bad = settings_with("", HEX_READ, HEX_WRITE, R2_ENDPOINT_URL="https://evil.example.com")
    with pytest.raises(ConfigurationError, match="not one that the network allows"):
        open_s3_directory(bad, params)


def test_cloudflares_keys_with_a_bucket_name_fit_into_a_commitment() -> None:
    address = BucketAddress(0, "0f" * 16, "b" * 36, HEX_READ)
    text = address.to_text()
    assert len(text.encode()) == 128
    assert parse_commitment(text, 1) == address
    with pytest.raises(ConfigurationError, match="shorter by 1"):
        dataclasses.replace(address, bucket="b" * 37).to_text()
    assert HEX_READ.secret not in repr(address)


accounts = st.from_regex(r"[a-z0-9]{1,10}", fullmatch=True) | st.binary(min_size=16, max_size=16).map(bytes.hex)
key_ids = st.from_regex(r"[A-Z0-9]{1,20}", fullmatch=True) | st.binary(min_size=16, max_size=16).map(bytes.hex)
secrets = st.from_regex(r"[A-Za-z0-9+/]{1,40}", fullmatch=True) | st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.integers(0, 9), accounts, st.from_regex(r"[a-z0-9]{3,20}", fullmatch=True), key_ids, secrets)
def test_commitments_round_trip(index: int, account: str, bucket: str, key_id: str, secret: str) -> None:
    address = BucketAddress(index, account, bucket, Credentials(key_id, secret))
    try:
        text = address.to_text()
    except ConfigurationError:
        assert len(f"s3:0:{bucket}:{account}:{key_id}:{secret}") > 128
        return
    assert parse_commitment(text, 10) == address
    with pytest.raises(StorageError):
        parse_commitment(text, index)


@given(st.text(max_size=140) | st.from_regex(r"s3:[0-9]:[a-z./@:]{0,80}"))
def test_no_committed_text_names_a_host(text: str) -> None:
    try:
        address = parse_commitment(text, 2)
    except StorageError:
        return
    assert endpoint_of(address.account, "r2.example.com") == f"https://{address.account}.r2.example.com"
    assert not set("/@:?#.") & set(address.account + address.bucket)


@pytest.mark.parametrize("host", ["", "evil/path", "user@host", "ftp://x", "https://x/path", "a..b"])
def test_a_host_list_entry_that_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError):
        endpoint_of("acme", host)


def test_the_store_needs_no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: S3Store) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    assert store.put("x", b"1").size == 1
