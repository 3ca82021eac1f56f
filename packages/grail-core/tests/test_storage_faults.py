"""Transfers over a line and a store that fail: every byte right or a typed error, and nothing left half done.

A real S3 server behind a proxy that breaks requests by a seed; no limit of time is met, so nothing here depends on how quick
this machine is.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from grail_core.checkpoints.download import fetch_object
from grail_core.checkpoints.uploads import Uploads
from grail_core.errors import StorageError
from grail_core.protocol.manifest import ObjectRef
from grail_core.storage import s3_parts, s3_requests
from grail_core.storage.base import NoAnswerError, ObjectInfo, PreconditionFailedError, UnreachableError
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import StoreLimits
from tooling.testing.faulty_proxy import ANSWER_LOST, ANSWER_ODD, REQUEST_LOST, Faults, FaultyProxy
from tooling.testing.s3_server import ANYONE, BUCKET, REGION, S3Server

KIB = 1024
LIMITS = StoreLimits(answer_s=60, idle_s=60)
RATES = dict.fromkeys((*REQUEST_LOST, *ANSWER_LOST, *ANSWER_ODD), 0.02)
TRANSFERS = 500


@pytest.fixture(scope="module")
def line(running_s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(running_s3.url, Faults()) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that a test can send by the hundred; S3 asks for 5 MiB, and the server here does not."""
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(s3_parts, "ONE_PUT_BYTES", 64 * KIB)
    monkeypatch.setattr(s3_parts, "PART_BYTES", 16 * KIB)


@pytest.fixture
def store(s3: S3Server, line: FaultyProxy) -> Iterator[S3Store]:
    """The bucket over the line, which has no faults yet."""
    line.met.clear()
    yield S3Store(line.url, BUCKET, ANYONE, region=REGION, limits=LIMITS)
    line.faults = Faults()


def uploads_left(s3: S3Server) -> list[str]:
    client: Any = s3.store()._requests.client
    return [entry["Key"] for entry in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]


class Transfers:
    """What was sent, and what may lie there since: a key whose put failed holds what was there or what was sent."""

    def __init__(self, store: S3Store, seed: int) -> None:
        self.store = store
        self.draw = random.Random(seed)
        self.may_be: dict[str, set[bytes | None]] = {}
        self.outcomes: Counter[str] = Counter()

    def transfer(self, number: int) -> None:
        call = self.draw.choice([self.put, self.put, self.put_if_absent, self.put_large, self.get, self.get_range, self.look])
        try:
            call(f"grail/objects/{self.draw.randrange(60):03d}", number)
            self.outcomes["done"] += 1
        except StorageError as error:
            self.outcomes[type(error).__name__] += 1

    def data(self, number: int, size: int) -> bytes:
        return (hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]

    def put(self, key: str, number: int) -> None:
        self._write(key, self.data(number, self.draw.randrange(1, 8 * KIB)), self.store.put)

    def put_if_absent(self, key: str, number: int) -> None:
        data = self.data(number, 100)
        known = self.may_be.get(key, {None})
        try:
            info = self.store.put(key, data, if_absent=True)
        except PreconditionFailedError:
            assert known != {None}
            raise
        except StorageError:
            self.may_be[key] = known | {data}
            raise
        assert None in known and info.size == len(data)  # noqa: PT018
        self.may_be[key] = {data}

    def put_large(self, key: str, number: int) -> None:
        self._write(key, self.data(number, self.draw.randrange(65 * KIB, 120 * KIB)), self.store.put_large)

    def _write(self, key: str, data: bytes, put: Callable[[str, bytes], ObjectInfo]) -> None:
        try:
            info = put(key, data)
        except StorageError:
            self.may_be[key] = self.may_be.get(key, {None}) | {data}
            raise
        assert info.size == len(data)
        self.may_be[key] = {data}

    def get(self, key: str, number: int) -> None:
        assert self.store.get(key, max_bytes=1 << 20) in self.may_be.get(key, {None})

    def get_range(self, key: str, number: int) -> None:
        info = self.store.head(key)
        if info is None:
            assert None in self.may_be.get(key, {None})
            return
        offset = self.draw.randrange(info.size)
        part = self.store.get(key, max_bytes=1 << 20, if_match=info.etag, offset=offset, length=5000)
        assert part in {there[offset : offset + 5000] for there in self.may_be[key] if there and len(there) == info.size}

    def look(self, key: str, number: int) -> None:
        """A list may be of earlier; what it names was there once."""
        assert {info.key for info in self.store.list("grail/objects/")} <= self.may_be.keys()


