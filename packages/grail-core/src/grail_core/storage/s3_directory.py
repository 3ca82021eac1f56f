"""The buckets of a network on R2, S3 or a compatible store: one's own to write, others' from what they committed.

What is committed is public, so a read key is tried before it is: one that can put, delete or begin an upload in parts is
refused, and so is the write key under another name, and one that cannot list: readers of checkpoints do.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress

from grail_core.errors import ConfigurationError, StorageError
from grail_core.storage.base import NoAnswerError, ObjectStore
from grail_core.storage.commitment import BucketAddress, Credentials, endpoint_of, parse_commitment
from grail_core.storage.layout import PROBE_KEY
from grail_core.storage.s3 import S3Store

MAX_OPENED = 512
"""Buckets that a directory keeps open: a subnet's hotkeys twice. Each holds connections, and anybody may commit new ones."""


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

    def own(self) -> S3Store:
        return S3Store(self._endpoint(self._address), self._address.bucket, self._write, region=self._region)

    def commitment(self) -> str:
        """The text to commit: own bucket with its read key.

        The first call tries whether the read key can write, since what is committed is public, and whether it can list.

        Raises:
            ConfigurationError: it can write or cannot list, or the text is too long for the chain.
        """
        text = self._address.to_text()
        if not self._probed:
            self.require_read_only()
            self._require_lists()
            self._probed = True
        return text

    def untried_commitment(self) -> str:
        """The text of `commitment`, without asking the store: to compare it, never to commit it."""
        return self._address.to_text()

    def require_read_only(self) -> None:
        """Try whether the read key can write.

        Raises:
            ConfigurationError: it can; says what.
            StorageError: the store neither accepted nor denied it.
        """
        may = self._store(self._address).tried_writes()
        if may:
            with suppress(StorageError):  # what the key put there it may not be able to remove
                self.own().delete(PROBE_KEY)
                self.own().abandon_uploads(PROBE_KEY)
            raise ConfigurationError(
                f"the read key can write into the bucket ({', '.join(may)}): committing it would let everybody do so",
                where="R2_READ_ACCESS_KEY_ID",
                hint="give this key permission to read objects only",
            )

    def _require_lists(self) -> None:
        try:
            for _ in self._store(self._address).list(PROBE_KEY):
                break
        except NoAnswerError:
            raise
        except StorageError as error:
            raise ConfigurationError(
                f"the read key cannot read the list of the bucket: {error.what}",
                where="R2_READ_ACCESS_KEY_ID",
                hint="check R2_READ_ACCESS_KEY_ID, R2_READ_SECRET_ACCESS_KEY, R2_BUCKET_ID and R2_ACCOUNT_ID; the key may "
                "read objects and list, of this bucket; one that was made just now may take a minute",
            ) from error

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
