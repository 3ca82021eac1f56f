"""A window's rollouts as an update sees them: rows by number, and what is fixed about their tokens for the whole update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.advantages import group_advantages
from grail_trainer.learning.losses import Batch
from grail_trainer.learning.normalisers import StepCounts
from grail_trainer.learning.ranks import Ranks
from grail_trainer.learning.rollouts import RolloutGroup, TokenSequence


@dataclass
class WindowRows:
    """Rows in the order of groups and rollouts; their completion tokens after each other, float32 [tokens], on the CPU.

    A pass takes any of the rows: no row needs those of its group beside it. `proximal` of a row holds once it is among `known`
    (measured with the policy as it was when the update began); `reference` is None without a KL term.
    """

    rows: tuple[TokenSequence, ...]
    groups: tuple[range, ...]  # the rows of each group
    masked: frozenset[int]  # rows that are not learned from
    starts: tuple[int, ...]  # first token of each row, and the number of all tokens
    advantage: Tensor
    behaviour: Tensor
    proximal: Tensor
    known: set[int]
    reference: Tensor | None = None

    @staticmethod
    def of(groups: Sequence[RolloutGroup], settings: GrpoSettings) -> WindowRows:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        lengths = [rollout.row.completion_length for rollout in rollouts]
        advantages = [group_advantages(group.rewards, settings.advantages) for group in groups]
        ends = np.cumsum([len(group.rollouts) for group in groups]).tolist()
        # Copied: what came from another rank is read-only, and torch warns of a tensor that shares such memory.
        behaviour = torch.cat([torch.zeros(0), *(torch.tensor(rollout.behaviour, dtype=torch.float32) for rollout in rollouts)])
        return WindowRows(
            rows=tuple(rollout.row for rollout in rollouts),
            groups=tuple(range(end - len(group.rollouts), end) for group, end in zip(groups, ends, strict=True)),
            masked=frozenset(i for i, rollout in enumerate(rollouts) if settings.mask_truncated and rollout.truncated),
            starts=(0, *np.cumsum(lengths, dtype=int).tolist()),
            advantage=torch.repeat_interleave(
                torch.tensor([float(a) for group in advantages for a in group], dtype=torch.float32),
                torch.tensor(lengths, dtype=torch.long),
            ),
            behaviour=behaviour,
            proximal=torch.zeros_like(behaviour),
            known=set(),
        )

    def learned(self, groups: Sequence[int]) -> list[int]:
        """Rows of some groups, without those that are masked."""
        return [row for group in groups for row in self.groups[group] if row not in self.masked]

    def counts(self, groups: Sequence[int], token_limit: int) -> StepCounts:
        """Of an optimiser step over some groups."""
        tokens = sum(self.rows[row].completion_length for row in self.learned(groups))
        return StepCounts(sum(len(self.groups[group]) for group in groups), tokens, token_limit)

    def sequences(self, rows: Sequence[int]) -> list[TokenSequence]:
        return [self.rows[row] for row in rows]

    def batch(self, rows: Sequence[int], *, proximal: bool) -> Batch:
        """The tokens of some rows. `proximal`: with their proximal log-probabilities, which have to be known then."""
        if proximal and not self.known.issuperset(rows):
            raise ValueError("a row's proximal log-probabilities are not known yet")

        def taken(values: Tensor) -> Tensor:
            return torch.cat([values[self.starts[row] : self.starts[row + 1]] for row in rows])

        return Batch(
            lengths=torch.tensor([self.rows[row].completion_length for row in rows]),
            advantage=taken(self.advantage),
            behaviour=taken(self.behaviour),
            proximal=taken(self.proximal) if proximal else None,
            reference=None if self.reference is None else taken(self.reference),
        )

    def keep_proximal(self, rows: Sequence[int], logprob: Tensor) -> None:
        """What a pass over these rows gave while the policy was the one that the update began with."""
        for row, values in self._split(rows, logprob):
            self.proximal[self.starts[row] : self.starts[row + 1]] = values
        self.known.update(rows)

    def keep_reference(self, rows: Sequence[int], logprob: Tensor) -> None:
        if self.reference is None:
            self.reference = torch.zeros_like(self.behaviour)
        for row, values in self._split(rows, logprob):
            self.reference[self.starts[row] : self.starts[row + 1]] = values

    def share_proximal(self, rows: Sequence[int], ranks: Ranks) -> None:
        """Some rows' proximal log-probabilities, of each of which one rank had kept them, on every rank. To the bit."""
        if ranks.count == 1 or not rows:
            return
        tokens = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        kept = [self.proximal[part] * (row in self.known) for row, part in zip(rows, tokens, strict=True)]
        known = torch.split(ranks.sums(torch.cat(kept)), [len(one) for one in kept])
        for part, values in zip(tokens, known, strict=True):
            self.proximal[part] = values
        self.known.update(rows)

    def share_reference(self, ranks: Ranks) -> None:
        """The same of the reference's."""
        if ranks.count > 1:
            self.reference = ranks.sums(torch.zeros_like(self.behaviour) if self.reference is None else self.reference)

    def _split(self, rows: Sequence[int], values: Tensor) -> Iterator[tuple[int, Tensor]]:
        lengths = [self.rows[row].completion_length for row in rows]
        return zip(rows, torch.split(values.detach().cpu(), lengths), strict=True)
