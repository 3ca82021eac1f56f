"""Whatever a store answers, and however slowly: bytes, an `ObjectInfo` or a `StorageError`, within a time and a size."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail_core.errors import StorageError
from grail_core.storage import s3, s3_requests, s3_transport
from grail_core.storage.base import (
    NoAnswerError,
    ObjectInfo,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import StoreLimits, at_most, seconds_left
from tooling.testing.certificates import self_signed
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import Answer, RawAnswer, ScriptedServer

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
FOUND = {"ETag": '"e"', "Last-Modified": DATE}
ENTRY = {"Key": "a/1", "LastModified": "2023-11-14T22:13:20.123Z", "ETag": "&quot;e&quot;", "Size": "3"}
HEAD = b"HTTP/1.1 200 OK\r\n"
KIB = 1024


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


def page(*entries: dict[str, str], more: str = "") -> Answer:
    inside = "".join(
        "<Contents>" + "".join(f"<{name}>{value}</{name}>" for name, value in entry.items()) + "</Contents>"
        for entry in entries
    )
    return Answer(200, f"<ListBucketResult>{more}{inside}</ListBucketResult>".encode())


def without(names: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in names.items() if key != name}


def test_an_answer_that_names_another_etag_is_not_what_was_asked_for(server: ScriptedServer, store: S3Store) -> None:
    says(server, Answer(200, b"ok", {"ETag": '"other"'}))
    ranged = Answer(206, b"ok", {"ETag": '"other"', "Content-Range": "bytes 4-5/10"})
    with pytest.raises(PreconditionFailedError, match="another ETag"):
        store.get("x", max_bytes=10, if_match="abc")
    with pytest.raises(PreconditionFailedError, match="another ETag"):
        store.get("x", max_bytes=10, if_match="abc", length=0)
    says(server, ranged)
    with pytest.raises(PreconditionFailedError, match="another ETag"):
        store.get("x", max_bytes=10, if_match="abc", offset=4, length=2)
    for headers in ({}, {"ETag": 'W/"abc"'}, {"ETag": '"abc'}):
        says(server, Answer(200, b"ok", headers))
        with pytest.raises(StorageError, match="ETag") as caught:
            store.get("x", max_bytes=10, if_match="abc")
        assert not isinstance(caught.value, PreconditionFailedError)
    says(server, Answer(200, b"ok", {"ETag": '"abc"'}))
    assert store.get("x", max_bytes=10, if_match="abc") == b"ok"


@pytest.mark.parametrize("etag", ["", '"', 'a"b', "a\r\nX: y", "é", "a" * 129, "a b"])
def test_no_request_is_made_for_an_etag_that_nothing_can_have(server: ScriptedServer, store: S3Store, etag: str) -> None:
    says(server, Answer(200, b"ok", FOUND))
    with pytest.raises(PreconditionFailedError):
        store.get("x", max_bytes=10, if_match=etag)
    assert server.requests == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("ETag", text) for text in ('W/"abc"', "abc", "", '""', '"a', '"' + "a" * 129 + '"', '"a\tb"', '"a"b"', '"\x9b31m"')]
    + [
        ("Last-Modified", text)
        for text in (
            "",
            "Tue, 14 Nov 9999 22:13:20 GMT",
            "Tue, 14 Nov 0001 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 +0200",
            "Tue, 31 Feb 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:60 GMT",
            "Tuesday, 14-Nov-23 22:13:20 GMT",
            "-1",
            "1700000000",
            "now",
            "١٤ Nov 2023",
        )
    ]
    + [("Content-Length", text) for text in ("-1", "1e3", "3, 3", "1_0", "9" * 30)],
)
def test_a_head_that_is_odd_in_one_header_is_an_error_that_names_it(
    server: ScriptedServer, store: S3Store, name: str, value: str
) -> None:
    says(server, Answer(200, b"", {**FOUND, "Content-Length": "3", name: value.encode("utf-8").decode("latin-1")}))
    with pytest.raises(StorageError, match="the store"):
        store.head("x")


@pytest.mark.parametrize("missing", ["ETag", "Last-Modified", "Content-Length"])
def test_a_head_without_a_header_is_an_error(server: ScriptedServer, store: S3Store, missing: str) -> None:
    lines = [f"{name}: {value}" for name, value in {**FOUND, "Content-Length": "3"}.items() if name != missing]
    says(server, RawAnswer(HEAD + "\r\n".join(lines).encode() + b"\r\n\r\n"))
    with pytest.raises(StorageError, match="the store answered with no"):
        store.head("x")


@pytest.mark.parametrize(
    ("status", "content_range", "body"),
    [
        (206, "bytes 4-8/10", b"ABCDE"),
        (206, "bytes 4-5/10", b"ABCDE"),
        (206, "bytes 3-4/10", b"AB"),
        (206, "bytes 4-4/10", b"A"),
        (206, "bytes 4-5/*", b"AB"),
        (206, "bytes 5-4/10", b""),
        (206, "", b"AB"),
        (206, None, b"AB"),
        (200, None, b"AB"),
        (200, "bytes 4-5/10", b"AB"),
        (204, None, b""),
        (203, None, b"AB"),
    ],
)
def test_another_range_than_was_asked_for_is_refused(
    server: ScriptedServer, store: S3Store, status: int, content_range: str | None, body: bytes
) -> None:
    says(server, Answer(status, body, FOUND | ({} if content_range is None else {"Content-Range": content_range})))
    with pytest.raises(StorageError):
        store.get("x", max_bytes=10, offset=4, length=2)
    says(server, Answer(206, b"AB", {**FOUND, "Content-Range": "bytes 4-5/6"}))
    assert store.get("x", max_bytes=10, offset=4, length=2) == store.get("x", max_bytes=10, offset=4) == b"AB"
    with pytest.raises(StorageError):
        store.get("x", max_bytes=10)  # a part, where the whole was asked for


@pytest.mark.parametrize(
    ("announced", "sent", "error"),
    [("10", 3, StorageError), ("-1", 3, StorageError), ("x", 3, StorageError), ("99", 0, ObjectTooLargeError)],
)
def test_a_length_that_lies_is_refused(
    server: ScriptedServer, store: S3Store, announced: str, sent: int, error: type[StorageError]
) -> None:
    says(server, Answer(200, bytes(sent), {**FOUND, "Content-Length": announced}))
    with pytest.raises(error):
        store.get("x", max_bytes=10)


def test_what_comes_after_the_announced_length_is_never_read(server: ScriptedServer, store: S3Store) -> None:
    head = HEAD + b'ETag: "e"\r\nContent-Length: 3\r\n\r\nabc'
    says(server, RawAnswer(head, bytes(64 * KIB), 2000))
    assert store.get("x", max_bytes=10) == b"abc"
    assert store.get("x", max_bytes=10) == b"abc"
    assert server.sent < 32 << 20  # what the sockets' buffers took


@pytest.mark.parametrize("headers", [b"", b"Content-Length: 50000000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_small_object_costs_no_more_than_its_bound(server: ScriptedServer, store: S3Store, headers: bytes) -> None:
    chunk = b"10000\r\n" + bytes(64 * KIB) + b"\r\n" if b"chunked" in headers else bytes(64 * KIB)
    says(server, RawAnswer(HEAD + b'ETag: "e"\r\n' + headers + b"\r\n", chunk, 4000))
    with pytest.raises(StorageError):
        store.get("x", max_bytes=32 * KIB)
    assert server.sent < 32 << 20


def test_what_is_compressed_stays_so(server: ScriptedServer, store: S3Store) -> None:
    says(server, Answer(200, b"\x1f\x8bno gzip", {**FOUND, "Content-Encoding": "gzip, br"}))
    assert store.get("x", max_bytes=100) == b"\x1f\x8bno gzip"


def dripping(start: bytes, drop: bytes = b"x") -> RawAnswer:
    return RawAnswer(start, drop, -1, pause_s=0.02)


DRIPS = {
    "a body": dripping(HEAD + b'ETag: "e"\r\nContent-Length: 9000\r\n\r\n'),
    "chunks of an error": dripping(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a status line": dripping(b"HTTP/1.1 200 "),
    "a header": dripping(HEAD + b"X: "),
    "headers": dripping(HEAD, b"X: y\r\n"),
    "interim answers": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an error's body": dripping(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
    "a page": dripping(HEAD + b"\r\n<ListBucketResult>"),
    "nothing": RawAnswer(b"", b"", -1, pause_s=0.02),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_store_that_drips_is_left_when_the_time_is_over(server: ScriptedServer, store: S3Store, what: str) -> None:
    says(server, DRIPS[what])
    with at_most(0.2), pytest.raises(StorageError):
        list(store.list("")) if what == "a page" else store.get("x", max_bytes=9000)
    assert server.sent < 2000  # and no more after that, however long it goes on


def test_the_stores_own_limit_holds_where_the_caller_sets_none(server: ScriptedServer) -> None:
    short = S3Store(server.url, BUCKET, ANYONE, limits=StoreLimits(answer_s=0.2, least_bytes_per_s=10**6))
    says(server, DRIPS["a body"])
    with pytest.raises(NoAnswerError, match="in the time"):
        short.get("x", max_bytes=9000)
    says(server, DRIPS["headers"])
    with pytest.raises(NoAnswerError, match="in the time"):
        short.head("x")


def test_a_put_that_is_read_slowly_ends_too() -> None:
    with ScriptedServer(Answer(200)) as other:
        other.shutdown()  # listens, and never reads
        slow = S3Store(other.url, BUCKET, ANYONE)
        with at_most(0.3), pytest.raises(NoAnswerError):
            slow.put("x", bytes(32 << 20))


def test_a_limit_inside_another_only_shortens_it_and_is_gone_after_the_block() -> None:
    with at_most(5):
        with at_most(100):
            assert seconds_left() <= 5
        with at_most(1):
            assert seconds_left() <= 1
        seen: list[float] = []
        thread = threading.Thread(target=lambda: seen.append(seconds_left()))
        thread.start()
        thread.join()
        assert seen == [float("inf")]  # of the thread that set it
    assert seconds_left() == float("inf")
    with pytest.raises(ValueError, match="positive"):
        StoreLimits(answer_s=0)


LISTINGS: dict[str, Answer] = {
    "truncated, no token": page(ENTRY, more="<IsTruncated>true</IsTruncated>"),
    "truncated, an empty token": page(ENTRY, more="<IsTruncated>true</IsTruncated><NextContinuationToken/>"),
    "a token that repeats": page(more="<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
    "keys that repeat": page(ENTRY, ENTRY),
    "keys out of order": page({**ENTRY, "Key": "a/2"}, ENTRY),
    "a key of another prefix": page({**ENTRY, "Key": "b/1"}),
    "a negative size": page({**ENTRY, "Size": "-1"}),
    "a size that is none": page({**ENTRY, "Size": "many"}),
    "a size of 5,000 digits": page({**ENTRY, "Size": "9" * 5000}),
    "a time that is none": page({**ENTRY, "LastModified": "yesterday"}),
    "a time out of range": page({**ENTRY, "LastModified": "9999-01-01T00:00:00Z"}),
    "a weak ETag": page({**ENTRY, "ETag": "W/&quot;e&quot;"}),
    "no XML": Answer(200, b"<html>"),
    "nothing": Answer(200, b""),
    "XML of another kind": Answer(200, b"<Other><IsTruncated>true</IsTruncated></Other>"),
    "bytes": Answer(200, bytes(range(256))),
    "UTF-16": Answer(200, "<ListBucketResult/>".encode("utf-16")),
    "too long": Answer(200, b"<ListBucketResult>" + b" " * s3_transport.MAX_ANSWER_BYTES + b"</ListBucketResult>"),
    "entities": Answer(
        200, b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><ListBucketResult>&b;</ListBucketResult>'
    ),
} | {f"no {name}": page(without(ENTRY, name)) for name in ENTRY}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_that_is_none_is_an_error_of_ours(server: ScriptedServer, store: S3Store, name: str) -> None:
    says(server, LISTINGS[name])
    if name == "nothing":  # an empty body is an empty listing to boto3, and harmless
        assert list(store.list("a/")) == []
        return
    with pytest.raises(StorageError):
        list(store.list("a/"))
    assert server.requests <= 2


def test_an_honest_listing_is_read_and_what_is_no_key_of_ours_left_out(server: ScriptedServer, store: S3Store) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    says(server, page(ENTRY, {**ENTRY, "Key": "a/my file.txt"}, more=more), page({**ENTRY, "Key": "a/z"}))
    assert list(store.list("a/")) == [
        ObjectInfo("a/1", 3, "e", 1_700_000_000_000),
        ObjectInfo("a/z", 3, "e", 1_700_000_000_000),
    ]


def test_a_listing_that_never_ends_ends(server: ScriptedServer, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "MAX_PAGES", 7)
    says(
        server,
        *(page(more=f"<IsTruncated>true</IsTruncated><NextContinuationToken>{n}</NextContinuationToken>") for n in range(10)),
    )
    with pytest.raises(StorageError, match="goes on beyond 7 pages"):
        list(store.list(""))
    assert server.requests == 7
    monkeypatch.setattr(s3, "MAX_LISTED_KEYS", 3)
    says(server, page(*({**ENTRY, "Key": f"a/{n}"} for n in range(5))))
    with pytest.raises(StorageError, match="3 keys"):
        list(store.list(""))


ODD_VALUES = (
    *("", '"e"', 'W/"e"', "e", "-1", "0", "3", "5", "99999999999999999999999", "bytes 0-2/3", "bytes 1-2/3", "bytes */3"),
    *("chunked", "gzip", "keep-alive", "close", DATE, "x\x9by", "true", "AES256", "2023-11-14T22:13:20Z", "crc32=="),
)
NAMES = (
    *("ETag", "Last-Modified", "Content-Length", "Content-Range", "Content-Encoding", "Connection", "Date", "Expires"),
    *("x-amz-missing-meta", "x-amz-meta-a", "x-amz-mp-parts-count", "x-amz-checksum-crc32", "x-amz-delete-marker"),
    *("x-amz-object-lock-retain-until-date", "x-amz-server-side-encryption", "x-amz-bucket-region", "Retry-After"),
)
odd = st.sampled_from(ODD_VALUES) | st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20)
names = st.sampled_from(NAMES)
bodies = st.binary(max_size=30) | st.sampled_from(
    [b"abc", page(ENTRY).body, page({**ENTRY, "Size": "x"}).body, b"<Error><Code>NoSuchKey</Code></Error>", b"<a>" * 10]
)
mutated_pages = st.builds(
    lambda body, at, with_: body[:at] + with_ + body[at + len(with_) :],
    st.just(page(ENTRY, {**ENTRY, "Key": "a/2"}, more="<IsTruncated>false</IsTruncated>").body),
    st.integers(0, 300),
    st.binary(max_size=4) | st.sampled_from([b"</Key>", b"<!--", b"&#0;", b"&x;", b"]]>", b"<?x?>"]),
)
statuses = st.sampled_from([200, 206]) | st.sampled_from([201, 204, 299, 300, 304, 400, 403, 404, 409, 412, 416, 500, 599])
CALLS: list[Callable[[S3Store], Any]] = [
    lambda store: store.head("x"),
    lambda store: store.get("x", max_bytes=40),
    lambda store: store.get("x", max_bytes=40, if_match="e"),
    lambda store: store.get("x", max_bytes=40, if_match="e", offset=1, length=2),
    lambda store: store.get("x", max_bytes=40, length=0),
    lambda store: list(store.list("a/")),
    lambda store: store.put("x", b"abc"),
    lambda store: store.put("x", b"abc", if_absent=True),
    lambda store: store.delete("x"),
    lambda store: store.abandon_uploads("a/"),
    lambda store: store.tried_writes(),
]


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(statuses, st.dictionaries(names, odd, max_size=4), bodies | mutated_pages, st.sampled_from(CALLS), st.booleans())
def test_whatever_a_store_answers_the_outcome_has_a_type(
    server: ScriptedServer,
    store: S3Store,
    status: int,
    headers: dict[str, str],
    body: bytes,
    call: Callable[[S3Store], Any],
    found: bool,
) -> None:
    says(server, Answer(status, body, (FOUND if found else {}) | headers))
    try:
        with at_most(2):
            outcome = call(store)
    except StorageError:
        return
    assert outcome is None or isinstance(outcome, bytes | int | tuple | ObjectInfo | list)
    if isinstance(outcome, ObjectInfo):
        assert outcome.size >= 0
        assert outcome.etag.isascii()
        assert outcome.etag.isprintable()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(CALLS), st.booleans())
def test_whatever_bytes_come_back_the_outcome_has_a_type(
    server: ScriptedServer, store: S3Store, raw: bytes, call: Callable[[S3Store], Any], as_http: bool
) -> None:
    says(server, RawAnswer(HEAD + raw if as_http else raw))
    try:
        with at_most(2):
            call(store)
    except StorageError:
        return


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of 127.0.0.1 that signs itself, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls") / "store.pem")


def test_over_tls_the_same_limits_hold_and_strangers_certificates_do_not(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedServer(Answer(200, b"ok", FOUND)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(NoAnswerError, match="certificate"):
            S3Store(url, BUCKET, ANYONE).head("x")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        store = S3Store(url, BUCKET, ANYONE)
        assert store.get("x", max_bytes=10, if_match="e") == b"ok"
        assert store.get("x", max_bytes=10) == b"ok"
        server.answers = (DRIPS["a body"],)
        with at_most(0.3), pytest.raises(NoAnswerError, match="in the time"):
            store.get("x", max_bytes=9000)
        server.answers = (DRIPS["headers"],)
        with at_most(0.3), pytest.raises(NoAnswerError, match="in the time"):
            store.get("x", max_bytes=9000)
