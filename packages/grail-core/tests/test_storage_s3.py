"""The S3 store against a real HTTP S3 server, with users and policies enforced where that is what is tested."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError, StorageError
from grail_core.participant.deployment import open_s3_directory
from grail_core.participant.settings import Settings, load_settings
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.storage.base import (
    AccessDeniedError,
    PreconditionFailedError,
    StoreDirectory,
)
from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of, parse_commitment
from grail_core.storage.s3 import S3Store
from tooling.testing.s3_server import BUCKET, REGION, S3Server
from tooling.testing.scripted_server import Answer, ScriptedServer

KEY = "grail/windows/5F-window-60.parquet"
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


def test_the_etag_is_the_contents_md5_and_the_time_is_the_servers_in_whole_seconds(s3_store: S3Store) -> None:
    info = s3_store.put(KEY, b"rollouts")
    assert info.etag == hashlib.md5(b"rollouts").hexdigest()
    assert info.stored_at_ms % 1000 == 0


def test_even_a_large_object_is_one_put(s3_store: S3Store) -> None:
    data = bytes(range(256)) * (70 * 4096)
    info = s3_store.put(KEY, data)
    assert info.size == 70 << 20
    assert "-" not in info.etag
    assert s3_store.get(KEY, max_bytes=len(data), if_match=info.etag) == data


def test_list_pages_through_keys_by_prefix(s3_store: S3Store) -> None:
    keys = [f"grail/objects/{n:04d}" for n in range(1005)]
    client = s3_store._requests.client
    for key in keys:
        client.put_object(Bucket="alice", Key=key, Body=b"")
    s3_store.put("top", b"1")
    assert [info.key for info in s3_store.list("grail/objects/")] == keys
    assert [info.key for info in s3_store.list("t")] == ["top"]
    s3_store.delete("top")
    assert list(s3_store.list("t")) == []


def test_a_wrong_bucket_and_a_dead_server_are_named(s3: S3Server) -> None:
    with pytest.raises(StorageError, match="no such bucket") as caught:
        s3.store(bucket="nobody").put(KEY, b"")
    assert "R2_BUCKET_ID" in caught.value.hint
    with socket.socket() as taken:  # bound and not listening: nothing answers there, and nothing else comes there
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            S3Server(dead).store().head(KEY)
    assert caught.value.where == f"{dead}/alice/{KEY}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with ScriptedServer(Answer(200, b"poison")) as elsewhere:
        location = {"Location": elsewhere.url + "/alice/x", "x-amz-bucket-region": "eu-west-1"}
        with ScriptedServer(Answer(status, headers=location)) as redirecting:
            store = S3Server(redirecting.url).store()
            with pytest.raises(StorageError):
                store.get("x", max_bytes=100)
            with pytest.raises(StorageError):
                store.head("x")
        assert redirecting.requests >= 2
        assert elsewhere.requests == 0


def test_a_body_that_lies_about_its_length_is_refused() -> None:
    found = {"ETag": '"e"', "Last-Modified": DATE}
    with ScriptedServer(Answer(200, b"abc", {**found, "Content-Length": "10"})) as short, pytest.raises(StorageError):
        S3Server(short.url).store().get("x", max_bytes=100)
    with ScriptedServer(Answer(200, b"abcdef", found)) as ignoring, pytest.raises(StorageError, match="ignored the range"):
        S3Server(ignoring.url).store().get("x", max_bytes=100, offset=2, length=2)


@pytest.mark.parametrize(("held", "ours"), [(b"data", True), (b"else", False)])
def test_a_conditional_put_whose_first_answer_was_lost_is_told_from_a_lost_race(held: bytes, ours: bool) -> None:
    found = {"ETag": '"e"', "Last-Modified": DATE}
    with ScriptedServer(Answer(503), Answer(412), Answer(200, held, found)) as flaky:
        store = S3Server(flaky.url).store()
        if ours:
            assert store.put("x", b"data", if_absent=True).stored_at_ms == 1_700_000_000_000
        else:
            with pytest.raises(PreconditionFailedError):
                store.put("x", b"data", if_absent=True)


def network(server: S3Server) -> NetworkParameters:
    return dataclasses.replace(LOCALNET, store_hosts=(server.url,))


def settings_with(read: Credentials, write: Credentials, **changes: str) -> Settings:
    values = {
        "r2_bucket_id": BUCKET,
        "r2_account_id": "acme",
        "r2_region": REGION,
        "r2_read_access_key_id": read.key_id,
        "r2_read_secret_access_key": read.secret,
        "r2_write_access_key_id": write.key_id,
        "r2_write_secret_access_key": write.secret,
    }
    return load_settings(**(values | changes))


@pytest.fixture
def guarded(s3: S3Server) -> Iterator[tuple[Credentials, Credentials]]:
    """A reader's and a writer's key of the bucket, on a server that enforces them."""
    keys = s3.user("reader", "s3:GetObject", "s3:ListBucket"), s3.user("writer", "s3:*")
    with s3.enforcing():
        yield keys


def test_others_read_through_the_commitment_and_cannot_write(s3: S3Server, guarded: tuple[Credentials, Credentials]) -> None:
    reader, writer = guarded
    directory: StoreDirectory = open_s3_directory(settings_with(reader, writer), network(s3))
    info = directory.own().put(KEY, b"rollouts")
    text = directory.commitment()
    assert len(text) <= 128
    assert writer.key_id not in text
    assert writer.secret not in text
    other = open_s3_directory(settings_with(writer, reader), network(s3)).open(text)
    assert other.head(KEY) == info
    assert other.get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
    for write in (lambda: other.put(KEY, b""), lambda: other.delete(KEY)):
        with pytest.raises(StorageError, match="read only"):
            write()
    with pytest.raises(AccessDeniedError):
        s3.store(reader).put(KEY, b"")


def test_a_read_key_that_can_write_is_never_committed(s3: S3Server, guarded: tuple[Credentials, Credentials]) -> None:
    _, writer = guarded
    directory = open_s3_directory(settings_with(writer, Credentials("AKIAOTHER", "other")), network(s3))
    with pytest.raises(ConfigurationError, match="can write"):
        directory.commitment()
    assert list(s3.store(writer).list("")) == []


def test_wrong_keys_are_a_clear_error(s3: S3Server, guarded: tuple[Credentials, Credentials]) -> None:
    with pytest.raises(StorageError, match="denies access"):
        s3.store(Credentials("AKIAWRONG", "wrong")).put(KEY, b"")


HEX_READ, HEX_WRITE = Credentials("ab" * 16, "cd" * 32), Credentials("12" * 16, "34" * 32)


def test_offering_the_write_key_for_the_commitment_is_refused_at_once(s3: S3Server) -> None:
    with pytest.raises(ConfigurationError, match="is the write key"):
        open_s3_directory(settings_with(HEX_WRITE, HEX_WRITE), network(s3))


def test_missing_settings_are_all_named(s3: S3Server) -> None:
    settings = settings_with(HEX_READ, HEX_WRITE, r2_bucket_id="", r2_write_secret_access_key="")
    with pytest.raises(ConfigurationError) as caught:
        open_s3_directory(settings, network(s3))
    assert caught.value.where == "R2_BUCKET_ID, R2_WRITE_SECRET_ACCESS_KEY"


def test_an_endpoint_that_the_network_does_not_allow_is_refused() -> None:
    params = dataclasses.replace(LOCALNET, store_hosts=("r2.example.com", "eu.r2.example.com"))
    good = settings_with(HEX_READ, HEX_WRITE, r2_endpoint_url="https://acme.eu.r2.example.com/")
    assert open_s3_directory(good, params)._address.host_index == 1
    bad = settings_with(HEX_READ, HEX_WRITE, r2_endpoint_url="https://evil.example.com")
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


def test_the_store_needs_no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_store: S3Store) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    assert s3_store.put("x", b"1").size == 1
