"""Measuring sampled rollouts: the validator's own grade, and its own forward pass at the challenged positions.

Everything that needs an environment or a model happens here and ends in `RolloutEvidence`; what it means is decided
elsewhere, from that evidence alone. A validator looks at what the challenge draws (`ChallengedSample`), a trainer at whole
groups (`WholeGroup`). Proof batches are composed as the protocol says: a whole group in order of r, single rollouts 16 at a
time in the order drawn; which batch is measured first changes nothing. In which process the model is nobody here knows
(`proof.work`). What cannot be graded is measured all the same: whatever an answer does to its grader, it spares its rollout no
look by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence, RolloutEvidence
from grail_core.proof.numerics import class_in_parts
from grail_core.proof.sketches import projections
from grail_core.proof.work import MeasuredBatch, ModelWork, ProofRow, RolloutTokens, longest_first
from grail_core.protocol import RolloutRecord, RolloutSample, challenged_positions, sample_rollouts
from grail_core.protocol.constants import (
    ALTERNATIVE_POSITIONS,
    CHALLENGE_K,
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    MAX_ROLLOUTS_CHECKED,
    PROOF_BATCH_SIZE,
)
from grail_core.protocol.randomness import DRAW_ALTERNATIVES, draw
from grail_core.protocol.types import Digest
from grail_core.verification.challenged import MAX_RESERVE_TAKEN, Place, look_at_singles
from grail_core.verification.context import CheckContext
from grail_core.verification.reward import grade_claim
from grail_core.verification.window_file import Submission

MOST_ROWS: Final = MAX_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN
"""Rollouts of one file that are measured: the sample, and what replaces those without a grade."""


def most_forward_tokens(context_length: int, compared: int = 0, weights: int = 0) -> int:
    """The most tokens of forward passes that one drawn file costs, whatever stands in it; rows filled up to the longest count.

    A batch with a number that is not finite is measured twice.

    Args:
        compared: rollouts measured under alternatives. weights: the alternatives, and the reference.
    """
    longest = min(context_length, MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP)
    return longest * (2 * MOST_ROWS + compared * weights)


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
    """

    challenge_seed: Digest
    work: ModelWork

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
        lost = sum(one.stability is GradeStability.INCONCLUSIVE for one in graded.values())
        return _measured(submission, context, batches, graded, self.work, lost)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """With the sketches of the current model in float32 and of every alternative, on the share that is drawn.

        A float32 pass costs the same whatever it is asked for, and what tells two near models apart grows with the positions.
        """
        rollouts = list(evidence.rollouts)
        wanted = self.work.compared(len(rollouts))
        if not wanted:
            return evidence
        drawn = sorted(draw(self.challenge_seed, DRAW_ALTERNATIVES, len(rollouts), wanted))
        records = [submission.rollout_of(rollouts[at].group, rollouts[at].rollout) for at in drawn]
        asked = RolloutTokens(
            tokens=[record.tokens.tolist() for record in records],
            prompt_lengths=[record.prompt_length for record in records],
            positions=[self._positions(submission, record, ALTERNATIVE_POSITIONS) for record in records],
        )
        signs = projections(context.window.randomness, context.window.window_seed, self.work.facts.hidden_size)
        measured = self.work.sketches(asked, signs, context.seconds_left())
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
    work: ModelWork

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        records = submission.rollouts_of(self.group)
        graded = {_place(record): _grade(record, context) for record in records}
        opened = [OpenedRollout(record, tuple(range(record.completion_length))) for record in records]
        lost = sum(one.stability is not GradeStability.STABLE for one in graded.values())
        return _measured(submission, context, [opened], graded, self.work, lost)

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        """A trainer compares with none: a group is too small to tell it from one, and validators did."""
        return evidence


def _measured(
    submission: Submission,
    context: CheckContext,
    batches: Sequence[Sequence[OpenedRollout]],
    graded: Mapping[Place, GradeEvidence],
    work: ModelWork,
    inconclusive: int,
) -> MinerEvidence:
    """Evidence in the order of the batches. Of what memory did not hold whole it says so with the numerics class."""
    signs = projections(context.window.randomness, context.window.window_seed, work.facts.hidden_size)
    rows = [[_row(one, context) for one in batch] for batch in batches]
    done: dict[int, MeasuredBatch] = {}
    for at in longest_first(rows):
        context.require_time("a forward pass")
        done[at] = work.measure(rows[at], signs, context.policy, context.seconds_left())
        if not all(measurement.finite for measurement in done[at].rollouts):
            # A missing number counts as the worst one, against the miner. A slip of the device gives it the second time.
            done[at] = work.measure(rows[at], signs, context.policy, context.seconds_left())
    parts = [one.parts for one in done.values() if one.parts is not None]
    facts = work.facts
    return MinerEvidence(
        hotkey=submission.hotkey,
        content_digest=submission.content_digest,
        rollouts=tuple(
            RolloutEvidence(
                group=one.record.group,
                rollout=one.record.rollout,
                grade=graded[_place(one.record)],
                positions=np.asarray(one.positions, np.int32),
                z=measurement.z,
                logprob=measurement.logprobs,
                margin=measurement.margins.astype(np.float32),
            )
            for at, batch in enumerate(batches)
            for one, measurement in zip(batch, done[at].rollouts, strict=True)
        ),
        numerics_class=class_in_parts(facts.numerics_class, min(parts)) if parts else facts.numerics_class,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        inconclusive=inconclusive,
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
