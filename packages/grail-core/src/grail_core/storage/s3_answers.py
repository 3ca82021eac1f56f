"""What an S3 store's answer says, read strictly: ETags, dates, lengths, ranges, and what a refusal means.

An answer is somebody else's text. Of every header there is one form that is taken, the one which S3, R2 and their like send;
everything else is a `StorageError` that names the header and what it said. The forms:

* an ETag is strong and quoted, 1 … MAX_ETAG printable ASCII characters. A weak one (`W/"…"`) is refused, since `If-Match`
  compares strongly and could never name it again;
* a time is an HTTP date in GMT (headers) or ISO 8601 in UTC (listings), from 1970 to 2199, whole seconds, rounded down;
* a length is decimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from grail_core.errors import StorageError
from grail_core.storage.base import (
    MAX_ETAG,
    AccessDeniedError,
    ElsewhereError,
    NoAnswerError,
    NoSuchBucketError,
    ObjectInfo,
    ObjectNotFoundError,
    PreconditionFailedError,
    SkewedClockError,
    UnknownKeyError,
    UnsupportedError,
)
from grail_core.text import printable

MAX_OBJECT_BYTES = 2**53 - 1
MAX_YEAR = 2199
RETRIED = frozenset({429, 500, 502, 503, 504})
"""Statuses that say "later"."""

_MISSING = frozenset({"NoSuchKey", "NotFound"})
_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed"})
_EXISTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_DENIED = frozenset({"AccessDenied", "Unauthorized", "Forbidden"})
_UNKNOWN_KEY = {
    "InvalidAccessKeyId": ("the store knows no such access key", "R2_{}_ACCESS_KEY_ID and R2_ACCOUNT_ID"),
    "SignatureDoesNotMatch": ("the secret is not this access key's", "R2_{}_SECRET_ACCESS_KEY"),
}
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ETAG = re.compile(rf"[!#-~]{{1,{MAX_ETAG}}}")
_QUOTED = re.compile(rf'"([!#-~]{{1,{MAX_ETAG}}})"')
_HTTP_DATE = re.compile(rf"[A-Z][a-z]{{2}}, (\d\d) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?Z", re.ASCII)
_LENGTH = re.compile(r"\d{1,16}", re.ASCII)
_RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16})", re.ASCII)


def is_etag(text: str) -> bool:
    """Whether an answer could name this ETag (without its quotes)."""
    return _ETAG.fullmatch(text) is not None


def etag_of(text: object, where: str) -> str:
    """The ETag inside its quotes."""
    if not isinstance(text, str):
        raise _odd("no ETag", None, where)
    if text.startswith("W/"):
        raise _odd("a weak ETag, which no later condition can name,", text, where)
    match = _QUOTED.fullmatch(text)
    if match is None:
        raise _odd("an ETag that is none", text, where)
    return match[1]


def length_of(text: object, where: str) -> int:
    """A size in bytes: the text of a header, or what a listing's reader made of it."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_OBJECT_BYTES:
        return text
    if not isinstance(text, str) or not _LENGTH.fullmatch(text) or int(text) > MAX_OBJECT_BYTES:
        raise _odd("no size" if text is None else "a size that is none", text, where)
    return int(text)


def http_date_ms(text: object, where: str) -> int:
    """Unix milliseconds of `Last-Modified`."""
    match = _HTTP_DATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _odd("no Last-Modified" if text is None else "a Last-Modified that is no HTTP date in GMT", text, where)
    day, month, year, *clock = match.groups()
    return _milliseconds((year, _MONTHS.index(month) + 1, day, *clock), text, where)


def iso_date_ms(text: object, where: str) -> int:
    """Unix milliseconds of a listing's entry, rounded down to the whole second that a HEAD would tell."""
    match = _ISO_DATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _odd("no LastModified" if text is None else "a LastModified that is no time in UTC", text, where)
    return _milliseconds(match.groups(), text, where)


def info_of_headers(key: str, headers: Mapping[str, str], where: str) -> ObjectInfo:
    """What a HEAD says; `headers` by lower-case name."""
    etag = etag_of(headers.get("etag"), where)
    return ObjectInfo(
        key, length_of(headers.get("content-length"), where), etag, http_date_ms(headers.get("last-modified"), where)
    )