def test_of_500_transfers_every_byte_is_right_or_the_error_has_a_type_and_no_upload_is_left(
    s3: S3Server, line: FaultyProxy, store: S3Store
) -> None:
    transfers = Transfers(store, seed=81)
    line.faults = Faults(seed=81, rates=RATES)
    for number in range(TRANSFERS):
        transfers.transfer(number)
    line.faults = Faults()
    assert set(RATES) <= line.met.keys()
    assert transfers.outcomes["done"] > TRANSFERS // 2
    assert transfers.outcomes["done"] < TRANSFERS
    for key, held in transfers.may_be.items():
        there = store.head(key)
        assert (None if there is None else store.get(key, max_bytes=1 << 20)) in held
    store.abandon_uploads("grail/objects/")  # what the next publication does first
    assert uploads_left(s3) == []


@pytest.mark.parametrize("kind", [*REQUEST_LOST, *ANSWER_LOST])
def test_an_upload_in_parts_that_fails_leaves_nothing_in_the_bucket(
    s3: S3Server, line: FaultyProxy, store: S3Store, kind: str
) -> None:
    data = bytes(100 * KIB)
    line.faults = Faults(seed=3, rates={kind: 0.85})
    errors = 0
    for number in range(6):
        try:
            store.put_large(f"grail/objects/{number}", data, if_absent=True)
        except NoAnswerError:
            errors += 1
    line.faults = Faults()
    assert errors > 0
    store.abandon_uploads("grail/objects/")
    assert uploads_left(s3) == []
    assert all(store.get(info.key, max_bytes=1 << 20) == data for info in store.list("grail/objects/"))


