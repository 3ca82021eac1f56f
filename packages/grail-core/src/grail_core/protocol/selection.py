"""Section 10's coins: which miners are checked.

Who is checked depends on the select seed, which nobody knows before first sight is over, and follows the money: a miner
that declares more, of what pay counts, is checked more. Who cannot earn now takes nobody's place: hotkeys inside a failure's
look-back are drawn at the floor and are not in the sum. Who seals more than its audits support is drawn as a newcomer, from a
sum of its own, so that registering hotkeys thins out nobody's audits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.constants import (
    AUDITS_OF_A_PRODUCT,
    CHECK_PROBABILITY_FLOOR,
    CHECKED_MINERS_EXPECTED,
    CHECKED_MINERS_LEAST,
    NEWCOMERS_CHECKED,
    UNIQUE_ROLLOUTS_CAP,
)
from grail_core.protocol.randomness import DRAW_MINERS, stream_words
from grail_core.protocol.types import Hotkey

LEAST_PROBABILITY = Fraction(*CHECK_PROBABILITY_FLOOR)
"""No sealed miner's chance is below it."""


@dataclass(frozen=True)
class Candidate:
    """What decides a sealed miner's chance. `supported` is section 10's Σv over its audits so far, `cap` what of `declared` a
    window, or a round, can be paid for at most."""

    declared: int
    supported: int = 0
    in_lookback: bool = False
    cap: int = UNIQUE_ROLLOUTS_CAP

    def __post_init__(self) -> None:
        if self.declared < 0 or self.supported < 0:
            raise ValueError(f"{self.declared} declared, {self.supported} supported by audits")

    @property
    def counted(self) -> int:
        """What pay can count of it."""
        return min(self.declared, self.cap)

    @property
    def newcomer(self) -> bool:
        """Do its audits not support what it seals?"""
        return not self.in_lookback and self.supported < AUDITS_OF_A_PRODUCT * self.counted


@dataclass(frozen=True)
class Selection:
    """One sealed miner's chance of being checked, its coin, and the outcome."""

    hotkey: Hotkey
    probability: Fraction
    coin: int  # 0 … 2⁶⁴ − 1; below probability · 2⁶⁴ is checked
    selected: bool


def check_probabilities(candidates: Mapping[Hotkey, Candidate]) -> dict[Hotkey, Fraction]:
    """p_i = clamp(35 · c_i / Σ c, 1/10, 1), exact, with c = min(declared, cap).

    The sum is over all outside a look-back for a newcomer, whose p is at least min(1/2, 8 / newcomers), and over those of them
    that are no newcomers for the others: what newcomers seal moves no other chance, for at most 35 audits a window more. 1/10
    for hotkeys inside a look-back, and where the sum is 0.
    """
    supported = sum(one.counted for one in candidates.values() if not (one.in_lookback or one.newcomer))
    total = sum(one.counted for one in candidates.values() if not one.in_lookback)
    newcomers = sum(one.newcomer for one in candidates.values())
    least = min(Fraction(1, 2), Fraction(NEWCOMERS_CHECKED, newcomers)) if newcomers else LEAST_PROBABILITY

    def chance(one: Candidate) -> Fraction:
        if one.in_lookback:
            return LEAST_PROBABILITY
        among = total if one.newcomer else supported
        share = Fraction(CHECKED_MINERS_EXPECTED * one.counted, among) if among else LEAST_PROBABILITY
        p = min(Fraction(1), max(LEAST_PROBABILITY, share))
        return max(p, least) if one.newcomer else p

    return {hotkey: chance(one) for hotkey, one in candidates.items()}


def miner_coin(select_seed: bytes, hotkey: bytes) -> int:
    """The first 8-byte word of SHAKE-256 over ("grail/draw/miners", select_seed, hotkey), lengths in front."""
    return next(stream_words(select_seed, DRAW_MINERS, hotkey))


def falls(coin: int, probability: Fraction) -> bool:
    """Is a coin below its probability, as a 64-bit word?"""
    return coin * probability.denominator < probability.numerator << 64


def select_miners(select_seed: bytes, candidates: Mapping[Hotkey, Candidate]) -> tuple[Selection, ...]:
    """Toss every sealed miner's coin.

    Args:
        select_seed: 32 bytes.
        candidates: one per hotkey whose seal was taken at first sight.

    Returns:
        One entry per hotkey, in order of hotkey bytes. Of those outside a look-back at least two are selected (all, if there
        are fewer): where the coins select fewer, the lowest coins are taken in addition, ties by hotkey bytes.
    """
    for hotkey in candidates:
        if len(hotkey) != 32:
            raise ValueError(f"{hotkey.hex()}: a hotkey has 32 bytes, not {len(hotkey)}")
    return selected_by({hotkey: miner_coin(select_seed, hotkey) for hotkey in candidates}, candidates)


def selected_by(coins: Mapping[Hotkey, int], candidates: Mapping[Hotkey, Candidate]) -> tuple[Selection, ...]:
    """`select_miners` for coins that are known already, one for each candidate."""
    tossed = [(coins[hotkey], hotkey) for hotkey in candidates]
    chances = check_probabilities(candidates)
    selected = {hotkey for coin, hotkey in tossed if falls(coin, chances[hotkey])}
    free = sorted(entry for entry in tossed if not candidates[entry[1]].in_lookback)
    missing = CHECKED_MINERS_LEAST - sum(hotkey in selected for _, hotkey in free)
    selected.update([hotkey for _, hotkey in free if hotkey not in selected][: max(0, missing)])
    return tuple(
        Selection(hotkey, chances[hotkey], coin, hotkey in selected)
        for coin, hotkey in sorted(tossed, key=lambda entry: entry[1])
    )
