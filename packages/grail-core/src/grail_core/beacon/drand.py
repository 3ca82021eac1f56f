"""A beacon read from HTTP relays that are not trusted: every round is verified here before anybody sees it.

Only the round asked for is ever requested, never "latest". Relays are raced with staggered starts, so that one that hangs,
lies or is down costs half a second; answers are bounded in size and time, and redirects are not followed. A relay that goes on
failing rests (`relays.Rests`), so that no outage becomes a flood. Rounds never change: each is kept on disk for ever, and
verified again when it is read from there.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from grail_core.beacon.base import RoundNotYetError
from grail_core.beacon.bls import SIGNATURE_BYTES, is_valid
from grail_core.beacon.relays import MAX_ANSWER_BYTES, ChainsServed, Rests, TooEarlyError, ask_round, relay_name
from grail_core.clock import wall_clock_ms
from grail_core.disk import write_atomically
from grail_core.errors import BeaconError, StorageError
from grail_core.protocol.beacon import BeaconChain, SignedRound
from grail_core.telemetry import get_logger

log = get_logger(__name__)

__all__ = ["LATE_MS", "MAX_ANSWER_BYTES", "DrandBeacon", "parse_round"]

LATE_MS: Final = 5_000
"""A round that was due and came this long after it was first asked for is told as late. How long a role waits for it is its
window's business: until the upload must begin, or until the void block."""
_OVERDUE_PERIODS = 3  # by our clock: a relay that still says "too early" has failed
_ROUNDS_IN_MEMORY = 256


