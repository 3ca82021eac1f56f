"""Rows on their way through an engine: what is asked for each, and whether what came back can stand.

A row ends at a token of the network's end set, or at its limit, and at nothing else. Engines have end tokens of their own, of
the model folder's or the tokenizer's, and not all of them can be told to leave them alone. So a row that was ended early by the
engine is asked for again from where it stopped: a token's noise hangs on its position alone, so it goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grail_core.errors import ProtocolViolationError
from grail_core.generation.answers import Ended, EngineAnswer, UnusableAnswerError
from grail_core.generation.base import GenerationRequest, ServedWeights
from grail_core.generation.policies import policies_of
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.protocol.policy import GenerationPolicy, completion_limit


class WrongWeightsError(Exception):
    """The engine drew with other weights than it was told to serve: nothing of it can be used, and nothing after it."""


class EngineLimitError(Exception):
    """The engine cuts rows below the network's limit, which no miner may do."""


@dataclass(frozen=True)
class Row:
    """One request of a batch."""

    index: int
    prompt: tuple[int, ...]
    seed: int
    limit: int  # L of section 4: most tokens of the completion
    policy: GenerationPolicy  # the request's own, or that of the weights


@dataclass(frozen=True)
class RowRules:
    """What any row of these weights must obey."""

    version: str
    end_tokens: frozenset[int]
    vocabulary_size: int

    def extended(self, row: Row, so_far: tuple[int, ...], answer: EngineAnswer) -> tuple[tuple[int, ...], bool]:
        """The row's tokens with what this answer adds to them, and whether it is finished.

        Raises:
            UnusableAnswerError: these are not tokens for this row.
            WrongWeightsError, EngineLimitError: see there.
        """
        asked = (*row.prompt, *so_far)
        if answer.prompt_length != len(asked) or (answer.prompt is not None and answer.prompt != asked):
            raise UnusableAnswerError("the answer belongs to another prompt")
        if answer.versions != {self.version}:
            raise WrongWeightsError(f"drawn with {', '.join(sorted(answer.versions)) or 'unnamed weights'}")
        if answer.ended is Ended.ABORTED:
            raise UnusableAnswerError("the engine gave the request up")
        tokens = (*so_far, *answer.tokens)
        if not answer.tokens:
            raise UnusableAnswerError("no token came")
        if len(tokens) > row.limit:
            raise UnusableAnswerError(f"{len(tokens)} tokens, but at most {row.limit} were asked for")
        outside = max(answer.tokens)
        if outside >= self.vocabulary_size:
            raise UnusableAnswerError(f"token id {outside} is outside the vocabulary of {self.vocabulary_size}")
        if not self.end_tokens.isdisjoint(answer.tokens[:-1]):
            raise UnusableAnswerError("the row goes on after an end token")
        if tokens[-1] in self.end_tokens or len(tokens) == row.limit:
            return tokens, True
        if answer.ended is Ended.LENGTH:
            raise EngineLimitError(f"a row was cut after {len(tokens)} tokens, where the policy allows {row.limit}")
        return tokens, False


def make_rows(
    requests: Sequence[GenerationRequest], weights: ServedWeights, max_model_len: int, spare_tokens: int
) -> list[Row]:
    """What to ask for each request.

    Args:
        max_model_len: tokens of prompt and completion that the engine takes. spare_tokens: of these, what it needs for itself.

    Raises:
        OutOfVocabularyError, OverlongSequenceError, ProtocolViolationError: a prompt that cannot be taken, or a policy that is
            none.
    """
    rows = []
    for index, (request, policy) in enumerate(zip(requests, policies_of(requests, weights.policy), strict=True)):
        where, prompt = f"row {index}", request.prompt
        if not prompt:
            raise OverlongSequenceError("a row without tokens", where=where)
        if min(prompt) < 0 or max(prompt) >= weights.vocabulary_size:
            raise OutOfVocabularyError(f"a token id is outside the vocabulary of {weights.vocabulary_size}", where=where)
        limit = completion_limit(policy, weights.context_length, len(prompt))
        if limit < 1:
            raise ProtocolViolationError(
                f"a prompt of {len(prompt)} tokens leaves no room in a context of {weights.context_length}",
                where="max_position_embeddings in config.json",
                hint="use a model with a longer context, or an environment with shorter problems",
            )
        require_room(len(prompt), limit, max_model_len, spare_tokens)
        rows.append(Row(index, prompt, request.sampling_seed, limit, policy))
    return rows


def require_room(prompt: int, limit: int, max_model_len: int, spare_tokens: int) -> None:
    """Raises: ProtocolViolationError: the engine takes fewer tokens than a prompt and a completion of so many."""
    needed = prompt + limit + spare_tokens
    if needed > max_model_len:
        raise ProtocolViolationError(
            f"the engine takes {max_model_len} tokens, but a prompt of {prompt} and its completion need {needed}",
            where="GRAIL_PIPELINE_MAX_MODEL_LEN",
            hint=f"set it to {needed} or more: no limit may lie below the policy's",
        )
