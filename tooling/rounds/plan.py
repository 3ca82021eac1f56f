"""What a run of rounds is: who takes part, for how long, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass

from tooling.adversaries import GRADIENT_STRATEGIES

HONEST = "honest"


@dataclass(frozen=True)
class Part:
    """One miner. `strategy`: "honest", or the name of a lie. `batch`: sequences of an inner step."""

    name: str
    strategy: str
    batch: int

    @property
    def honest(self) -> bool:
        return self.strategy == HONEST


BIG = Part("H2", HONEST, 8)
"""Twice the work of the others a round."""


@dataclass(frozen=True)
class Plan:
    """`cheats`: names of lies. `silent`: those who lie are registered and do nothing: what the run is compared with.

    `kill`: validator and trainer are killed in every third round. `joiners`: two nodes that come late rebuild the weights.
    `reference`: one process trains on the same sequences.
    """

    rounds: int = 30
    seed: int = 0
    honest: int = 3
    cheats: tuple[str, ...] = GRADIENT_STRATEGIES
    validators: int = 1
    silent: bool = False
    kill: bool = False
    joiners: bool = True
    reference: bool = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """All miners, in the order of their UIDs: h1, h2, …, H2, then the liars."""
        small = [Part(f"h{i}", HONEST, 4) for i in range(1, self.honest + 1)]
        return (*small, BIG, *(Part(name, name, 4) for name in self.cheats))

    @property
    def working(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.honest or not self.silent)
