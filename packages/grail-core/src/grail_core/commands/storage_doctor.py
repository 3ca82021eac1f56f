"""Tries a participant's own bucket the way the protocol uses it, and says what each try showed.

Every promise that a window depends on is tested with a small object of its own: whole writes, conditional writes, pinned
reads, the store's clock, removal, and the commitment through which others read.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from grail_core.chain.base import Chain
from grail_core.errors import ConfigurationError, GrailError
from grail_core.participant.deployment import load_signer
from grail_core.participant.settings import Settings
from grail_core.storage.base import (
    AccessDeniedError,
    ElsewhereError,
    NoAnswerError,
    NoSuchBucketError,
    ObjectInfo,
    ObjectStore,
    PreconditionFailedError,
    SkewedClockError,
    StoreDirectory,
    UnknownKeyError,
    UnreachableError,
)
from grail_core.storage.layout import DOCTOR_PREFIX, kind_of_key

CLOCK_TOLERANCE_MS = 5_000  # of the store's time against the network's: one second of it is the resolution of Last-Modified


CAUSES: tuple[tuple[type[GrailError], str], ...] = (
    (UnknownKeyError, "wrong key"),
    (AccessDeniedError, "no permission"),
    (NoSuchBucketError, "no such bucket"),
    (SkewedClockError, "clock"),
    (ElsewhereError, "region or account"),
    (UnreachableError, "unreachable"),
    (NoAnswerError, "no answer"),
    (ConfigurationError, "settings"),
)
"""What an error comes down to; anything else is "store"."""


@dataclass(frozen=True)
class Examined:
    """One promise: whether it holds, and what was seen. `cause`: what a broken one comes down to, one of few words."""

    name: str
    ok: bool
    detail: str
    cause: str = ""


@dataclass(frozen=True)
class Usage:
    """What lies under one prefix."""

    prefix: str
    objects: int
    bytes: int


def examine(directory: StoreDirectory, network_clock: Callable[[], int]) -> list[Examined]:
    """Try everything once. Errors become findings; a promise that an earlier one makes impossible to try is left out.

    What was written is removed, whatever fails in between.
    """
    findings: list[Examined] = []
    key = f"{DOCTOR_PREFIX}/{secrets.token_hex(8)}"
    content = secrets.token_bytes(64)
    store, removed = None, False
    try:
        store = directory.own()
        before = network_clock()
        info = store.put(key, content, if_absent=True)
        findings.append(Examined("write", True, f"{info.size} bytes, ETag {info.etag[:12]}…"))
        findings.append(_clock(info, before, network_clock()))
        findings.append(_refuses("conditional write", lambda: store.put(key, b"", if_absent=True)))
        findings.append(_refuses("pinned read", lambda: store.get(key, max_bytes=64, if_match="0" * 32)))
        findings.append(_others_read(directory, key, info, content))
        removed = True  # or its error is the finding
        store.delete(key)
        gone = store.head(key) is None
        findings.append(Examined("remove", gone, "removed" if gone else "still there after it was removed"))
    except GrailError as error:
        findings.append(_failed("bucket", error))
    finally:
        if store is not None and not removed:
            findings += _removed(store, key, written=bool(findings) and findings[0].ok)
    return findings


def _removed(store: ObjectStore, key: str, *, written: bool) -> list[Examined]:
    """After a try that failed: the object may be there also where the store did not say that it wrote it."""
    try:
        store.delete(key)
    except GrailError as error:
        return [_failed("remove", error)] if written else []
    return []


def committed(settings: Settings, chain: Chain, directory: StoreDirectory) -> list[Examined]:
    """What the chain says of this participant's bucket, beside what the settings say; nothing without its wallet.

    A difference is no fault: a role commits what its settings say when it starts.
    """
    try:
        hotkey = load_signer(settings).hotkey
    except ConfigurationError:
        return []
    try:
        neuron, text = chain.metagraph().by_hotkey(hotkey), directory.commitment()
    except GrailError as error:
        return [_failed("on chain", error)]
    if neuron is None:
        return [Examined("on chain", True, "this hotkey is not registered yet")]
    if neuron.commitment is None:
        return [Examined("on chain", True, "no bucket yet: it is committed when a role starts")]
    if neuron.commitment == text:
        return [Examined("on chain", True, "the bucket and read key of these settings")]
    return [Examined("on chain", True, "another bucket or read key than these settings': see `grail storage rotate-key`")]


def _failed(name: str, error: GrailError) -> Examined:
    cause = next((word for kind, word in CAUSES if isinstance(error, kind)), "store")
    return Examined(name, False, _in_one_line(error), cause)


def usage(store: ObjectStore) -> list[Usage]:
    """Objects and bytes of a bucket by the second part of their keys, the kinds of things that roles keep."""
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for info in store.list(""):
        prefix = kind_of_key(info.key)
        objects[prefix] += 1
        sizes[prefix] += info.size
    return [Usage(prefix, objects[prefix], sizes[prefix]) for prefix in sorted(objects)]


def _in_one_line(error: GrailError) -> str:
    where = f" ({error.where})" if error.where else ""
    return f"{error.what}{where}" + (f"; try: {error.hint}" if error.hint else "")


def _clock(info: ObjectInfo, before_ms: int, after_ms: int) -> Examined:
    off = max(before_ms - info.stored_at_ms, info.stored_at_ms - after_ms, 0)
    detail = f"{off / 1000:.1f} s off the network's clock"
    return Examined("store clock", off <= CLOCK_TOLERANCE_MS, detail)


def _refuses(name: str, attempt: Callable[[], object]) -> Examined:
    try:
        attempt()
    except PreconditionFailedError:
        return Examined(name, True, "refused as it must be")
    return Examined(name, False, "the store did not refuse; the protocol cannot be run on it")


def _others_read(directory: StoreDirectory, key: str, info: ObjectInfo, content: bytes) -> Examined:
    try:
        other = directory.open(directory.commitment())
        same = other.get(key, max_bytes=len(content), if_match=info.etag) == content
    except GrailError as error:
        return _failed("read by others", error)
    return Examined("read by others", same, "through the commitment" if same else "they read something else")
