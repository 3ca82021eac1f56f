"""What the stages of a window do, bound to its context and checkpoint: the steps of `Mining`, one group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.environment import Environment, Grade, GradeOutcome
from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import Drawn
from grail_core.proof.batch import RolloutProof
from grail_core.proof.errors import UnprovableError
from grail_core.protocol.constants import MAX_PROMPT_TOKENS
from grail_core.protocol.context import WindowContext
from grail_miner.groups import Answered, Assigned, CompletionRules, Group, group_of
from grail_miner.pipeline.draw_check import DrawCheck

if TYPE_CHECKING:
    from grail_miner.mining import Mining


class GroupLostError(Exception):
    """This group cannot be had, whatever is tried: it is left out of the file, as a gap."""


class Work(Protocol):
    """Each step is called from one thread of its stage, `prove` from several."""

    @property
    def rules(self) -> CompletionRules: ...

    def assign(self, group: int) -> Assigned:
        """Raises GroupLostError."""
        ...

    def generate(self, assigned: Sequence[Assigned], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """As `grail_core.generation.base.Generator.generate`; request i is rollout i mod 16 of problem i div 16."""
        ...

    def judge(self, answered: Answered) -> list[Grade]:
        """Raises GroupLostError."""
        ...

    def prove(self, answered: Answered) -> list[RolloutProof]:
        """Raises GroupLostError; EngineError: what was drawn is not what the weights and seeds give."""
        ...

    def pack(self, answered: Answered, grades: Sequence[Grade], proofs: Sequence[RolloutProof]) -> Group: ...


@dataclass(frozen=True)
class WindowWork:
    """The work of a `Mining`. Errors but `GroupLostError` are this machine's or the generator's."""

    mining: Mining
    context: WindowContext
    prepared: PreparedCheckpoint
    environment: Environment
    draws: DrawCheck | None  # None: the model that proves is the one that draws

    @property
    def rules(self) -> CompletionRules:
        manifest, model = self.context.manifest, self.prepared.description
        return CompletionRules(manifest.policy, frozenset(manifest.end_token_ids), model.vocabulary_size, model.context_length)

    def assign(self, group: int) -> Assigned:
        problem = self.environment.problem(self.context.problem_seed(self.mining.signer.hotkey, group))
        try:
            prompt = self.prepared.renderer.render(self.environment.messages(problem))
        except ProtocolViolationError as error:
            raise GroupLostError(error.what) from error
        room = self.rules.limit(prompt)
        if len(prompt) > MAX_PROMPT_TOKENS or room < 1:
            raise GroupLostError(f"its prompt of {len(prompt)} tokens leaves no room for a completion")
        return Assigned(group, problem, prompt)

    def generate(self, assigned: Sequence[Assigned], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        return self.mining.generate(self.context, self.prepared, assigned, cancelled)

    def judge(self, answered: Answered) -> list[Grade]:
        problem = answered.assigned.problem
        grades = [self.mining.grade(self.environment, self.prepared, problem, one) for one in answered.completions]
        if any(grade.outcome is GradeOutcome.INCONCLUSIVE for grade in grades):
            raise GroupLostError("grading failed here")
        return grades

    def prove(self, answered: Answered) -> list[RolloutProof]:
        try:
            proofs = self.mining.prove(self.context, self.prepared, answered.assigned.prompt, answered.completions)
            if self.draws is not None:
                self.mining.check_draws(self.context, self.prepared, answered, proofs, self.draws)
            return proofs
        except UnprovableError as error:
            raise GroupLostError(error.what) from error

    def pack(self, answered: Answered, grades: Sequence[Grade], proofs: Sequence[RolloutProof]) -> Group:
        return group_of(answered, grades, proofs)
