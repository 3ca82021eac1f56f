"""An engine's answers as a verifier reads them: at every position, whether its own draw over the same tokens is the engine's.

Every position is read with the engine's own tokens before it, so one flip costs one position and does not make the rest of the
row differ. Margins are those that a validator measures (section 4 of the protocol).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.generation.base import Completion, GenerationRequest
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy, completion_limit

_LOGITS_BYTES = 32 * 2**20  # in memory at one time


@dataclass(frozen=True)
class ReadRow:
    """One answer. Arrays have one entry for each completion token; `states` has one more, for what would come next."""

    request: GenerationRequest
    tokens: tuple[int, ...]
    draws: npt.NDArray[np.int64]  # [n + 1] the verifier's own
    margins: npt.NDArray[np.float64]  # [n] 0 … 4; 0 where the engine's token wins
    states: Tensor  # [n + 1, hidden], on the model's device

    @property
    def lost(self) -> npt.NDArray[np.intp]:
        """Completion indices at which the engine's token does not win the draw, ascending."""
        return np.flatnonzero(self.margins > 0)


@dataclass(frozen=True)
class Reading:
    """All answers, in the order asked."""

    rows: tuple[ReadRow, ...]
    policy: GenerationPolicy
    end_tokens: frozenset[int]
    context_length: int

    @property
    def margins(self) -> npt.NDArray[np.float64]:
        return np.concatenate([row.margins for row in self.rows]) if self.rows else np.empty(0)

    @property
    def agreement(self) -> float:
        """Share of all tokens that win their draw; 0 where nothing was answered."""
        margins = self.margins
        return float((margins == 0).mean()) if len(margins) else 0.0

    def limit(self, row: ReadRow) -> int:
        """L of section 4."""
        return completion_limit(self.policy, self.context_length, len(row.request.prompt))

    def cut_short(self) -> list[int]:
        """Rows that stop before their limit without an end token."""
        return [
            index
            for index, row in enumerate(self.rows)
            if len(row.tokens) < self.limit(row) and not (row.tokens and row.tokens[-1] in self.end_tokens)
        ]

    def run_on(self) -> list[int]:
        """Rows that go on after an end token, or beyond their limit."""
        return [
            index
            for index, row in enumerate(self.rows)
            if len(row.tokens) > self.limit(row) or any(token in self.end_tokens for token in row.tokens[:-1])
        ]


class Reader:
    """A verifier with a model of its own.

    Args:
        model: the checkpoint that the engine serves, in this machine's numerics.
    """

    def __init__(self, model: PolicyModel, policy: GenerationPolicy, end_tokens: frozenset[int]) -> None:
        self.model = model
        self.policy = policy
        self.end_tokens = end_tokens
        self.sampler = SeededSampler(policy)

    def read(self, requests: Sequence[GenerationRequest], completions: Sequence[Completion]) -> Reading:
        """Raises OutOfVocabularyError, OverlongSequenceError: the engine's tokens are none that the model could draw."""
        rows: list[ReadRow] = []
        for start in range(0, len(requests), PROOF_BATCH_SIZE):
            part = list(zip(requests, completions, strict=True))[start : start + PROOF_BATCH_SIZE]
            hidden = self.model.hidden_states([(*request.prompt, *done.tokens) for request, done in part])
            for (request, done), states in zip(part, hidden, strict=True):
                rows.append(self._row(request, done.tokens, states[len(request.prompt) - 1 :].clone()))
        return Reading(tuple(rows), self.policy, self.end_tokens, self.model.context_length)

    def logits(self, states: Sequence[Tensor]) -> Iterator[tuple[int, Floats]]:
        """(start, float32 [n, vocabulary]) over single hidden states [hidden], a few at a time."""
        step = max(1, _LOGITS_BYTES // (4 * self.model.vocabulary_size))
        for start in range(0, len(states), step):
            yield start, self.model.logits(torch.stack(list(states[start : start + step]))).cpu().numpy()

    def _row(self, request: GenerationRequest, tokens: tuple[int, ...], states: Tensor) -> ReadRow:
        first = len(request.prompt) - 1
        whole = (*request.prompt, *tokens)
        draws = np.empty(len(tokens) + 1, dtype=np.int64)
        margins = np.empty(len(tokens), dtype=np.float64)
        for start, logits in self.logits(list(states)):
            at = np.arange(start, start + len(logits))
            seeds = np.full(len(at), request.sampling_seed, dtype=np.uint64)
            histories = [whole[: first + 1 + k] for k in at.tolist()] if self.sampler.needs_history else None
            draws[at] = self.sampler.sample(logits, seeds, (first + at).astype(np.uint32), histories)
            for k, row in zip(at.tolist(), logits, strict=True):
                if k < len(tokens):
                    history = whole[: first + 1 + k] if self.sampler.needs_history else ()
                    margins[k] = self.sampler.margin(row, request.sampling_seed, first + k, tokens[k], history)
        return ReadRow(request, tokens, draws, margins, states)
