"""Section 10: what a miner's last windows are worth, in exact integers.

With W the work of the last 12 windows, and d and v what was declared and found valid in each audit of the last 72, which was
drawn with chance p:

    power = ⌊2⁶⁴ · W³ · min(W, 3 · Σv, Σ⌊v/p⌋) · e_m(v) / e_m(d)⌋        m = min(4, number of audits)

e_m is the elementary symmetric polynomial: the mean over all products of m different audits. A fourth power of the mean share
of valid work would be inflated by the variance of few audits, and that inflation is what makes junk pay; the mean product of
four is c⁴ without bias for who works in a share c of its windows. `3 · Σv` asks for audited volume of the present size, and
Σv/p (the estimate of Horvitz and Thompson, 1952) for that much work in all: an audit that had to come speaks for its own window
only, or who is audited when it likes would buy trust with four windows of work. A failure means 0 for as many windows as five
checks are expected in, and what nobody earned goes to the burn UID. No floating point anywhere: every validator gets the same
u16s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Literal, NamedTuple, Protocol

from grail_core.protocol.constants import (
    AUDITS_OF_A_PRODUCT,
    INCONCLUSIVE_FREE,
    INCONCLUSIVE_FREE_AUDITS,
    LOOKBACK_AUDITS,
    LOOKBACK_WINDOWS,
    MAX_FILE_ROWS,
    SCORE_MEMORY_WINDOWS,
    SCORE_WINDOWS,
    SUPERLINEAR_EXPONENT,
    SUPPORT_FACTOR,
    UNIQUE_ROLLOUTS_CAP,
    WINDOW_LENGTH,
)
from grail_core.protocol.selection import LEAST_PROBABILITY
from grail_core.protocol.tally import tally
from grail_core.protocol.types import Hotkey, Window

WEIGHT_TOTAL = 65_535
"""The u16 weights of one validator sum to this."""

POWER_UNIT = 2**64
MAX_WORK = SCORE_WINDOWS * UNIQUE_ROLLOUTS_CAP
MAX_POWER = POWER_UNIT * MAX_WORK**SUPERLINEAR_EXPONENT
"""Of a miner whose last 12 windows were full and whose audits found everything valid: rel = 1."""
PRODUCT_BYTES = 10
"""An elementary symmetric polynomial of at most 72 counts up to the cap has fewer than 80 bits."""


class WeightRule(Protocol):
    """The part of `NetworkParameters` that turns scores into weights."""

    @property
    def weight_mode(self) -> Literal["capped", "uncapped"]: ...

    @property
    def burn_share_permille(self) -> int: ...

    @property
    def burn_uid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class MinerWindow:
    """What one window counts for one miner.

    A failed window counts as checked, with its declared rollouts and no valid one. An inconclusive one counts nothing if it is
    the first of the memory and audits support it well, else it is checked with no valid rollout (`counts_inconclusive`). An
    absent miner's has declared nothing.
    """

    window: Window
    declared: int
    active: bool  # sealed, and nothing speaks against it
    checked: bool  # drawn, and the checks came to a conclusion, or it is counted as unsupported
    unique_valid: int  # distinct rollouts of the file if the sample passed, else 0
    failed: bool
    probability: Fraction | None = None  # its check chance; None where no coin was tossed
    inconclusive: bool = False  # drawn, and this validator could not judge it

    def __post_init__(self) -> None:
        if not 0 <= self.declared <= MAX_FILE_ROWS or not 0 <= self.unique_valid <= MAX_FILE_ROWS:
            raise ValueError(f"window {self.window}: {self.declared} declared, {self.unique_valid} unique and valid")
        if (self.failed or self.inconclusive) and self.unique_valid:
            raise ValueError(f"window {self.window}: a failed window has no valid rollout, not {self.unique_valid}")
        if self.probability is None:
            if self.checked or self.failed:
                raise ValueError(f"window {self.window}: checked, without the chance that it was")
        elif not LEAST_PROBABILITY <= self.probability <= 1:
            raise ValueError(f"window {self.window}: a check chance of {self.probability}, outside {LEAST_PROBABILITY} … 1")

    @property
    def audited(self) -> bool:
        """Does it count as an audit?"""
        return self.probability is not None and (self.checked or self.failed)

    @property
    def valid(self) -> int:
        """Rollouts that an audit found valid."""
        return 0 if self.failed else self.unique_valid

    @property
    def lookback(self) -> int:
        """Windows for which a failure means 0, itself among them; 0 where it did not fail."""
        return lookback_windows(self.probability) if self.failed and self.probability is not None else 0

    @property
    def paid_again_from(self) -> Window:
        """The first window that its look-back does not reach: a failure means 0 before it. The window itself without one."""
        return Window(self.window + self.lookback * WINDOW_LENGTH)

    @property
    def forgotten_from(self) -> Window:
        """The first window in whose memory its audit is not any more."""
        return Window(self.window + SCORE_MEMORY_WINDOWS * WINDOW_LENGTH)


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """What a miner's power is made of; it stands in the verdict."""

    work: int  # W: Σ min(declared, cap) over the active ones of the last 12 windows
    supported: int  # Σv over the audits of the last 72
    estimate: int  # Σ⌊v/p⌋ over the same: valid work of all their windows, as audits of chance p estimate it
    audits: int  # their number, those that declared nothing left out
    product_valid: int  # e_m(v)
    product_declared: int  # e_m(d)
    in_lookback: bool  # of a failure

    def __post_init__(self) -> None:
        if not 0 <= self.work <= MAX_WORK:
            raise ValueError(f"work: {self.work} is outside 0 … {MAX_WORK}")
        if not 0 <= self.audits <= SCORE_MEMORY_WINDOWS or not 0 <= self.supported <= self.audits * UNIQUE_ROLLOUTS_CAP:
            raise ValueError(f"supported: {self.supported} valid rollouts in {self.audits} audits")
        if not self.supported <= self.estimate <= self.supported / LEAST_PROBABILITY:
            raise ValueError(f"estimate: {self.estimate}, from {self.supported} valid rollouts")
        if not 0 <= self.product_valid <= self.product_declared < 2 ** (8 * PRODUCT_BYTES):
            raise ValueError(f"product_valid: {self.product_valid} of {self.product_declared}")

    @property
    def power(self) -> int:
        """0 without an audit or inside a look-back; at most MAX_POWER. Every product on the way is below 2¹⁹⁸."""
        if self.in_lookback or not self.audits or not self.product_declared:
            return 0
        volume = min(self.work, SUPPORT_FACTOR * self.supported, self.estimate)
        return POWER_UNIT * self.work**3 * volume * self.product_valid // self.product_declared


