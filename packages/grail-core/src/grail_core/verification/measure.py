"""Measuring sampled rollouts: the validator's own grade, and its own forward pass at the challenged positions.

Everything that needs an environment or a model happens here and ends in `RolloutEvidence`; what it means is decided
elsewhere, from that evidence alone. A validator looks at what the challenge draws (`ChallengedSample`), a trainer at whole
groups (`WholeGroup`). Proof batches are composed as the protocol says: a whole group in order of r, single rollouts 16 at a
time in the order drawn. What cannot be graded is measured all the same: whatever an answer does to its grader, it spares its
rollout no look by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence, RolloutEvidence
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives, RolloutTokens
from grail_core.proof.batch import measure_rollouts
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections
from grail_core.protocol import RolloutRecord, RolloutSample, challenged_positions, sample_rollouts
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K, MAX_ROLLOUTS_CHECKED, PROOF_BATCH_SIZE
from grail_core.protocol.randomness import DRAW_ALTERNATIVES, draw
from grail_core.protocol.types import Digest
from grail_core.verification.context import CheckContext
from grail_core.verification.reward import grade_claim
from grail_core.verification.window_file import Submission

MAX_RESERVE_TAKEN: Final = MAX_ROLLOUTS_CHECKED // 4
"""Of more than a quarter of a sample that cannot be graded the window does not count: no more need to be replaced."""

Place = tuple[int, int]
"""A rollout of a file: its group and its number in the group."""


@dataclass(frozen=True)
class OpenedRollout:
    """A sampled rollout and the completion positions that are looked at."""

    record: RolloutRecord
    positions: tuple[int, ...]


@dataclass(frozen=True)
class ChallengedSample:
    """What the challenge draws from a file: whole groups and single rollouts, at up to CHALLENGE_K positions each.

    Args:
        challenge_seed: of this very file. model: the window's checkpoint, in this machine's numerics.
        alternatives: measured on a share of the rollouts that the challenge draws, at more positions: several float32
            passes. None compares with none.
    """

    challenge_seed: Digest
    model: PolicyModel
    alternatives: Alternatives | None = None

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        """For a single rollout that the grader cannot conclude on, the next of the draw's reserve is looked at too."""
        sample = sample_rollouts(self.challenge_seed, submission.groups)
        groups = [submission.rollouts_of(group) for group in sample.whole_groups]
        graded = {_place(record): _grade(record, context) for group in groups for record in group}
        singles = _singles(submission, context, sample, graded)
        rollouts: list[RolloutEvidence] = []
        for batch in (*groups, *_chunks(singles, PROOF_BATCH_SIZE)):
            opened = [OpenedRollout(record, self._positions(submission, record, CHALLENGE_K)) for record in batch]
            rollouts += _measure_batch(context, opened, graded, self.model)
        lost = sum(one.stability is GradeStability.INCONCLUSIVE for one in graded.values())
        return _evidence_of(submission, self.model, rollouts, lost)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """With the sketches of the current model in float32 and of every alternative, on the share that is drawn.

        A float32 pass costs the same whatever it is asked for, and what tells two near models apart grows with the positions.
        """
        if self.alternatives is None:
            return evidence
        rollouts = list(evidence.rollouts)
        wanted = self.alternatives.count(len(rollouts))
        drawn = sorted(draw(self.challenge_seed, DRAW_ALTERNATIVES, len(rollouts), wanted))
        records = [submission.rollout_of(rollouts[at].group, rollouts[at].rollout) for at in drawn]
        asked = RolloutTokens(
            tokens=[record.tokens.tolist() for record in records],
            prompt_lengths=[record.prompt_length for record in records],
            positions=[self._positions(submission, record, ALTERNATIVE_POSITIONS) for record in records],
        )
        signs = projections(context.window.randomness, context.window.window_seed, self.alternatives.hidden_size)
        measured = self.alternatives.sketches(asked, signs)
        for at, others, positions in zip(drawn, measured, asked.positions, strict=True):
            rollouts[at] = replace(rollouts[at], alternatives=others, alternative_positions=np.asarray(positions, np.int32))
        return replace(evidence, rollouts=tuple(rollouts))

    def _positions(self, submission: Submission, record: RolloutRecord, count: int) -> tuple[int, ...]:
        digest = submission.digest_of(record.group, record.rollout)
        return tuple(challenged_positions(self.challenge_seed, digest, record.completion_length, count))


