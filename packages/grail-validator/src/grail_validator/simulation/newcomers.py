"""Section 10's beginning: what an honest newcomer is paid until its audits support it, alone and beside others' new hotkeys.

Newcomers share their chance of an audit, so whoever seals the cap with many new hotkeys delays the pay of honest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grail_core.protocol.constants import SCORE_WINDOWS
from grail_validator.simulation.measure import Size
from grail_validator.simulation.plans import Strategy, plans
from grail_validator.simulation.replicas import live_replicas

BESIDE = ((249, 0), (199, 50), (99, 0), (99, 150), (34, 0), (34, 215))
"""Honest full-time miners, and newcomers of others that seal the cap in every window."""
_STRETCHES = 4


@dataclass(frozen=True)
class Beginning:
    """Pay in each stretch of twelve windows, a full miner's being 1; ± is half of a 95 % interval."""

    honest: int
    others: int
    pay: tuple[float, ...]
    pay_pm: tuple[float, ...]


def beginning(honest: int, others: int, size: Size) -> Beginning:
    """An honest full-time newcomer's first 48 windows, lived eight times as often as a strategy of the table."""
    working = Strategy("a newcomer", plans, company=lambda view: np.full(view.replicas, others))
    lived = live_replicas(working, honest, _STRETCHES * SCORE_WINDOWS, 8 * size.replicas, size.seed)
    stretches = lived.pay.reshape(_STRETCHES, SCORE_WINDOWS, -1).mean(1)
    pm = 1.96 * stretches.std(axis=1, ddof=1) / stretches.shape[1] ** 0.5
    return Beginning(honest, others, tuple(map(float, stretches.mean(1))), tuple(map(float, pm)))
