"""Buckets of Cloudflare R2, Amazon S3 and compatible stores, through boto3.

Trust in a store is trust in its clock and its consistency, so which store that is must not be a participant's choice:
endpoints are built from the account id in a commitment and the hosts in the network's parameters, never from text somebody
wrote, and redirects are not followed. An object is one PUT; those of checkpoints, which are large and named by their content,
go in parts (`s3_parts`). Store times have the resolution of `Last-Modified`, one second, rounded down.

What a store may take is bounded: time (`time_limits`), bytes (`s3_transport`, and `max_bytes` of a read), pages of a listing.
What it may say is one form of each header (`s3_answers`); anything else is a `StorageError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from grail_core.errors import StorageError
from grail_core.storage import s3_answers, s3_parts
from grail_core.storage.base import (
    MAX_LISTED_KEYS,
    AccessDeniedError,
    NoAnswerError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    UnsupportedError,
)
from grail_core.storage.commitment import Credentials
from grail_core.storage.layout import PROBE_KEY
from grail_core.storage.object_keys import check_prefix, is_key, split_key
from grail_core.storage.s3_requests import Requests, RetriedConditionError
from grail_core.storage.time_limits import StoreLimits, at_most, seconds_left
from grail_core.text import printable

_CHUNK = 1 << 20
_HELD = 16 << 20
MAX_PAGES = 200
"""Of one listing. With MAX_ANSWER_BYTES a page and `StoreLimits.listing_s` this is what a stranger's bucket costs at most."""


