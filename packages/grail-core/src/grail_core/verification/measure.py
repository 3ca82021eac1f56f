"""Measuring sampled rollouts: the validator's own grade, and its own forward pass at the challenged positions.

Everything that needs an environment or a model happens here and ends in `RolloutEvidence`; what it means is decided
elsewhere, from that evidence alone. A validator looks at what the challenge draws (`ChallengedSample`), a trainer at whole
groups (`WholeGroup`). Every rollout is measured with the attention of its miner's proof class. Where the challenge's coin falls
it is held against the float32 reference too, and some are compared with named alternatives, those that `challenged` says. Proof
batches are composed as the protocol says: a whole group in order of r, single rollouts 16 at a time in the order drawn; which
batch is measured first changes nothing. In which process the model is nobody here knows (`proof.work`). What cannot be graded
is measured all the same: whatever an answer does to its grader, it spares its rollout no look by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import numpy as np

from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence, RolloutEvidence
from grail_core.proof.numerics import class_and_parts, class_in_parts, measuring_class
from grail_core.proof.sketches import projections
from grail_core.proof.work import AskedAlternatives, MeasuredBatch, ModelWork, ProofRow, longest_first
from grail_core.protocol import RolloutRecord, RolloutSample, challenged_positions, sample_rollouts
from grail_core.protocol.constants import (
    ALTERNATIVE_POSITIONS,
    CHALLENGE_K,
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    MAX_ROLLOUTS_CHECKED,
    PROOF_BATCH_SIZE,
)
from grail_core.protocol.types import Digest
from grail_core.verification import model_checks
from grail_core.verification.challenged import (
    MAX_RESERVE_TAKEN,
    Place,
    compared_first,
    held_against_float32,
    look_at_singles,
    says_nothing,
)
from grail_core.verification.context import CheckContext
from grail_core.verification.reward import grade_claim
from grail_core.verification.window_file import Submission

MOST_ROWS: Final = MAX_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN
"""Rollouts of one file that are measured: the sample, and what replaces those without a grade."""


def most_forward_tokens(context_length: int, compared: int = 0, weights: int = 0) -> int:
    """The most tokens of forward passes that one drawn file costs, whatever stands in it; rows filled up to the longest count.

    A batch is run by the model and by its float32 reference; one with a number that is not finite is measured twice.

    Args:
        compared: rollouts compared with alternatives: by the reference, by as many alternatives as are other `weights`, and
            by the model once more where its states were not kept.
    """
    longest = min(context_length, MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP)
    return longest * (4 * MOST_ROWS + compared * (2 + weights))


@dataclass(frozen=True)
class OpenedRollout:
    """A sampled rollout and the completion positions that are looked at."""

    record: RolloutRecord
    positions: tuple[int, ...]


@dataclass(frozen=True)
class ChallengedSample:
    """What the challenge draws from a file: whole groups and single rollouts, at up to CHALLENGE_K positions each.

    Args:
        challenge_seed: of this very file. work: by the window's checkpoint, in this machine's numerics.
        probability: with which its miner was drawn, what the coin for float32 follows from. None: nobody was drawn, as in a
            miner's own check, and all is measured that could be said of the file.
    """

    challenge_seed: Digest
    work: ModelWork
    probability: Fraction | None = None

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        """For a single rollout that the grader cannot conclude on, the next of the draw's reserve is looked at too."""
        sample = sample_rollouts(self.challenge_seed, submission.groups)
        groups = [submission.rollouts_of(group) for group in sample.whole_groups]
        graded = {_place(record): _grade(record, context) for group in groups for record in group}
        singles = _singles(submission, context, sample, graded)
        batches = [
            [OpenedRollout(record, self._positions(submission, record, CHALLENGE_K)) for record in batch]
            for batch in (*groups, *_chunks(singles, PROOF_BATCH_SIZE))
        ]
        params, p = context.window.params, self.probability
        in_float32 = p is None or held_against_float32(self.challenge_seed, params, p)

        def inconclusive(one: RolloutEvidence) -> bool:
            return says_nothing(submission, one)

        return _measured(submission, context, batches, graded, self.work, inconclusive, reference=in_float32)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """With what named alternatives would have given, where the file was held against float32: of the rollouts drawn for
        it, and of the others as far as these leave something open.

        A float32 pass costs the same whatever it is asked for, and what tells two near models apart grows with the positions.
        """
        if any(one.reference is None for one in evidence.rollouts):
            return evidence  # the coin did not fall; or there is no float32 copy, and this evidence decides for nobody else
        first = compared_first(self.challenge_seed, len(evidence.rollouts))
        evidence = self._compared(submission, context, evidence, first)
        asked = model_checks.left_open(submission, evidence, context.table)
        if asked:
            rest = [at for at in range(len(evidence.rollouts)) if at not in first]
            evidence = self._compared(submission, context, evidence, rest, asked)
        return evidence

    def _compared(
        self,
        submission: Submission,
        context: CheckContext,
        evidence: MinerEvidence,
        places: Sequence[int],
        asked: AskedAlternatives | None = None,
    ) -> MinerEvidence:
        """The evidence with the rollouts at these places compared."""
        if not places:
            return evidence
        context.require_time("a comparison with alternatives")
        rollouts = list(evidence.rollouts)
        records = [submission.rollout_of(rollouts[at].group, rollouts[at].rollout) for at in places]
        opened = [OpenedRollout(one, self._positions(submission, one, ALTERNATIVE_POSITIONS)) for one in records]
        signs = projections(context.window.randomness, context.window.window_seed, self.work.facts.hidden_size)
        rows = [_row(one, context) for one in opened]
        measured_in, _ = class_and_parts(evidence.numerics_class)
        found = self.work.compare(rows, signs, context.policy, context.seconds_left(), measured_in, asked=asked)
        for at, compared in zip(places, found, strict=True):
            rollouts[at] = replace(rollouts[at], compared=compared)
        return replace(evidence, rollouts=tuple(rollouts))

    def _positions(self, submission: Submission, record: RolloutRecord, count: int) -> tuple[int, ...]:
        digest = submission.digest_of(record.group, record.rollout)
        return tuple(challenged_positions(self.challenge_seed, digest, record.completion_length, count))


