"""What a deviation is: a name, the threat it stands for, and what the miner does at the bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grail_core.proof.batch import RolloutProof
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.deviations.workbench import Bench

Produced = tuple[list[Rollout], list[RolloutProof]]
"""Rollouts as the miner's file would hold them, and its claims about them."""

Produce = Callable[[Bench], Produced]


@dataclass(frozen=True)
class Deviation:
    """`threat` is an id of the threat model; `candidates` says how many completions are drawn for one submitted.

    `pool`: how many times as many rollouts are collected; what takes more than a window to see is measured on more.
    `studied`: whether the power study has a row of it; a check without an error rate needs none.
    """

    name: str
    threat: str
    produce: Produce
    candidates: int = 1
    pool: int = 1
    studied: bool = True
