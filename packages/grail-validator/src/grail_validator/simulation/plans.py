"""What a hotkey does in a window, and what it may know of itself before it decides.

Both are arrays over replicas of one strategy, so that the same strategy runs by the protocol's functions and in float64. A
strategy knows its own audits, since verdicts are public, and never a window's coin, since that is drawn after first sight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM, UNIQUE_ROLLOUTS_CAP

FULL_GROUPS = -(-UNIQUE_ROLLOUTS_CAP // ROLLOUTS_PER_PROBLEM)
"""Groups of the smallest file that reaches the cap: honest full-time work of one window, and the unit of cost."""

NEVER = 10**6
"""Windows since a failure, where there was none."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class IfDrawn(IntEnum):
    """What becomes of the window if its coin falls."""

    JUDGED = 0  # the file is checked: junk rejects where the sample touches it
    NO_FILE = 1  # sealed, and no file can be had: failed
    INCONCLUSIVE = 2  # a fault of the validator's, brought about or not


@dataclass(frozen=True)
class View:
    """What a hotkey knows before window `t`, one value a replica. Audits are those of the memory that still count then."""

    t: int
    rng: np.random.Generator
    audits: Ints
    valid: Ints  # audits among them with something valid
    supported: Ints  # Σv, rollouts
    work: Ints  # Σ of the last 11 windows, rollouts
    since: Ints  # windows since the last failure, 0 right after it
    since_audit: Ints  # windows since the last audit, 0 right after it
    in_lookback: Bools
    left: Ints  # windows of the look-back still to come, this one among them
    inconclusive: Ints  # drawn windows of the memory that were
    age: Ints  # windows since this hotkey registered

    @property
    def replicas(self) -> int:
        return len(self.audits)

    @property
    def failed(self) -> Ints:
        """Audits of the memory with nothing valid."""
        return self.audits - self.valid

    def chance(self, share: float) -> Bools:
        """True in this share of windows, independently."""
        return self.rng.random(self.replicas) < share


@dataclass(frozen=True)
class Plans:
    """What each replica does. `groups` 0 is an absent window; junk costs nothing."""

    groups: Ints  # sealed
    junk: Ints  # of them that nobody worked for
    equal: Ints  # of them that were worked for, and whose rollouts are equal to ones that were counted
    wasted: Ints  # groups that were worked for and not sealed in time
    if_drawn: Ints  # `IfDrawn`
    false_reject: Floats  # chance that an audit rejects honest work

    @property
    def cost(self) -> Floats:
        """Honest full-time work is 1."""
        return (self.groups - self.junk + self.wasted) / FULL_GROUPS


def plans(
    view: View,
    size: npt.ArrayLike = 1.0,
    *,
    junk: npt.ArrayLike = 0.0,
    if_drawn: npt.ArrayLike = IfDrawn.JUDGED,
    false_reject: npt.ArrayLike = 0.0,
    equal: npt.ArrayLike = 0.0,
    wasted: npt.ArrayLike = 0.0,
) -> Plans:
    """A file of `size` times the cap, at least one group where it is not 0, of which the share `junk` is junk.

    A share above 0 is at least one group. `wasted` is a size: work that came too late to be sealed.
    """
    shape = view.replicas

    def groups_of(share: npt.ArrayLike, of: Ints | int) -> Ints:
        wanted = np.broadcast_to(np.asarray(share, dtype=np.float64), shape)
        return np.where(wanted > 0, np.maximum(1, np.rint(wanted * of)), 0).astype(np.int64)

    groups = groups_of(size, FULL_GROUPS)
    bad = np.minimum(groups, groups_of(junk, groups))
    return Plans(
        groups,
        bad,
        np.minimum(groups - bad, groups_of(equal, groups)),
        groups_of(wasted, FULL_GROUPS),
        np.broadcast_to(np.asarray(if_drawn, dtype=np.int64), shape),
        np.broadcast_to(np.asarray(false_reject, dtype=np.float64), shape),
    )


@dataclass(frozen=True)
class Strategy:
    """A row: what it plans, and when it leaves its hotkey for a new one, whose registration costs nothing here.

    `company` is how many other hotkeys of the same operator, all newcomers, seal the cap in a window to be drawn in its place.
    """

    name: str
    plan: Callable[[View], Plans]
    leaves: Callable[[View], Bools] | None = None
    company: Callable[[View], Ints] | None = None
