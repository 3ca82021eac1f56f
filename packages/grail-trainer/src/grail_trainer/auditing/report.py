"""What an audit says of a window: outcome, what was checked, what had to be taken as said."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from grail_core.protocol.types import Window


class Outcome(Enum):
    EQUAL = "equal"  # repeated to the bit
    CLOSE = "close"  # another machine's numbers: within the stated bound
    DIFFERENT = "different"  # what was published does not follow from what it names
    UNAUDITABLE = "unauditable"  # something that is needed cannot be had (any more); nothing is said of the trainer


@dataclass(frozen=True)
class Distance:
    """How far a repeated update ends from the published one, where the machines differ. Absolute differences of weights.

    `masters_*` are known at anchors alone. `published_share`: of the published weights, those that are not the same;
    `relative`: the mean difference over the mean way that the update went, of the masters where they are known, else of the
    published weights.
    """

    relative: float | None = None
    masters_max: float | None = None
    masters_mean: float | None = None
    published_share: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return dict(self.__dict__)

    def __str__(self) -> str:
        said = []
        if self.relative is not None:
            said.append(f"{self.relative:.4f} of the way that the update went")
        if self.masters_max is not None and self.masters_mean is not None:
            said.append(f"masters differ by {self.masters_max:.3g} at most, {self.masters_mean:.3g} on average")
        if self.published_share is not None:
            said.append(f"{100 * self.published_share:.3f} % of the published weights differ")
        return "; ".join(said) or "nothing to compare was published"


@dataclass
class WindowAudit:
    """Of one window; filled while it is audited. `difference`: what differs first, or what cannot be had."""

    window: Window
    outcome: Outcome = Outcome.EQUAL
    difference: str = ""
    checked: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)  # as the trainer says it
    machine: list[str] = field(default_factory=list)  # facts of this machine that are not those of the log
    distance: Distance | None = None
    seconds: float = 0.0

    def differs(self, what: str) -> None:
        """The first one counts; what follows from it is not told."""
        if self.outcome is not Outcome.DIFFERENT:
            self.outcome, self.difference = Outcome.DIFFERENT, what

    def to_json(self) -> dict[str, Any]:
        return {
            "window": self.window,
            "outcome": self.outcome.value,
            "difference": self.difference,
            "checked": list(self.checked),
            "taken": list(self.taken),
            "machine": list(self.machine),
            "distance": None if self.distance is None else self.distance.to_json(),
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        head = {
            Outcome.EQUAL: f"window {self.window}: equal",
            Outcome.CLOSE: f"window {self.window}: close ({self.distance})",
            Outcome.DIFFERENT: f"window {self.window}: DIFFERENT {self.difference}",
            Outcome.UNAUDITABLE: f"window {self.window}: cannot be audited: {self.difference}",
        }[self.outcome]
        details = [f"  checked  {one}" for one in self.checked]
        details += [f"  taken    {one}" for one in self.taken]
        return [head, *details, *(f"  machine  {one}" for one in self.machine)]
