"""What a kernel earns: the table that validators compare, and the timed score that nobody compares.

A grade is a pure function of spec, problem and completion, so no clock has a part in `KERNEL_REWARDS`. How much faster a kernel
is than PyTorch differs from machine to machine; `timed_score` turns it into a number for whoever trains or ranks on one
machine, and no grade, claim or verdict holds it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from grail_envs.reward_table import Component, RewardTable

KERNEL_REWARDS: Final = RewardTable(
    Component(
        "correct", Fraction(8, 10), "it compiles, and its kernels write the right outputs for every draw of fresh inputs"
    ),
    Component("compiles", Fraction(1, 10), "every kernel that is launched compiles for sm_90"),
    Component(
        "format", Fraction(1, 10), "a Python block with ModelNew, a kernel and its launch, and nothing that may not be there"
    ),
)
MAX_SPEED_UP: Final = 3.0
OFFSET: Final = 1.8


def timed_score(*, correct: bool, speed_up: float) -> float:
    """sigmoid(1{correct} + min(speed-up, 3) − 1.8); a speed-up is the reference's time over the kernel's."""
    gain = min(max(speed_up, 0.0), MAX_SPEED_UP) if correct else 0.0
    return 1.0 / (1.0 + math.exp(OFFSET - gain - float(correct)))