def check_range(headers: Mapping[str, str], offset: int, length: int | None, where: str) -> int:
    """The size of a 206's body, if it is of the range that was asked for."""
    text = headers.get("content-range")
    match = _RANGE.fullmatch(text) if text is not None else None
    if match is None:
        raise _odd("a part of the object without saying which" if text is None else "a Content-Range that is none", text, where)
    first, last, total = (int(number) for number in match.groups())
    end = total if length is None else min(total, offset + length)
    if first != offset or last != end - 1 or last < first:
        raise _odd(f"another range than {offset} … {end - 1}", text, where)
    return last - first + 1


@dataclass(frozen=True)
class Asking:
    """Who asked for what: a bucket's name, and with which of its two keys."""

    bucket: str
    read_key: bool

    def __str__(self) -> str:
        return f"bucket {self.bucket} with {'its read key' if self.read_key else 'the write key'}"

    def check(self, settings: str) -> str:
        """What to look at; `{}` in the settings' names stands for the key's kind."""
        named = settings.format("READ" if self.read_key else "WRITE")
        return f"check {named}" + (", if this bucket is yours; else only its owner can mend it" if self.read_key else "")


def refusal(
    status: int, code: str, message: str, where: str, *, asking: Asking, conditional: bool, skew_s: float | None = None
) -> StorageError:
    """The typed form of an answer that is not 2xx.

    Args:
        conditional: the request was a put that must not replace anything.
        skew_s: how far the answer's own `Date` is ahead of this machine's clock, where it has one.
    """
    said = f"{status} {printable(code, 64)}".strip()
    if message:
        said += f": {printable(message, 200)}"
    if code == "NoSuchBucket":
        return NoSuchBucketError("there is no such bucket", where=where, hint="check R2_BUCKET_ID and R2_ACCOUNT_ID")
    if code in _SKEWED:
        by = "" if skew_s is None else f", by {abs(skew_s):.0f} seconds {'behind' if skew_s > 0 else 'ahead'}"
        return SkewedClockError(
            f"the store finds this machine's clock wrong{by} ({said})", where=where, hint="set the clock by a time server (NTP)"
        )
    if code in _ELSEWHERE or (300 <= status < 400 and status != 304):
        return ElsewhereError(
            f"the store sends us elsewhere ({said}), which is never followed",
            where=where,
            hint="check R2_REGION (R2: auto; S3: the bucket's own) and R2_ACCOUNT_ID",
        )
    if code in _MISSING or status == 404:
        return ObjectNotFoundError("there is no such object", where=where)
    if code in _EXISTS or status == 412 or (conditional and status == 409):
        what = "the object exists already" if conditional else "the object is no longer the one asked for"
        return PreconditionFailedError(what, where=where)
    if code in _UNKNOWN_KEY:
        what, names = _UNKNOWN_KEY[code]
        return UnknownKeyError(f"the store denies access to {asking}: {what} ({said})", where=where, hint=asking.check(names))
    if code in _DENIED or status in (401, 403):
        return AccessDeniedError(
            f"the store denies access to {asking} ({said})",
            where=where,
            hint=asking.check("R2_BUCKET_ID, R2_ACCOUNT_ID, and what R2_{}_ACCESS_KEY_ID may do in this bucket"),
        )
    if code in _UNSUPPORTED or status in (405, 501):
        return UnsupportedError(f"the store does not know this request ({said})", where=where)
    if 300 <= status < 400:
        return StorageError(f"the store answered what nobody asked ({said})", where=where)
    if status == 416:
        return StorageError("the range begins after the object's end", where=where)
    if status in RETRIED:
        return NoAnswerError(f"the store is not ready ({said})", where=where, hint="it is tried again later")
    return StorageError(f"the store refused: {said}", where=where)


def unexpected(what: str, where: str) -> StorageError:
    """An answer of another kind than was asked for."""
    return StorageError(
        f"the store answered with {what}", where=where, hint="read it again; if it stays so, the store is at fault"
    )


def _odd(what: str, text: object, where: str) -> StorageError:
    return unexpected(what if text is None else f"{what} ({printable(repr(text), 100)})", where)


def _milliseconds(parts: tuple[str | int, ...], text: object, where: str) -> int:
    year, *rest = (int(part) for part in parts)
    month, day, hour, minute, second = rest
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise _odd("a time that is none", text, where) from None
    if not 1970 <= year <= MAX_YEAR:
        raise _odd("a time out of range", text, where)
    return int(moment.timestamp()) * 1000
