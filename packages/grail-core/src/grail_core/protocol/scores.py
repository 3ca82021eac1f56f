"""Section 10: what a miner's last windows are worth, in exact integers.

U_i = ρ_i · W_i: W_i the rollouts declared in the active ones of the last 12 windows, each at most the cap; ρ_i the share of
declared rollouts found valid and distinct in the checked ones of the last 36. Weights follow U⁴, a failure in the last 14
windows means 0, and what nobody earned goes to the burn UID. No floating point anywhere: every validator gets the same u16s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from grail_core.protocol.constants import (
    FAILURE_LOOKBACK_WINDOWS,
    MAX_FILE_ROWS,
    SCORE_WINDOWS,
    SUPERLINEAR_EXPONENT,
    UNIQUE_ROLLOUTS_CAP,
    VALIDITY_WINDOWS,
    WINDOW_LENGTH,
)
from grail_core.protocol.types import Window

WEIGHT_TOTAL = 65_535
"""The u16 weights of one validator sum to this."""

SCORE_UNIT = 2**32
MAX_SCORE = SCORE_UNIT * SCORE_WINDOWS * UNIQUE_ROLLOUTS_CAP
"""U of a miner whose last 12 windows were full and whose audits found everything valid: rel = 1."""


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

    A failed window counts as checked, with its declared rollouts and no valid one. An inconclusive one is neither active nor
    checked; an absent miner's has declared nothing.
    """

    window: Window
    declared: int
    active: bool  # announced with a header
    checked: bool  # selected, and the checks came to a conclusion
    unique_valid: int  # distinct rollouts of the file if the sample passed, else 0
    failed: bool

    def __post_init__(self) -> None:
        if not 0 <= self.declared <= MAX_FILE_ROWS or not 0 <= self.unique_valid <= MAX_FILE_ROWS:
            raise ValueError(f"window {self.window}: {self.declared} declared, {self.unique_valid} unique and valid")
        if self.failed and self.unique_valid:
            raise ValueError(f"window {self.window}: a failed window has no valid rollout, not {self.unique_valid}")


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """The four numbers a miner's weight is made of; they stand in the verdict."""

    work: int  # Σ min(declared, cap) over the active ones of the last 12 windows
    valid: int  # Σ min(unique_valid, declared) over the checked ones of the last 36
    audited: int  # Σ declared over the same
    failed: bool  # in one of the last 14

    def __post_init__(self) -> None:
        if not 0 <= self.work <= SCORE_WINDOWS * UNIQUE_ROLLOUTS_CAP:
            raise ValueError(f"work: {self.work} is outside 0 … {SCORE_WINDOWS * UNIQUE_ROLLOUTS_CAP}")
        if not 0 <= self.valid <= self.audited <= VALIDITY_WINDOWS * MAX_FILE_ROWS:
            raise ValueError(f"valid: {self.valid} of {self.audited} audited rollouts")


def score_inputs(history: Iterable[MinerWindow], window: Window) -> ScoreInputs:
    """Add up one miner's windows as of `window`, which is itself the last of the "last n".

    Entries outside the last 36 windows are passed over; a window without an entry counts nothing. A gap in the group ids
    is deducted from `declared`, so no more than `declared` rollouts of a file count as valid: else ρ above 1 would give the
    deduction back.

    Args:
        history: in ascending order of window.

    Raises:
        ValueError: windows out of order, or two entries for one.
    """
    work = valid = audited = 0
    failed = False
    oldest = window - (VALIDITY_WINDOWS - 1) * WINDOW_LENGTH
    oldest_work = window - (SCORE_WINDOWS - 1) * WINDOW_LENGTH
    oldest_failure = window - (FAILURE_LOOKBACK_WINDOWS - 1) * WINDOW_LENGTH
    cap = UNIQUE_ROLLOUTS_CAP
    previous = -1
    for entry in history:
        at = entry.window
        if at <= previous:
            raise ValueError(f"window {at} follows {previous}: a history is in ascending order, each window once")
        previous = at
        if not oldest <= at <= window:
            continue
        declared = entry.declared
        if entry.active and at >= oldest_work:
            work += declared if declared < cap else cap
        if entry.failed:
            audited += declared
            failed = failed or at >= oldest_failure
        elif entry.checked:
            audited += declared
            valid += entry.unique_valid if entry.unique_valid < declared else declared
    return ScoreInputs(work, valid, audited, failed)


def score_units(entry: ScoreInputs) -> int:
    """U_i in units of 2⁻³² rollouts, rounded down: ⌊2³² · work · valid / audited⌋; 0 after a failure or without an audit.

    A fixed unit instead of a fraction keeps every integer of `weights` below 2²⁵⁶, whatever the number of miners.
    """
    if entry.failed or not entry.audited:
        return 0
    return SCORE_UNIT * entry.work * entry.valid // entry.audited


def weights(inputs: Mapping[int, ScoreInputs], rule: WeightRule) -> dict[int, int]:
    """u16 weights by UID, in UID order, summing to exactly 65,535.

    With m = 1 − burn share and rel_i = (U_i / (12 · cap))⁴: weight_i = m · min(1, Σ rel) · rel_i / Σ rel in capped mode,
    m · rel_i / Σ rel (the shares of U_i⁴) in uncapped mode; the rest is the burn UID's, all of it if nobody scores. The sum is
    kept by largest remainder over all UIDs, the burn UID's included, ties to the lower UID.

    Args:
        inputs: score inputs by UID, one per hotkey registered now. The burn UID is added if it is not among them.
    """
    if not 0 <= rule.burn_share_permille <= 1000:
        raise ValueError(f"a burn share of {rule.burn_share_permille} per mille")
    powers = {uid: score_units(inputs[uid]) ** SUPERLINEAR_EXPONENT for uid in sorted(inputs)}
    # min(1, Σ rel) / Σ rel = 1 / max(1, Σ rel), here in units of the largest U⁴ there can be.
    total = sum(powers.values())
    if rule.weight_mode == "capped" or total == 0:
        total = max(total, MAX_SCORE**SUPERLINEAR_EXPONENT)
    scale = WEIGHT_TOTAL * (1000 - rule.burn_share_permille)
    unit = 1000 * total  # one of 65,535 parts of all weight
    numerators = {uid: scale * power for uid, power in powers.items()}
    numerators[rule.burn_uid] = numerators.get(rule.burn_uid, 0) + WEIGHT_TOTAL * unit - sum(numerators.values())
    return _largest_remainder(numerators, unit)


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
