"""How much a study collects of every deviation, and of which models: the published size and a quick one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tooling.testing.models import language_model


@dataclass(frozen=True)
class Size:
    """How much is collected. Groups have 16 rollouts."""

    name: str
    policy: language_model.Shape
    smaller: language_model.Shape
    stranger: language_model.Shape
    deviation_groups: int  # a deviation
    honest_groups: int  # an honest numerics, with the named alternatives
    calibration_groups: int  # an honest numerics
    held_out_groups: int  # an honest numerics, short rollouts
    limit: int = 96
    short_limit: int = 16


FULL = Size("full", language_model.STUDY, language_model.SMALLER, language_model.STRANGER, 4, 8, 16, 184)


QUICK = Size(
    "quick",
    language_model.BRIEF,
    replace(language_model.BRIEF, hidden=32, layers=2, heads=2, intermediate=96, seed=12),
    replace(language_model.BRIEF, steps=1, seed=13),
    2,
    2,
    4,
    8,
    limit=48,
)
