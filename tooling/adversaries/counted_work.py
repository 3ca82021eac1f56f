"""What the model and its float32 reference are made to do for one file, counted, and the most that any file may ask for.

Measuring is counted apart from comparing: the passes under named alternatives are what a file costs only if nothing rejects it.
Counts are of this process; nothing is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.in_process import InThisProcess
from grail_core.protocol.constants import (
    ALTERNATIVE_POSITIONS,
    CHALLENGE_K,
    MAX_ROLLOUTS_CHECKED,
    PROOF_BATCH_SIZE,
    SINGLE_ROLLOUTS_CHECKED,
    WHOLE_GROUPS_CHECKED,
)
from grail_core.verification.challenged import MAX_RESERVE_TAKEN

MOST_ROWS = MAX_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN
MOST_BATCHES = WHOLE_GROUPS_CHECKED + -(-(SINGLE_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN) // PROOF_BATCH_SIZE)
"""Of one file, whatever it holds: two whole groups, the single rollouts and their reserve, sixteen at a time. A file that is
checked whole has four batches."""
MOST_COMPARED_BATCHES = 1 + -(-MOST_ROWS // PROOF_BATCH_SIZE)
"""The first rollouts, and all others where these leave something open."""
_MOST_DRAWS = 3
"""At a position: the claimed token under the own logits and the reference's, and the token that the own would have drawn."""


@dataclass
class Work:
    """Counts of one file's measuring, or of its comparison."""

    batches: int = 0
    rows: int = 0
    tokens: int = 0  # padding among them
    heads: int = 0  # rows of the head
    draws: int = 0

    def above(self, passes: int, batches: int, longest: int, positions: int, draws: int) -> list[str]:
        """Which counts are more than so many passes over any drawn rows of at most `longest` tokens ask for.

        Args:
            batches: of one pass. positions: of a row, for the head. draws: at a position.
        """
        most = {
            "batches": passes * batches,
            "rows": passes * MOST_ROWS,
            "tokens": passes * batches * PROOF_BATCH_SIZE * longest,
            "heads": passes * MOST_ROWS * positions,
            "draws": draws * MOST_ROWS * positions,
        }
        return [name for name, bound in most.items() if getattr(self, name) > bound]

    @property
    def passes(self) -> tuple[int, int, int, int]:
        """All but the draws."""
        return self.batches, self.rows, self.tokens, self.heads

    def __str__(self) -> str:
        return (
            f"{self.batches} batches, {self.rows} rows, {self.tokens} tokens, {self.heads} rows of the head, {self.draws} draws"
        )


@dataclass
class Works:
    """Of one file: the passes that measure it, and those under named alternatives, which only a file that passes costs."""

    weights: int  # alternatives that are other weights
    measuring: Work = field(default_factory=Work)
    comparing: Work = field(default_factory=Work)

    def above(self, longest: int) -> list[str]:
        """Which counts are more than any file of rows of at most `longest` tokens may ask for; no measuring is a fault too."""
        found = self.measuring.above(2, MOST_BATCHES, longest, CHALLENGE_K, _MOST_DRAWS)
        found += [] if all((*self.measuring.passes, self.measuring.draws)) else ["nothing measured"]
        passes = 2 + self.weights  # the reference's and, where states were not kept, the own once more
        compared = self.comparing.above(passes, MOST_COMPARED_BATCHES, longest, ALTERNATIVE_POSITIONS, 0)
        return [*found, *(f"{name} compared" for name in compared)]

    def __str__(self) -> str:
        return f"{self.measuring}; to compare {self.comparing.batches} batches, {self.comparing.tokens} tokens"


@contextmanager
def counted(weights: int) -> Iterator[Works]:
    """What the models of this process do meanwhile."""
    works = Works(weights)
    current = [works.measuring]
    hidden, logits, margin, compare = (
        PolicyModel.hidden_states,
        PolicyModel.logits,
        SeededSampler.margin,
        InThisProcess.compare,
    )

    def counted_hidden(model: PolicyModel, rows: Sequence[Sequence[int]]) -> Any:
        work = current[-1]
        work.batches += 1
        work.rows += len(rows)
        work.tokens += len(rows) * max(map(len, rows))
        return hidden(model, rows)

    def counted_logits(model: PolicyModel, states: Any) -> Any:
        current[-1].heads += len(states)
        return logits(model, states)

    def counted_margin(sampler: SeededSampler, *arguments: Any, **options: Any) -> Any:
        current[-1].draws += 1
        return margin(sampler, *arguments, **options)

    def counted_compare(work: InThisProcess, *arguments: Any, **options: Any) -> Any:
        current.append(works.comparing)
        try:
            return compare(work, *arguments, **options)
        finally:
            current.pop()

    with ExitStack() as stack:
        for place, name, counting in (
            (PolicyModel, "hidden_states", counted_hidden),
            (PolicyModel, "logits", counted_logits),
            (SeededSampler, "margin", counted_margin),
            (InThisProcess, "compare", counted_compare),
        ):
            stack.enter_context(patch.object(place, name, counting))
        yield works
