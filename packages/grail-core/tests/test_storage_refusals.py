"""What a store's refusal means: its type, whether it is tried again and when, and what it says to a person."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from grail_core.errors import StorageError
from grail_core.storage import s3_parts, s3_requests
from grail_core.storage.base import (
    AccessDeniedError,
    ElsewhereError,
    NoAnswerError,
    NoSuchBucketError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SkewedClockError,
    UnknownKeyError,
)
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import StoreLimits
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer

FOUND = {"ETag": '"e"', "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(Answer(200)) as running:
        yield running


@pytest.fixture(scope="module")
def store(server: ScriptedServer) -> S3Store:
    return S3Store(server.url, BUCKET, ANYONE, limits=StoreLimits(answer_s=10))


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_requests, "_FIRST_PAUSE_S", 0.001)


def says(server: ScriptedServer, *answers: Answer | RawAnswer) -> None:
    server.answers, server.requests, server.sent = answers, 0, 0


@pytest.mark.parametrize(
    ("answer", "error", "requests"),
    [
        (Answer(404), ObjectNotFoundError, 1),
        (Answer(404, b"<Error><Code>NoSuchKey</Code></Error>"), ObjectNotFoundError, 1),
        (Answer(403), AccessDeniedError, 1),
        (Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), AccessDeniedError, 1),
        (Answer(401), AccessDeniedError, 1),
        (Answer(400, b"<Error><Code>InvalidAccessKeyId</Code></Error>"), UnknownKeyError, 1),
        (Answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"), UnknownKeyError, 1),
        (Answer(404, b"<Error><Code>NoSuchBucket</Code></Error>"), NoSuchBucketError, 1),
        (Answer(400, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), ElsewhereError, 1),
        (Answer(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>"), SkewedClockError, 1),
        (Answer(412), PreconditionFailedError, 1),
        (Answer(304), StorageError, 1),
        (Answer(301, headers={"Location": "http://169.254.169.254/", "x-amz-bucket-region": "eu-west-1"}), ElsewhereError, 1),
        (Answer(416), StorageError, 1),
        (Answer(418, b"\xff<html>"), StorageError, 1),
        (Answer(999), StorageError, 1),
        (Answer(429), NoAnswerError, 3),
        (Answer(503, b"<Error><Code>SlowDown</Code></Error>"), NoAnswerError, 3),
        (Answer(500), NoAnswerError, 3),
        (RawAnswer(reset=True), NoAnswerError, 3),
        (RawAnswer(b"SSH-2.0-OpenSSH\r\n"), NoAnswerError, 3),
        (RawAnswer(HEAD + b"X: y\r\n" * 200 + b"\r\n"), NoAnswerError, 3),
        (RawAnswer(HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n"), NoAnswerError, 3),
        (RawAnswer(HEAD + b'ETag: "e"\r\nContent-Length: 9\r\n\r\nabc', reset=True), StorageError, 1),
    ],
)
def test_every_refusal_has_its_type_and_is_tried_again_only_where_that_can_help(
    server: ScriptedServer, store: S3Store, answer: Answer, error: type[StorageError], requests: int
) -> None:
    says(server, answer)
    with pytest.raises(StorageError) as caught:
        store.get("x", max_bytes=100)
    assert type(caught.value) is error
    assert server.requests == requests
    assert caught.value.where == f"{server.url}/{BUCKET}/x"


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
@pytest.mark.parametrize(("read_only", "used", "other"), [(True, "READ", "WRITE"), (False, "WRITE", "READ")])
def test_a_denial_names_the_bucket_and_the_key_that_was_used_and_no_other(
    server: ScriptedServer, code: str, read_only: bool, used: str, other: str
) -> None:
    says(server, Answer(403, f"<Error><Code>{code}</Code></Error>".encode()))
    with pytest.raises(AccessDeniedError) as caught:
        S3Store(server.url, BUCKET, ANYONE, read_only=read_only).get("x", max_bytes=1)
    assert f"bucket {BUCKET} with {'its read key' if read_only else 'the write key'}" in caught.value.what
    assert f"R2_{used}_" in caught.value.hint
    assert f"R2_{other}_" not in caught.value.hint
    assert ("R2_BUCKET_ID" in caught.value.hint) == (code == "AccessDenied")


@pytest.mark.parametrize(("ahead_s", "said"), [(1200, "1200 seconds behind"), (-7200, "7200 seconds ahead")])
def test_a_clock_that_is_wrong_is_said_to_be_and_by_how_much(
    server: ScriptedServer, store: S3Store, monkeypatch: pytest.MonkeyPatch, ahead_s: int, said: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    date = format_datetime(datetime.fromtimestamp(1_700_000_000 + ahead_s, UTC), usegmt=True)
    head = f"HTTP/1.1 403 Forbidden\r\nDate: {date}\r\nContent-Length: 49\r\n\r\n".encode()
    says(server, RawAnswer(head + b"<Error><Code>RequestTimeTooSkewed</Code></Error>\n"))
    with pytest.raises(SkewedClockError, match=said) as caught:
        store.get("x", max_bytes=1)
    assert "NTP" in caught.value.hint


def test_a_throttling_store_is_given_the_time_it_asks_for_where_that_fits(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(server.url, BUCKET, ANYONE, limits=StoreLimits(answer_s=50))  # however busy this machine is
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    slow = Answer(503, b"<Error><Code>SlowDown</Code></Error>", {"Retry-After": "3"})
    says(server, slow, Answer(429, headers={"Retry-After": "2"}), Answer(200, b"ok", FOUND))
    assert store.get("x", max_bytes=2) == b"ok"
    assert [int(pause) for pause in slept] == [3, 2]  # and a random part of less than that of our own
    says(server, Answer(429, headers={"Retry-After": "60"}), Answer(200, b"ok", FOUND))
    with pytest.raises(NoAnswerError, match="not ready"):
        store.get("x", max_bytes=2)  # it has fifty seconds
    assert (server.requests, len(slept)) == (1, 2)
    says(server, Answer(503, headers={"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}), Answer(200, b"ok", FOUND))
    assert store.get("x", max_bytes=2) == b"ok"


def test_a_store_that_takes_no_parts_gets_one_put_and_is_no_fault_of_a_key(
    server: ScriptedServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_parts, "ONE_PUT_BYTES", 2)
    no, found = Answer(501, b"<Error><Code>NotImplemented</Code></Error>"), Answer(200, headers=FOUND)
    says(server, no, no, found, Answer(200, headers={**FOUND, "Content-Length": "3"}))
    assert store.put_large("x", b"abc").etag == "e"
    assert server.requests == 4  # begun, looked for leftovers, put, looked at
    says(server, Answer(403), Answer(403), Answer(405))
    assert store.tried_writes() == ()
    says(server, no)
    assert store.abandon_uploads("") == 0


def test_an_upload_that_ends_with_200_and_an_error_has_failed(
    server: ScriptedServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_parts, "ONE_PUT_BYTES", 2)
    begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
    late = b'<?xml version="1.0" encoding="UTF-8"?>\n\n<Error><Code>InternalError</Code><Message>m</Message></Error>'
    says(server, Answer(200, begun), Answer(200, headers=FOUND), *[Answer(200, late)] * 3, Answer(204), Answer(404))
    with pytest.raises(NoAnswerError, match="not ready"):
        store.put_large("x", b"abc")


def test_what_a_store_says_in_an_error_is_shown_harmless_and_short(server: ScriptedServer, store: S3Store) -> None:
    says(server, Answer(400, "<Error><Code>Odd</Code><Message>\x1b[2J\u202e[/x]%s</Message></Error>".encode() % (b"y" * 900)))
    with pytest.raises(StorageError) as caught:
        store.get("x", max_bytes=1)
    assert "\\x1b[2J\\u202e" in caught.value.what
    assert len(caught.value.what) < 400
    assert caught.value.what.isprintable()
