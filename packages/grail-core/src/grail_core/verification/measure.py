"""Measuring sampled rollouts: the validator's own judgement, and its own forward pass at the challenged positions.

Everything that needs an environment or a model happens here and ends in `RolloutEvidence`; what it means is decided
elsewhere, from that evidence alone. Proof batches are composed as the protocol says: a whole group in order of r, single
rollouts 16 at a time in the order drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grail_core.files.evidence import JudgeEvidence, JudgeStability, MinerEvidence, RolloutEvidence
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives, Rows
from grail_core.proof.batch import measure_rows
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections
from grail_core.protocol import Outcome, RowSample, challenged_positions
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K, PROOF_BATCH_SIZE, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.randomness import DRAW_ALTERNATIVES, draw
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger
from grail_core.verification.context import CheckContext
from grail_core.verification.model_checks import check_model
from grail_core.verification.reward import check_rewards, judge_claim
from grail_core.verification.window_file import Submission

log = get_logger(__name__)


@dataclass(frozen=True)
class SampledRow:
    """A row index of the file and the completion positions to open."""

    index: int
    positions: tuple[int, ...]


def challenged(submission: Submission, index: int, challenge_seed: Digest, count: int = CHALLENGE_K) -> SampledRow:
    """Row `index` with the (at most `count`) positions that the challenge opens."""
    length = int(submission.table.tokens.lengths[index] - submission.table.prompt_length[index])
    positions = challenged_positions(challenge_seed, submission.row_digests[index], length, count)
    return SampledRow(index, tuple(positions))


def opened_whole(submission: Submission, index: int) -> SampledRow:
    """Row `index` with all its completion positions: what a trainer checks."""
    length = int(submission.table.tokens.lengths[index] - submission.table.prompt_length[index])
    return SampledRow(index, tuple(range(length)))


def measure_sample(
    submission: Submission,
    context: CheckContext,
    sample: RowSample,
    challenge_seed: Digest,
    model: PolicyModel,
    alternatives: Alternatives | None = None,
) -> MinerEvidence:
    """Evidence of a file's sample. A rollout the judge cannot conclude on is replaced by the next of the draw.

    Args:
        alternatives: measured on a share of the rollouts that the challenge draws, where nothing else rejects the file: they
            are several float32 passes, and a cheat that is found without them is not worth those. None measures none.
    """
    judged: dict[int, JudgeEvidence] = {}
    whole = [[submission.index_of(group, r) for r in range(ROLLOUTS_PER_PROBLEM)] for group in sample.whole_groups]
    for index in (index for group in whole for index in group):
        judged[index] = judge_row(submission, context, index)
    singles, lost = _conclusive_singles(submission, context, sample, judged)
    lost += sum(judged[i].stability is JudgeStability.INCONCLUSIVE for group in whole for i in group)
    batches = [*whole, *_chunks(singles, PROOF_BATCH_SIZE)]
    rollouts: list[RolloutEvidence] = []
    for batch in batches:
        rows = [challenged(submission, index, challenge_seed) for index in batch]
        rollouts += measure_batch(submission, context, rows, judged, model)
    evidence = evidence_of(submission, model, rollouts, lost)
    if alternatives is None or _fails_already(submission, evidence):
        return evidence
    drawn = sorted(draw(challenge_seed, DRAW_ALTERNATIVES, len(rollouts), alternatives.count(len(rollouts))))
    chosen = [rollouts[i] for i in drawn]
    for at, one in zip(drawn, _under_others(submission, context, challenge_seed, chosen, alternatives), strict=True):
        rollouts[at] = one
    return replace(evidence, rollouts=tuple(rollouts))


def evidence_of(
    submission: Submission, model: PolicyModel, rollouts: Sequence[RolloutEvidence], inconclusive: int
) -> MinerEvidence:
    """What was measured of a file with this model, in this process."""
    return MinerEvidence(
        hotkey=submission.hotkey,
        content_digest=submission.content_digest,
        rollouts=tuple(rollouts),
        numerics_class=numerics_class_of(model),
        layers=model.layers,
        hidden_size=model.hidden_size,
        inconclusive=inconclusive,
    )


def measure_batch(
    submission: Submission,
    context: CheckContext,
    rows: Sequence[SampledRow],
    judged: Mapping[int, JudgeEvidence],
    model: PolicyModel,
) -> list[RolloutEvidence]:
    """One proof batch: at most 16 rows, in the order given."""
    table = submission.table
    tokens = [table.tokens[row.index].tolist() for row in rows]
    prompt_lengths = [int(table.prompt_length[row.index]) for row in rows]
    positions = [row.positions for row in rows]
    names = [(int(table.group[row.index]), int(table.rollout[row.index])) for row in rows]
    seeds = [context.window.sampling_seed(context.hotkey, group, rollout) for group, rollout in names]
    signs = projections(context.window.randomness, context.window.window_seed, model.hidden_size)
    measured = measure_rows(model, tokens, prompt_lengths, positions, signs, context.policy, seeds)
    return [
        RolloutEvidence(
            group=group,
            rollout=rollout,
            judge=judged[row.index],
            positions=np.asarray(row.positions, np.int32),
            z=measurement.z,
            logprob=measurement.logprobs,
            margin=measurement.margins.astype(np.float32),
        )
        for row, (group, rollout), measurement in zip(rows, names, measured, strict=True)
    ]


def _fails_already(submission: Submission, evidence: MinerEvidence) -> bool:
    if check_rewards(submission, evidence):
        return True
    return any(finding.outcome is Outcome.REJECT for finding in check_model(submission, evidence))


def _under_others(
    submission: Submission,
    context: CheckContext,
    challenge_seed: Digest,
    rollouts: Sequence[RolloutEvidence],
    alternatives: Alternatives,
) -> list[RolloutEvidence]:
    """The same rollouts with the sketches of the current model in float32 and of every alternative, at more positions.

    A float32 pass costs the same whatever it is asked for, and what tells two near models apart grows with the positions.
    """
    table = submission.table
    indices = [submission.index_of(one.group, one.rollout) for one in rollouts]
    rows = Rows(
        tokens=[table.tokens[index].tolist() for index in indices],
        prompt_lengths=[int(table.prompt_length[index]) for index in indices],
        positions=[challenged(submission, index, challenge_seed, ALTERNATIVE_POSITIONS).positions for index in indices],
    )
    signs = projections(context.window.randomness, context.window.window_seed, alternatives.hidden_size)
    measured = alternatives.sketches(rows, signs)
    return [
        replace(one, alternatives=others, alternative_positions=np.asarray(positions, np.int32))
        for one, others, positions in zip(rollouts, measured, rows.positions, strict=True)
    ]


def judge_row(submission: Submission, context: CheckContext, index: int) -> JudgeEvidence:
    """The environment's judgement of one row against what it claims."""
    table = submission.table
    group, prompt_length = int(table.group[index]), int(table.prompt_length[index])
    problem = context.environment.problem(context.window.problem_seed(context.hotkey, group))
    completion = context.renderer.decode_completion(table.tokens[index][prompt_length:].tolist())
    return judge_claim(context.environment, problem, completion, float(table.reward[index]), bool(table.success[index]))


def _conclusive_singles(
    submission: Submission, context: CheckContext, sample: RowSample, judged: dict[int, JudgeEvidence]
) -> tuple[list[int], int]:
    """Single rollouts that were judged, replacements included, and how many were lost on the way."""
    kept: list[int] = []
    lost = 0
    for group, rollout in (*sample.singles, *sample.reserve):
        if len(kept) == len(sample.singles):
            break
        index = submission.index_of(group, rollout)
        judged[index] = judge_row(submission, context, index)
        if judged[index].stability is JudgeStability.INCONCLUSIVE:
            lost += 1
        else:
            kept.append(index)
    return kept, lost


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
