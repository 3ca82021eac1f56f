"""Buckets of Cloudflare R2, Amazon S3 and compatible stores, through boto3.

Trust in a store is trust in its clock and its consistency, so which store that is must not be a participant's choice:
endpoints are built from the account id in a commitment and the hosts in the network's parameters, never from text somebody
wrote, and redirects are not followed. Every object is one PUT, so that its ETag has no "-". Store times have the resolution
of `Last-Modified`, one second, rounded down.

What a store may take is bounded: time (`time_limits`), bytes (`s3_transport`, and `max_bytes` of a read), pages of a listing.
What it may say is one form of each header (`s3_answers`); anything else is a `StorageError`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from grail_core.errors import ConfigurationError, StorageError
from grail_core.storage import s3_answers
from grail_core.storage.base import (
    MAX_LISTED_KEYS,
    AccessDeniedError,
    NoAnswerError,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of, parse_commitment
from grail_core.storage.layout import PROBE_KEY
from grail_core.storage.object_keys import check_prefix, is_key, split_key
from grail_core.storage.time_limits import StoreLimits, at_most, seconds_left
from grail_core.text import printable

_CHUNK = 1 << 20
_TRIES = 3
_FIRST_PAUSE_S = 0.5
MAX_PAGES = 200
"""Of one listing. With MAX_ANSWER_BYTES a page and `StoreLimits.listing_s` this is what a stranger's bucket costs at most."""

MAX_OPENED = 512
"""Buckets that a directory keeps open: a subnet's hotkeys twice. Each holds connections, and anybody may commit new ones."""


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
        self._endpoint = endpoint
        self._bucket = bucket
        self._credentials = credentials
        self._region = region
        self._read_only = read_only
        self._limits = limits or StoreLimits()
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def _client(self) -> Any:  # boto3 makes its client classes at run time
        with self._lock:
            if self._made is None:
                self._made = _make_client(self._endpoint, self._credentials, self._region, self._limits)
            return self._made

    def prepare(self) -> None:
        """Make what requests need: that is made for one store after another, and none should pay for others with its time."""
        _ = self._client

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write the whole object with one request, whatever its size (at most 5 GiB)."""
        split_key(key)
        where = self._where(key)
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=where)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            headers = self._call("put_object", key, self._limits.body_s(len(data)), Body=data, **condition)
        except _RetriedConditionError as error:
            # The first try may have reached the store and its answer been lost: then what is there is what we sent.
            found = self.head(key)
            if found is None or not self._holds(key, found, data):
                raise PreconditionFailedError("the object exists already", where=where) from error
            return found
        info = self.head(key)
        if info is None or info.etag != s3_answers.etag_of(headers.get("etag"), where):
            raise StorageError("the object was replaced or removed while it was written", where=where)
        return info

    def head(self, key: str) -> ObjectInfo | None:
        split_key(key)
        try:
            headers = self._call("head_object", key, self._limits.answer_s)
        except ObjectNotFoundError:
            return None
        return s3_answers.info_of_headers(key, headers, self._where(key))

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
        return s3_answers.info_of_headers(key, headers, self._where(key)), data

    def _get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of one answer."""
        split_key(key)
        if offset < 0 or max_bytes < 0 or (length is not None and length < 0):
            raise ValueError("offset, length and max_bytes are not negative")
        where = self._where(key)
        options: dict[str, str] = {}
        if if_match is not None:
            if not s3_answers.is_etag(if_match):
                raise PreconditionFailedError("no object can have this ETag", where=where)
            options["IfMatch"] = f'"{if_match}"'
        if length == 0:
            headers = self._call("head_object", key, self._limits.answer_s, **options)
            self._require_pinned(headers, if_match, where)
            return headers, b""
        ranged = offset > 0 or length is not None
        if ranged:
            options["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        answer = self._answer("get_object", key, self._limits.answer_s, **options)
        body, headers, status = answer["Body"], _headers(answer), answer["ResponseMetadata"]["HTTPStatusCode"]
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
        where = self._where(prefix)
        options: dict[str, str] = {"Prefix": prefix}
        left_s, last, seen = self._limits.listing_s, "", 0
        for _ in range(MAX_PAGES):
            started = time.monotonic()
            page = self._answer("list_objects_v2", None, min(left_s, self._limits.answer_s), where=where, **options)
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
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=self._where(key))
        self._call("delete_object", key, self._limits.answer_s)

    def can_write(self) -> bool:
        """Whether these credentials can write, by trying it.

        Raises:
            StorageError: the store neither accepted nor denied it.
        """
        try:
            self._call("put_object", PROBE_KEY, self._limits.answer_s, Body=b"")
        except AccessDeniedError:
            return False
        self._call("delete_object", PROBE_KEY, self._limits.answer_s)
        return True

    def _where(self, key: str | None) -> str:
        return f"{self._endpoint}/{self._bucket}/{key or ''}"

    def _holds(self, key: str, found: ObjectInfo, data: bytes) -> bool:
        return found.size == len(data) and self.get(key, max_bytes=len(data), if_match=found.etag) == data

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

    def _call(self, operation: str, key: str, seconds: float, **options: Any) -> dict[str, str]:
        """The answer's headers, by lower-case name."""
        answer = self._answer(operation, key, seconds, **options)
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        if status not in (200, 204):
            raise s3_answers.unexpected(f"status {status}", self._where(key))
        return _headers(answer)

    def _answer(self, operation: str, key: str | None, seconds: float, *, where: str = "", **options: Any) -> Any:
        """boto3's answer to a request, tried again where the store says "later" or nothing, within `seconds` in all."""
        where = where or self._where(key)
        if key is not None:
            options["Key"] = key
        with at_most(seconds):
            for number in range(1, _TRIES + 1):
                error = self._try(operation, options)
                if not isinstance(error, Exception):
                    return error
                pause = random.uniform(0, _FIRST_PAUSE_S * 2 ** (number - 1))
                if number == _TRIES or not _worth_another(error) or seconds_left() <= pause:
                    raise _typed(error, where, conditional="IfNoneMatch" in options, retried=number > 1) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _try(self, operation: str, options: dict[str, Any]) -> Any:
        """The answer, or the exception there was instead."""
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **options)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  boto3's readers raise whatever their libraries do: the text is a stranger's
            return error


