"""Section 10's coins: which miners are checked.

Who is checked depends on the select seed, which nobody knows before first sight is over, and follows the money: a miner
that declares more is checked more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.constants import (
    CHECK_PROBABILITY_FLOOR,
    CHECKED_MINERS_EXPECTED,
    CHECKED_MINERS_LEAST,
)
from grail_core.protocol.randomness import DRAW_MINERS, stream_words
from grail_core.protocol.types import Hotkey


@dataclass(frozen=True)
class Selection:
    """One announced miner's chance of being checked, its coin, and the outcome."""

    hotkey: Hotkey
    probability: Fraction
    coin: int  # 0 … 2⁶⁴ − 1; below probability · 2⁶⁴ is checked
    selected: bool


def check_probability(declared: int, total: int) -> Fraction:
    """p_i = clamp(35 · declared_i / Σ declared, 1/10, 1), exact; 1/10 where nobody declares anything."""
    floor = Fraction(*CHECK_PROBABILITY_FLOOR)
    if total == 0:
        return floor
    return min(Fraction(1), max(floor, Fraction(CHECKED_MINERS_EXPECTED * declared, total)))


def miner_coin(select_seed: bytes, hotkey: bytes) -> int:
    """The first 8-byte word of SHAKE-256 over ("grail/draw/miners", select_seed, hotkey), lengths in front."""
    return next(stream_words(select_seed, DRAW_MINERS, hotkey))


def select_miners(select_seed: bytes, declared: Mapping[Hotkey, int]) -> tuple[Selection, ...]:
    """Toss every announced miner's coin.

    Args:
        select_seed: 32 bytes.
        declared: rollouts declared in this window's announced files with a readable header, by hotkey.

    Returns:
        One entry per hotkey, in order of hotkey bytes. At least two are selected (all, if there are fewer): where the
        coins select fewer, the lowest coins are taken in addition, ties by hotkey bytes.
    """
    for hotkey, count in declared.items():
        if len(hotkey) != 32 or count < 0:
            raise ValueError(f"{hotkey.hex()}: {count} declared by a hotkey of {len(hotkey)} bytes")
    total = sum(declared.values())
    tossed = [(miner_coin(select_seed, hotkey), hotkey) for hotkey in declared]
    chances = {hotkey: check_probability(declared[hotkey], total) for hotkey in declared}
    selected = {hotkey for coin, hotkey in tossed if coin * chances[hotkey].denominator < chances[hotkey].numerator << 64}
    for _, hotkey in sorted(tossed):
        if len(selected) >= CHECKED_MINERS_LEAST:
            break
        selected.add(hotkey)
    return tuple(
        Selection(hotkey, chances[hotkey], coin, hotkey in selected)
        for coin, hotkey in sorted(tossed, key=lambda entry: entry[1])
    )
