"""Gradient work, section 11: what a miner's last rounds are worth, in exact integers.

F = U · (floor + min(50, ordinal)) in integers of 10⁻⁹. U is the volume of the last 12 rounds, in sequences, times the share
that audits of the last 36 found above the baseline. A failure means 0 for 14 rounds; one that a replay shows, or that dodges a
replay, for as many as 14 replays are expected in: a cheat that any replay sees keeps the same small part of its pay at every
rate. The factor of own data is 1 in this version (`own_test`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from grail_core.protocol.constants import SCORE_WINDOWS
from grail_core.protocol.gradient.own_test import Advantage
from grail_core.protocol.gradient.rating import NANO, START, Rating
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.seal import MAX_DECLARED
from grail_core.protocol.gradient.spec import PERMILLE, GradientSpec
from grail_core.protocol.tally import tally
from grail_core.protocol.types import Digest, Window

MEMORY_ROUNDS: Final = 36
"""Rounds whose audits count; the last 12 of them count for volume."""
FAILED_ROUNDS: Final = 14
MOST_ORDINAL: Final = 50


@dataclass(frozen=True)
class MinerRound:
    """What one round counts for one miner: the sibling of `scores.MinerWindow`."""

    window: Window
    declared: int  # sequences
    active: bool  # accepted, or revealed and not selected: volume
    audited: bool  # checked to a conclusion, or failed
    valid: int  # its declared if it was checked, accepted and above the baseline, else 0
    advantage: Advantage | None = None  # where its own sequences were scored
    replayed: bool = False  # and the replay accepted

    def __post_init__(self) -> None:
        if not 0 <= self.declared <= MAX_DECLARED or not 0 <= self.valid <= self.declared:
            raise ValueError(f"round {self.window}: {self.declared} declared, {self.valid} valid")


@dataclass(frozen=True)
class Standing:
    """What a hotkey has after a round: everything that its F is made of, and what its next file is held to."""

    rating: Rating = START
    work: int = 0  # sequences declared in the active ones of the last 12 rounds
    audited: int = 0  # declared in the audited ones of the last 36
    valid: int = 0  # of which so many were found valid
    unpaid_until: Window = Window(0)  # the first round in which its failures no longer count  # noqa: RUF009
    feedback: Digest | None = ZERO_ROOT  # `feedback_after` of its last file; None: a sight was missed since
    checked: bool = False  # was it ever checked?

    def __post_init__(self) -> None:
        if not 0 <= self.valid <= self.audited <= MEMORY_ROUNDS * MAX_DECLARED:
            raise ValueError(f"valid: {self.valid} of {self.audited} audited")
        if not 0 <= self.work <= SCORE_WINDOWS * MAX_DECLARED or self.unpaid_until < 0:
            raise ValueError(f"work: {self.work}, unpaid_until: {self.unpaid_until}")
        if self.feedback is not None and len(self.feedback) != 32:
            raise ValueError("feedback: 32 bytes are expected")

    def failing(self, window: Window) -> bool:
        """Does a failure still count in this round?"""
        return self.unpaid_until > window

    def power(self, spec: GradientSpec, window: Window) -> int:
        """F, rounded down; 0 without an audit or while a failure counts. At most `largest_power`."""
        if not self.audited or self.failing(window):
            return 0
        worth = spec.floor * NANO + min(MOST_ORDINAL * NANO, self.rating.ordinal)
        return self.work * self.valid * worth // self.audited


def largest_power(spec: GradientSpec) -> int:
    """Of a miner that does all it can be paid for, and has the best rating that counts."""
    return SCORE_WINDOWS * spec.assigned * (spec.floor + MOST_ORDINAL) * NANO


def failure_rounds(spec: GradientSpec, *, by_replay: bool) -> int:
    """For how many rounds a failure means 0, itself among them: 14, or ⌈14,000 / replay_permille⌉ of what a replay shows.

    Args:
        by_replay: a replay rejected, or the coin fell and the file or what it must open was not there in time.
    """
    if not by_replay or not spec.replay_permille:
        return FAILED_ROUNDS
    return -(-FAILED_ROUNDS * PERMILLE // spec.replay_permille)


def volume(spec: GradientSpec, rounds: Iterable[MinerRound], window: Window) -> tuple[int, int, int]:
    """(work, audited, valid) as of this round, in sequences, each round up to H · b_most.

    Args:
        rounds: one miner's, in ascending order; those outside the memory are passed over.
    """
    found = tally(rounds, window, spacing=spec.round_blocks, cap=spec.assigned, work=SCORE_WINDOWS, memory=MEMORY_ROUNDS)
    return found.work, found.declared, found.valid
