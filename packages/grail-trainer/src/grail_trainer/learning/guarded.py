"""One window learned from, or taken back: what the service does, and what anybody who repeats it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.statistics import UpdateStatistics
from grail_trainer.learning.update import update


@dataclass(frozen=True)
class LearnedWindow:
    """`undone`: why the weights are what they were before, empty if they are not."""

    statistics: UpdateStatistics
    undone: str = ""


def learn_window(
    masters: Masters,
    groups: Sequence[RolloutGroup],
    settings: HyperParameters,
    *,
    window: int,
    temperature: float,
    token_limit: int,
    reference: Any | None = None,
) -> LearnedWindow:
    """Update the masters; what leaves them unfit to be published is taken back. A pure function of state and arguments."""
    before = masters.tensors()
    statistics = update(
        masters,
        groups,
        settings.update,
        window=window,
        temperature=temperature,
        token_limit=token_limit,
        reference=reference,
    )
    if masters.finite():
        return LearnedWindow(statistics)
    masters.restore(before)
    return LearnedWindow(statistics, "a weight is not finite any more")
