"""Section 3's gaps: what the best choice of problems earns, with the protocol's own counts.

A miner knows what each group of its list will cost, leaves out the dearest ones and ends its file where it declares most. Its
weight at equal cost is (declared per cost, relative to honest work)⁴. Costs are lognormal; a token limit cuts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM, SUPERLINEAR_EXPONENT
from grail_core.protocol.rollouts.groups import allowed_gaps, best_prefix, declared_rollouts
from grail_validator.simulation.plans import FULL_GROUPS, Floats

SPREADS = (0.5, 0.8, 1.0)
UNCUT = 1e9
CUTS = (8.0, UNCUT)  # means
_MOST_UNCUT = 1.06
"""Stated exception: who knows what each group will cost, where nothing cuts that."""
_MOST_BY_LIST = 1.01
"""The same where a limit cuts costs, and each list has its own choice."""


@dataclass(frozen=True)
class Skipping:
    """Weight at equal cost of the best skipping, honest work being 1; ± is half of a 95 % interval over lists."""

    spread: float  # σ of the logarithm of a group's cost
    cut: float
    gaps: int  # the number that does best, the same for every list
    weight: float
    weight_pm: float
    adaptive: float  # where each list has its own best number
    adaptive_pm: float
    lists: int

    @property
    def paid_too_much(self) -> list[str]:
        """Lines for what has an interval above its bound."""
        cut = self.cut < UNCUT
        choices = (
            ("the same for every list", self.weight, self.weight_pm, 1.0 if cut else _MOST_UNCUT),
            ("each list its own", self.adaptive, self.adaptive_pm, _MOST_BY_LIST if cut else _MOST_UNCUT),
        )
        return [
            f"skipping of groups of σ = {self.spread:g}, {what}: {weight:.3f} ± {pm:.3f}; at most {bound:g}"
            for what, weight, pm, bound in choices
            if weight - pm > bound
        ]


def list_costs(spread: float, cut: float, groups: int, rng: np.random.Generator) -> Floats:
    """Costs of one assigned list; their mean is 1 before the cut."""
    return np.minimum(rng.lognormal(-spread * spread / 2, spread, groups), cut)


def weights_by_gaps(costs: Floats) -> Floats:
    """Weight at equal cost, for every number of dearest groups left out that is allowed."""
    groups = len(costs)
    dearest = np.argsort(-costs, kind="stable")
    found = []
    for gaps in range(allowed_gaps(groups) + 1):
        ids = np.sort(dearest[gaps:])
        kept = ids[: best_prefix(ids.tolist())]
        span = int(kept[-1]) + 1
        declared = declared_rollouts(len(kept), span - len(kept))
        share = declared / (ROLLOUTS_PER_PROBLEM * groups)
        found.append((share / (costs[kept].sum() / costs.sum())) ** SUPERLINEAR_EXPONENT)
    return np.array(found)


def best_skipping(spread: float, cut: float, lists: int, seed: int, groups: int = FULL_GROUPS) -> Skipping:
    """Of `lists` lists of `groups` groups."""
    rng = np.random.default_rng(seed)
    by_list = np.array([weights_by_gaps(list_costs(spread, cut, groups, rng)) for _ in range(lists)])
    best, adaptive = int(by_list.mean(0).argmax()), by_list.max(1)

    def pm(values: Floats) -> float:
        return float(1.96 * values.std(ddof=1) / lists**0.5)

    chosen = by_list[:, best]
    return Skipping(spread, cut, best, float(chosen.mean()), pm(chosen), float(adaptive.mean()), pm(adaptive), lists)
