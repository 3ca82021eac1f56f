"""The rows of the table: what somebody may try who wants to be paid for less than honest work.

Each is a small class whose instances plan a window from what the hotkey knows of itself (`plans.View`). Faults brought about
on demand are in `faults_on_demand`, guesses at the next audit in `dodging`. The names of the rows are the table's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import UNIQUE_ROLLOUTS_CAP
from grail_validator.simulation.plans import FULL_GROUPS, Bools, IfDrawn, Plans, Strategy, View, plans

ONE_GROUP = 1e-9
"""As a size: rounded up to one group."""
LOOKBACK = -1
"""As a span of idling: for as long as the failure's look-back lasts."""


def failed(view: View) -> Bools:
    """The hotkey is worth less than a new one."""
    return view.failed > 0


@dataclass(frozen=True)
class Sized:
    """Honest files of one size."""

    size: float

    def __call__(self, view: View) -> Plans:
        return plans(view, self.size)


@dataclass(frozen=True)
class JunkIn:
    """Full files, in this share of the windows junk."""

    share: float
    if_drawn: IfDrawn = IfDrawn.JUDGED

    def __call__(self, view: View) -> Plans:
        junk = view.chance(self.share)
        return plans(view, junk=junk, if_drawn=np.where(junk, self.if_drawn, IfDrawn.JUDGED))


@dataclass(frozen=True)
class CopiedIn:
    """In this share of the windows another miner's rollouts, read from its bucket and sealed as one's own; idle once caught.

    They were drawn from the other's seeds, so any rollout that is looked at gives them away: junk that costs nothing.
    """

    share: float

    def __call__(self, view: View) -> Plans:
        return plans(view, np.where(view.in_lookback, 0, 1.0), junk=view.chance(self.share))


@dataclass(frozen=True)
class UnreadableIn:
    """In this share of the windows the seal of a file that cannot be parsed, or that is not there: failed where drawn."""

    share: float

    def __call__(self, view: View) -> Plans:
        bad = view.chance(self.share)
        return plans(view, junk=bad, if_drawn=np.where(bad, IfDrawn.NO_FILE, IfDrawn.JUDGED))


@dataclass(frozen=True)
class WorkingIn:
    """Honest and full in this share of the windows, at random; else away, or with a file of `small`."""

    share: float
    small: float = 0.0

    def __call__(self, view: View) -> Plans:
        return plans(view, np.where(view.chance(self.share), 1.0, self.small))


@dataclass(frozen=True)
class OnAndOff:
    """Honest: full for `on` windows, `small` for `off`. Replicas stand at different places of the cycle."""

    on: int
    off: int
    small: float = 0.0

    def __call__(self, view: View) -> Plans:
        phase = (view.t + np.arange(view.replicas) * 7) % (self.on + self.off)
        return plans(view, np.where(phase < self.on, 1.0, self.small))


@dataclass(frozen=True)
class TrustSpent:
    """Honest files of `size` until so many clean audits stand, then full junk until caught, then idle."""

    audits: int
    idle: int
    size: float = 1.0

    def __call__(self, view: View) -> Plans:
        junk = (view.valid >= self.audits) & (view.failed == 0)
        files = np.where(junk, 1.0, self.size)
        away = view.in_lookback if self.idle == LOOKBACK else view.since < self.idle
        return plans(view, np.where(away, 0, files), junk=junk)


@dataclass(frozen=True)
class JunkInTheLookback:
    """Idle, then junk at the floor's chance while the look-back lasts, so that work stands when it ends."""

    audits: int
    idle: int

    def __call__(self, view: View) -> Plans:
        junk = view.in_lookback | (view.valid >= self.audits)
        return plans(view, np.where(view.since < self.idle, 0, 1.0), junk=junk)


@dataclass(frozen=True)
class JunkGroups:
    """Junk in this share of the groups of every file, at least one; idle after a failure, or where `idles` is not."""

    share: float
    size: float = 1.0
    idles: bool = True

    def __call__(self, view: View) -> Plans:
        return plans(view, np.where(view.in_lookback & self.idles, 0, self.size), junk=self.share)


@dataclass(frozen=True)
class MixedSizes:
    """Full files in a share of the windows, small ones else; one of the two is junk."""

    full: float
    small: float
    junk_is_full: bool

    def __call__(self, view: View) -> Plans:
        big = view.chance(self.full)
        return plans(view, np.where(big, 1.0, self.small), junk=big if self.junk_is_full else ~big)


