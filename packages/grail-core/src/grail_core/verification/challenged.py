"""What the challenge draws from a file, held against evidence: which rollouts were looked at, in which order, and where.

Whether a file is held against float32 at all, by the reference and by named alternatives, is one coin of the challenge. A
validator that measured other rollouts or positions than the challenge draws has chosen what it judges, and so has one that left
out float32 passes where the coin fell, or took them where it did not. Whoever reads its evidence and knows the challenge finds
it out here, without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

import numpy as np

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import GradeStability, MinerEvidence, RolloutEvidence
from grail_core.proof.calibration import CalibrationTable
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES, supports
from grail_core.proof.work import YARDSTICKS, AskedAlternatives
from grail_core.protocol import RolloutSample, challenged_positions, sample_rollouts
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K, MAX_ROLLOUTS_CHECKED
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import COIN_FLOAT32, DRAW_ALTERNATIVES, coin_falls, draw
from grail_core.protocol.types import Digest
from grail_core.verification import model_checks
from grail_core.verification.examine import decide, first_reject
from grail_core.verification.window_file import Submission

MAX_RESERVE_TAKEN: Final = MAX_ROLLOUTS_CHECKED // 4
"""Of more than a quarter of a sample that cannot be graded the window does not count: no more need to be replaced."""

MOST_COMPARED_FIRST: Final = 12
"""Rollouts of a file that are compared with alternatives before it is known whether the others have to be: nearly everything
that another model made is settled by them, and a float32 pass for each alternative is most of what a file costs."""

Place = tuple[int, int]
"""A rollout of a file: its group and its number in the group."""


def look_at_singles(sample: RolloutSample, graded: Callable[[Place], bool]) -> list[Place]:
    """The single rollouts drawn, and of the reserve as many more as lack a grade, in the order looked at.

    Args:
        graded: looks at one; False where it could not be graded.
    """
    looked_at: list[Place] = []
    missing = len(sample.singles)
    for place in (*sample.singles, *sample.reserve[:MAX_RESERVE_TAKEN]):
        if not missing:
            break
        looked_at.append(place)
        missing -= graded(place)
    return looked_at


def says_nothing(submission: Submission, one: RolloutEvidence) -> bool:
    """Whether a rollout that was looked at is inconclusive: without a grade, or held against a reference that is none."""
    if one.grade.stability is GradeStability.INCONCLUSIVE:
        return True
    return model_checks.reference_says_nothing(submission, one)


def longest_row(submission: Submission, evidence: MinerEvidence) -> int:
    """Tokens of the longest rollout that was measured, prompt included."""
    records = [submission.rollout_of(one.group, one.rollout) for one in evidence.rollouts]
    return max((one.prompt_length + one.completion_length for one in records), default=0)


def compared_first(challenge_seed: Digest, rollouts: int) -> list[int]:
    """Of so many rollouts, in the order of the evidence, those that a compared file is compared on at first. Ascending."""
    return sorted(draw(challenge_seed, DRAW_ALTERNATIVES, rollouts, min(MOST_COMPARED_FIRST, rollouts)))


def held_against_float32(challenge_seed: Digest, params: NetworkParameters, probability: Fraction) -> bool:
    """Whether the challenge wants float32 passes of a drawn file: those of the reference and those of alternatives.

    Its chance is c = min(1, a/p): with p · c = min(p, a) a miner whose work deviates is held against float32 as often whatever
    its p, unless p is below what the network asks for; then every drawn file of its is.

    Args:
        probability: p, the chance with which its miner was drawn.
    """
    return coin_falls(challenge_seed, COIN_FLOAT32, min(Fraction(1), Fraction(params.float32_permille, 1000) / probability))


def require_challenged(
    submission: Submission,
    evidence: MinerEvidence,
    challenge_seed: Digest,
    table: CalibrationTable,
    params: NetworkParameters,
    policy: GenerationPolicy,
    probability: Fraction,
) -> None:
    """Evidence of this file is about the rollouts and positions that the challenge draws, all that is measured of them and
    nothing else.

    Args:
        table: that the window's checkpoint pins; which rollouts are compared follows from what it makes of the others.
        policy: the checkpoint's; with which alternatives tokens are compared follows from it.
        probability: the chance with which the file's miner was drawn.

    Raises:
        ProtocolViolationError: which rollout or position it should have looked at.
    """
    found = {(one.group, one.rollout): one for one in evidence.rollouts}
    sample = sample_rollouts(challenge_seed, submission.groups)

    def graded(place: Place) -> bool:
        return place in found and found[place].grade.stability is not GradeStability.INCONCLUSIVE

    whole = sample.places[: len(sample.places) - len(sample.singles)]
    expected = [*whole, *look_at_singles(sample, graded)]
    looked_at = [(one.group, one.rollout) for one in evidence.rollouts]
    if looked_at != expected:
        at = next((i for i, (a, b) in enumerate(zip(looked_at, expected, strict=False)) if a != b), None)
        told = f"{len(looked_at)} rollouts, not {len(expected)}" if at is None else f"{looked_at[at]}, not {expected[at]}"
        raise ProtocolViolationError(f"the evidence is of other rollouts than the challenge draws: {told}")
    lost = sum(says_nothing(submission, one) for one in evidence.rollouts)
    if evidence.inconclusive != lost:
        raise ProtocolViolationError(f"the evidence names {evidence.inconclusive} inconclusive rollouts and shows {lost}")
    in_float32 = held_against_float32(challenge_seed, params, probability)
    _require_positions(submission, evidence.rollouts, challenge_seed, in_float32=in_float32)
    _require_compared(submission, evidence, challenge_seed, table, params, in_float32=in_float32)
    for one in (evidence.rollouts[at] for at in compared_first(challenge_seed, len(evidence.rollouts))):
        _require_whole_comparison(one, policy)


def _require_positions(submission: Submission, rollouts: Sequence[RolloutEvidence], seed: Digest, *, in_float32: bool) -> None:
    """Of all that was measured; of every rollout there is a reference, or of none."""
    for one in rollouts:
        where = f"evidence of group {one.group}, rollout {one.rollout}"
        digest = submission.digest_of(one.group, one.rollout)
        length = submission.rollout_of(one.group, one.rollout).completion_length
        if one.positions.tolist() != list(challenged_positions(seed, digest, length, CHALLENGE_K)):
            raise ProtocolViolationError(f"{where}: positions are not those that the challenge draws")
        if (one.reference is not None) != in_float32:
            told = "was not" if in_float32 else "was, against the challenge's coin,"
            raise ProtocolViolationError(f"{where}: it {told} held against the float32 reference")
        drawn = challenged_positions(seed, digest, length, ALTERNATIVE_POSITIONS)
        if one.compared is not None and list(one.compared.positions) != list(drawn):
            raise ProtocolViolationError(f"{where}: compared positions are not those that the challenge draws")


def _require_compared(
    submission: Submission,
    evidence: MinerEvidence,
    seed: Digest,
    table: CalibrationTable,
    params: NetworkParameters,
    *,
    in_float32: bool,
) -> None:
    """Exactly those rollouts were compared that `measure.ChallengedSample` compares."""
    compared = {at for at, one in enumerate(evidence.rollouts) if one.compared is not None}
    expected: set[int] = set()
    first, asked = compared_first(seed, len(evidence.rollouts)), AskedAlternatives()
    if in_float32:
        bare = replace(evidence, rollouts=tuple(replace(one, compared=None) for one in evidence.rollouts))
        if first_reject(decide(submission, bare, table, params)) is None:  # else it is compared with nothing
            if missing := [at for at in first if at not in compared]:
                one = evidence.rollouts[missing[0]]
                raise ProtocolViolationError(
                    f"evidence of group {one.group}, rollout {one.rollout}: it was not compared with alternatives"
                )
            begun = [replace(one, compared=one.compared if at in first else None) for at, one in enumerate(evidence.rollouts)]
            asked = model_checks.left_open(submission, replace(evidence, rollouts=tuple(begun)), table)
            expected = set(range(len(evidence.rollouts))) if asked else set(first)
    if compared != expected:
        raise ProtocolViolationError(
            f"alternatives were measured on {len(compared)} rollouts, or on others than the {len(expected)} of the challenge"
        )
    for at in sorted(compared.difference(first)):
        _require_asked(evidence.rollouts[at], asked)


def _require_asked(one: RolloutEvidence, asked: AskedAlternatives) -> None:
    """One of the other rollouts was compared with nothing but what the first leave open (less, where a number is missing)."""
    assert one.compared is not None
    sketched = set(one.compared.z) - asked.sketches - asked.tokens - YARDSTICKS
    if foreign := sorted(sketched | (set(one.compared.leads) - asked.tokens)):
        raise ProtocolViolationError(
            f"evidence of group {one.group}, rollout {one.rollout}: it was compared with {foreign[0]}, which nothing speaks for"
        )


def _require_whole_comparison(one: RolloutEvidence, policy: GenerationPolicy) -> None:
    """One of the first is compared with all that its tokens can be, and with nothing only where a number is missing: a state
    that is none leaves none after it, so what is missing at other positions is taken to be missing at the challenged ones.

    Which alternatives are other weights is not known here: whoever measures may have no earlier checkpoint, nor rounded copies.
    """
    if one.compared is None or one.reference is None:
        return
    where = f"evidence of group {one.group}, rollout {one.rollout}"
    if not one.compared.z:
        if one.reference.finite and np.isfinite(one.z).all() and np.isfinite(one.logprob).all():
            raise ProtocolViolationError(f"{where}: it was compared with nothing, though its reference says something")
        return
    wanted = [*SAMPLING_ALTERNATIVES, *sorted(set(one.compared.z) - YARDSTICKS)] if supports(policy) else []
    if missing := [name for name in wanted if name not in one.compared.leads]:
        raise ProtocolViolationError(f"{where}: its tokens were not compared with {missing[0]!r}")
    if one.compared.leads and not wanted:
        raise ProtocolViolationError(f"{where}: its tokens were compared, which a policy with a repetition penalty leaves out")