class _RetriedConditionError(StorageError):
    """A conditional put was refused on a try after the first."""


class S3Directory:
    """Own bucket with the write key, others' with the read keys they committed.

    Args:
        hosts: the network's list; entries as in `endpoint_of`.
        address: own bucket with its *read* credentials, the thing that is committed.
        write: the key that never leaves this machine.
    """

    def __init__(self, hosts: tuple[str, ...], address: BucketAddress, write: Credentials, *, region: str = "auto") -> None:
        if write.key_id == address.credentials.key_id or write.secret == address.credentials.secret:
            raise ConfigurationError(
                "the read key is the write key: committing it would let everybody write into this bucket",
                where="R2_READ_ACCESS_KEY_ID",
                hint="make a second key with read permission only",
            )
        self._hosts = hosts
        self._address = address
        self._write = write
        self._region = region
        self._probed = False
        self._opened: OrderedDict[str, S3Store] = OrderedDict()
        self._lock = threading.Lock()

    def own(self) -> ObjectStore:
        return S3Store(self._endpoint(self._address), self._address.bucket, self._write, region=self._region)

    def commitment(self) -> str:
        """The text to commit: own bucket with its read key.

        The first call tries whether the read key can write, since what is committed is public.

        Raises:
            ConfigurationError: it can, or the text is too long for the chain.
        """
        text = self._address.to_text()
        if not self._probed:
            if self._store(self._address).can_write():
                raise ConfigurationError(
                    "the read key can write into the bucket: committing it would let everybody do so",
                    where="R2_READ_ACCESS_KEY_ID",
                    hint="give this key read permission only",
                )
            self._probed = True
        return text

    def open(self, commitment: str) -> ObjectStore:
        """Read-only view of the bucket a commitment names; the same text gives the same store, while it is used."""
        with self._lock:
            store = self._opened.get(commitment) or self._store(parse_commitment(commitment, len(self._hosts)))
            self._opened[commitment] = store
            self._opened.move_to_end(commitment)
            if len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)  # whoever uses it now goes on; its connections close with it
        store.prepare()
        return store

    def _store(self, address: BucketAddress) -> S3Store:
        return S3Store(self._endpoint(address), address.bucket, address.credentials, region=self._region, read_only=True)

    def _endpoint(self, address: BucketAddress) -> str:
        return endpoint_of(address.account, self._hosts[address.host_index])


_SESSIONS: list[Any] = []
"""One for all stores: it reads S3's description, 12 MiB and 0.1 s, and a validator opens 256 strangers' buckets."""

_SESSION_LOCK = threading.Lock()


def _make_client(endpoint: str, credentials: Credentials, region: str, limits: StoreLimits) -> Any:
    try:
        import botocore.session

        from grail_core.storage.s3_transport import Transport
    except ImportError as error:
        raise ConfigurationError("remote buckets need boto3", where="storage", hint="pip install 'grail-core[s3]'") from error
    with _SESSION_LOCK:
        if not _SESSIONS:
            session = botocore.session.Session()
            # Times stay text here: `s3_answers` reads them by one form, where boto3 would take anything that looks like a date.
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            _SESSIONS.append(session)
        client = _create_client(_SESSIONS[0], endpoint, credentials, region)
    client.meta.events.register("before-send.s3", Transport(limits).send)
    return client


def _create_client(session: Any, endpoint: str, credentials: Credentials, region: str) -> Any:
    from botocore.config import Config

    return session.create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=credentials.key_id,
        aws_secret_access_key=credentials.secret,
        region_name=region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 1},  # `S3Store` tries again, within its time
            # Newer checksum headers are not known to every compatible store; contents are hashed by the readers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _headers(answer: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in answer["ResponseMetadata"]["HTTPHeaders"].items()}


def _worth_another(error: Exception) -> bool:
    status = getattr(error, "status", None)
    return status in s3_answers.RETRIED if status is not None else _is_silence(error)


def _is_silence(error: Exception) -> bool:
    """No answer came: nothing was reached, or what was reached broke off."""
    from urllib3.exceptions import HTTPError

    return isinstance(error, OSError | HTTPError)


def _typed(error: Exception, where: str, *, conditional: bool, retried: bool) -> StorageError:
    from grail_core.storage.s3_transport import AnswerStatus

    if isinstance(error, StorageError):
        return error
    if isinstance(error, AnswerStatus):
        found = s3_answers.refusal(error.status, error.code, error.message, where, conditional=conditional)
        if conditional and retried and isinstance(found, PreconditionFailedError):
            return _RetriedConditionError("a conditional put was refused after a retry", where=where)
        return found
    if seconds_left() <= 0:
        return NoAnswerError("the store did not answer in the time that there was", where=where, hint="it is tried again later")
    if _is_silence(error):
        what = printable(str(error), 200)
        return NoAnswerError(f"the store cannot be reached: {what}", where=where, hint="check the network and R2_*")
    what = printable(f"{type(error).__name__}: {error}", 200)
    return s3_answers.unexpected(f"something that cannot be read ({what})", where)