@dataclass(frozen=True)
class FloorByATinyFailure:
    """Trusted, fail with a file of one group, which costs the products nothing; idle in the look-back, and for its last windows
    seal full junk at the floor's chance, so that work stands when it ends; then honest until the audits stand again."""

    audits: int
    junk_windows: int

    def __call__(self, view: View) -> Plans:
        spent = (view.valid >= self.audits) & ~view.in_lookback
        junk = view.in_lookback & (view.left <= self.junk_windows)
        size = np.where(spent, ONE_GROUP, np.where(view.in_lookback & ~junk, 0, 1.0))
        return plans(view, size, junk=spent | junk)


@dataclass(frozen=True)
class WoundDown:
    """Honest, junk once so many audits stand, absent for the last windows of a hotkey's life, which older work still pays."""

    age: int
    absent: int
    audits: int

    def __call__(self, view: View) -> Plans:
        junk = (view.valid >= self.audits) & (view.failed == 0)
        return plans(view, np.where(view.age >= self.age - self.absent, 0, 1.0), junk=junk)


@dataclass(frozen=True)
class Misfortune:
    """Honest full-time work to which this happens: to an audit, to a window, to a seal's file, on the validator's side.

    `late`: worked for, and sealed after the deadline. `equal`: share of the rollouts that are equal to counted ones.
    """

    false_reject: float = 0.0
    absent: float = 0.0
    late: float = 0.0
    no_file: float = 0.0
    fault: float = 0.0
    equal: float = 0.0

    def __call__(self, view: View) -> Plans:
        faulty = np.where(view.chance(self.fault), IfDrawn.INCONCLUSIVE, IfDrawn.JUDGED)
        if_drawn = np.where(view.chance(self.no_file), IfDrawn.NO_FILE, faulty)
        size, late = np.where(view.chance(self.absent), 0, 1.0), view.chance(self.late)
        return plans(
            view,
            np.where(late, 0, size),
            if_drawn=if_drawn,
            false_reject=self.false_reject,
            equal=self.equal,
            wasted=np.where(late, size, 0),
        )


@dataclass(frozen=True)
class RandomPolicy:
    """Over size, own audits, failures, idling and new hotkeys. `mixed` is drawn from its number."""

    audits: int
    volume: float
    share: float
    junk_size: float
    size: float
    idle: int
    most_failed: int
    rotates: bool
    junk_in_lookback: bool

    @classmethod
    def mixed(cls, number: int) -> Strategy:
        g = np.random.default_rng(1000 + number)
        policy = cls(
            audits=int(g.integers(0, 14)),
            volume=float(g.choice([0, 1, 2, 4, 6])),
            share=float(g.choice([0.1, 0.3, 0.6, 1])),
            junk_size=float(g.choice([0.3, 0.6, 0.8, 1])),
            size=float(g.choice([ONE_GROUP, 0.3, 0.6, 1, 1, 1])),
            idle=int(g.choice([0, 8, 14, 24, 30, 36, 60])),
            most_failed=int(g.choice([0, 1, 99])),
            rotates=bool(g.integers(2)),
            junk_in_lookback=bool(g.integers(2)),
        )
        return Strategy(policy.name, policy, failed if policy.rotates else None)

    @property
    def name(self) -> str:
        words = (
            f"junk {self.junk_size} in {self.share:g} of windows from {self.audits} audits, volume {self.volume:g}, "
            f"failures ≤ {self.most_failed}"
        )
        after = "new hotkey" if self.rotates else f"idle {self.idle}, look-back {'junk' if self.junk_in_lookback else 'honest'}"
        return f"{words}; else {self.size:.2g}; {after}"

    def __call__(self, view: View) -> Plans:
        enough = (view.valid >= self.audits) & (view.supported >= self.volume * UNIQUE_ROLLOUTS_CAP)
        trusted = enough & (view.failed <= self.most_failed)
        junk = (trusted & view.chance(self.share)) | (view.in_lookback & self.junk_in_lookback)
        files = np.where(junk, self.junk_size, self.size)
        return plans(view, files if self.rotates else np.where(view.since < self.idle, 0, files), junk=junk)


def mixes_of_sizes() -> list[Strategy]:
    """Full files in some windows, smaller ones in the others, junk in one kind."""
    made = []
    for full in (0.2, 0.5, 0.8, 0.95):
        for small in (ONE_GROUP, 0.05, 0.2, 0.5):
            for big in (True, False):
                words = f"full in {full:g} of windows, else {max(small, 1 / FULL_GROUPS):.2g}"
                name = f"{words}, junk in the {'full' if big else 'small'} ones"
                made.append(Strategy(name, MixedSizes(full, small, big)))
    return made