class S3Store:
    """One bucket. Thread-safe; a request is tried up to three times, with pauses of random length, within its time.

    Args:
        endpoint: scheme and host, as `endpoint_of` builds it.
        limits: what the store may take where the caller has set no shorter time (`at_most`).
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        credentials: Credentials,
        *,
        region: str = "auto",
        read_only: bool = False,
        limits: StoreLimits | None = None,
    ) -> None:
        self._limits = limits or StoreLimits()
        self._requests = Requests(endpoint, bucket, credentials, region=region, limits=self._limits, read_key=read_only)
        self._read_only = read_only

    def prepare(self) -> None:
        """Make what requests need: that is made for one store after another, and none should pay for others with its time."""
        _ = self._requests.client

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write the whole object with one request, whatever its size (at most 5 GiB)."""
        split_key(key)
        where = self._writable(key)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            answered = self._requests.call("put_object", key, self._limits.body_s(len(data)), Body=data, **condition)
        except RetriedConditionError as error:
            # The first try may have reached the store and its answer been lost: then what is there is what we sent.
            found = self.head(key)
            if found is None or not self._holds(key, found, data):
                raise PreconditionFailedError("the object exists already", where=where) from error
            return found
        return self._written(key, s3_answers.etag_of(answered.headers.get("etag"), where))

    def put_large(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """As `put`; above `s3_parts.ONE_PUT_BYTES` in parts, several at a time, where the store takes parts.

        Of an upload that fails nothing is left, unless the process is killed or the store is silent: see `abandon_uploads`.
        """
        if len(data) <= s3_parts.ONE_PUT_BYTES:
            return self.put(key, data, if_absent=if_absent)
        split_key(key)
        self._writable(key)
        try:
            etag = s3_parts.put_in_parts(self._requests, key, data, if_absent=if_absent)
        except UnsupportedError:
            return self.put(key, data, if_absent=if_absent)
        except s3_parts.UnknownOutcomeError as error:
            found = self.head(key)
            if found is not None and self._holds(key, found, data):
                return found
            raise error.cause from error
        return self._written(key, etag)

    def abandon_uploads(self, prefix: str) -> int:
        """Abort uploads in parts below a prefix that this process has not in hand: leftovers of one that was killed. The bucket
        has one writer, so nobody else has them in hand either. Returns how many there were.
        """
        check_prefix(prefix)
        self._writable(prefix)
        try:
            return s3_parts.abandon(self._requests, prefix)
        except UnsupportedError:
            return 0

    def head(self, key: str) -> ObjectInfo | None:
        split_key(key)
        try:
            answered = self._requests.call("head_object", key, self._limits.answer_s)
        except ObjectNotFoundError:
            return None
        return s3_answers.info_of_headers(key, answered.headers, self._requests.where(key))

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read the object or a range of it. Size, ETag and range are checked before the body is read, its length after.

        Raises:
            ObjectNotFoundError, PreconditionFailedError, ObjectTooLargeError, AccessDeniedError, NoAnswerError
            StorageError: the range begins after the object's end, or the store answered with something else.
        """
        _, data = self._get(key, max_bytes=max_bytes, if_match=if_match, offset=offset, length=length)
        return data

    def read(self, key: str, *, max_bytes: int) -> tuple[ObjectInfo, bytes]:
        """As `get`, with what the same answer's headers say of the object."""
        headers, data = self._get(key, max_bytes=max_bytes)
        return s3_answers.info_of_headers(key, headers, self._requests.where(key)), data

    def _get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of one answer."""
        split_key(key)
        if offset < 0 or max_bytes < 0 or (length is not None and length < 0):
            raise ValueError("offset, length and max_bytes are not negative")
        where = self._requests.where(key)
        options: dict[str, str] = {}
        if if_match is not None:
            if not s3_answers.is_etag(if_match):
                raise PreconditionFailedError("no object can have this ETag", where=where)
            options["IfMatch"] = f'"{if_match}"'
        if length == 0:
            headers = self._requests.call("head_object", key, self._limits.answer_s, **options).headers
            self._require_pinned(headers, if_match, where)
            return headers, b""
        ranged = offset > 0 or length is not None
        if ranged:
            options["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        answered = self._requests.ask("get_object", key, self._limits.answer_s, **options)
        body, headers, status = answered.value["Body"], answered.headers, answered.status
        whole = False
        try:
            self._require_pinned(headers, if_match, where)
            announced = s3_answers.length_of(headers.get("content-length"), where)
            if "transfer-encoding" in headers:
                raise s3_answers.unexpected("a body of no fixed length", where)
            if status == 206 and ranged:
                if announced != s3_answers.check_range(headers, offset, length, where):
                    raise s3_answers.unexpected(f"{announced} bytes, which its range has not", where)
            elif status != 200:
                raise s3_answers.unexpected(f"status {status}", where)
            elif ranged and not (offset == 0 and length is not None and announced <= length):
                raise StorageError("the store ignored the range that was asked for", where=where)
            if announced > max_bytes:
                raise ObjectTooLargeError(f"{announced} bytes; at most {max_bytes} are read", where=where)
            with at_most(self._limits.body_s(announced)):
                data = self._read(body, announced, where)
            whole = bool(data)
            return headers, data
        finally:
            if not whole:
                body.close()  # the connection with it: nobody reads what else comes

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key begins with `prefix`, in order; what is no key of ours is left out.

        Raises:
            StorageError: a page is not one, is out of order or of another prefix, or the listing does not end within
                MAX_PAGES, MAX_LISTED_KEYS and `StoreLimits.listing_s`; the page's objects are not handed out then.
        """
        check_prefix(prefix)
        where = self._requests.where(prefix)
        options: dict[str, str] = {"Prefix": prefix}
        left_s, last, seen = self._limits.listing_s, "", 0
        for _ in range(MAX_PAGES):
            started = time.monotonic()
            seconds = min(left_s, self._limits.answer_s)
            page = self._requests.ask("list_objects_v2", None, seconds, where=where, **options).value
            left_s -= time.monotonic() - started
            entries = page.get("Contents", [])
            seen += len(entries)
            if seen > MAX_LISTED_KEYS:
                break
            infos = []
            for entry in entries:
                key = entry.get("Key")
                if not isinstance(key, str) or not key.startswith(prefix):
                    raise s3_answers.unexpected("a key of another prefix", where)
                if key <= last:
                    raise s3_answers.unexpected("keys that are out of order", where)
                last = key
                if is_key(key):
                    infos.append(
                        ObjectInfo(
                            key,
                            s3_answers.length_of(entry.get("Size"), where),
                            s3_answers.etag_of(entry.get("ETag"), where),
                            s3_answers.iso_date_ms(entry.get("LastModified"), where),
                        )
                    )
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            if page.get("IsTruncated") and (not token or token == options.get("ContinuationToken")):
                raise s3_answers.unexpected("a page that has no next one and says that it has", where)
            yield from infos
            if token is None:
                return
            options["ContinuationToken"] = token
        raise StorageError(
            f"the listing goes on beyond {MAX_PAGES} pages or {MAX_LISTED_KEYS} keys",
            where=where,
            hint="a bucket of this network holds far fewer; of your own, look at what else lies there",
        )

    def delete(self, key: str) -> None:
        split_key(key)
        self._writable(key)
        self._requests.call("delete_object", key, self._limits.answer_s)

    def tried_writes(self) -> tuple[str, ...]:
        """What of put, delete and upload in parts these credentials may do, by trying it on a key that nothing else uses.

        What could be put may have to be removed by somebody who can delete; an upload that was begun, too.

        Raises:
            StorageError: the store neither accepted nor denied one of them.
        """
        tries = {
            "put": lambda: self._requests.call("put_object", PROBE_KEY, self._limits.answer_s, Body=b""),
            "delete": lambda: self._requests.call("delete_object", PROBE_KEY, self._limits.answer_s),
            "upload in parts": lambda: s3_parts.begin_and_abort(self._requests, PROBE_KEY),
        }
        return tuple(what for what, attempt in tries.items() if _was_allowed(attempt))

    def _writable(self, key: str) -> str:
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=self._requests.where(key))
        return self._requests.where(key)

    def _written(self, key: str, etag: str) -> ObjectInfo:
        """What a HEAD says of the object that was just written."""
        info = self.head(key)
        if info is None or info.etag != etag:
            what = "the object was replaced or removed while it was written"
            raise StorageError(what, where=self._requests.where(key))
        return info

    def _holds(self, key: str, found: ObjectInfo, data: bytes) -> bool:
        """Whether what lies there is this, read in ranges: it may be large."""
        return found.size == len(data) and all(
            self.get(key, max_bytes=_HELD, if_match=found.etag, offset=at, length=len(data[at : at + _HELD]))
            == data[at : at + _HELD]
            for at in range(0, max(1, len(data)), _HELD)
        )

    def _require_pinned(self, headers: dict[str, str], if_match: str | None, where: str) -> None:
        """The answer is of the object that was asked for, whatever the store makes of conditions."""
        if if_match is not None and s3_answers.etag_of(headers.get("etag"), where) != if_match:
            raise PreconditionFailedError("the answer names another ETag than was asked for", where=where)

    def _read(self, body: Any, announced: int, where: str) -> bytes:
        """All of the body, which has exactly the length it announced; never more than that is read."""
        parts: list[bytes] = []
        size = 0
        try:
            while size < announced and (part := body.read(min(_CHUNK, announced - size))):
                parts.append(part)
                size += len(part)
        except Exception as error:
            if seconds_left() <= 0:
                raise NoAnswerError(
                    f"{size} of {announced} bytes came in the time that there was", where=where, hint="it is read again later"
                ) from error
            what = printable(str(error), 200)
            raise StorageError(f"the object's body broke off: {what}", where=where, hint="read it again") from error
        if size != announced:
            raise StorageError(f"{size} bytes came of {announced} that were announced", where=where, hint="read it again")
        return b"".join(parts)


def _was_allowed(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (AccessDeniedError, UnsupportedError):
        return False
    return True
