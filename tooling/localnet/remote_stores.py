"""The buckets of a run that uses S3: where they are, whose key is whose, and how the run itself reads them.

Everything follows from the seed but the port, so all of it is written down once and read by every start. Keys have the form of
Cloudflare's, so that commitments have the form they have on a real network. The run reads as any stranger: with read keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from grail_core.disk import write_atomically
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.storage.commitment import BucketAddress, Credentials
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore
from grail_core.storage.s3 import S3Store
from grail_core.storage.s3_directory import S3Directory
from tooling.localnet.plan import Layout

REGION = "us-east-1"
READER = "reader"  # the bucket name that a read-only directory would write to; it never does


@dataclass(frozen=True)
class RemoteStores:
    """`url` is what the network's parameters name, `port` where the server listens, `line` where a proxy before it does."""

    url: str
    port: int
    line: int | None
    account: str
    keys: Mapping[str, Mapping[str, tuple[str, str]]]  # bucket → "read" and "write" → id and secret

    @classmethod
    def make(cls, seed: bytes, names: Sequence[str], port: int, *, line: int | None = None) -> RemoteStores:
        def part(*of: str) -> str:
            return hashlib.sha256(seed + "\0".join(of).encode()).hexdigest()

        keys = {
            name: {what: (part(name, what, "id")[:32], part(name, what, "secret")) for what in ("read", "write")}
            for name in names
        }
        return cls(f"http://127.0.0.1:{line or port}", port, line, part("account")[:32], keys)

    @classmethod
    def read(cls, path: Path) -> RemoteStores:
        value = json.loads(path.read_bytes())
        keys = {n: {what: tuple(pair) for what, pair in pairs.items()} for n, pairs in value.pop("keys").items()}
        return cls(**value, keys=keys)

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self), indent=1).encode(), mode=0o600)

    def settings_of(self, name: str) -> dict[str, str]:
        """What its owner sets."""
        (read, read_secret), (write, write_secret) = self.keys[name]["read"], self.keys[name]["write"]
        return {
            "R2_BUCKET_ID": name,
            "R2_ACCOUNT_ID": self.account,
            "R2_REGION": REGION,
            "R2_READ_ACCESS_KEY_ID": read,
            "R2_READ_SECRET_ACCESS_KEY": read_secret,
            "R2_WRITE_ACCESS_KEY_ID": write,
            "R2_WRITE_SECRET_ACCESS_KEY": write_secret,
        }

    def address(self, name: str) -> BucketAddress:
        """What its owner commits."""
        return BucketAddress(0, self.account, name, Credentials(*self.keys[name]["read"]))


def remote_stores_of(layout: Layout) -> RemoteStores | None:
    """The run's, where it uses S3."""
    return RemoteStores.read(layout.remote_stores) if layout.remote_stores.exists() else None


def bucket_of(layout: Layout, name: str) -> ObjectStore:
    """A participant's bucket, to read."""
    stores = remote_stores_of(layout)
    if stores is None:
        return FilesystemStore(layout.store, name, read_only=True)
    address = stores.address(name)
    return S3Store(stores.url, name, address.credentials, region=REGION, read_only=True)


def reader_of(layout: Layout) -> StoreDirectory:
    """Everybody's buckets, by what they committed."""
    stores = remote_stores_of(layout)
    if stores is None:
        return FilesystemDirectory(layout.store, READER)
    nobody = BucketAddress(0, stores.account, READER, Credentials("nobody", "reads-here"))
    return S3Directory((stores.url,), nobody, Credentials("neither", "writes-here"), region=REGION)
