"""The table of reward components that each environment has exactly one of.

A component is a share in [0, 1] with a name and a weight; the reward is their weighted sum, so its bounds follow from the
table (weights are positive and sum to 1: every reward lies in [0, 1]). A change of weights is a new version of the
environment, and the version is in the spec digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from grail_core.environment import Grade, GradeOutcome


@dataclass(frozen=True)
class Component:
    """One part of a reward: `weight` of it is earned at value 1, `meaning` says for what."""

    name: str
    weight: Fraction
    meaning: str


class RewardTable:
    """The components of one environment.

    Raises:
        ValueError: weights that are not positive or do not sum to 1, or a name given twice.
    """

    bounds = (0.0, 1.0)

    def __init__(self, *components: Component) -> None:
        if any(component.weight <= 0 for component in components) or sum(c.weight for c in components) != 1:
            raise ValueError("the weights of reward components are positive and sum to 1")
        if len({component.name for component in components}) != len(components):
            raise ValueError("two reward components share a name")
        self.components = components

    def graded(
        self,
        values: Mapping[str, float],
        *,
        success: bool,
        well_formed: bool,
        detail: str = "",
        limit_share: float = 0.0,
    ) -> Grade:
        """The grade of one completion; a component not named is 0.

        Raises:
            ValueError: an unknown component, or a value outside [0, 1].
        """
        unknown = set(values) - {component.name for component in self.components}
        if unknown or not all(0.0 <= value <= 1.0 for value in values.values()):
            raise ValueError(f"component values must be in [0, 1] and known, not {dict(values)}")
        full = {component.name: float(values.get(component.name, 0.0)) for component in self.components}
        complete = all(value == 1.0 for value in full.values())
        reward = 1.0 if complete else sum(float(c.weight) * full[c.name] for c in self.components)
        return Grade(reward, success=success, well_formed=well_formed, components=full, detail=detail, limit_share=limit_share)

    def inconclusive(self, detail: str) -> Grade:
        """A grade that could not be made, through no fault of the answer."""
        return Grade(
            0.0,
            success=False,
            well_formed=False,
            components={component.name: 0.0 for component in self.components},
            outcome=GradeOutcome.INCONCLUSIVE,
            detail=detail,
        )


CORRECT_AND_FORMAT = RewardTable(
    Component("correct", Fraction(9, 10), "the answer is right"),
    Component("format", Fraction(1, 10), "an answer stands in the asked form, right or wrong"),
)
"""The table of environments with one right answer."""