@dataclass(frozen=True)
class WholeGroup:
    """All 16 rollouts of one group at every completion position: what a trainer verifies before it learns (section 11).

    `evidence.rollouts[r].logprob` are then the behaviour policy's log-probabilities (unwarped, nats) of rollout r. Nothing is
    replaced: `evidence.inconclusive` counts every rollout whose grade is not sure or whose reference is not finite, and a group
    with one is not learned from.
    """

    group: int
    work: ModelWork

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        records = submission.rollouts_of(self.group)
        graded = {_place(record): _grade(record, context) for record in records}
        opened = [OpenedRollout(record, tuple(range(record.completion_length))) for record in records]

        def unsure(one: RolloutEvidence) -> bool:
            return one.grade.stability is not GradeStability.STABLE or says_nothing(submission, one)

        return _measured(submission, context, [opened], graded, self.work, unsure)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """A trainer compares with none: a group is too small to tell it from one, and validators did."""
        return evidence


def _measured(
    submission: Submission,
    context: CheckContext,
    batches: Sequence[Sequence[OpenedRollout]],
    graded: Mapping[Place, GradeEvidence],
    work: ModelWork,
    inconclusive: Callable[[RolloutEvidence], bool],
    *,
    reference: bool = True,
) -> MinerEvidence:
    """Evidence in the order of the batches. Of what memory did not hold whole it says so with the numerics class."""
    facts = work.facts
    longest = max(one.record.prompt_length + one.record.completion_length for batch in batches for one in batch)
    measured_in = measuring_class(submission.file.header.proof_class, facts.numerics_class, longest)
    signs = projections(context.window.randomness, context.window.window_seed, work.facts.hidden_size)
    rows = [[_row(one, context) for one in batch] for batch in batches]
    done: dict[int, MeasuredBatch] = {}
    for at in longest_first(rows):
        context.require_time("a forward pass")
        done[at] = work.measure(rows[at], signs, context.policy, context.seconds_left(), measured_in, reference=reference)
        if not all(one.finite and (one.reference is None or one.reference.finite) for one in done[at].rollouts):
            # A missing number of the model's own counts as the worst one, against the miner, and one of the reference makes the
            # rollout inconclusive. A slip of the device gives it the second time.
            done[at] = work.measure(rows[at], signs, context.policy, context.seconds_left(), measured_in, reference=reference)
    parts = [one.parts for one in done.values() if one.parts is not None]
    rollouts = tuple(
        RolloutEvidence(
            group=one.record.group,
            rollout=one.record.rollout,
            grade=graded[_place(one.record)],
            positions=np.asarray(one.positions, np.int32),
            z=measurement.z,
            logprob=measurement.logprobs,
            margin=measurement.margins.astype(np.float32),
            reference=measurement.reference,
        )
        for at, batch in enumerate(batches)
        for one, measurement in zip(batch, done[at].rollouts, strict=True)
    )
    return MinerEvidence(
        hotkey=submission.hotkey,
        content_digest=submission.content_digest,
        rollouts=rollouts,
        numerics_class=class_in_parts(measured_in, min(parts)) if parts else measured_in,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        inconclusive=sum(map(inconclusive, rollouts)),
    )


def _row(one: OpenedRollout, context: CheckContext) -> ProofRow:
    record = one.record
    seed = context.window.sampling_seed(context.hotkey, record.group, record.rollout)
    return ProofRow(record.tokens.tolist(), record.prompt_length, one.positions, seed)


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

    def graded_here(place: Place) -> bool:
        record = submission.rollout_of(*place)
        looked_at.append(record)
        graded[place] = _grade(record, context)
        return graded[place].stability is not GradeStability.INCONCLUSIVE

    look_at_singles(sample, graded_here)
    return looked_at


def _place(record: RolloutRecord) -> Place:
    return record.group, record.rollout


def _chunks(items: Sequence[RolloutRecord], size: int) -> Iterator[Sequence[RolloutRecord]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
