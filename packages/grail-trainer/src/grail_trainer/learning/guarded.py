"""One window learned from, or taken back: what the service does, and what anybody who repeats it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from grail_core.errors import OutOfMemoryError
from grail_core.model.memory import is_exhausted
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.alarms import Alarm, raised, remembered, taken_back
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.learning.signs import RolloutMeans, WindowSigns, rollout_means, signs_of
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
    kept: Callable[[], Mapping[str, Tensor]] | None = None,
) -> LearnedWindow:
    """Update the masters; what leaves them unfit to be published, and what an alarm says so of, is taken back.

    A pure function of state and arguments. Alarms compare the window with those before it, of which `masters.scalars` holds
    what they need; what they change (the learning rate's factor, that memory) lies there too.

    Args:
        kept: reads what `masters.tensors()` is now from where it is kept anyway, should it have to be taken back to; without it
            a copy is held meanwhile, as large as masters and moments are.

    Raises:
        OutOfMemoryError: memory ran out; the masters are what they were before.
    """
    before = kept or partial(dict, masters.tensors())
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
            masters.restore(before())
        if is_exhausted(error):
            raise _no_memory(window, settings) from error
        raise
    means = rollout_means(groups)
    # The first rank's, on every rank: all take the update back, and all slow down, or none does.
    signs = WindowSigns(**masters.ranks.share(asdict(signs_of(statistics, means))))
    alarms = (
        *_unfit(masters, statistics, settings.optimiser.max_bad_steps),
        *raised(signs, settings.alarms, masters.scalars),
    )
    undoing = taken_back(alarms)
    if undoing is not None:
        masters.restore(before())
    masters.scalars = remembered(signs, settings.alarms, masters.scalars, alarms, window=window)
    undone = "" if undoing is None else f"{undoing.name}: {undoing.detail}"
    return LearnedWindow(statistics, undone, alarms, means)


NOT_FINITE = Alarm("not_finite", "undo", 1.0, 0.0, "a weight is not finite any more")
"""Whatever is chosen: such weights cannot be published."""


def _unfit(masters: Masters, statistics: UpdateStatistics, max_bad_steps: int) -> tuple[Alarm, ...]:
    """What takes an update back whatever alarms are chosen."""
    bad = statistics.steps_refused_in_row
    if bad >= max_bad_steps:
        detail = f"{bad} steps in a row had a loss or gradient that is no number"
        return (Alarm("bad_steps", "undo", float(bad), float(max_bad_steps), detail),)
    return () if masters.finite() else (NOT_FINITE,)


def _no_memory(window: int, settings: HyperParameters) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"there was no memory for the update of window {window}; nothing of it was kept",
        where=f"passes of up to {settings.update.tokens_per_pass:,} tokens",
        hint="fewer tokens a pass (--tokens-per-pass), --lora-rank or --master-dtype bfloat16-stochastic need less",
    )