class DrandBeacon:
    """The `Beacon` of a drand chain.

    Args:
        relays: base URLs, those of public relays with the chain's hash; `/public/{round}` is appended.
        cache_dir: rounds are kept here, one file each.
        clock: tells when a round's time has come; None asks the relays, whose clock then decides (a network on one machine).
        timeout_s: for one relay's answer, and again for the whole race.
        patience_s: a round that was first asked for so long ago is asked of the relays, whatever `clock` says; None: never.
        attempts: races before giving up, `retry_s` apart: a relay has a round a moment after its time.
        monotonic: seconds, by which relays rest and lateness is counted.
    """

    def __init__(
        self,
        chain: BeaconChain,
        relays: Sequence[str],
        cache_dir: Path,
        *,
        clock: Callable[[], int] | None = wall_clock_ms,
        timeout_s: float = 5.0,
        stagger_s: float = 0.5,
        attempts: int = 4,
        retry_s: float = 0.5,
        patience_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._relays = tuple(dict.fromkeys(url.rstrip("/") for url in relays))
        self._folder = cache_dir / chain.public_key.hex()[:16]
        self._clock = clock
        self._timeout_s = timeout_s
        self._stagger_s = stagger_s
        self._attempts = attempts
        self._retry_s = retry_s
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._rests = Rests(self._relays, monotonic=monotonic)
        self._served = ChainsServed(chain, timeout_s=timeout_s, monotonic=monotonic)
        self._first_asked: OrderedDict[int, float] = OrderedDict()
        self._awaited: OrderedDict[int, float] = OrderedDict()  # rounds that were due, since when they are asked for
        self._recent: OrderedDict[int, SignedRound] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def chain(self) -> BeaconChain:
        return self._chain

    def get(self, round_: int) -> SignedRound:
        """The verified round, from memory, disk or a relay.

        Raises:
            RoundNotYetError: its time has not come, or no relay has it yet.
            BeaconError: no relay gave a round that verifies; the message says what each of them did.
        """
        if not 0 < round_ < 2**63:
            raise BeaconError("rounds are counted from 1", where=f"round {round_}")
        known = self._known(round_)
        if known is not None:
            return known
        due_ms = self._chain.time_of_ms(round_)
        early_ms = 0 if self._clock is None else due_ms - self._clock()
        if early_ms > 0 and not self._waited_long(round_):
            raise RoundNotYetError(f"the beacon round is due in {early_ms / 1000:.1f} s", where=f"round {round_}")
        self._note(self._awaited, round_)
        failures: dict[str, tuple[str, bool]] = {}
        for attempt in range(self._attempts if early_ms <= 0 else 1):
            if attempt:
                if not any(not self._rests.left(url) for url in self._relays):
                    break
                time.sleep(self._retry_s)
            signed, failures = self._race(round_, overdue=-early_ms > _OVERDUE_PERIODS * self._chain.period_s * 1000)
            if signed is not None:
                self._keep(signed)
                self._tell_if_late(round_)
                return signed
        if failures and all(early for _, early in failures.values()):
            with self._lock:
                self._awaited.pop(round_, None)  # it was not due: nobody is late
            raise RoundNotYetError("no relay has the beacon round yet", where=f"round {round_}")
        reasons = "; ".join(f"{relay_name(url)}: {reason}" for url, (reason, _) in failures.items())
        raise BeaconError(
            f"no relay gave a valid beacon round ({reasons or 'there is no relay to ask'})",
            where=f"round {round_}",
            hint="set GRAIL_BEACON_URLS to this network's relays, or GRAIL_NETWORK to the parameters of the one that is meant"
            if any(reason.startswith("relay s") for reason, _ in failures.values())  # as `chains.difference` says it
            else "check the network, or set GRAIL_BEACON_URLS to other relays",
        )

    def past(self, round_: int) -> SignedRound | None:
        """A round whose time is long over, None where neither disk nor relays give it: for who does without it and says so."""
        try:
            return self.get(round_)
        except BeaconError:
            return None

    def _waited_long(self, round_: int) -> bool:
        """Nobody asks for a round long before its time: a clock that still says so has been set back, and the relays decide."""
        if self._patience_s is None:
            return False
        since = self._note(self._first_asked, round_)
        return since is not None and self._monotonic() - since > self._patience_s

    def _note(self, times: OrderedDict[int, float], round_: int) -> float | None:
        """When it was noted first; None: this is the first time."""
        with self._lock:
            since = times.get(round_)
            if since is None:
                times[round_] = self._monotonic()
            while len(times) > _ROUNDS_IN_MEMORY:
                times.popitem(last=False)
        return since

    def _tell_if_late(self, round_: int) -> None:
        with self._lock:
            since = self._awaited.pop(round_, None)
        ms = 0 if since is None else int(1000 * (self._monotonic() - since))
        if ms > LATE_MS:
            log.event("beacon_late", level=logging.WARNING, round=round_, ms=ms)

    def _race(self, round_: int, *, overdue: bool) -> tuple[SignedRound | None, dict[str, tuple[str, bool]]]:
        """The first valid answer, or per relay why there was none and whether it said "too early"."""
        answers: queue.Queue[tuple[str, SignedRound | _Failure]] = queue.Queue()
        failures: dict[str, tuple[str, bool]] = {}
        failures |= {url: (why, False) for url in self._relays if (why := self._rests.left(url))}
        waiting = [url for url in self._relays if url not in failures]
        deadline = time.monotonic() + self._timeout_s + self._stagger_s * len(waiting)
        running = 0
        while waiting or running:
            if waiting:
                url = waiting.pop(0)
                if not self._rests.claim(url):  # another thread asks it
                    failures[url] = (self._rests.left(url) or "another thread asks it", False)
                    continue
                # Daemon threads: a relay that hangs must not hold the process at its end.
                threading.Thread(target=self._ask, args=(url, round_, answers, overdue), daemon=True).start()
                running += 1
            time_left = deadline - time.monotonic()
            try:
                url, answer = answers.get(timeout=max(0.0, min(time_left, self._stagger_s) if waiting else time_left))
            except queue.Empty:
                if not waiting:
                    break
                continue
            running -= 1
            if isinstance(answer, SignedRound):
                return answer, failures
            failures[url] = (answer.reason, answer.too_early)
            log.debug("relay %s did not give round %d: %s", relay_name(url), round_, answer.reason)
        for url in self._relays:
            failures.setdefault(url, ("no answer in time", False))
        return None, failures

    def _ask(self, url: str, round_: int, answers: queue.Queue[tuple[str, SignedRound | _Failure]], overdue: bool) -> None:
        import httpx  # slow to import, and not needed where every round is on disk

        answer: SignedRound | _Failure
        try:
            raw = ask_round(url, round_, self._timeout_s)
        except TooEarlyError as error:
            answer = _Failure(str(error), not overdue)
        except (httpx.HTTPError, ValueError) as error:
            answer = _Failure(str(error)[:200] or type(error).__name__, False)
        else:
            try:
                answer = self._checked(raw, round_)
            except ValueError as error:
                answer = _Failure(self._served.other(url) or str(error)[:200], False)
        if isinstance(answer, SignedRound) or answer.too_early:
            self._rests.worked(url)
        else:
            self._rests.failed(url, answer.reason)
        answers.put((url, answer))

    def _checked(self, raw: bytes, round_: int) -> SignedRound:
        signed = parse_round(raw)
        if signed.round != round_:
            raise ValueError(f"answered with round {signed.round}")
        if not is_valid(self._chain.public_key, round_, signed.signature):
            raise ValueError("its signature does not verify")
        return signed

    def _known(self, round_: int) -> SignedRound | None:
        with self._lock:
            if round_ in self._recent:
                return self._recent[round_]
        try:
            with (self._folder / str(round_)).open("rb") as file:
                signature = file.read(SIGNATURE_BYTES + 1)
        except OSError:
            return None
        if not is_valid(self._chain.public_key, round_, signature):
            log.event("beacon_cache_damaged", round=round_, path=str(self._folder / str(round_)))
            return None
        signed = SignedRound(round_, signature)
        self._remember(signed)
        return signed

    def _keep(self, signed: SignedRound) -> None:
        self._remember(signed)
        try:
            write_atomically(self._folder / str(signed.round), signed.signature)
        except StorageError as error:  # a cache that cannot be written costs a request later, nothing else
            log.event("beacon_cache_unwritable", round=signed.round, reason=error.what, path=error.where)

    def _remember(self, signed: SignedRound) -> None:
        with self._lock:
            self._recent[signed.round] = signed
            if len(self._recent) > _ROUNDS_IN_MEMORY:
                self._recent.popitem(last=False)


class _Failure:
    def __init__(self, reason: str, too_early: bool) -> None:
        self.reason = reason
        self.too_early = too_early


def parse_round(raw: bytes) -> SignedRound:
    """A relay's JSON, `{"round": n, "signature": hex, …}`; other members are ignored, the randomness too: it is computed.

    Raises:
        ValueError: anything else.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("the answer is no JSON object")
    round_, signature = value.get("round"), value.get("signature")
    if type(round_) is not int or not isinstance(signature, str) or len(signature) != 2 * SIGNATURE_BYTES:
        raise ValueError("the answer holds no round with a signature")
    return SignedRound(round_, bytes.fromhex(signature))
