"""Uploads in parts (S3's multipart), for checkpoints alone: equal ones, several at a time, and nothing left of what failed.

An upload that was begun and neither completed nor aborted lies in the bucket, unseen and paid for. So whatever ends an upload
here ends its requests first, then aborts it, and then aborts what a lost answer to the beginning may have begun beside it. What
a killed process leaves is found by `abandon`, which takes everything below a prefix but what this process has in hand.

All parts but the last are equal, since R2 refuses others. An answer that was lost does not say what became of the object:
`UnknownOutcomeError`, and the caller looks.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from grail_core.errors import StorageError
from grail_core.storage import s3_answers
from grail_core.storage.base import NoAnswerError, ObjectNotFoundError, PreconditionFailedError
from grail_core.storage.object_keys import is_key
from grail_core.storage.s3_requests import Answered, Requests, RetriedConditionError
from grail_core.storage.time_limits import at_most

ONE_PUT_BYTES = 64 << 20
"""Up to here a large object is one PUT too."""

PART_BYTES = 16 << 20  # at least 5 MiB (S3, R2), and at most 10,000 parts
PARALLEL_PARTS = 4
MAX_ABANDONED = 1000
"""Of one call; a bucket of ours has none or a few."""

_UPLOAD_ID = re.compile(r"[!-~]{1,1024}")
_IN_HAND: set[str] = set()
_LOCK = threading.Lock()


class UnknownOutcomeError(StorageError):
    """The object may be there or not. `cause`: what went wrong."""

    def __init__(self, cause: StorageError) -> None:
        super().__init__(cause.what, where=cause.where, hint=cause.hint)
        self.cause = cause


def put_in_parts(requests: Requests, key: str, data: bytes, *, if_absent: bool) -> str:
    """Upload an object; returns its ETag.

    Raises:
        UnknownOutcomeError: the last request may have completed it.
        PreconditionFailedError: `if_absent`, and the object exists.
        StorageError: nothing was changed.
    """
    try:
        begun = _begin(requests, key)
    except StorageError:
        with suppress(StorageError):  # one of its tries may have begun it
            abandon(requests, key)
        raise
    upload = _upload_id(begun, requests.where(key))
    whole = False
    try:
        parts = _send(requests, key, upload, data)
        etag = _complete(requests, key, upload, parts, if_absent=if_absent)
        whole = True
        return etag
    finally:
        if not whole:
            _abort(requests, key, upload)
        with _LOCK:
            _IN_HAND.discard(upload)
        if not whole or begun.tries > 1:
            with suppress(StorageError):  # the next start sweeps
                abandon(requests, key)


def begin_and_abort(requests: Requests, key: str) -> None:
    """Whether an upload may be begun, by doing so. Errors: AccessDeniedError: it may not."""
    upload = _upload_id(_begin(requests, key), requests.where(key))
    _abort(requests, key, upload)
    with _LOCK:
        _IN_HAND.discard(upload)


def abandon(requests: Requests, prefix: str) -> int:
    """Abort every upload below `prefix` that this process has not in hand. Returns how many.

    Raises:
        StorageError: the store does not list or abort them.
    """
    aborted = 0
    found = _listed(requests, prefix)
    for key, upload in found:
        with _LOCK:
            mine = upload in _IN_HAND
        if not mine:
            with suppress(ObjectNotFoundError):
                requests.call("abort_multipart_upload", key, requests.limits.answer_s, UploadId=upload)
            aborted += 1
    return aborted


def _listed(requests: Requests, prefix: str) -> list[tuple[str, str]]:
    """Key and id of uploads below a prefix, the first MAX_ABANDONED."""
    where, seconds = requests.where(prefix), requests.limits.answer_s
    page = requests.ask("list_multipart_uploads", None, seconds, where=where, Prefix=prefix, MaxUploads=MAX_ABANDONED).value
    found = []
    for entry in page.get("Uploads", [])[:MAX_ABANDONED]:
        key, upload = entry.get("Key"), entry.get("UploadId")
        if not isinstance(key, str) or not key.startswith(prefix) or not isinstance(upload, str):
            raise s3_answers.unexpected("an upload of another prefix", where)
        if is_key(key) and _UPLOAD_ID.fullmatch(upload):
            found.append((key, upload))
    return found


def _begin(requests: Requests, key: str) -> Answered:
    with _LOCK:  # so that whoever lists meanwhile in this process knows what is in hand
        begun = requests.ask("create_multipart_upload", key, requests.limits.answer_s)
        upload = begun.value.get("UploadId")
        if isinstance(upload, str):
            _IN_HAND.add(upload)
    return begun


def _upload_id(begun: Answered, where: str) -> str:
    upload = begun.value.get("UploadId")
    if not isinstance(upload, str) or not _UPLOAD_ID.fullmatch(upload):
        raise s3_answers.unexpected("an upload without a usable id", where)
    return upload


def _send(requests: Requests, key: str, upload: str, data: bytes) -> list[dict[str, Any]]:
    """All parts, in order of their numbers. Whatever ends this, no request of it is under way any more."""
    failed = threading.Event()
    where = requests.where(key)

    def send(number: int, at: int) -> dict[str, Any]:
        body = data[at : at + PART_BYTES]
        with at_most(requests.limits.body_s(len(body)), stop=failed):
            answered = requests.call(
                "upload_part", key, requests.limits.body_s(len(body)), UploadId=upload, PartNumber=number, Body=body
            )
        etag = s3_answers.etag_of(answered.headers.get("etag"), where)
        return {"PartNumber": number, "ETag": f'"{etag}"'}

    with ThreadPoolExecutor(PARALLEL_PARTS, thread_name_prefix="part") as pool:
        try:
            starts = enumerate(range(0, len(data), PART_BYTES), 1)
            sent = [pool.submit(copy_context().run, send, number, at) for number, at in starts]
            wait(sent, return_when=FIRST_EXCEPTION)
            broken = next((error for one in sent if one.done() and (error := one.exception()) is not None), None)
            if broken is not None:
                raise broken
            return [one.result() for one in sent]
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise


def _complete(requests: Requests, key: str, upload: str, parts: list[dict[str, Any]], *, if_absent: bool) -> str:
    condition = {"IfNoneMatch": "*"} if if_absent else {}
    where = requests.where(key)
    try:
        answered = requests.ask(
            "complete_multipart_upload",
            key,
            requests.limits.body_s(0),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            **condition,
        )
    except (RetriedConditionError, NoAnswerError, ObjectNotFoundError) as error:
        # A try whose answer was lost may have completed it: then the upload is gone, or the object is in its own way.
        refused = isinstance(error, RetriedConditionError)
        cause = PreconditionFailedError(error.what, where=where) if refused else error
        raise UnknownOutcomeError(cause) from error
    return s3_answers.etag_of(answered.value.get("ETag"), where)


def _abort(requests: Requests, key: str, upload: str) -> None:
    """Best effort: where the store does not answer now, the next start does it."""
    with suppress(StorageError):
        requests.call("abort_multipart_upload", key, requests.limits.answer_s, UploadId=upload)
