"""One line of the table of attacks, and the tries that it adds up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tooling.adversaries.courtroom import Ruling


@dataclass(frozen=True)
class Try:
    """One attempt: whether it got through, and which check stopped it with which message."""

    name: str
    accepted: bool
    caught_by: str
    message: str


@dataclass
class Row:
    """One line of the table of attacks."""

    id: str
    unit: str
    tries: list[Try] = field(default_factory=list)
    honest_tries: int = 0
    honest_false_rejects: int = 0
    power: dict[str, dict[str, float]] = field(default_factory=dict)  # per deviation, where a power is published
    undecided: set[str] = field(default_factory=set)  # tries of which this size says nothing

    def add(self, name: str, ruling: Ruling) -> None:
        self.tries.append(Try(name, ruling.accepted, ruling.caught_by, ruling.why))

    def honest(self, ruling: Ruling) -> None:
        self.honest_tries += 1
        self.honest_false_rejects += not ruling.accepted

    def to_json(self) -> dict[str, Any]:
        """`accepted` counts, where a power is published, only what lies beyond its confidence interval.

        What the size does not decide counts as neither accepted nor caught; `not_decided` has its numbers.
        """
        caught = Counter(one.caught_by for one in self._decided() if not one.accepted)
        row: dict[str, Any] = {
            "id": self.id,
            "status": "built",
            "unit": self.unit,
            "tries": len(self.tries),
            "accepted": self._accepted(),
            "caught_by": caught.most_common(1)[0][0] if caught else "",
            "honest_tries": self.honest_tries,
            "honest_false_rejects": self.honest_false_rejects,
            "details": [
                {"try": t.name, "accepted": t.accepted, "caught_by": t.caught_by, "message": t.message} for t in self.tries
            ],
        }
        if self.power:
            row["power"] = self.power
        if self.undecided:
            row["not_decided"] = {name: self._counted(name) for name in sorted(self.undecided)}
        return row

    def _decided(self) -> list[Try]:
        return [one for one in self.tries if one.name not in self.undecided]

    def _counted(self, name: str) -> dict[str, int]:
        tries = [one for one in self.tries if one.name == name]
        return {"tries": len(tries), "passed": sum(one.accepted for one in tries)}

    def _accepted(self) -> int:
        total = 0
        decided = self._decided()
        for name in dict.fromkeys(one.name for one in decided):
            tries = [one for one in decided if one.name == name]
            passed = sum(one.accepted for one in tries)
            if name in self.power:
                passed = max(0, passed - _max_passing(len(tries), self.power[name]["low"]))
            total += passed
        return total


def _max_passing(tries: int, least_power: float) -> int:
    """Files that may pass, at 1 in 1,000, if each is rejected with the least power that is published."""
    miss = 1.0 - least_power
    mass = below = (1 - miss) ** tries
    count = 0
    while below < 0.999 and count < tries:
        mass *= (tries - count) / (count + 1) * (miss / max(1e-12, 1 - miss))
        below += mass
        count += 1
    return count if miss < 1 else tries
