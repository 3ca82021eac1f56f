"""One window learned from, or taken back: what the service does, and what anybody who repeats it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.alarms import Alarm, raised, remembered, taken_back
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.signs import RolloutMeans, rollout_means, signs_of
from grail_trainer.learning.statistics import UpdateStatistics
from grail_trainer.learning.update import update


@dataclass(frozen=True)
class LearnedWindow:
    """`undone`: why the weights are what they were before, empty if they are not. `alarms`: what was raised, and done."""

    statistics: UpdateStatistics
    undone: str = ""
    alarms: tuple[Alarm, ...] = ()
    rollouts: RolloutMeans = field(default_factory=RolloutMeans)


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
    """Update the masters; what leaves them unfit to be published, and what an alarm says so of, is taken back.

    A pure function of state and arguments. Alarms compare the window with those before it, of which `masters.scalars` holds
    what they need; what they change (the learning rate's factor, that memory) lies there too.
    """
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
    means = rollout_means(groups, token_limit=token_limit)
    signs = signs_of(statistics, means)
    finite = masters.finite()
    alarms = raised(signs, settings.alarms, masters.scalars)
    if not finite:
        alarms = (NOT_FINITE, *alarms)
    undoing = taken_back(alarms)
    if undoing is not None:
        masters.restore(before)
    masters.scalars = remembered(signs, settings.alarms, masters.scalars, alarms, window=window)
    undone = "" if undoing is None else f"{undoing.name}: {undoing.detail}"
    return LearnedWindow(statistics, undone, alarms, means)


NOT_FINITE = Alarm("not_finite", "undo", 1.0, 0.0, "a weight is not finite any more")
"""Whatever is chosen: such weights cannot be published."""
