"""One window of mining, step by step: which model, generate, grade, prove, pack.

Every step is a method that takes what it needs and returns a value, so that each can be replaced alone: engines replace
`generate`, adversaries in the test suite replace whatever they lie about. The service around it owns time, chain and store.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

import grail_core
from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint
from grail_core.environment import Environment, Grade, GradeOutcome, Problem
from grail_core.files.window_file import header_of, write_window_file
from grail_core.generation.base import Completion, GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.errors import UnprovableError
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections
from grail_core.protocol import (
    GroupCount,
    RolloutRecord,
    Seal,
    WindowHeader,
    count_groups,
    header_digest,
    merkle_root,
    rollout_digest,
    without_negative_zero,
)
from grail_core.protocol.constants import PROTOCOL_VERSION, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger
from grail_core.verification.reward import graded
from grail_miner.limits import MiningLimits

log = get_logger(__name__)

EnvironmentOf = Callable[[CheckpointManifest], Environment]
"""The environment that a checkpoint names."""


@dataclass(frozen=True)
class Group:
    """Sixteen proven rollouts of one problem."""

    group: int
    rollouts: tuple[RolloutRecord, ...]


@dataclass
class Timings:
    """Seconds spent a step in one window."""

    generate: float = 0.0
    grade: float = 0.0
    prove: float = 0.0
    pack: float = 0.0


@dataclass
class Mining:
    """The honest way. `environment_of` gives the environment of the loaded checkpoint."""

    signer: Signer
    checkpoint: LiveCheckpoint
    environment_of: EnvironmentOf
    groups_per_batch: int = MiningLimits.groups_per_batch
    timings: Timings = field(default_factory=Timings)

    def select_model(self, context: WindowContext) -> LoadedCheckpoint:
        """The model to generate and prove with: the window's own checkpoint."""
        return self.checkpoint.at(context.manifest)

    def produce_groups(self, context: WindowContext, loaded: LoadedCheckpoint, groups: Sequence[int]) -> list[Group]:
        """Generate, grade and prove these groups. A group that cannot be proved is dropped: it costs one group as a gap."""
        environment = self.environment_of(loaded.manifest)
        problems = [environment.problem(context.problem_seed(self.signer.hotkey, group)) for group in groups]
        prompts = [loaded.renderer.render(environment.messages(problem)) for problem in problems]
        with _timed(self.timings, "generate"):
            completions = self.generate(context, loaded, groups, prompts)
        produced = []
        for group, problem, prompt, answers in zip(groups, problems, prompts, completions, strict=True):
            with _timed(self.timings, "grade"):
                grades = [self.grade(environment, loaded, problem, answer) for answer in answers]
            try:
                with _timed(self.timings, "prove"):
                    proofs = self.prove(context, loaded, prompt, answers)
            except UnprovableError as error:
                log.warning("group %d of window %d dropped: %s", group, context.window, error)
                continue
            if any(grade.outcome is GradeOutcome.INCONCLUSIVE for grade in grades):
                log.warning("group %d of window %d dropped: grading failed here", group, context.window)
                continue
            produced.append(Group(group, _rows(group, prompt, answers, grades, proofs)))
        return produced

    def generate(
        self, context: WindowContext, loaded: LoadedCheckpoint, groups: Sequence[int], prompts: Sequence[tuple[int, ...]]
    ) -> list[list[Completion]]:
        """Sixteen completions a group, each from its own assigned seed."""
        requests = [
            GenerationRequest(prompt, context.sampling_seed(self.signer.hotkey, group, rollout))
            for group, prompt in zip(groups, prompts, strict=True)
            for rollout in range(ROLLOUTS_PER_PROBLEM)
        ]
        manifest = context.manifest
        generator = HfGenerator(loaded.model, manifest.policy, frozenset(manifest.end_token_ids))
        flat = generator.generate(requests)
        return [flat[start : start + ROLLOUTS_PER_PROBLEM] for start in range(0, len(flat), ROLLOUTS_PER_PROBLEM)]

    def grade(self, environment: Environment, loaded: LoadedCheckpoint, problem: Problem, completion: Completion) -> Grade:
        """As a validator's: a text that breaks a grader breaks both alike."""
        return graded(environment, problem, loaded.renderer.decode_completion(completion.tokens, environment.messages(problem)))

    def prove(
        self, context: WindowContext, loaded: LoadedCheckpoint, prompt: tuple[int, ...], answers: Sequence[Completion]
    ) -> list[RolloutProof]:
        """Sketches and unwarped log-probabilities of one group, from one forward pass of the proof model."""
        signs = projections(context.randomness, context.window_seed, loaded.model.hidden_size)
        records = [(*prompt, *answer.tokens) for answer in answers]
        return prove_rollouts(loaded.model, records, [len(prompt)] * len(records), signs)

    def pack(self, context: WindowContext, loaded: LoadedCheckpoint, groups: Sequence[Group]) -> bytes:
        """The signed window file. `groups` in increasing order, at least one."""
        with _timed(self.timings, "pack"):
            records = [record for group in groups for record in group.rollouts]
            return self.bind(context, loaded, records, count_groups([group.group for group in groups]))

    def bind(
        self, context: WindowContext, loaded: LoadedCheckpoint, records: Sequence[RolloutRecord], counted: GroupCount
    ) -> bytes:
        """Bind rollouts by their Merkle root, state the counts, sign."""
        header = WindowHeader(
            protocol_version=PROTOCOL_VERSION,
            window=context.window,
            block_hash=context.block_hash,
            beacon_round=context.beacon.round if context.beacon else 0,
            beacon_signature=context.beacon.signature if context.beacon else None,
            hotkey=self.signer.hotkey,
            checkpoint_digest=context.checkpoint_digest,
            env_digest=context.env_digest,
            policy_digest=context.manifest.policy_digest,
            groups=counted.groups,
            gaps=counted.gaps,
            declared=counted.declared,
            merkle_root=merkle_root([rollout_digest(context.network_id, record) for record in records]),
            proof_class=numerics_class_of(loaded.model),
            generation_class=numerics_class_of(loaded.model),
            software={"grail-core": grail_core.__version__},
        )
        signature = self.signer.sign(header_digest(context.network_id, header))
        return write_window_file(header, signature, records)

    def seal(self, context: WindowContext, data: bytes) -> Seal:
        """The promise that fixes a window file: its header, digest and size, signed."""
        header, digest = header_of(data), Digest(hashlib.sha256(data).digest())
        signature = self.signer.sign(Seal.message(context.network_id, ROLLOUTS, header, digest, len(data)))
        return Seal(ROLLOUTS, header, digest, len(data), signature)


def _rows(
    group: int,
    prompt: tuple[int, ...],
    answers: Sequence[Completion],
    grades: Sequence[Grade],
    proofs: Sequence[RolloutProof],
) -> tuple[RolloutRecord, ...]:
    return tuple(
        RolloutRecord(
            group=group,
            rollout=rollout,
            tokens=np.asarray((*prompt, *answer.tokens), np.int32),
            prompt_length=len(prompt),
            logprobs=without_negative_zero(proof.logprobs),
            sketches=proof.sketches,
            reward=grade.reward,
            success=grade.success,
        )
        for rollout, (answer, grade, proof) in enumerate(zip(answers, grades, proofs, strict=True))
    )


@contextmanager
def _timed(timings: Timings, step: str) -> Iterator[None]:
    """Add the seconds of a block to one field of `Timings`."""
    start = time.perf_counter()
    yield
    setattr(timings, step, getattr(timings, step) + time.perf_counter() - start)
