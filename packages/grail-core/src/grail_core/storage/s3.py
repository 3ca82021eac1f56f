"""Buckets of Cloudflare R2, Amazon S3 and compatible stores, through boto3.

Trust in a store is trust in its clock and its consistency, so which store that is must not be a participant's choice:
endpoints are built from the account id in a commitment and the hosts in the network's parameters, never from text somebody
wrote, and redirects are not followed. Every object is one PUT, so that its ETag has no "-". Store times have the resolution
of `Last-Modified`, one second, rounded down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from grail_core.errors import ConfigurationError, StorageError
from grail_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of, parse_commitment
from grail_core.storage.layout import PROBE_KEY
from grail_core.storage.object_keys import check_prefix, split_key

_CHUNK = 1 << 20
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_EXISTS = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_DENIED = frozenset({"401", "403", "AccessDenied", "Unauthorized", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"})


class S3Store:
    """One bucket. Thread-safe; requests are retried up to three times with jitter.

    Args:
        endpoint: scheme and host, as `endpoint_of` builds it.
    """

    def __init__(
        self, endpoint: str, bucket: str, credentials: Credentials, *, region: str = "auto", read_only: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        self._credentials = credentials
        self._region = region
        self._read_only = read_only
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def _client(self) -> Any:  # boto3 makes its client classes at run time
        with self._lock:
            if self._made is None:
                self._made = _make_client(self._endpoint, self._credentials, self._region)
            return self._made

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write the whole object with one request, whatever its size (at most 5 GiB)."""
        split_key(key)
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=self._where(key))
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            answer = self._call("put_object", key, Body=data, **condition)
        except _RetriedConditionError as error:
            # The first try may have reached the store and its answer been lost: then what is there is what we sent.
            found = self.head(key)
            if found is None or not self._holds(key, found, data):
                raise PreconditionFailedError("the object exists already", where=self._where(key)) from error
            return found
        info = self.head(key)
        if info is None or info.etag != _etag(answer):
            raise StorageError("the object was replaced or removed while it was written", where=self._where(key))
        return info

    def head(self, key: str) -> ObjectInfo | None:
        split_key(key)
        try:
            return _info(key, self._call("head_object", key), "ContentLength")
        except ObjectNotFoundError:
            return None

    def get(
        self, key: str, *, max_bytes: int, if_match: str | None = None, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read the object or a range of it. The size is checked before the body is read, and again while it is read.

        Raises:
            ObjectNotFoundError, PreconditionFailedError, ObjectTooLargeError
            StorageError: the range begins after the object's end, or the store answered with something else.
        """
        split_key(key)
        if offset < 0 or max_bytes < 0 or (length is not None and length < 0):
            raise ValueError("offset, length and max_bytes are not negative")
        options = {} if if_match is None else {"IfMatch": f'"{if_match}"'}
        ranged = offset > 0 or length is not None
        if length == 0:
            self._call("head_object", key, **options)
            return b""
        if ranged:
            options["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        answer = self._call("get_object", key, **options)
        body, announced = answer["Body"], int(answer["ContentLength"])
        try:
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            if ranged and status != 206 and not (status == 200 and offset == 0 and length is not None and announced <= length):
                raise StorageError("the store ignored the range that was asked for", where=self._where(key))
            if announced > max_bytes:
                raise ObjectTooLargeError(f"{announced} bytes; at most {max_bytes} are read", where=self._where(key))
            return self._read(body, key, max_bytes)
        finally:
            body.close()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        options: dict[str, str] = {"Prefix": prefix}
        while True:
            page = self._call("list_objects_v2", None, **options)
            for entry in page.get("Contents", []):
                yield _info(entry["Key"], entry, "Size")
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        split_key(key)
        if self._read_only:
            raise StorageError("this bucket is somebody else's: it is read only", where=self._where(key))
        self._call("delete_object", key)

    def can_write(self) -> bool:
        """Whether these credentials can write, by trying it.

        Raises:
            StorageError: the store neither accepted nor denied it.
        """
        try:
            self._call("put_object", PROBE_KEY, Body=b"")
        except AccessDeniedError:
            return False
        self._call("delete_object", PROBE_KEY)
        return True

    def _where(self, key: str | None) -> str:
        return f"{self._endpoint}/{self._bucket}/{key or ''}"

    def _holds(self, key: str, found: ObjectInfo, data: bytes) -> bool:
        return found.size == len(data) and self.get(key, max_bytes=len(data), if_match=found.etag) == data

    def _read(self, body: Any, key: str, max_bytes: int) -> bytes:
        import botocore.exceptions

        parts: list[bytes] = []
        size = 0
        try:
            while part := body.read(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise ObjectTooLargeError(f"more than {max_bytes} bytes", where=self._where(key))
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise StorageError(f"the object's body broke off: {error}", where=self._where(key), hint="read it again") from error
        return b"".join(parts)

    def _call(self, operation: str, key: str | None, **options: Any) -> Any:
        import botocore.exceptions

        where = self._where(key)
        if key is not None:
            options["Key"] = key
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **options)
        except botocore.exceptions.ClientError as error:
            raise _typed(error.response, where, conditional="IfNoneMatch" in options) from error
        except (botocore.exceptions.BotoCoreError, OSError, ValueError) as error:
            raise StorageError(
                f"the store cannot be reached: {error}", where=where, hint="check the network and R2_*"
            ) from error


class AccessDeniedError(StorageError):
    """The store knows these credentials not, or does not let them do this."""


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
        self._opened: dict[str, S3Store] = {}

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
        """Read-only view of the bucket a commitment names; the same text gives the same store."""
        if commitment not in self._opened:
            self._opened[commitment] = self._store(parse_commitment(commitment, len(self._hosts)))
        return self._opened[commitment]

    def _store(self, address: BucketAddress) -> S3Store:
        return S3Store(self._endpoint(address), address.bucket, address.credentials, region=self._region, read_only=True)

    def _endpoint(self, address: BucketAddress) -> str:
        return endpoint_of(address.account, self._hosts[address.host_index])


def _make_client(endpoint: str, credentials: Credentials, region: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigurationError("remote buckets need boto3", where="storage", hint="pip install 'grail-core[s3]'") from error
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=credentials.key_id,
        aws_secret_access_key=credentials.secret,
        region_name=region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=30,
            # Newer checksum headers are not known to every compatible store; contents are hashed by the readers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _typed(response: Any, where: str, *, conditional: bool) -> StorageError:
    details, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(details.get("Code", "")), str(metadata.get("HTTPStatusCode", ""))
    if code == "NoSuchBucket":
        return StorageError("there is no such bucket", where=where, hint="check R2_BUCKET_ID and R2_ACCOUNT_ID")
    if code in _MISSING or (not code and status == "404"):
        return ObjectNotFoundError("there is no such object", where=where)
    if code in _EXISTS or status == "412":
        if conditional and metadata.get("RetryAttempts", 0) > 0:
            return _RetriedConditionError("a conditional put was refused after a retry", where=where)
        what = "the object exists already" if conditional else "the object is no longer the one asked for"
        return PreconditionFailedError(what, where=where)
    if code in _DENIED:
        return AccessDeniedError("the store denies access", where=where, hint="check the R2_* keys and their permissions")
    return StorageError(f"the store refused: {code or status} {details.get('Message', '')}".rstrip(), where=where)


def _info(key: str, answer: Any, size_name: str) -> ObjectInfo:
    return ObjectInfo(key, int(answer[size_name]), _etag(answer), int(answer["LastModified"].timestamp() * 1000))


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
