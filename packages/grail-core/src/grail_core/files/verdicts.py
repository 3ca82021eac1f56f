"""A validator's verdict as others read it."""

from __future__ import annotations

from grail_core.errors import ProtocolViolationError
from grail_core.protocol import SignedVerdict
from grail_core.protocol.types import Hotkey, Window
from grail_core.protocol.verdicts import MAX_VERDICT_BYTES
from grail_core.storage.base import ObjectStore
from grail_core.storage.layout import verdict_key


def read_verdict(store: ObjectStore, window: Window, validator: Hotkey, network_id: bytes) -> SignedVerdict | None:
    """A validator's verdict, None if it has not published one.

    Raises:
        StorageError: the store does not answer.
        ProtocolViolationError: what lies there is no verdict of this window, or not signed by this validator.
    """
    key = verdict_key(window)
    info = store.head(key)
    if info is None:
        return None
    raw = store.get(key, max_bytes=MAX_VERDICT_BYTES, if_match=info.etag)
    try:
        verdict = SignedVerdict.decode(raw)
    except ValueError as error:
        raise ProtocolViolationError(f"not a verdict: {error}", where=key) from error
    if verdict.validator != validator or verdict.body.window != window or not verdict.verify(network_id):
        raise ProtocolViolationError("the verdict is not this validator's of this window", where=key)
    return verdict
