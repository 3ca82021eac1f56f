"""How far a repeated update ends from the published one where two machines' numbers differ, and what is still the same update.

Float sums in another order differ in their last bits, and Adam's first steps turn a gradient's sign into a whole step, so two
honest machines end apart; but by little of the way that the update goes. An update from other groups or other settings ends
about as far away as it goes (two independent updates of one length: √2 of it). What was measured is in docs/trainer.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from grail_trainer.auditing.report import Distance

if TYPE_CHECKING:
    from torch import Tensor

CLOSE: Final = 0.25
"""Mean distance over the mean way: at most this is called close."""

_MASTER = "master."


def distance_of_masters(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Distance:
    """All three are `Masters.tensors()`: repeated, published, and where both were the same for the last time."""
    names = [name for name in theirs if name.startswith(_MASTER)]
    apart = [(ours[name] - theirs[name]).abs() for name in names]
    way = sum((theirs[name] - before[name]).abs().double().sum().item() for name in names)
    total = sum(one.double().sum().item() for one in apart)
    count = sum(one.numel() for one in apart)
    return Distance(
        relative=_ratio(total, way),
        masters_max=max((one.max().item() for one in apart if one.numel()), default=0.0),
        masters_mean=total / max(1, count),
    )


def distance_of_weights(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    ours_before: Mapping[str, Tensor],
    theirs_before: Mapping[str, Tensor],
) -> Distance:
    """All four are bfloat16 casts, as they are published: now, and where both were known before.

    The ways that both went since are compared, not where they end: what earlier windows left between them is no part of this
    update, and one that is taken back, or small, would be called another for it.
    """
    total = way = 0.0
    for name in ours:
        went = theirs[name].float() - theirs_before[name].float()
        way += went.abs().double().sum().item()
        total += (ours[name].float() - ours_before[name].float() - went).abs().double().sum().item()
    unequal = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
    return Distance(relative=_ratio(total, way), published_share=unequal / sum(one.numel() for one in ours.values()))


def _ratio(total: float, way: float) -> float:
    if way:
        return total / way
    return 0.0 if total == 0 else float("inf")
