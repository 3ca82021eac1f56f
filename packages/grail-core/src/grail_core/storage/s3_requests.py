"""One request to a bucket: signed by boto3, sent by `s3_transport`, tried again within its time, and every failure typed.

What is tried again is what may be different next time: no answer, and "later" (429, 5xx), after a pause of random length or
as long as the store asks for (`Retry-After`), where that still fits into the time. Everything else is an error at once. A
request whose answer was lost may have been carried out: what that means is its caller's to find out (`RetriedConditionError`,
and `Answered.tries`).
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from grail_core.errors import ConfigurationError, StorageError
from grail_core.storage import s3_answers
from grail_core.storage.base import NoAnswerError, PreconditionFailedError, UnreachableError
from grail_core.storage.commitment import Credentials
from grail_core.storage.time_limits import StoreLimits, at_most, seconds_left
from grail_core.text import printable

TRIES = 3
_FIRST_PAUSE_S = 0.5
SILENT_S = 40.0  # longer than the time of one request


class RetriedConditionError(PreconditionFailedError):
    """A conditional request was refused on a try after the first: the one before may have brought about what refused it."""


@dataclass(frozen=True)
class Answered:
    """boto3's reading of an answer, its headers by lower-case name, and how many tries it took."""

    value: Any
    headers: dict[str, str]
    tries: int

    @property
    def status(self) -> int:
        return int(self.value["ResponseMetadata"]["HTTPStatusCode"])


class Requests:
    """Requests to one bucket with one key. Thread-safe.

    Args:
        endpoint: scheme and host, as `endpoint_of` builds it.
        read_key: the credentials are the bucket's read key, else its write key: for what errors say.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        credentials: Credentials,
        *,
        region: str,
        limits: StoreLimits,
        read_key: bool = False,
    ) -> None:
        self._asking = s3_answers.Asking(bucket, read_key)
        self.endpoint = endpoint
        self.bucket = bucket
        self.limits = limits
        self._credentials = credentials
        self._region = region
        self._lock = threading.Lock()
        self._made: Any = None
        self._silent_since: float | None = None  # of the monotonic clock: the first request since the last answer

    @property
    def client(self) -> Any:  # boto3 makes its client classes at run time
        with self._lock:
            if self._made is None:
                self._made = _make_client(self.endpoint, self._credentials, self._region, self.limits)
            return self._made

    def where(self, key: str | None) -> str:
        return f"{self.endpoint}/{self.bucket}/{key or ''}"

    def call(self, operation: str, key: str, seconds: float, **options: Any) -> Answered:
        """As `ask`, where the answer has no body that is of interest, and its status no other meaning than yes."""
        answered = self.ask(operation, key, seconds, **options)
        if answered.status not in (200, 204):
            raise s3_answers.unexpected(f"status {answered.status}", self.where(key))
        return answered

    def ask(self, operation: str, key: str | None, seconds: float, *, where: str = "", **options: Any) -> Answered:
        """The answer to a request, tried again where the store says "later" or nothing, within `seconds` in all.

        Raises:
            StorageError: of the type that says why; RetriedConditionError where a condition failed on a later try.
        """
        where = where or self.where(key)
        if key is not None:
            options["Key"] = key
        with at_most(seconds):
            for number in range(1, TRIES + 1):
                found = self._try(operation, options)
                if not isinstance(found, Exception):
                    headers = found["ResponseMetadata"]["HTTPHeaders"].items()
                    return Answered(found, {str(name).lower(): str(value) for name, value in headers}, number)
                pause = random.uniform(0, _FIRST_PAUSE_S * 2 ** (number - 1)) + getattr(found, "retry_after_s", 0.0)
                if number == TRIES or not _worth_another(found) or seconds_left() <= pause:
                    conditional = "IfNoneMatch" in options
                    typed = _typed(found, where, self._asking, conditional=conditional, retried=number > 1)
                    raise self._with_silence(typed) from found
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _try(self, operation: str, options: dict[str, Any]) -> Any:
        """The answer, or the exception there was instead."""
        began = time.monotonic()
        try:
            answer = getattr(self.client, operation)(Bucket=self.bucket, **options)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  boto3's readers raise whatever their libraries do: the text is a stranger's
            if _is_silence(error):
                self._silent_since = self._silent_since or began
            else:
                self._silent_since = None
            return error
        self._silent_since = None
        return answer

    def _with_silence(self, error: StorageError) -> StorageError:
        """One request says little of a store that stalls: how long nothing has come is told once it is more than one's time."""
        silent_s = 0.0 if self._silent_since is None else time.monotonic() - self._silent_since
        if isinstance(error, NoAnswerError) and silent_s >= SILENT_S:
            told = f"{error.what}; the store has not answered for {silent_s:.0f} s"
            return type(error)(told, where=error.where, hint=error.hint)
        return error


