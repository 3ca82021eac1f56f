"""Advantages of one group of rollouts: computed once per group, never re-scaled by what else is in a batch.

`standardised` is GRPO's (Shao et al. 2024, section 4.1.1), `centred` that of Dr. GRPO (Liu et al. 2025), which leaves the
scale of the rewards alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from grail_trainer.hyper_parameters import AdvantageKind

LEAST_DEVIATION = 1e-6
"""A group whose rewards deviate less (population standard deviation) says nothing and is dropped."""

_EPSILON = 1e-4  # keeps a group of nearly equal rewards from being blown up


def varies(rewards: Sequence[float]) -> bool:
    """Can this group teach anything?"""
    return bool(np.std(np.asarray(rewards, dtype=np.float64)) >= LEAST_DEVIATION)


def group_advantages(rewards: Sequence[float], kind: AdvantageKind) -> npt.NDArray[np.float64]:
    """float64 [rollouts]; sums to zero. A group that does not vary has zeros only."""
    values: npt.NDArray[np.float64] = np.asarray(rewards, dtype=np.float64)
    centred: npt.NDArray[np.float64] = values - values.mean()
    if not varies(rewards):
        return np.zeros_like(values)
    if kind == "centred":
        return centred
    standardised: npt.NDArray[np.float64] = centred / (values.std() + _EPSILON)
    return standardised
