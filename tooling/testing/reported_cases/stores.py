"""`store_answers.json`: what an S3 store answers to a call; the outcome is a value or an error whose type `right` names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from grail_core.errors import StorageError
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import StoreLimits
from tooling.testing.reported_cases.outcome import Outcome, outcome
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import Answer, ScriptedServer

_DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
_ENTRY = {"Key": "a/1", "LastModified": "2023-11-14T22:13:20.123Z", "ETag": "&quot;e&quot;", "Size": "3"}
_LACKING = re.compile(r"an entry without (\w+)")
_ERROR = re.compile(r"\w+Error\b")


def outcomes(file: str, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
    """One outcome for each row, from a server that gives the answer."""
    for number, row in enumerate(rows, start=1):
        headers = {name: _DATE if value == "…" else value for name, value in row.get("headers", {}).items()}
        with ScriptedServer(Answer(row["status"], _body(row.get("body", "")), headers)) as server:
            store = S3Store(server.url, BUCKET, ANYONE, limits=StoreLimits(answer_s=10))
            right, said = _judged(store, row["call"], str(row["right"]))
        yield outcome(file, f"{number}, {row['call']}: {row.get('why', row.get('today', ''))}", right, said)


def _body(text: str) -> bytes:
    lacking = _LACKING.match(text)
    entry = "".join(f"<{name}>{value}</{name}>" for name, value in _ENTRY.items() if not lacking or name != lacking[1])
    if lacking:
        text = f"<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>"
    return text.replace("…one key…", entry).encode()


def _judged(store: S3Store, call: str, right: str) -> tuple[bool, str]:
    named = dict(re.findall(r"(\w+)=(\S+)", call))
    try:
        if call.startswith("list"):
            value: object = list(store.list("a/"))
        elif call.startswith("head"):
            value = store.head("x")
        else:
            numbers = {name: int(text) for name, text in named.items() if text.isdigit()}
            value = store.get("x", max_bytes=100, if_match=named.get("if_match"), **numbers)
    except StorageError as error:
        wanted = _ERROR.findall(right)
        return any(kind.__name__ in wanted for kind in type(error).__mro__), f"{type(error).__name__}: {error.what}"
    etag = str(getattr(value, "etag", ""))
    return right.startswith("an ETag") and bool(etag) and '"' not in etag, f"{value!r}"