def lookback_windows(probability: Fraction) -> int:
    """L = clamp(⌈5 / p⌉, 14, 36): for how many windows a failure means 0, from the check probability of the failed window.

    Long where audits are rare, short where everybody is audited, so that a false reject in a small network costs little.
    """
    least, most = LOOKBACK_WINDOWS
    return min(most, max(least, -(-LOOKBACK_AUDITS * probability.denominator // probability.numerator)))


def counts_inconclusive(history: Iterable[MinerWindow], window: Window, declared: int) -> bool:
    """Does an inconclusive drawn window count as work that no audit supports?

    The first of the last 72 windows is free where the audits among them found at least ten windows of its size valid; any
    other counts. Junk that can be made inconclusive when it is drawn would earn up to 2.3 times its cost at p = 0.14 if none
    counted. Free after eight windows, it would still give 1.09 to new hotkeys that begin with a few windows of junk; with ten
    windows of volume it is at most 1.05: what one free fault is worth.

    Args:
        history: the windows before; entries outside the memory and from `window` on are passed over.
        declared: by the inconclusive window's seal.
    """
    oldest = window - (SCORE_MEMORY_WINDOWS - 1) * WINDOW_LENGTH
    inconclusive = supported = 0
    for entry in history:
        if oldest <= entry.window < window:
            inconclusive += entry.inconclusive
            supported += min(entry.unique_valid, entry.declared, UNIQUE_ROLLOUTS_CAP) if entry.checked else 0
    return inconclusive >= INCONCLUSIVE_FREE or supported < INCONCLUSIVE_FREE_AUDITS * min(declared, UNIQUE_ROLLOUTS_CAP)


def elementary_symmetric(values: Sequence[int], degree: int) -> int:
    """e_degree: the sum over all products of `degree` different ones of the values; e_0 is 1."""
    sums = [1] + [0] * degree
    for value in values:
        for k in range(degree, 0, -1):
            sums[k] += sums[k - 1] * value
    return sums[degree]


def score_inputs(history: Iterable[MinerWindow], window: Window) -> ScoreInputs:
    """Add up one miner's windows as of `window`, which is itself the last of the "last n".

    Entries outside the last 72 windows are passed over; a window without an entry counts nothing. A gap in the group ids
    is deducted from `declared`, so no more than `declared` rollouts of a file count as valid.

    Args:
        history: in ascending order of window.

    Raises:
        ValueError: windows out of order, or two entries for one.
    """
    history = list(history)
    found = tally(
        history,
        window,
        spacing=WINDOW_LENGTH,
        cap=UNIQUE_ROLLOUTS_CAP,
        work=SCORE_WINDOWS,
        memory=SCORE_MEMORY_WINDOWS,
    )
    declared, valid = [d for _, d, _ in found.audits], [v for _, _, v in found.audits]
    degree = min(AUDITS_OF_A_PRODUCT, len(declared))
    product = elementary_symmetric(declared, degree)
    return ScoreInputs(
        work=found.work,
        supported=found.valid,
        estimate=sum(
            v * entry.probability.denominator // entry.probability.numerator
            for entry, _, v in found.audits
            if entry.probability is not None  # an audit has its chance
        ),
        audits=len(declared),
        product_valid=product if valid == declared else elementary_symmetric(valid, degree),
        product_declared=product,
        in_lookback=any(one.failed and one.window <= window < one.paid_again_from for one in history),
    )


class KindOfWork(NamedTuple):
    """What the weights pay for one kind of work: a share of all, and the powers that it goes to."""

    share: Fraction  # of all weight, before what is burnt anyway
    powers: Mapping[int, int]  # by UID
    largest: int  # in capped mode the share is used up where the powers sum to it


def shares_of_kinds(kinds: Sequence[str]) -> dict[str, Fraction]:
    """What part of all weight each kind of work has: how many of the last 12 windows had it, over 12.

    Args:
        kinds: of the windows up to this one, in ascending order, at least one. Windows before a network's first checkpoint
            count as that one's: a network that has had one kind alone pays it everything.
    """
    if not kinds:
        raise ValueError("kinds: a window has a kind of work")
    last = [*[kinds[0]] * (SCORE_WINDOWS - len(kinds)), *kinds[-SCORE_WINDOWS:]]
    return {kind: Fraction(last.count(kind), SCORE_WINDOWS) for kind in sorted(set(last))}


def powers(inputs: Mapping[int, ScoreInputs]) -> dict[int, int]:
    """Of rollouts, by UID, in UID order."""
    return {uid: inputs[uid].power for uid in sorted(inputs)}


def weights(inputs: Mapping[int, ScoreInputs], rule: WeightRule) -> dict[int, int]:
    """u16 weights by UID of a network that has had rollouts alone: `shares_of_powers` of the one kind.

    Args:
        inputs: score inputs by UID, one per hotkey registered at T. The burn UID is added if it is not among them.
    """
    return shares_of_powers([KindOfWork(Fraction(1), powers(inputs), MAX_POWER)], rule)


def shares_of_powers(kinds: Sequence[tuple[Fraction, Mapping[int, int], int]], rule: WeightRule) -> dict[int, int]:
    """u16 weights by UID, in UID order, summing to exactly 65,535.

    With m = 1 − burn share, s a kind's share and rel_i = power_i / largest: weight_i = Σ over kinds of
    m · s · min(1, Σ rel) · rel_i / Σ rel in capped mode, m · s · rel_i / Σ rel in uncapped mode; the rest is the burn UID's,
    all of it if nobody scores. The sum is kept by largest remainder over all UIDs, the burn UID's included, ties to the lower
    UID.

    Args:
        kinds: (share, powers, largest) of each kind of work (`KindOfWork`).

    Raises:
        ValueError: a burn share, a share or a power that is none, or shares of more than all.
    """
    if not 0 <= rule.burn_share_permille <= 1000:
        raise ValueError(f"a burn share of {rule.burn_share_permille} per mille")
    if any(share < 0 for share, _, _ in kinds) or sum(share for share, _, _ in kinds) > 1:
        raise ValueError(f"shares of kinds: {', '.join(str(share) for share, _, _ in kinds)} are more than all, or negative")
    if any(largest < 1 or any(power < 0 for power in powers.values()) for _, powers, largest in kinds):
        raise ValueError("powers: one is negative, or the largest is no positive number")
    # min(1, Σ rel) / Σ rel = 1 / max(1, Σ rel), here in units of the largest power there can be.
    totals = []
    for _, powers, largest in kinds:
        total = sum(powers.values())
        totals.append(max(total, largest) if rule.weight_mode == "capped" or total == 0 else total)
    unit = 1000 * lcm(*(share.denominator * total for (share, _, _), total in zip(kinds, totals, strict=True)))
    scale = WEIGHT_TOTAL * (1000 - rule.burn_share_permille)
    numerators: dict[int, int] = {}  # in units of which one of 65,535 parts of all weight has `unit`
    for (share, powers, _), total in zip(kinds, totals, strict=True):
        factor = scale * share.numerator * (unit // (1000 * share.denominator * total))
        for uid, power in powers.items():
            numerators[uid] = numerators.get(uid, 0) + factor * power
    numerators[rule.burn_uid] = numerators.get(rule.burn_uid, 0) + WEIGHT_TOTAL * unit - sum(numerators.values())
    return _largest_remainder(numerators, unit)


def weights_now(
    weights: Mapping[int, int], hotkeys: Mapping[int, Hotkey], registered: Mapping[Hotkey, int], burn_uid: int
) -> dict[int, int]:
    """Weights of a window as they are set: a weight belongs to a hotkey, and follows it to the UID that it holds now.

    A hotkey that holds none has no claim: its share is burnt, so that a UID that changed hands pays nobody for its former
    holder's work. What stands at the burn UID stays there, whoever holds it: most of it was nobody's.

    Args:
        weights: by UID at T. hotkeys: who held those UIDs; the burn UID may be without. registered: UIDs by hotkey, now.
        burn_uid: of the network.

    Returns:
        u16 weights by UID, in UID order, of the same sum.
    """
    shares = {burn_uid: 0}
    for uid, weight in weights.items():
        moves = uid in hotkeys and uid != burn_uid
        now = registered.get(hotkeys[uid], burn_uid) if moves else burn_uid
        shares[now] = shares.get(now, 0) + weight
    return dict(sorted(shares.items()))


def _largest_remainder(numerators: Mapping[int, int], unit: int) -> dict[int, int]:
    shares: dict[int, int] = {}
    remainders: list[tuple[int, int]] = []
    for uid in sorted(numerators):
        shares[uid], remainder = divmod(numerators[uid], unit)
        remainders.append((-remainder, uid))
    missing = WEIGHT_TOTAL - sum(shares.values())
    for _, uid in sorted(remainders)[:missing]:
        shares[uid] += 1
    return shares
