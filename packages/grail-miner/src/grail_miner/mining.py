"""One window of mining, step by step: which model, generate, grade, prove, pack.

Every step is a method that takes what it needs and returns a value, so that each can be replaced alone: adversaries in the
test suite replace whatever they lie about. Tokens come from a `Generator`, proofs from a `Prover`; `pipeline` runs the steps of
many groups at the same time, from several threads. The service around it owns time, chain and store.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Protocol

import grail_core
from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint, PreparedCheckpoint
from grail_core.environment import Environment, Grade, Problem
from grail_core.errors import EngineError
from grail_core.files.window_file import header_of, write_window_file
from grail_core.generation.base import Completion, Drawn, GenerationRequest, Generator, ServedWeights
from grail_core.generation.in_process import InProcessGenerator
from grail_core.participant.classes import require_covered
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections
from grail_core.protocol import (
    Finding,
    GroupCount,
    RolloutRecord,
    Seal,
    WindowHeader,
    count_groups,
    header_digest,
    merkle_root,
)
from grail_core.protocol.constants import PROTOCOL_VERSION, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.rollouts.records import rollout_digests
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger
from grail_core.verification.reward import graded
from grail_miner.groups import Answered, Assigned, Batch, Group
from grail_miner.limits import MiningLimits
from grail_miner.own_check import first_fault
from grail_miner.pipeline.draw_check import DrawCheck
from grail_miner.pipeline.work import GroupLostError, WindowWork
from grail_miner.proving.base import Prover
from grail_miner.proving.in_process import InProcessProver

log = get_logger(__name__)

EnvironmentOf = Callable[[CheckpointManifest], Environment]
"""The environment that a checkpoint names."""


class Checkpoints(Protocol):
    """Where a window's checkpoint comes from: a `LiveCheckpoint`, or what rolls generator and prover to it, too."""

    def at(self, manifest: CheckpointManifest) -> PreparedCheckpoint: ...


def _in_this_process() -> Generator:
    return InProcessGenerator(numerics_class_of)


