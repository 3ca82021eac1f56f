"""Buckets by name, for who reads without being a participant: no chain says here whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grail_core.errors import ConfigurationError, StorageError
from grail_core.participant.settings import Settings
from grail_core.protocol.network import NetworkParameters

if TYPE_CHECKING:
    from grail_core.storage.base import ObjectStore

MAX_NEIGHBOURS: Final = 1024
"""Folders beside a bucket's that are looked into."""


def open_bucket(name: str, settings: Settings, params: NetworkParameters) -> ObjectStore:
    """A bucket to read.

    Args:
        name: what its owner committed on the chain (`s3:…` with its read key, or `fs:NAME` below GRAIL_STORAGE_ROOT), or
            the path of a bucket that is a folder (`file://` before it, `~` in it, or `grail/verdicts` behind it).

    Raises:
        ConfigurationError: it is none of these, or there is no such folder.
    """
    if not name.strip():  # an unset variable of a shell: its working folder is not meant
        raise ConfigurationError("a bucket has no name", hint="give a commitment (s3:…, fs:NAME), or the path of a folder")
    if name.startswith("s3:"):
        return _remote(name, settings, params)
    if name.startswith("fs:"):
        if settings.storage_root is None:
            raise ConfigurationError(
                "a bucket by its name needs the folder of buckets",
                where="GRAIL_STORAGE_ROOT",
                hint="set it, or give the bucket's path",
            )
        return _folder(settings.storage_root / name.removeprefix("fs:"))
    path = Path(name.removeprefix("file://")).expanduser()
    return _folder(path.parent.parent if path.parts[-2:] == ("grail", "verdicts") else path)


@dataclass(frozen=True)
class PublicBuckets:
    """Remote buckets by what their owners committed, each with the read key that it names; for whoever has none of its own."""

    settings: Settings
    params: NetworkParameters

    def own(self) -> ObjectStore:
        raise StorageError("who only reads has no bucket")

    def commitment(self) -> str:
        raise StorageError("who only reads has no bucket")

    def open(self, commitment: str) -> ObjectStore:
        """Raises StorageError where the text is not of the network's form."""
        if not commitment.startswith("s3:"):
            raise StorageError("this network's buckets are remote, and this commitment is of another kind")
        try:
            return open_bucket(commitment, self.settings, self.params)
        except ConfigurationError as error:
            raise StorageError(error.what, where=error.where, hint=error.hint) from error


def own_bucket(settings: Settings, params: NetworkParameters) -> ObjectStore | None:
    """The bucket that this machine's settings name, to read; None where they name none. Raises ConfigurationError."""
    if settings.storage_root is not None:
        return _folder(settings.storage_root / settings.storage_bucket) if settings.storage_bucket else None
    if not settings.r2_bucket_id:
        return None
    from grail_core.participant.deployment import open_s3_directory

    return open_s3_directory(settings, params).own()


def folder_of_buckets(name: str, settings: Settings) -> Path | None:
    """The folder in which a folder bucket lies beside others; None for a remote one."""
    if name.startswith("s3:"):
        return None
    if name.startswith("fs:"):
        return settings.storage_root
    return Path(name.removeprefix("file://")).expanduser().resolve().parent


def neighbours(root: Path, but: str = "") -> Iterator[ObjectStore]:
    """The other buckets in a folder of buckets, by name. A folder that is no bucket answers that it has nothing."""
    try:
        names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError as error:
        raise StorageError(f"the folder of buckets cannot be listed: {error.strerror}", where=str(root)) from error
    for name in names[:MAX_NEIGHBOURS]:
        if name != but:
            yield _folder(root / name)


def _folder(path: Path) -> ObjectStore:
    from grail_core.storage.filesystem import FilesystemStore

    path = path.resolve()
    if not path.is_dir():
        raise ConfigurationError(
            "there is no such bucket", where=str(path), hint="give a commitment (s3:…, fs:NAME), or the path of a folder"
        )
    return FilesystemStore.reading(path)  # a copy may lie under any name


def _remote(commitment: str, settings: Settings, params: NetworkParameters) -> ObjectStore:
    from grail_core.storage.commitment import endpoint_of, parse_commitment
    from grail_core.storage.s3 import S3Store

    if not params.store_hosts:
        raise ConfigurationError(f"network {params.name} has no store hosts: it uses folders", where="GRAIL_NETWORK")
    try:
        address = parse_commitment(commitment, len(params.store_hosts))
    except StorageError as error:
        raise ConfigurationError(error.what, where=error.where, hint="copy the commitment from the chain") from error
    endpoint = endpoint_of(address.account, params.store_hosts[address.host_index])
    return S3Store(endpoint, address.bucket, address.credentials, region=settings.r2_region, read_only=True)
