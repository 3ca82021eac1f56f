"""Gradient work, section 10: did a miner use the data that was assigned to it? A statistic in exact integers.

What lowers the loss on a miner's own sequences more than on common ones was trained on them; since places are random, a miner
that never did has mean exactly 0. Over the last 12 judged rounds z = Σadv/√Σse² is held against those hotkeys whose steps were
replayed. In this version the test reports and never acts: no factor of pay follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from grail_core.protocol.types import Hotkey

OWN_ROUNDS = 12
"""Judged rounds whose advantages are added up."""
LEAST_REFERENCES = 4
"""Hotkeys with an accepted replay from which a reference follows."""
MICRO = 1_000_000
MAX_Z = 10**12
"""In millionths; what has no error at all is put there."""
_FINE = 1 << 10
"""Advantages are kept in 2⁻³⁰ nats: means of losses of 2⁻²⁰ are no integers of these."""
_ACTS = 3_720_000
"""z, in millionths: 10⁻⁴ on either side of normal tails."""


@dataclass(frozen=True)
class Advantage:
    """One round's mean own − mean common and its Welch error (rounded down), both in 2⁻³⁰ nats."""

    value: int
    error: int


@dataclass(frozen=True)
class Reference:
    """What miners whose steps were replayed have: median of z and 1.48 · median deviation, in millionths."""

    z: int
    spread: int
    hotkeys: int

    @property
    def acts(self) -> bool:
        """Would the test be sharp enough to act: z_ref/2 ≥ 3.72 · max(1, s_ref)?"""
        return self.z * MICRO >= 2 * _ACTS * max(MICRO, self.spread)


def advantage(own: Sequence[int], common: Sequence[int]) -> Advantage:
    """Of one round, from the differences before − after of either set, in 2⁻²⁰ nats.

    Raises:
        ValueError: fewer than two sequences in a set.
    """
    n, m = len(own), len(common)
    if n < 2 or m < 2:
        raise ValueError(f"{n} own and {m} common sequences: an error takes two of each")
    value = _half_even(_FINE * (sum(own) * m - sum(common) * n), n * m)
    # variance of a mean = (nΣx² − (Σx)²) / (n²(n − 1)); both over one denominator
    first, second = n * n * (n - 1), m * m * (m - 1)
    squared = _FINE * _FINE * (_spread(own) * second + _spread(common) * first) // (first * second)
    return Advantage(value, isqrt(squared))


def z_of(rounds: Sequence[Advantage]) -> int | None:
    """Σadv/√Σse² in millionths, rounded towards 0, over a hotkey's last judged rounds; None where it has none."""
    if not rounds:
        return None
    last = rounds[-OWN_ROUNDS:]
    total, squared = sum(one.value for one in last), sum(one.error * one.error for one in last)
    if not squared:
        return MAX_Z * ((total > 0) - (total < 0))
    size = min(MAX_Z, isqrt(total * total * MICRO * MICRO // squared))
    return size if total > 0 else -size


def reference(z: Mapping[Hotkey, int], replayed: Sequence[Hotkey]) -> Reference | None:
    """From the z of hotkeys with an accepted replay in those rounds; None below four of them.

    The median is the lower of two middle ones, so it is one of the values.
    """
    known = sorted(z[hotkey] for hotkey in set(replayed) if hotkey in z)
    if len(known) < LEAST_REFERENCES:
        return None
    middle = known[(len(known) - 1) // 2]
    deviations = sorted(abs(value - middle) for value in known)
    return Reference(middle, 148 * deviations[(len(deviations) - 1) // 2] // 100, len(known))


def shows_no_effect(z: int, against: Reference) -> bool:
    """Is z below half of the reference, by a test that could act? Reported; this version does nothing about it."""
    return against.acts and 2 * z < against.z


def _spread(values: Sequence[int]) -> int:
    n, total = len(values), sum(values)
    return n * sum(value * value for value in values) - total * total


def _half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1))
