"""A validator's verdict as others read it, and what was no verdict, so that it is not read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from grail_core.errors import ProtocolViolationError
from grail_core.protocol import SignedVerdict
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Hotkey, Window
from grail_core.storage.base import ObjectInfo, ObjectStore, ObjectTooLargeError
from grail_core.storage.layout import verdict_key

AnyVerdict = SignedVerdict | SignedGradientVerdict
V = TypeVar("V", SignedVerdict, SignedGradientVerdict)

_OF_A_ROUND = b'"standings":'
"""A member that bodies of rounds have and others have not. Inside a string of JSON its quotation marks would be escaped."""

MAX_REFUSALS = 3
"""A validator's verdict of one window that was refused under so many ETags is not looked at again."""

MAX_REMEMBERED = 8192
"""Refusals; the oldest is forgotten first. 256 validators for 32 windows."""


class RefusedVerdictError(ProtocolViolationError):
    """What lies there is no verdict of this window, or not signed by this validator: there is none until it is replaced."""


class OtherNetworkVerdictError(RefusedVerdictError):
    """This validator signed it, for a network with other parameters than those at hand, or on another chain."""

    def __init__(self, theirs: bytes, *, where: str) -> None:
        super().__init__(
            f"its verdict is signed for another network (id {theirs.hex()[:16]}…) than GRAIL_NETWORK names here",
            where=where,
            hint="set GRAIL_NETWORK to the network file of the subnet that is read; `grail network` shows what is set",
        )


class VerdictReader:
    """Reads verdicts again and again, as somebody does who waits for them, and pays for a bad one once.

    A refusal is remembered by the object's ETag: while it is the same, a look costs one HEAD. Not thread-safe.
    """

    def __init__(self, network_id: bytes) -> None:
        self._network_id = network_id
        self._refused: OrderedDict[tuple[Hotkey, Window], dict[str, RefusedVerdictError]] = OrderedDict()

    def read(self, store: ObjectStore, window: Window, validator: Hotkey) -> SignedVerdict | None:
        """A validator's verdict, None if it has not published one.

        Raises:
            StorageError: the store does not answer, or with something else.
            RefusedVerdictError: now, or before under the same ETag.
        """
        refused = self._refused.get((validator, window), {})
        if len(refused) >= MAX_REFUSALS:
            raise next(reversed(refused.values()))
        info = store.head(verdict_key(window))
        if info is None:
            return None
        if info.etag in refused:
            raise refused[info.etag]
        try:
            return _read(store, info, window, validator, self._network_id)
        except RefusedVerdictError as error:
            self._refused[validator, window] = {**refused, info.etag: error}
            if len(self._refused) > MAX_REMEMBERED:
                self._refused.popitem(last=False)
            raise


def read_verdict(store: ObjectStore, window: Window, validator: Hotkey, network_id: bytes) -> SignedVerdict | None:
    """A validator's verdict, None if it has not published one. For who looks once; who polls has a `VerdictReader`.

    Raises:
        StorageError: the store does not answer, or with something else.
        RefusedVerdictError: what lies there is no verdict of this window, or not signed by this validator.
    """
    return VerdictReader(network_id).read(store, window, validator)


def read_round_verdict(
    store: ObjectStore, round_: Window, validator: Hotkey, network_id: bytes
) -> SignedGradientVerdict | None:
    """A validator's verdict of a round of gradient work, None if it has not published one (or one of rollouts).

    Raises:
        StorageError: the store does not answer, or with something else.
        RefusedVerdictError: what lies there is no verdict of this round, or not signed by this validator.
    """
    info = store.head(verdict_key(round_))
    if info is None:
        return None
    return _decoded(SignedGradientVerdict, _raw(store, info), round_, validator, network_id)


def read_any_verdict(store: ObjectStore, window: Window, validator: Hotkey, network_id: bytes) -> AnyVerdict | None:
    """A validator's verdict of a window or of a round, None if it has not published one.

    Raises:
        StorageError: the store does not answer, or with something else.
        RefusedVerdictError: what lies there is no verdict, by the form that it claims to have, or not signed so.
    """
    info = store.head(verdict_key(window))
    if info is None:
        return None
    raw = _raw(store, info)
    if _OF_A_ROUND in raw:
        return _decoded(SignedGradientVerdict, raw, window, validator, network_id)
    return _decoded(SignedVerdict, raw, window, validator, network_id)


def _read(store: ObjectStore, info: ObjectInfo, window: Window, validator: Hotkey, network_id: bytes) -> SignedVerdict:
    return _decoded(SignedVerdict, _raw(store, info), window, validator, network_id)


def _raw(store: ObjectStore, info: ObjectInfo) -> bytes:
    if info.size > MAX_VERDICT_BYTES:
        raise RefusedVerdictError(f"not a verdict: {info.size} bytes, at most {MAX_VERDICT_BYTES}", where=info.key)
    try:
        return store.get(info.key, max_bytes=info.size or 1, if_match=info.etag)
    except ObjectTooLargeError as error:
        raise RefusedVerdictError(f"not a verdict: larger than the {info.size} bytes it has", where=info.key) from error


def _decoded(form: type[V], raw: bytes, window: Window, validator: Hotkey, network_id: bytes) -> V:
    """Raises RefusedVerdictError."""
    key = verdict_key(window)
    of_a_round = form is SignedGradientVerdict
    try:
        verdict = form.decode(raw)
    except ValueError as error:
        kind = "a verdict of gradient work" if of_a_round else "a verdict"
        raise RefusedVerdictError(f"not {kind}: {error}", where=key) from error
    theirs = verdict.body.network_id
    signed = verdict.validator == validator and verdict.body.window == window and verdict.verify(theirs)
    if not signed:
        raise RefusedVerdictError(
            f"the verdict is not this validator's of this {'round' if of_a_round else 'window'}", where=key
        )
    if theirs != network_id:
        raise OtherNetworkVerdictError(theirs, where=key)
    return verdict
