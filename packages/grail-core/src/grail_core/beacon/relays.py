"""One beacon relay: bounded answers to its two questions, and the rest that a relay is given after failures.

A relay that failed three times in a row is left alone for a second, then twice as long after each further failure, up to a
minute, and not all roles at one moment: an outage of hours costs each role about one request a minute and relay, and its end
starts no flood. Nothing that a relay says is believed here; `drand` verifies it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from grail_core import bounded_http
from grail_core.addresses import without_access
from grail_core.beacon.chains import (
    MAX_INFO_BYTES,
    PUBLIC_PATHS,
    ChainInfo,
    UnsupportedSchemeError,
    difference,
    read_info,
)
from grail_core.protocol.beacon import BeaconChain

MAX_ANSWER_BYTES: Final = 4096  # of a round; it has about 250
_TOO_EARLY = 425

FREE_FAILURES: Final = 3  # in a row, before a relay rests: it has a round a moment after its time
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 60.0
MOST_AT_ONCE: Final = 4  # requests to one relay: those that hang are not joined by more
LONGEST_REQUEST_S: Final = 60.0  # one that has not ended by then does not count as one that is on its way
INFO_AGE_S: Final = 600.0  # what a relay said of its chain is not asked again before


class TooEarlyError(ValueError):
    """The relay's clock says that the round's time has not come."""


@dataclass
class _Health:
    failures: int = 0
    reason: str = ""
    until: float = 0.0  # by the monotonic clock: not asked before
    asked: list[float] = field(default_factory=list)  # when those requests began that have not ended


class Rests:
    """Which relays may be asked now. Safe to use from several threads, which share what they learn.

    Args:
        monotonic: seconds. jitter: from 0 to 1, how much of the second half of a rest is kept.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._monotonic, self._jitter = monotonic, jitter
        self._lock = threading.Lock()
        self._health = {url: _Health() for url in urls}

    def claim(self, url: str) -> bool:
        """May this relay be asked? Who is told so asks it, and says afterwards how it went. One whose rest is over is asked
        once: the next rest begins with the question."""
        with self._lock:
            health, now = self._health[url], self._monotonic()
            if now < health.until or self._asked_now(health, now) >= MOST_AT_ONCE:
                return False
            health.asked.append(now)
            if health.failures >= FREE_FAILURES:
                health.until = now + self._rest(health.failures + 1)
            return True

    def worked(self, url: str) -> None:
        with self._lock:
            health = self._health[url]
            health.failures, health.reason, health.until = 0, "", 0.0
            del health.asked[:1]

    def failed(self, url: str, reason: str) -> None:
        with self._lock:
            health = self._health[url]
            health.failures, health.reason = health.failures + 1, reason
            del health.asked[:1]
            if health.failures >= FREE_FAILURES:
                health.until = max(health.until, self._monotonic() + self._rest(health.failures))

    def left(self, url: str) -> str:
        """Why a relay is not asked now, for a person; empty where it may be."""
        with self._lock:
            health, now = self._health[url], self._monotonic()
            if now < health.until:
                return f"{health.reason or 'no answer yet'}; left alone for {health.until - now:.0f} s more"
            return "earlier requests have no answer yet" if self._asked_now(health, now) >= MOST_AT_ONCE else ""

    def _asked_now(self, health: _Health, now: float) -> int:
        """How many requests are on their way; no place is held for ever by one whose end nobody told."""
        health.asked = [since for since in health.asked if now - since < LONGEST_REQUEST_S]
        return len(health.asked)

    def _rest(self, failures: int) -> float:
        longest = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(failures - FREE_FAILURES, 16))
        return longest * (0.5 + 0.5 * self._jitter())


def relay_name(url: str) -> str:
    """A relay as errors, events and tables call it: without a user, a password or a key that its URL may hold."""
    return without_access(url, PUBLIC_PATHS)


def ask_round(url: str, round_: int, timeout_s: float) -> bytes:
    """The relay's answer to one round, in at most so many seconds. Errors: TooEarlyError; ValueError, httpx.HTTPError."""
    return _download(f"{url}/public/{round_}", MAX_ANSWER_BYTES, timeout_s)


def ask_newest(url: str, timeout_s: float) -> bytes:
    """The relay's newest round, for who compares clocks; no role works with it. Errors: as `ask_round`."""
    return _download(f"{url}/public/latest", MAX_ANSWER_BYTES, timeout_s)


def ask_info(url: str, timeout_s: float) -> ChainInfo:
    """What a relay says of its chain. Errors: UnsupportedSchemeError; ValueError, httpx.HTTPError."""
    return read_info(_download(f"{url}/info", MAX_INFO_BYTES, timeout_s))


class ChainsServed:
    """Which chain each relay serves, asked when it gave something that does not verify, and not again for ten minutes."""

    def __init__(self, chain: BeaconChain, *, timeout_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._chain, self._timeout_s, self._monotonic = chain, timeout_s, monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, str | None]] = {}

    def other(self, url: str) -> str | None:
        """In which chain this relay differs from the network's, None where it does not or does not say."""
        import httpx

        with self._lock:
            at, told = self._known.get(url, (float("-inf"), None))
            if self._monotonic() - at < INFO_AGE_S:
                return told
            self._known[url] = (self._monotonic(), None)  # others do not ask meanwhile
        try:
            told = difference(ask_info(url, self._timeout_s), self._chain)
        except UnsupportedSchemeError as error:
            told = f"relay serves another chain: {error}"
        except (httpx.HTTPError, ValueError):
            return None
        with self._lock:
            self._known[url] = (self._monotonic(), told)
        return told


def _download(url: str, most: int, timeout_s: float) -> bytes:
    """The body of a 200 answer."""
    answer = bounded_http.get(url, most=most, seconds=timeout_s)
    if answer.status == _TOO_EARLY:
        raise TooEarlyError("too early: its clock is behind this machine's")
    if answer.status != 200:
        raise ValueError(f"HTTP {answer.status}")
    return answer.body
