"""This machine's clock against the relays': a newest round that verifies shows what time it is at least, since nobody can sign
one before; one that is old everywhere shows that this machine runs ahead, unless the beacon itself stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from grail_core.beacon.bls import is_valid
from grail_core.beacon.drand import parse_round
from grail_core.beacon.relays import ask_newest
from grail_core.protocol.beacon import BeaconChain

TOLERANCE_S: Final = 10.0
"""Of a newest round's age beyond the beacon's period: a relay gets rounds late, and may answer from a cache."""

_MEND = "set it by a time server (NTP)"


@dataclass(frozen=True)
class ClockFound:
    """`off_s`: seconds by which this machine's clock is ahead of what relays show (behind: negative); None where none does."""

    ok: bool
    off_s: float | None
    told: str


def hold_clock(relays: Iterable[str], chain: BeaconChain, clock: Callable[[], int], timeout_s: float) -> ClockFound:
    """Ask every relay for its newest round. What does not come or not verify says nothing of the time."""
    return judged(newest_ages_s(relays, chain, clock, timeout_s), chain.period_s)


def newest_ages_s(relays: Iterable[str], chain: BeaconChain, clock: Callable[[], int], timeout_s: float) -> list[float]:
    """How old each relay's newest round is by this machine's clock; of those that give one which verifies."""
    return [age for url in relays if (age := _newest_age_s(url, chain, clock, timeout_s)) is not None]


def judged(ages_s: list[float], period_s: int) -> ClockFound:
    """What newest rounds of these ages, by this machine's clock, say of it."""
    if not ages_s:
        return ClockFound(True, None, "no relay shows the time: it was not held against any")
    youngest = min(ages_s)
    if youngest < -TOLERANCE_S:
        return ClockFound(
            False, youngest, f"this machine's clock is at least {-youngest:.0f} s behind: a later round is out; {_MEND}"
        )
    if youngest <= period_s + TOLERANCE_S:
        return ClockFound(True, 0.0, "in step with the relays'")
    if len(ages_s) == 1:
        told = f"this machine's clock is {youngest:.0f} s ahead of the one relay that says: one of the two is wrong; "
        return ClockFound(False, youngest, f"{told}ask another relay, and where it agrees, {_MEND}")
    told = f"this machine's clock is {youngest:.0f} s ahead of all {len(ages_s)} relays'"
    return ClockFound(False, youngest, f"{told}: it is this machine's that is wrong, unless the beacon stands; {_MEND}")


def _newest_age_s(url: str, chain: BeaconChain, clock: Callable[[], int], timeout_s: float) -> float | None:
    import httpx

    try:
        signed = parse_round(ask_newest(url, timeout_s))
    except (httpx.HTTPError, ValueError):
        return None
    if not is_valid(chain.public_key, signed.round, signed.signature):
        return None
    return (clock() - chain.time_of_ms(signed.round)) / 1000
