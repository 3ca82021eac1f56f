"""Which sizes are studied, with how much of what: the plan, in one table.

A size has its models (two seeds where minutes allow, earlier checkpoints of the trained ones), how much honest work the table
is fitted to, how much is held out, and which deviations are measured at what length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tooling.studies.power_sizes.models import FINAL, ModelRecipe

_THIRDS = (333, 667)


@dataclass(frozen=True)
class StudiedSize:
    """One size. Groups have 16 rollouts.

    Attributes:
        models: of which the first is judged; the table is fitted to the checkpoints of all.
        fitted_groups: of each checkpoint, for the table; 0 where the size is only judged by it.
        held_out_groups: honest work that is judged, of the first model.
        compared_groups: of those, how many are measured under the named alternatives on every rollout.
        deviation_groups, limit: rollouts of a deviation and their completion tokens. honest_limit: of honest work.
        without: deviations that are left out, by words of their names or threats: what is only for the record, or takes
            passes that a large model has no minutes for. only: names of those that are measured, where not all are.
        other_machines: groups that are also proved under other instruction sets.
    """

    name: str
    models: Sequence[ModelRecipe]
    fitted_groups: int
    held_out_groups: int
    compared_groups: int
    deviation_groups: int
    limit: int
    honest_limit: int = 32
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    other_machines: int = 0

    @property
    def judged(self) -> ModelRecipe:
        return self.models[0]


def checkpoints_of(recipe: ModelRecipe) -> list[str]:
    """Names of the folders of a model, the final one last."""
    return [*(f"early-{share}" for share in recipe.early), FINAL]


_RECORD = ("lr 1e-6", "lr 3e-6", "steering", "B7")
_TELLING = (
    *("sketches of another model", "hidden states of the layer before"),
    *("8-bit weights, per channel", "8-bit weights, groups of 64 with zero point", "4-bit weights, per channel"),
    *("8-bit weights, float32 activations", "previous checkpoint, lr 1e-5"),
    *("4-bit generation, right prefill", "8-bit generation, right prefill"),
    *("8-bit generation by groups of 64 with zero point, right prefill", "wrong seeds"),
    *("temperature × 0.9", "temperature × 0.95", "top-p 0.95", "top-p 0.99"),
)
_FEW = (_TELLING[2], _TELLING[3], _TELLING[4], "4-bit generation, right prefill", "wrong seeds", "temperature × 0.9")
"""What tells most of weights that nobody trained: the rest is seen by margins of a hundred at every size."""

_4x128 = ModelRecipe(4, 128, 4, 2, 352, seed=11, steps=450, early=_THIRDS)
_6x256 = ModelRecipe(6, 256, 4, 2, 704, seed=11, steps=100, early=(500,))
_12x512 = ModelRecipe(12, 512, 8, 2, 1408, seed=11, steps=300, batch=8, rate_millionths=1500, early=_THIRDS)
_12x512_RANDOM = ModelRecipe(12, 512, 8, 2, 1408, seed=31, vocabulary=32_000)
_24x896_RANDOM = ModelRecipe(24, 896, 14, 2, 4864, seed=31, vocabulary=151_936, tied=True)

SIZES: Final = {
    size.name: size
    for size in (
        StudiedSize("4x128", (_4x128, replace(_4x128, seed=21, steps=225)), 12, 20, 8, 8, 96, other_machines=4),
        StudiedSize("6x256", (_6x256, replace(_6x256, seed=21, steps=50)), 8, 36, 4, 4, 64, without=_RECORD, other_machines=2),
        StudiedSize(
            "12x512",
            (_12x512, replace(_12x512, seed=21, steps=150)),
            4,
            36,
            4,
            2,
            64,
            without=(*_RECORD, "constant", "low-rank", "5, eager"),
            other_machines=1,
        ),
        StudiedSize("12x512 random", (_12x512_RANDOM, replace(_12x512_RANDOM, seed=32)), 4, 4, 4, 2, 64, only=_TELLING),
        StudiedSize("24x896 random", (_24x896_RANDOM,), 0, 2, 1, 1, 32, only=_FEW),
    )
}
"""By name. Random ones stand for weights with outliers, which minutes of training do not make."""


def smaller_than(recipe: ModelRecipe) -> ModelRecipe:
    """A model of a quarter the width or less with the same vocabulary."""
    shape: dict[str, Any] = {"layers": 2, "hidden": 64, "heads": 4, "key_value_heads": 2, "intermediate": 176, "early": ()}
    return replace(recipe, **shape, steps=300 if recipe.trained else 0, batch=16, rate_millionths=3000, seed=12)


def stranger_to(recipe: ModelRecipe) -> ModelRecipe:
    """Another model of the same width: its sketches have the right form."""
    return replace(recipe, layers=2, steps=0, early=(), seed=13)
