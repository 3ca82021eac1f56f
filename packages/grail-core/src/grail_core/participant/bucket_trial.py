"""What a bucket is tried for before a role works with it, or commits it: that its write key puts and removes, and its read key
reads and lists what was put.

A commitment takes the place of the one before, so one that nobody can read costs its owner every window until it is mended. A
store that merely does not answer says nothing of the keys: where the chain names this bucket and key already, a role starts all
the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from grail_core.errors import ConfigurationError, StorageError
from grail_core.protocol.network import NetworkParameters
from grail_core.storage.base import NoAnswerError, ObjectInfo, StoreDirectory
from grail_core.storage.commitment import endpoint_of, parse_commitment
from grail_core.storage.layout import DOCTOR_PREFIX
from grail_core.storage.s3_directory import S3Directory
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class TrialObject:
    """A small object in one's own bucket that is gone afterwards."""

    info: ObjectInfo
    content: bytes

    def reads(self, directory: StoreDirectory, commitment: str) -> bool:
        """Whether it is what is read through a commitment. Errors: StorageError."""
        info = self.info
        return directory.open(commitment).get(info.key, max_bytes=info.size, if_match=info.etag) == self.content


@contextmanager
def trial_object(directory: StoreDirectory) -> Iterator[TrialObject]:
    """Put with the write key, and removed with it, whatever happens. Errors: StorageError."""
    own, key, content = directory.own(), f"{DOCTOR_PREFIX}/{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        yield TrialObject(own.put(key, content, if_absent=True), content)
    except BaseException:
        with suppress(StorageError):  # the first error says what is wrong
            own.delete(key)
        raise
    own.delete(key)


def tried_commitment(directory: StoreDirectory, on_chain: str | None) -> str:
    """The text to commit, of a bucket that has just been tried: one small put, list, read and delete.

    Args:
        on_chain: what the chain names now. If it is this text, a store that does not answer is told (`bucket_not_tried`), and
            is no error.

    Raises:
        ConfigurationError: the read key can write, or cannot read or list.
        StorageError: the write key cannot put or delete, or the store does not answer.
    """
    try:
        text = directory.commitment()
        with trial_object(directory) as trial:
            require_read(directory, text, trial)
    except NoAnswerError as error:
        text = untried_commitment(directory)
        if text != on_chain:
            raise
        log.event("bucket_not_tried", reason=error.what)
    return text


def untried_commitment(directory: StoreDirectory) -> str:
    """The text that the settings give, without asking the store for anything: to compare it, never to commit it."""
    return directory.untried_commitment() if isinstance(directory, S3Directory) else directory.commitment()


@dataclass(frozen=True)
class NamedBucket:
    """What a commitment names, without its key. `host` is empty where the bucket is a folder."""

    kind: str
    name: str
    host: str

    def __str__(self) -> str:
        return f"{self.name} at {self.host}" if self.host else self.name


def bucket_named(commitment: str, params: NetworkParameters) -> NamedBucket:
    """The bucket of a commitment.

    Raises:
        StorageError: it is no commitment of this network.
    """
    kind, _, rest = commitment.partition(":")
    if not params.store_hosts:
        if kind != "fs" or not rest:
            raise StorageError("not a bucket commitment of this network: expected fs:BUCKET", where=repr(commitment[:24]))
        return NamedBucket(kind, rest, "")
    address = parse_commitment(commitment, len(params.store_hosts))
    host = endpoint_of(address.account, params.store_hosts[address.host_index])
    return NamedBucket(kind, address.bucket, host.partition("://")[2])


def require_read(directory: StoreDirectory, text: str, trial: TrialObject) -> None:
    """Raises: ConfigurationError: what was put is not what is read through `text`; NoAnswerError."""
    try:
        same = trial.reads(directory, text)
    except NoAnswerError:
        raise
    except StorageError as error:
        raise ConfigurationError(
            f"the read key cannot read what was just written: {error.what}",
            where="R2_READ_ACCESS_KEY_ID",
            hint="check R2_READ_* and R2_BUCKET_ID; the key may read objects and list, of this bucket; one that was made just "
            "now may take a minute",
        ) from error
    if not same:
        raise ConfigurationError(
            "others would read something else than was just written", where=trial.info.key, hint="check R2_BUCKET_ID"
        )