_SESSIONS: list[Any] = []
"""One for all stores: it reads S3's description, 12 MiB and 0.1 s, and a validator opens 256 strangers' buckets."""

_SESSION_LOCK = threading.Lock()


def _make_client(endpoint: str, credentials: Credentials, region: str, limits: StoreLimits) -> Any:
    try:
        import botocore.session

        from grail_core.storage.s3_transport import Transport
    except ImportError as error:
        raise ConfigurationError("remote buckets need boto3", where="storage", hint="pip install 'grail-core[s3]'") from error
    with _SESSION_LOCK:
        if not _SESSIONS:
            session = botocore.session.Session()
            # Times stay text here: `s3_answers` reads them by one form, where boto3 would take anything that looks like a date.
            session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
            _SESSIONS.append(session)
        client = _create_client(_SESSIONS[0], endpoint, credentials, region)
    client.meta.events.register("before-send.s3", Transport(limits).send)
    return client


def _create_client(session: Any, endpoint: str, credentials: Credentials, region: str) -> Any:
    from botocore.config import Config

    return session.create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=credentials.key_id,
        aws_secret_access_key=credentials.secret,
        region_name=region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 1},  # `Requests` tries again, within its time
            # R2 answers boto3's own checksums, which come as a trailer, with "Unauthorized"; readers hash all contents.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _worth_another(error: Exception) -> bool:
    status = getattr(error, "status", None)
    return status in s3_answers.RETRIED if status is not None else _is_silence(error)


def _is_silence(error: Exception) -> bool:
    """No answer came: nothing was reached, or what was reached broke off."""
    from urllib3.exceptions import HTTPError

    return isinstance(error, OSError | HTTPError)


def _typed(error: Exception, where: str, asking: s3_answers.Asking, *, conditional: bool, retried: bool) -> StorageError:
    from grail_core.storage.s3_transport import AnswerStatus

    if isinstance(error, StorageError):
        return error
    if isinstance(error, AnswerStatus):
        found = s3_answers.refusal(
            error.status,
            error.code,
            error.message,
            where,
            asking=asking,
            conditional=conditional,
            skew_s=error.skew_s,
        )
        if conditional and retried and isinstance(found, PreconditionFailedError):
            return RetriedConditionError(found.what, where=where)
        return found
    if seconds_left() <= 0:
        return NoAnswerError("the store did not answer in the time that there was", where=where, hint="it is tried again later")
    if _is_silence(error):
        return _unreachable(error, where)
    what = printable(f"{type(error).__name__}: {error}", 200)
    return s3_answers.unexpected(f"something that cannot be read ({what})", where)


def _unreachable(error: Exception, where: str) -> NoAnswerError:
    """What was not there: the name, TLS under this name (of R2 both are the account's), or an answer."""
    from urllib3.exceptions import NameResolutionError, NewConnectionError, SSLError

    what = printable(str(error), 200)
    if isinstance(error, NameResolutionError):
        hint = "check the network of this machine, and R2_ACCOUNT_ID, which is part of the name"
        return UnreachableError(f"the store's name is not known: {what}", where=where, hint=hint)
    if isinstance(error, SSLError):
        hint = "check R2_ACCOUNT_ID, which is part of the name; and AWS_CA_BUNDLE, where it is set"
        return UnreachableError(f"the store cannot be reached by TLS under this name: {what}", where=where, hint=hint)
    if isinstance(error, NewConnectionError | ConnectionRefusedError):
        return UnreachableError(f"the store cannot be reached: {what}", where=where, hint="check the network and R2_*")
    return NoAnswerError(f"the store cannot be reached: {what}", where=where, hint="check the network and R2_*")
