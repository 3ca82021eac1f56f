"""What every family of puzzles offers."""

from __future__ import annotations

from typing import Protocol, TypeVar

from grail_envs.draws import Draws

P = TypeVar("P")


class Family(Protocol[P]):
    """A kind of puzzle `P` (a frozen value)."""

    name: str

    def generate(self, draws: Draws) -> P:
        """A puzzle; never raises, and takes bounded time for any draws."""
        ...

    def question(self, puzzle: P) -> str:
        """The puzzle in words, with the form of the answer."""
        ...

    def solves(self, puzzle: P, answer: str) -> bool | None:
        """Whether an answer is right; None where it is not in the asked form. Linear in the length of the answer."""
        ...

    def reference(self, puzzle: P) -> str:
        """A right answer."""
        ...