@dataclass(frozen=True)
class WholeGroup:
    """All 16 rollouts of one group at every completion position: what a trainer verifies before it learns (section 11).

    `evidence.rollouts[r].logprob` are then the behaviour policy's log-probabilities (unwarped, nats) of rollout r. Nothing is
    replaced: `evidence.inconclusive` counts every grade that is not sure, and a group with one is not learned from.
    """

    group: int
    model: PolicyModel

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        records = submission.rollouts_of(self.group)
        graded = {_place(record): _grade(record, context) for record in records}
        opened = [OpenedRollout(record, tuple(range(record.completion_length))) for record in records]
        rollouts = _measure_batch(context, opened, graded, self.model)
        lost = sum(one.grade.stability is not GradeStability.STABLE for one in rollouts)
        return _evidence_of(submission, self.model, rollouts, lost)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """A trainer compares with none: a group is too small to tell it from one, and validators did."""
        return evidence


def _measure_batch(
    context: CheckContext, batch: Sequence[OpenedRollout], graded: Mapping[Place, GradeEvidence], model: PolicyModel
) -> list[RolloutEvidence]:
    """One proof batch: at most 16 rollouts, in the order given."""
    context.require_time("a forward pass")
    records = [one.record for one in batch]
    measure = partial(
        measure_rollouts,
        model,
        [record.tokens.tolist() for record in records],
        [record.prompt_length for record in records],
        [one.positions for one in batch],
        projections(context.window.randomness, context.window.window_seed, model.hidden_size),
        context.policy,
        [context.window.sampling_seed(context.hotkey, record.group, record.rollout) for record in records],
    )
    measured = measure()
    if not all(measurement.finite for measurement in measured):
        # A number that is missing counts as the worst one, against the miner. A device that slipped gives it the second time.
        measured = measure()
    return [
        RolloutEvidence(
            group=one.record.group,
            rollout=one.record.rollout,
            grade=graded[_place(one.record)],
            positions=np.asarray(one.positions, np.int32),
            z=measurement.z,
            logprob=measurement.logprobs,
            margin=measurement.margins.astype(np.float32),
        )
        for one, measurement in zip(batch, measured, strict=True)
    ]


def _evidence_of(
    submission: Submission, model: PolicyModel, rollouts: Sequence[RolloutEvidence], inconclusive: int
) -> MinerEvidence:
    return MinerEvidence(
        hotkey=submission.hotkey,
        content_digest=submission.content_digest,
        rollouts=tuple(rollouts),
        numerics_class=numerics_class_of(model),
        layers=model.layers,
        hidden_size=model.hidden_size,
        inconclusive=inconclusive,
    )


def _grade(record: RolloutRecord, context: CheckContext) -> GradeEvidence:
    """The environment's grade of one rollout against what it claims."""
    context.require_time("a grade")
    problem = context.environment.problem(context.window.problem_seed(context.hotkey, record.group))
    asked = context.environment.messages(problem)
    completion = context.renderer.decode_completion(record.completion.tolist(), asked)
    return grade_claim(context.environment, problem, completion, record.reward, record.success)


def _singles(
    submission: Submission, context: CheckContext, sample: RolloutSample, graded: dict[Place, GradeEvidence]
) -> list[RolloutRecord]:
    """The single rollouts drawn, and of the reserve as many more as lack a grade; `graded` learns of each."""
    looked_at: list[RolloutRecord] = []
    missing = len(sample.singles)
    for place in (*sample.singles, *sample.reserve[:MAX_RESERVE_TAKEN]):
        if not missing:
            break
        record = submission.rollout_of(*place)
        looked_at.append(record)
        graded[place] = _grade(record, context)
        missing -= graded[place].stability is not GradeStability.INCONCLUSIVE
    return looked_at


def _place(record: RolloutRecord) -> Place:
    return record.group, record.rollout


def _chunks(items: Sequence[RolloutRecord], size: int) -> Iterator[Sequence[RolloutRecord]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
