"""Emission by stake-weighted consensus, in the manner of Yuma, for the development chain.

Each validator's weights are normalised; the consensus on a miner is the largest weight that validators with more than half
of the stake gave at least; weights above it are clipped. Miners share one half of the emission by clipped, stake-weighted
rank, validators the other by how much of what they said the consensus kept. Bonds, the owner's cut and liquid alpha are left
out: this exists so that earnings are visible, not to predict a subnet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Emission:
    """Shares of one block's emission by UID. Each mapping is exact and sums to 1, or is empty where nobody earns."""

    consensus: Mapping[int, Fraction]  # the consensus weight itself; sums to at most 1
    incentive: Mapping[int, Fraction]
    dividends: Mapping[int, Fraction]
    share: Mapping[int, Fraction]  # what each UID gets of the whole emission


def emission(stakes: Mapping[int, int], weights: Mapping[int, Mapping[int, int]]) -> Emission:
    """Emission shares from the stakes (any unit) of validators and the raw weights each of them set, both by UID.

    Validators without stake or without a positive weight have no say.
    """
    rows = {v: row for v, row in weights.items() if stakes.get(v, 0) > 0 and sum(row.values()) > 0}
    total = sum(stakes[v] for v in rows)
    if total == 0:
        return Emission({}, {}, {}, {})
    normal = {v: {uid: Fraction(w, sum(row.values())) for uid, w in row.items() if w > 0} for v, row in rows.items()}
    stake = {v: Fraction(stakes[v], total) for v in rows}
    targets = sorted({uid for row in normal.values() for uid in row})
    consensus = {uid: _weighted_median([(row.get(uid, Fraction(0)), stake[v]) for v, row in normal.items()]) for uid in targets}
    clipped = {v: {uid: min(w, consensus[uid]) for uid, w in row.items()} for v, row in normal.items()}
    rank = {uid: sum((stake[v] * row.get(uid, Fraction(0)) for v, row in clipped.items()), Fraction(0)) for uid in targets}
    incentive = _shares(rank)
    kept = {
        v: stake[v] * sum((row[uid] * incentive.get(uid, Fraction(0)) for uid in row), Fraction(0))
        for v, row in clipped.items()
    }
    dividends = _shares(kept)
    half = Fraction(1, 2)
    share = {
        uid: half * incentive.get(uid, Fraction(0)) + half * dividends.get(uid, Fraction(0)) for uid in {*incentive, *dividends}
    }
    return Emission(consensus, incentive, dividends, dict(sorted(share.items())))


def _weighted_median(pairs: list[tuple[Fraction, Fraction]]) -> Fraction:
    """The largest value that holders of more than half of the stake gave at least."""
    support = Fraction(0)
    for value, stake in sorted(pairs, reverse=True):
        support += stake
        if support > Fraction(1, 2):
            return value
    return Fraction(0)


def _shares(amounts: Mapping[int, Fraction]) -> dict[int, Fraction]:
    total = sum(amounts.values(), Fraction(0))
    return {uid: amount / total for uid, amount in amounts.items() if amount > 0} if total > 0 else {}
