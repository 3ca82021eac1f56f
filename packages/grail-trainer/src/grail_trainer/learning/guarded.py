"""One window learned from, or taken back: what the service does, and what anybody who repeats it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grail_core.errors import OutOfMemoryError
from grail_core.model.memory import is_exhausted
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
    """Update the masters; what leaves them unfit to be published is taken back. A pure function of state and arguments.

    Raises:
        OutOfMemoryError: memory ran out; the masters are what they were before.
    """
    before = masters.tensors()
    try:
        statistics = update(
            masters,
            groups,
            settings.update,
            window=window,
            temperature=temperature,
            token_limit=token_limit,
            reference=reference,
        )
    except Exception as error:
        if masters.ranks.count == 1:  # others cannot be asked now: all end, and what was learned before is on disk
            masters.restore(before)
        if is_exhausted(error):
            raise _no_memory(window, settings) from error
        raise
    undone = _why_undone(masters, statistics, settings)
    if undone:
        masters.restore(before)
    return LearnedWindow(statistics, undone)


def _why_undone(masters: Masters, statistics: UpdateStatistics, settings: HyperParameters) -> str:
    if statistics.steps_refused_in_row >= settings.optimiser.max_bad_steps:
        return f"{statistics.steps_refused_in_row} steps in a row had a loss or gradient that is no number"
    return "" if masters.finite() else "a weight is not finite any more"


def _no_memory(window: int, settings: HyperParameters) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"there was no memory for the update of window {window}; nothing of it was kept",
        where=f"passes of up to {settings.update.tokens_per_pass:,} tokens",
        hint="fewer tokens a pass (--tokens-per-pass), --lora-rank or --master-dtype bfloat16-stochastic need less",
    )