def test_an_upload_that_is_interrupted_is_aborted_at_once(
    s3: S3Server, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert uploads_left(s3) == ["grail/objects/x"]
        raise KeyboardInterrupt

    monkeypatch.setattr(s3_parts, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put_large("grail/objects/x", bytes(100 * KIB))
    assert uploads_left(s3) == []
    assert store.head("grail/objects/x") is None


def test_a_publisher_that_is_killed_in_the_middle_leaves_parts_that_the_next_one_removes(
    s3: S3Server, store: S3Store, tmp_path: Path
) -> None:
    key = Uploads(store, tmp_path / "journal").put(b"what else is there").key
    program = (
        "import os, signal, sys\n"
        "from grail_core.storage import s3_parts\n"
        "from tooling.testing.s3_server import S3Server\n"
        "s3_parts.ONE_PUT_BYTES, s3_parts.PART_BYTES = 1 << 16, 1 << 14\n"
        "s3_parts._complete = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "S3Server(sys.argv[1]).store().put_large('grail/objects/half', bytes(100_000))\n"
    )
    died = subprocess.run([sys.executable, "-c", program, s3.url], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert uploads_left(s3) == ["grail/objects/half"]
    assert [info.key for info in store.list("")] == [key]  # readers see no half object
    Uploads(store, tmp_path / "journal").abandon_unfinished()
    assert uploads_left(s3) == []
    assert store.head(key) is not None


def test_what_a_killed_publisher_left_is_removed_and_what_is_in_hand_or_elsewhere_is_not(
    s3: S3Server, store: S3Store, tmp_path: Path
) -> None:
    client: Any = s3.store()._requests.client
    for key in ("grail/objects/killed", "grail/objects/too", "theirs/x"):
        client.create_multipart_upload(Bucket=BUCKET, Key=key)
    in_hand = s3_parts._upload_id(s3_parts._begin(store._requests, "grail/objects/in-hand"), "")
    try:
        Uploads(store, tmp_path / "journal").abandon_unfinished()
        assert sorted(uploads_left(s3)) == ["grail/objects/in-hand", "theirs/x"]
    finally:
        s3_parts._IN_HAND.discard(in_hand)


def test_a_large_object_is_in_parts_pinned_like_any_other_and_sent_once(
    s3: S3Server, line: FaultyProxy, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grail_core.checkpoints.download.RANGE_BYTES", 8 * KIB)
    data = random.Random(1).randbytes(100 * KIB)
    ref = Uploads(store, tmp_path / "journal").put(data)
    info = store.head(ref.key)
    assert info is not None
    assert info.etag.endswith("-7")
    assert store.put_large("small", b"x").etag == hashlib.md5(b"x").hexdigest()
    line.met.clear()
    assert Uploads(store, tmp_path / "journal").put(data) == ref
    assert line.met == {"none": 1}  # one look: what lies there whole is not sent again
    assert fetch_object(store, ref, tmp_path / "objects").read_bytes() == data
    with pytest.raises(PreconditionFailedError):
        store.put_large(ref.key, data, if_absent=True)
    assert uploads_left(s3) == []


def test_a_range_that_breaks_off_is_asked_for_again_alone(
    line: FaultyProxy, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grail_core.checkpoints.download.RANGE_BYTES", 8 * KIB)
    data = random.Random(2).randbytes(160 * KIB)
    ref = ObjectRef.of(data)
    store.put(ref.key, data)
    line.met.clear()
    # Ranges of one object are one request to the proxy: the first of them break, whichever these are.
    request = f"GET /{BUCKET}/{ref.key}"
    some = (Faults(seed=seed, rates={"truncated": 0.06}) for seed in range(50_000))
    line.faults = next(one for one in some if [n for n in range(22) if one.of(request, n)] == [2, 7])
    line._before.clear()
    assert fetch_object(store, ref, tmp_path).read_bytes() == data
    assert line.met == {"none": 1 + 20, "truncated": 2}  # a HEAD, each range, and two of them again


def test_before_r2s_refusals_every_operation_of_a_store_passes(line: FaultyProxy, store: S3Store) -> None:
    line.faults = Faults(r2=True)
    data = bytes(100 * KIB + 7)
    info = store.put("grail/objects/a", b"abc", if_absent=True)
    assert store.put_large("grail/objects/b", data, if_absent=True).size == len(data)
    assert store.get("grail/objects/b", max_bytes=1 << 20, offset=90 * KIB) == data[90 * KIB :]
    assert store.read("grail/objects/a", max_bytes=3) == (info, b"abc")
    assert [one.key for one in store.list("")] == ["grail/objects/a", "grail/objects/b"]
    assert store.tried_writes() == ("put", "delete", "upload in parts")
    store.delete("grail/objects/a")
    assert store.head("grail/objects/a") is None
    assert store.abandon_uploads("") == 0


def test_what_r2_refuses_is_what_boto3_sends_by_itself(line: FaultyProxy, s3: S3Server, store: S3Store) -> None:
    line.faults = Faults(r2=True)
    client: Any = boto3.client(
        "s3", endpoint_url=line.url, aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION
    )
    with pytest.raises(ClientError, match="Unauthorized"):
        client.put_object(Bucket=BUCKET, Key="x", Body=b"abc")
    upload = s3.store()._requests.client.create_multipart_upload(Bucket=BUCKET, Key="x")["UploadId"]
    parts = []
    for number, size in enumerate((5, 7, 3), 1):
        sent = store._requests.call("upload_part", "x", 10, UploadId=upload, PartNumber=number, Body=bytes(size))
        parts.append({"PartNumber": number, "ETag": sent.headers["etag"]})
    with pytest.raises(StorageError, match="same length"):
        store._requests.ask("complete_multipart_upload", "x", 10, UploadId=upload, MultipartUpload={"Parts": parts})


def test_a_store_that_is_not_there_is_told_from_one_that_does_not_answer(line: FaultyProxy, store: S3Store) -> None:
    line.faults = Faults(rates={"reset_before": 1.0})
    with pytest.raises(NoAnswerError) as caught:
        store.head("x")
    assert not isinstance(caught.value, UnreachableError)
    nowhere = S3Store("http://no-such-host.invalid", BUCKET, ANYONE, limits=LIMITS)
    with pytest.raises(UnreachableError, match="name is not known") as unknown:
        nowhere.head("x")
    assert "R2_ACCOUNT_ID" in unknown.value.hint


def test_a_store_that_stalls_says_for_how_long_it_has_not_answered_until_it_does(
    line: FaultyProxy, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grail_core.storage.s3_requests.SILENT_S", 0.0)
    line.faults = Faults(rates={"reset_before": 1.0})
    with pytest.raises(NoAnswerError, match=r"; the store has not answered for \d+ s"):
        store.head("grail/x")
    line.faults = Faults()
    assert store.head("grail/x") is None
    assert store._requests._silent_since is None
    monkeypatch.setattr("grail_core.storage.s3_requests.SILENT_S", 40.0)
    line.faults = Faults(rates={"reset_before": 1.0})
    with pytest.raises(NoAnswerError) as caught:
        store.head("grail/x")
    assert "has not answered for" not in caught.value.what, "one request's time is no silence"


def test_the_faults_of_a_run_are_those_of_its_seed(s3: S3Server, line: FaultyProxy, tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        s3.reset()
        with FaultyProxy(s3.url, tmp_path / "faults.json") as proxy:
            Faults(seed=5, rates=RATES).write(tmp_path / "faults.json")
            transfers = Transfers(S3Store(proxy.url, BUCKET, ANYONE, region=REGION, limits=LIMITS), seed=5)
            for number in range(40):
                transfers.transfer(number)
            told.append((dict(transfers.outcomes), dict(proxy.met)))
    assert told[0] == told[1]
