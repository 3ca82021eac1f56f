"""What of a sample is measured where the grader cannot conclude: all of it, replacements too, and what was lost is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from grail_core.environment import Grade, GradeOutcome, Problem
from grail_core.errors import MachineFaultError, OutOfTimeError
from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence
from grail_core.proof.batch import RolloutMeasurement
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.protocol import RolloutSample, sample_rollouts
from grail_core.protocol.constants import MAX_ROLLOUTS_CHECKED
from grail_core.protocol.types import Digest
from grail_core.verification import measure
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, examine
from grail_core.verification.measure import MAX_RESERVE_TAKEN, ChallengedSample, Place, WholeGroup
from grail_core.verification.reward import grade_claim
from grail_core.verification.window_file import Submission, check_file
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
GROUPS = range(12)
SAMPLE: RolloutSample = sample_rollouts(SEED, list(GROUPS))


class _Model:
    """Nothing is computed with it: measuring is cut off below."""

    hidden_size, layers, vocabulary_size = 64, 1, plain.VOCABULARY
    attention, device, dtype = "sdpa", "cpu", "bfloat16"


MODEL: Any = _Model()


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the proof batches that are measured."""
    batches: list[int] = []

    def nothing(
        _model: object, rows: Sequence[object], _lengths: object, positions: Sequence[tuple[int, ...]], *_: object
    ) -> list[RolloutMeasurement]:
        batches.append(len(rows))
        return [
            RolloutMeasurement(at, np.zeros((len(at), 4), np.float32), np.zeros(len(at), np.float32), np.zeros(len(at)))
            for at in positions
        ]

    monkeypatch.setattr(measure, "measure_rollouts", nothing)
    monkeypatch.setattr(measure, "numerics_class_of", lambda model: DEFAULT_CLASS)
    return batches


@dataclass(frozen=True)
class Grader(plain.PlainEnvironment):
    """Grades as claimed, but for the completions in which `outcome` sees something else; counts on nothing."""

    outcome: Callable[[int, str], Grade | None]

    def grade(self, problem: Problem, completion: str) -> Grade:
        return self.outcome(problem.seed, completion) or super().grade(problem, completion)


def submission() -> Submission:
    data = plain.window_file(CONTEXT, MINER, plain.rollouts(CONTEXT, MINER, GROUPS))
    opened = check_file(data, plain.digest_of(data), MINER.hotkey, CONTEXT)
    assert isinstance(opened, Submission)
    return opened


def cannot_conclude_on(places: Sequence[Place]) -> CheckContext:
    """An environment whose grader gives up on these rollouts."""
    file, context = submission(), plain.check_context(CONTEXT, MINER.hotkey)
    lost = {_graded(file, context, place) for place in places}
    inconclusive = Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE)
    return replace(context, environment=Grader(lambda seed, text: inconclusive if (seed, text) in lost else None))


def _graded(file: Submission, context: CheckContext, place: Place) -> tuple[int, str]:
    record = file.rollout_of(*place)
    seed = CONTEXT.problem_seed(MINER.hotkey, record.group)
    return seed, context.renderer.decode_completion(record.completion.tolist())


def places(evidence: MinerEvidence) -> list[Place]:
    return [(one.group, one.rollout) for one in evidence.rollouts]


def test_a_sample_that_can_be_graded_is_measured_as_drawn(measured: list[int]) -> None:
    evidence = ChallengedSample(SEED, MODEL).measure(submission(), plain.check_context(CONTEXT, MINER.hotkey))
    assert places(evidence) == list(SAMPLE.places)
    assert evidence.inconclusive == 0
    assert measured == [16, 16, len(SAMPLE.singles)]


def test_a_single_rollout_the_grader_cannot_conclude_on_is_measured_and_the_next_of_the_draw_too(measured: list[int]) -> None:
    lost = (SAMPLE.singles[0], SAMPLE.singles[3], SAMPLE.reserve[0])
    evidence = ChallengedSample(SEED, MODEL).measure(submission(), cannot_conclude_on(lost))
    assert places(evidence) == [*SAMPLE.places, *SAMPLE.reserve[:3]]
    assert evidence.inconclusive == 3
    unsure = [(one.group, one.rollout) for one in evidence.rollouts if one.grade.stability is GradeStability.INCONCLUSIVE]
    assert unsure == list(lost)
    assert measured == [16, 16, len(SAMPLE.singles) + 3]
    assert all(len(one.z) for one in evidence.rollouts)


def test_a_file_of_which_nothing_can_be_graded_is_measured_as_drawn_and_costs_a_quarter_more(measured: list[int]) -> None:
    everything = [(group, r) for group in GROUPS for r in range(16)]
    evidence = ChallengedSample(SEED, MODEL).measure(submission(), cannot_conclude_on(everything))
    assert places(evidence) == [*SAMPLE.places, *SAMPLE.reserve[:MAX_RESERVE_TAKEN]]
    assert evidence.inconclusive == len(evidence.rollouts)
    assert sum(measured) <= MAX_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN


@pytest.mark.parametrize(("lost", "too_many"), [(10, False), (11, True)])
def test_what_is_looked_at_in_place_of_others_does_not_make_the_sample_larger(lost: int, too_many: bool) -> None:
    """42 rollouts are drawn of twelve groups; ten of them may lack a grade."""
    unsure = [*SAMPLE.singles, *SAMPLE.reserve][:lost]
    evidence = ChallengedSample(SEED, MODEL).measure(submission(), cannot_conclude_on(unsure))
    assert (len(SAMPLE.places), evidence.inconclusive) == (42, lost)
    assert Examination((), submission(), evidence=evidence).too_many_inconclusive == too_many


