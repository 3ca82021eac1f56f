"""Advantages of one group of rollouts: computed once per group, never re-scaled by what else is in a batch.

With r the rewards of n rollouts and m their mean:

| kind | advantage | from |
| --- | --- | --- |
| standardised | (r − m) / (standard deviation + ε) | GRPO, Shao et al. 2024, section 4.1.1 |
| centred | r − m | Dr. GRPO, Liu et al. 2025, which leaves the scale of the rewards alone |
| rloo | r − mean of the n − 1 others = (r − m) · n / (n − 1) | REINFORCE leave-one-out, Ahmadian et al. 2024; without bias |
| maxrl | (r − m) / m | MaxRL, Tajwar et al. 2026: of E log(success) in place of E success, so that rare success weighs most |

MaxRL is about rewards of 0 and 1; other rewards are taken as they are from 0 on, and those below 0 as 0. A group's advantage is
then at most n − 1.
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
    if kind == "maxrl":
        values = np.maximum(values, 0.0)
    if not varies(values.tolist()):
        return np.zeros_like(values)
    mean = values.mean()
    centred: npt.NDArray[np.float64] = values - mean
    if kind == "standardised":
        return _scaled(centred, values.std() + _EPSILON)
    if kind == "rloo":
        return _scaled(centred, (len(values) - 1) / len(values))
    return _scaled(centred, mean) if kind == "maxrl" else centred


def _scaled(values: npt.NDArray[np.float64], by: float) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = values / by
    return scaled
