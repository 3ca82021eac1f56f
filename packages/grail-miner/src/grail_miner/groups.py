"""What a miner's window is made of: problems that are assigned, completions that come back for them, groups that are proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.environment import Grade, Problem
from grail_core.errors import EngineError
from grail_core.generation.base import Completion, Drawn
from grail_core.proof.batch import RolloutProof
from grail_core.protocol import RolloutRecord, without_negative_zero
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy, completion_limit


@dataclass(frozen=True)
class Assigned:
    """One of the problems that fall to this hotkey in a window."""

    group: int
    problem: Problem
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    """A problem with all of its completions, in the order of r."""

    assigned: Assigned
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Group:
    """Sixteen proven rollouts of one problem."""

    group: int
    rollouts: tuple[RolloutRecord, ...]


@dataclass(frozen=True)
class CompletionRules:
    """What section 4 lets a completion be, whatever drew it."""

    policy: GenerationPolicy
    end_tokens: frozenset[int]
    vocabulary_size: int
    context_length: int

    def limit(self, prompt: Sequence[int]) -> int:
        """The most tokens that a completion of this prompt may have; below 1: there is no room for it."""
        return completion_limit(self.policy, self.context_length, len(prompt))

    def broken_by(self, tokens: Sequence[int], limit: int) -> str | None:
        """What is wrong with a completion, None where nothing is."""
        if not 1 <= len(tokens) <= limit:
            return f"{len(tokens)} tokens, 1 to {limit} were asked for"
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self.vocabulary_size:
            return f"token id {low if low < 0 else high} is outside the vocabulary of {self.vocabulary_size}"
        if not self.end_tokens.isdisjoint(tokens[:-1]):
            return "an end token stands before the last token"
        if tokens[-1] not in self.end_tokens and len(tokens) < limit:
            return f"it stops after {len(tokens)} tokens, neither at an end token nor at the limit of {limit}"
        return None


class Batch:
    """Completions of one batch as they come, until their groups are whole. Request i is rollout i mod 16 of group i div 16."""

    def __init__(self, assigned: Sequence[Assigned], rules: CompletionRules) -> None:
        self._assigned = assigned
        self._rules = rules
        self._limits = [rules.limit(one.prompt) for one in assigned]
        self._completions: list[list[Completion | None]] = [[None] * ROLLOUTS_PER_PROBLEM for _ in assigned]
        self._missing = [ROLLOUTS_PER_PROBLEM] * len(assigned)

    def take(self, drawn: Drawn) -> Answered | None:
        """The group that this completion makes whole, if it does.

        Raises:
            EngineError: nobody asked for it, it came before, or no engine of this policy and model can have drawn it.
        """
        place, rollout = divmod(drawn.index, ROLLOUTS_PER_PROBLEM)
        if not 0 <= place < len(self._assigned):
            raise _not_asked(f"request {drawn.index} of {len(self._assigned) * ROLLOUTS_PER_PROBLEM}")
        row = self._completions[place]
        if not row or row[rollout] is not None:
            raise _not_asked(f"request {drawn.index}, a second time")
        broken = self._rules.broken_by(drawn.completion.tokens, self._limits[place])
        if broken is not None:
            raise EngineError(
                f"the generator gave what the policy does not allow: {broken}",
                where=f"group {self._assigned[place].group}, rollout {rollout}",
                hint="`grail-miner conformance` shows how an engine differs",
            )
        row[rollout] = drawn.completion
        self._missing[place] -= 1
        if self._missing[place]:
            return None
        whole = tuple(completion for completion in row if completion is not None)
        self._completions[place] = []  # what is handed on is not kept
        return Answered(self._assigned[place], whole)

    @property
    def unfinished(self) -> list[int]:
        """Groups that are not whole."""
        return [one.group for one, missing in zip(self._assigned, self._missing, strict=True) if missing]


def group_of(answered: Answered, grades: Sequence[Grade], proofs: Sequence[RolloutProof]) -> Group:
    """The group's records. `grades` and `proofs` in the order of r."""
    assigned = answered.assigned
    return Group(
        assigned.group,
        tuple(
            RolloutRecord(
                group=assigned.group,
                rollout=rollout,
                tokens=np.asarray((*assigned.prompt, *completion.tokens), np.int32),
                prompt_length=len(assigned.prompt),
                logprobs=without_negative_zero(proof.logprobs),
                sketches=proof.sketches,
                reward=grade.reward,
                success=grade.success,
            )
            for rollout, (completion, grade, proof) in enumerate(zip(answered.completions, grades, proofs, strict=True))
        ),
    )


def _not_asked(what: str) -> EngineError:
    return EngineError(
        "the generator answered what it was not asked",
        where=what,
        hint="nothing of it is used; look at the engine's log, and whether another client uses it",
    )