@pytest.mark.parametrize("work", ["a grade", "a forward pass", "the comparison with other weights", "schema"])
def test_a_file_whose_time_is_over_ends_before_the_next_piece_of_work(measured: list[int], work: str) -> None:
    """None is begun that there is no time for, and what was begun is finished."""
    asked: list[str] = []

    class Timed(CheckContext):
        def require_time(self, piece: str) -> None:
            asked.append(piece)
            super().require_time(piece)

    context = plain.check_context(CONTEXT, MINER.hotkey)
    timed = Timed(**{one.name: getattr(context, one.name) for one in fields(context)})
    object.__setattr__(timed, "seconds_left", lambda: -1.0 if asked[-1] == work else 1.0)
    with pytest.raises(OutOfTimeError, match=f"before {work}"):
        examine(submission(), timed, ComparesTruth(SEED, MODEL))
    assert asked.count(work) == 1
    assert len(measured) == (3 if work.startswith("the comparison") else 0)


class ComparesTruth(ChallengedSample):
    """Measures as a file claims, so that it comes as far as the comparison."""

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        super().measure(submission, context)
        return plain.TruthfulSampling(self.challenge_seed).measure(submission, context)


def test_rollouts_of_a_whole_group_stay_in_it_and_count_as_lost() -> None:
    """A group is proven together or not at all, so there is nothing to put in the place of one of its rollouts."""
    lost = [(SAMPLE.whole_groups[0], r) for r in range(5)]
    evidence = ChallengedSample(SEED, MODEL).measure(submission(), cannot_conclude_on([*lost, SAMPLE.singles[0]]))
    assert places(evidence)[:16] == [(SAMPLE.whole_groups[0], r) for r in range(16)]
    assert evidence.inconclusive == 6
    stability = [one.grade.stability for one in evidence.rollouts]
    assert stability[:32].count(GradeStability.INCONCLUSIVE) == 5


def test_a_group_to_learn_from_counts_whatever_grade_is_not_sure() -> None:
    """A trainer learns from no grade that another machine may not give: one that varies is as bad as none."""
    file, context = submission(), plain.check_context(CONTEXT, MINER.hotkey)
    varying, lost = _graded(file, context, (2, 1)), _graded(file, context, (2, 4))
    answers = iter([Grade(0.25, False, True), Grade(0.5, False, True), Grade(0.75, False, True)])

    def outcome(seed: int, text: str) -> Grade | None:
        if (seed, text) == lost:
            return Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE)
        return next(answers) if (seed, text) == varying else None

    evidence = WholeGroup(2, MODEL).measure(file, replace(context, environment=Grader(outcome)))
    assert places(evidence) == [(2, r) for r in range(16)]
    assert evidence.rollouts[1].grade.stability is GradeStability.UNSTABLE
    assert evidence.rollouts[4].grade.stability is GradeStability.INCONCLUSIVE
    assert evidence.inconclusive == 2


def test_a_device_that_slipped_measures_again_and_one_that_cannot_says_so_to_the_miners_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not finite counts against the miner, so it has to be so twice."""
    tries: list[bool] = []
    slips: set[int] = set()

    def slipping(_model: object, rows: Sequence[object], _lengths: object, at: Sequence[tuple[int, ...]], *_: object) -> object:
        tries.append(len(tries) in slips)
        value = np.nan if tries[-1] else 0.0
        return [
            RolloutMeasurement(a, np.full((len(a), 4), value, np.float32), np.zeros(len(a), np.float32), np.zeros(len(a)))
            for a in at
        ]

    monkeypatch.setattr(measure, "measure_rollouts", slipping)
    context = plain.check_context(CONTEXT, MINER.hotkey)
    for at_tries, good in (({0}, True), ({0, 1}, False)):
        slips.clear()
        slips.update(at_tries)
        tries.clear()
        evidence = WholeGroup(2, MODEL).measure(submission(), context)
        assert len(tries) == 2
        assert all(np.isfinite(one.z).all() for one in evidence.rollouts) == good


class TestGrading:
    """What an environment's grader does that breaks its promise."""

    context = plain.check_context(CONTEXT, MINER.hotkey)

    def graded_by(self, outcome: Callable[[int, str], Grade | None]) -> GradeEvidence:
        problem = self.context.environment.problem(1)
        return grade_claim(Grader(outcome), problem, "5 6", 1.0, True)

    def test_a_grader_that_a_text_breaks_gives_that_text_nothing(self) -> None:
        def breaks(seed: int, text: str) -> Grade | None:
            raise RecursionError("deep")

        assert self.graded_by(breaks) == GradeEvidence(0.0, False, GradeStability.STABLE)
        for reward in (float("nan"), float("inf")):
            found = self.graded_by(lambda seed, text, reward=reward: Grade(reward, True, True))  # type: ignore[misc]
            assert found == GradeEvidence(0.0, False, GradeStability.STABLE)

    @pytest.mark.parametrize("error", [MemoryError(), OSError(24, "too many open files")])
    def test_what_this_machine_lacks_is_no_answers_fault(self, error: Exception) -> None:
        def lacks(seed: int, text: str) -> Grade | None:
            raise error

        with pytest.raises(MachineFaultError, match="could not grade"):
            self.graded_by(lacks)

    def test_an_answer_that_breaks_its_grader_now_and_then_is_unstable(self) -> None:
        runs = iter([True, False, True])

        def sometimes(seed: int, text: str) -> Grade | None:
            if next(runs):
                raise ValueError
            return None

        assert self.graded_by(sometimes).stability is GradeStability.UNSTABLE
