"""What the challenge draws from a file, held against evidence: which rollouts were looked at, in which order, and where.

A validator that measured other rollouts, or other positions, than the challenge draws has chosen what it judges. Whoever reads
its evidence and knows the challenge finds it out here, without a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import GradeStability, MinerEvidence, RolloutEvidence
from grail_core.protocol import RolloutSample, challenged_positions, sample_rollouts
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, CHALLENGE_K, MAX_ROLLOUTS_CHECKED
from grail_core.protocol.randomness import DRAW_ALTERNATIVES, draw
from grail_core.protocol.types import Digest
from grail_core.verification.window_file import Submission

MAX_RESERVE_TAKEN: Final = MAX_ROLLOUTS_CHECKED // 4
"""Of more than a quarter of a sample that cannot be graded the window does not count: no more need to be replaced."""

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


def require_challenged(submission: Submission, evidence: MinerEvidence, challenge_seed: Digest) -> None:
    """Evidence of this file is about the rollouts and positions that the challenge draws, and no others.

    How many rollouts were compared with alternatives is the validator's own setting; which ones is not.

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
    lost = sum(one.grade.stability is GradeStability.INCONCLUSIVE for one in evidence.rollouts)
    if evidence.inconclusive != lost:
        raise ProtocolViolationError(f"the evidence names {evidence.inconclusive} inconclusive rollouts and shows {lost}")
    _require_positions(submission, evidence.rollouts, challenge_seed)


def _require_positions(submission: Submission, rollouts: tuple[RolloutEvidence, ...], seed: Digest) -> None:
    compared = {at for at, one in enumerate(rollouts) if one.alternatives or len(one.alternative_positions)}
    drawn = set(draw(seed, DRAW_ALTERNATIVES, len(rollouts), len(compared))) if compared else set()
    if compared != drawn:
        raise ProtocolViolationError("alternatives were measured on other rollouts than the challenge draws")
    for at, one in enumerate(rollouts):
        digest = submission.digest_of(one.group, one.rollout)
        length = submission.rollout_of(one.group, one.rollout).completion_length
        wanted = [("positions", one.positions, CHALLENGE_K)]
        if at in compared:
            wanted.append(("alternative positions", one.alternative_positions, ALTERNATIVE_POSITIONS))
        for name, positions, count in wanted:
            if positions.tolist() != list(challenged_positions(seed, digest, length, count)):
                where = f"evidence of group {one.group}, rollout {one.rollout}"
                raise ProtocolViolationError(f"{where}: {name} are not those that the challenge draws")
