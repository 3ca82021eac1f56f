"""Uploading content-addressed objects so that none is left over: every key is written down before it is uploaded.

A publisher that died between its objects and its manifest may come back with other weights; the objects of the first try
would then lie in the bucket for ever. The journal, on the publisher's own disk, proves which objects it put there, so that the
next publication can delete those no manifest names. Objects of any other origin are never touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from grail_core.disk import storage_errors, write_all
from grail_core.errors import StorageError
from grail_core.protocol.manifest import OBJECT_PREFIX, CheckpointManifest, ObjectRef
from grail_core.protocol.types import Digest
from grail_core.storage.base import LargeObjectStore, ObjectInfo, ObjectStore, PreconditionFailedError
from grail_core.storage.layout import is_object_key
from grail_core.telemetry import get_logger

log = get_logger(__name__)


class Uploads:
    """The objects of one publication, and of those before it that did not end."""

    def __init__(self, store: ObjectStore, journal: Path) -> None:
        self._store = store
        self._journal = journal

    def put(self, data: bytes) -> ObjectRef:
        """Upload an object unless it is there; what is there under its name is the same, or the store is broken."""
        ref = ObjectRef(len(data), Digest(hashlib.sha256(data).digest()))
        there = self._store.head(ref.key)
        if there is None:
            self._note(ref.key)
            there = self._put(ref.key, data)
        if there.size != ref.size:
            raise StorageError(
                f"an object of {there.size} bytes stands under the name of one of {ref.size}",
                where=ref.key,
                hint="somebody else writes into this bucket; remove the object and publish again",
            )
        return ref

    def _put(self, key: str, data: bytes) -> ObjectInfo:
        store = self._store
        put = store.put_large if isinstance(store, LargeObjectStore) else store.put
        try:
            return put(key, data, if_absent=True)
        except PreconditionFailedError:
            there = store.head(key)
            # Refused over nothing: the store had something else in hand under this key (409), and has no longer.
            return there if there is not None else put(key, data, if_absent=True)

    def abandon_unfinished(self) -> None:
        """Remove parts of objects that a publisher which was killed had on their way; nothing else finds them, and they cost.

        Best effort: a store that does not answer now is asked again with the next publication.
        """
        store = self._store
        if not isinstance(store, LargeObjectStore):
            return
        try:
            count = store.abandon_uploads(OBJECT_PREFIX)
        except StorageError as error:
            log.event("unfinished_uploads_left", reason=error.what, retry="with the next publication")
            return
        if count:
            log.event("unfinished_uploads_removed", uploads=count)

    def finish(self, manifests: Iterable[CheckpointManifest]) -> None:
        """Delete what this publisher uploaded and none of the bucket's manifests names, and forget the journal."""
        live = {ref.key for manifest in manifests for ref in manifest.objects().values()}
        with storage_errors(self._journal):
            if not self._journal.exists():
                return
            lines = self._journal.read_text("ascii", "replace").split("\n")[:-1]
        for key in sorted(set(lines) - live):
            if is_object_key(key):
                self._store.delete(key)
        self._journal.unlink(missing_ok=True)

    def _note(self, key: str) -> None:
        with storage_errors(self._journal):
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                write_all(descriptor, key.encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