@dataclass
class Mining:
    """The honest way. `environment_of` gives the environment of the checkpoint; generator and prover are by default this
    process's own, with the model that `checkpoint` loads.

    `packs_early`: the file may be made before its last blocks have come.
    """

    packs_early: ClassVar[bool] = True

    signer: Signer
    checkpoint: Checkpoints
    environment_of: EnvironmentOf
    groups_per_batch: int = MiningLimits.groups_per_batch
    generator: Generator = field(default_factory=_in_this_process)
    prover: Prover = field(default_factory=InProcessProver)
    _served: PreparedCheckpoint | None = field(default=None, init=False)
    _generation_class: str = field(default="", init=False)  # of what serves; "" before
    _distrusts: bool = field(default=False, init=False)  # what the generator drew was not what its weights and seeds give

    def select_model(self, context: WindowContext) -> PreparedCheckpoint:
        """The model to generate and prove with, which generator and prover have when it returns: the window's own.

        Raises:
            ProtocolViolationError: the network would refuse this work, since the checkpoint's table does not cover it.
        """
        if self._distrusts:
            self.generator.distrust()
            self._distrusts = False
        prepared = self.served(self.checkpoint.at(context.manifest))
        shape = Shape(prepared.description.layers, prepared.description.hidden_size)
        require_covered(self.prover.proof_class, self.generator.numerics_class, prepared.pinned.table, shape, context.params)
        return prepared

    def served(self, prepared: PreparedCheckpoint) -> PreparedCheckpoint:
        """Generator and prover with these weights: a `LiveCheckpoint` has only loaded them, anything else has told both.

        Raises:
            EngineError, MachineFaultError, CheckpointError: one of them has not got them, and nothing is made.
            ProtocolViolationError: the generator cannot follow the checkpoint's policy.
        """
        version = prepared.manifest.digest.hex()
        # A model of this process may have been stepped elsewhere and back: then it is another object under the same digest.
        told = self.generator.version == version and prepared is self._served
        if isinstance(self.checkpoint, LiveCheckpoint) and not told:
            self._served = None
            self.prover.load(prepared)
            self.generator.serve(weights_of(prepared))
            self._served = prepared
        if self.generator.version != version:
            raise EngineError(
                f"the generator serves {self.generator.version or 'nothing'} and not the window's checkpoint",
                where=version,
                hint="nothing is drawn with weights that are not known; look at the engine's log",
            )
        self._generation_class = self.generator.numerics_class  # an engine that fails later may not know it any more
        return prepared

    def close(self) -> None:
        """Generator and prover end, and free what they hold."""
        try:
            self.generator.close()
        finally:
            self.prover.close()

    def work(self, context: WindowContext, prepared: PreparedCheckpoint) -> WindowWork:
        """The steps of one window, for the pipeline."""
        return WindowWork(self, context, prepared, self.environment_of(prepared.manifest), self._draw_check(prepared))

    def produce_groups(self, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[int]) -> list[Group]:
        """These groups one step after the other, as the pipeline makes them; one that cannot be had is left out."""
        work, assigned, produced = self.work(context, prepared), [], []
        for group in groups:
            try:
                assigned.append(work.assign(group))
            except GroupLostError as error:
                _tell_lost(context, group, error)
        batch = Batch(assigned, work.rules)
        answered = [whole for drawn in work.generate(assigned, _never) if (whole := batch.take(drawn)) is not None]
        if batch.unfinished:
            raise EngineError(f"the generator ended without the completions of {len(batch.unfinished)} groups")
        for one in sorted(answered, key=lambda one: one.assigned.group):
            try:
                grades = work.judge(one)
                produced.append(work.pack(one, grades, work.prove(one)))
            except GroupLostError as error:
                _tell_lost(context, one.assigned.group, error)
        return produced

    def generate(
        self,
        context: WindowContext,
        prepared: PreparedCheckpoint,
        assigned: Sequence[Assigned],
        cancelled: Callable[[], bool],
    ) -> Iterator[Drawn]:
        """Sixteen completions a problem, each from its own assigned seed, as they are finished."""
        hotkey = self.signer.hotkey
        requests = [
            GenerationRequest(one.prompt, context.sampling_seed(hotkey, one.group, rollout))
            for one in assigned
            for rollout in range(ROLLOUTS_PER_PROBLEM)
        ]
        return self.generator.generate(requests, cancelled)

    def grade(self, environment: Environment, prepared: PreparedCheckpoint, problem: Problem, completion: Completion) -> Grade:
        """As a validator's: a text that breaks a grader breaks both alike."""
        text = prepared.renderer.decode_completion(completion.tokens, environment.messages(problem))
        return graded(environment, problem, text)

    def prove(
        self,
        context: WindowContext,
        prepared: PreparedCheckpoint,
        prompt: tuple[int, ...],
        answers: Sequence[Completion],
    ) -> list[RolloutProof]:
        """Sketches and unwarped log-probabilities of one group, from one forward pass of the proof model."""
        signs = projections(context.randomness, context.window_seed, prepared.description.hidden_size)
        records = [(*prompt, *answer.tokens) for answer in answers]
        return self.prover.prove(records, [len(prompt)] * len(records), signs)

    def check_draws(
        self,
        context: WindowContext,
        prepared: PreparedCheckpoint,
        answered: Answered,
        proofs: Sequence[RolloutProof],
        check: DrawCheck,
    ) -> None:
        """Hold a sample of a group against the proof model.

        Raises:
            EngineError: the generator draws otherwise than its weights and the seeds say: nothing of the window is used, and
                the next one begins with its weights loaded anew.
        """
        group, completions, prompt = answered.assigned.group, answered.completions, answered.assigned.prompt
        sampled, first = check.sample(group, completions), not check.passed
        measured = self.prover.measure(
            [(*prompt, *completions[one.rollout].tokens) for one in sampled],
            [len(prompt)] * len(sampled),
            [one.positions for one in sampled],
            projections(context.randomness, context.window_seed, prepared.description.hidden_size),
            context.manifest.policy,
            [context.sampling_seed(self.signer.hotkey, group, one.rollout) for one in sampled],
        )
        otherwise = check.judge(group, completions, proofs, sampled, measured)
        if otherwise is None:
            if first:
                positions = sum(len(one.positions) for one in sampled)
                referred = all(one.reference is not None for one in measured)
                log.event("engine_draws_checked", window=context.window, group=group, positions=positions, in_float32=referred)
            return
        self._distrusts = True
        log.event("engine_draws_otherwise", level=logging.ERROR, window=context.window, group=group, **asdict(otherwise))
        raise EngineError(
            f"what was drawn is not what the weights and seeds give here ({otherwise.why}): {otherwise.told}; of"
            f" {otherwise.positions} measured tokens {otherwise.lost} lose their draw, {otherwise.clearly_lost} clearly",
            where=f"group {group}",
            hint="nothing of this window is used, and the weights are loaded anew; `grail-miner conformance` says more",
        )

    def _draw_check(self, prepared: PreparedCheckpoint) -> DrawCheck | None:
        """None where the model that proves is the one that draws: there is nothing to hold it against."""
        if isinstance(self.checkpoint, LiveCheckpoint):
            return None
        model = prepared.description
        shape = Shape(model.layers, model.hidden_size)
        return DrawCheck(self.generator.numerics_class, self.prover.proof_class, shape, prepared.pinned.table)

    def pack(self, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[Group]) -> bytes:
        """The signed window file. `groups` in increasing order, at least one."""
        records = [record for group in groups for record in group.rollouts]
        return self.bind(context, prepared, records, count_groups([group.group for group in groups]))

    def bind(
        self, context: WindowContext, prepared: PreparedCheckpoint, records: Sequence[RolloutRecord], counted: GroupCount
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
            merkle_root=merkle_root(rollout_digests(context.network_id, records)),
            proof_class=self.prover.proof_class,
            generation_class=self._generation_class or self.generator.numerics_class,
            software={"grail-core": grail_core.__version__},
        )
        signature = self.signer.sign(header_digest(context.network_id, header))
        return write_window_file(header, signature, records)

    def own_fault(self, context: WindowContext, prepared: PreparedCheckpoint, data: bytes) -> Finding | None:
        """What a validator's checks 1 to 5 would reject this file for, None where they do not: asked before it is sealed."""
        return first_fault(context, prepared, self.signer.hotkey, self.environment_of(prepared.manifest), data)

    def seal(self, context: WindowContext, data: bytes) -> Seal:
        """The promise that fixes a window file: its header, digest and size, signed."""
        header, digest = header_of(data), Digest(hashlib.sha256(data).digest())
        signature = self.signer.sign(Seal.message(context.network_id, ROLLOUTS, header, digest, len(data)))
        return Seal(ROLLOUTS, header, digest, len(data), signature)


def weights_of(prepared: PreparedCheckpoint) -> ServedWeights:
    """What a generator is told to serve: with the model, where it is in this process."""
    manifest, model = prepared.manifest, prepared.description
    return ServedWeights(
        version=manifest.digest.hex(),
        folder=prepared.folder,
        policy=manifest.policy,
        end_tokens=frozenset(manifest.end_token_ids),
        vocabulary_size=model.vocabulary_size,
        context_length=model.context_length,
        model=prepared.model if isinstance(prepared, LoadedCheckpoint) else None,
    )


def _tell_lost(context: WindowContext, group: int, error: GroupLostError) -> None:
    log.event("group_dropped", window=context.window, group=group, reason=str(error))


def _never() -> bool:
    return False
