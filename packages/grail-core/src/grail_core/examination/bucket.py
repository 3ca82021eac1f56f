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
from grail_core.errors import ConfigurationError, GrailError, NotRegisteredError, StorageError
from grail_core.keys import LockedHotkeyError
from grail_core.participant.bucket_trial import bucket_named, trial_object, untried_commitment
from grail_core.participant.deployment import load_signer, require_registered
from grail_core.participant.settings import Settings
from grail_core.protocol.network import NetworkParameters
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
    (NotRegisteredError, "not registered"),
    (ConfigurationError, "settings"),
)
"""What an error comes down to; anything else is "store". Of an error that another one caused it is that one's."""

_WALLET = frozenset({"wallet_path", "wallet_cold", "wallet_hot"})


@dataclass(frozen=True)
class Examined:
    """One promise: whether it holds, and what was seen. `cause`: what a broken one comes down to, one of few words.

    `asked`: False where it could not be looked at, and that is no fault.
    """

    name: str
    ok: bool
    detail: str
    cause: str = ""
    asked: bool = True

    @property
    def word(self) -> str:
        return "BROKEN" if not self.ok else "ok" if self.asked else "-"


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
        findings.append(_removal(store, key))
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


def committed(settings: Settings, chain: Chain, directory: StoreDirectory, params: NetworkParameters) -> Examined:
    """What the chain says of this participant's bucket, beside what the settings say.

    Another read key that reads is no fault: one is changed so. Another bucket is, and a key that nobody can read with: readers
    go there now, whatever these settings say.
    """
    name = "on chain"
    try:
        signer = load_signer(settings)
    except ConfigurationError as error:
        if settings.model_fields_set & _WALLET and not isinstance(error, LockedHotkeyError):
            return _failed(name, error)
        return Examined(name, True, f"not asked: {_in_one_line(error)}", asked=False)
    try:
        found = require_registered(chain, signer, settings).commitment
        ours = untried_commitment(directory)
    except GrailError as error:
        return _failed(name, error)
    if found is None:
        return Examined(name, True, "no bucket yet: it is committed when a role starts")
    if found == ours:
        return Examined(name, True, "the bucket and read key of these settings")
    return _another(name, found, ours, directory, params)


def _another(name: str, found: str, ours: str, directory: StoreDirectory, params: NetworkParameters) -> Examined:
    """The finding where the chain names something else than the settings."""
    starts = "a role that is started with these settings commits theirs"
    try:
        there, here = bucket_named(found, params), bucket_named(ours, params)
    except StorageError as error:
        return Examined(name, False, f"nobody can read what it names: {error.what}; {starts}", "unreadable")
    if there != here:
        told = f"it names bucket {there}, these settings {here}"
        return Examined(name, False, f"{told}; try: the settings of that bucket; {starts}", "another bucket")
    commits = "`grail storage rotate-key` commits the one of these settings"
    try:
        with trial_object(directory) as trial:
            reads, why = trial.reads(directory, found), "it reads something else"
    except NoAnswerError as error:
        return Examined(name, True, f"another read key of this bucket, not tried: {error.what}; {commits}", asked=False)
    except StorageError as error:
        reads, why = False, error.what
    if reads:
        return Examined(name, True, f"another read key of this bucket, which reads; {commits}")
    return Examined(name, False, f"another read key of this bucket, which does not read ({why}); {commits}", "unreadable")


def _failed(name: str, error: GrailError) -> Examined:
    source = error.__cause__ if isinstance(error.__cause__, StorageError) else error
    cause = next((word for kind, word in CAUSES if isinstance(source, kind)), "store")
    return Examined(name, False, _in_one_line(error), cause)


def _removal(store: ObjectStore, key: str) -> Examined:
    try:
        store.delete(key)
        gone = store.head(key) is None
    except GrailError as error:
        return _failed("remove", error)
    return Examined("remove", gone, "removed" if gone else "still there after it was removed")


def held(store: ObjectStore) -> tuple[list[Usage], Examined]:
    """What a bucket holds, as far as its write key may list it, and that it may."""
    try:
        found = usage(store)
    except GrailError as error:
        return [], _failed("list", error)
    return found, Examined("list", True, f"{sum(row.objects for row in found)} objects")


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
    behind, ahead = before_ms - info.stored_at_ms, info.stored_at_ms - after_ms
    off = max(behind, ahead, 0)
    if off <= CLOCK_TOLERANCE_MS:
        return Examined("store clock", True, f"{off / 1000:.1f} s off the network's clock")
    detail = (
        f"the store's clock is {off / 1000:.1f} s {'behind' if behind > 0 else 'ahead of'} the network's, which on a real "
        "subnet is this machine's; try: `grail beacon doctor` holds this machine's against relays'; set it by a time server "
        "(NTP), and where it is right, the store's operator has to mend theirs"
    )
    return Examined("store clock", False, detail, "clock")


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
