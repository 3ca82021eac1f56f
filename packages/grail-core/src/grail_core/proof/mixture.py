"""Evidence over rollouts some of which may be honest: the wealth of a bettor who stakes a part of it on every one.

e_r ≥ 0 of one rollout with E[e_r] ≤ 1 for honest work gives W = mean over ε of Π_r (1 − ε + ε e_r), for which E[W] ≤ 1 too, so
that W ≥ 1/α happens with probability at most α (Markov). With ε = 1 alone a single honest rollout would erase the evidence of
all others; staking a tenth of the wealth loses a tenth there. All in logarithms: e_r can be e^1000.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

STAKES: Final = (1.0, 0.5, 0.2, 0.1)
"""ε."""

Floats = npt.NDArray[np.float64]


def log_mixture(log_e: Floats) -> float:
    """ln W of ln e_r [n], each finite or −∞. 0 where there is none."""
    parts = []
    for stake in STAKES:
        kept = math.log1p(-stake) if stake < 1 else -math.inf
        parts.append(math.fsum(np.logaddexp(kept, math.log(stake) + log_e)))
    return log_mean(parts)


def log_mean(parts: list[float]) -> float:
    """ln of the mean of exp(parts)."""
    highest = max(parts)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(part - highest) for part in parts) / len(parts))
