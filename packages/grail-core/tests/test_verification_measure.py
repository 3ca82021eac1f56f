"""What of a sample is measured where the grader cannot conclude: all of it, replacements too, and what was lost is counted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import cast

import numpy as np
import pytest

from grail_core.environment import Grade, GradeOutcome, Problem
from grail_core.errors import MachineFaultError, OutOfTimeError
from grail_core.files.evidence import GradeEvidence, GradeStability, MinerEvidence, write_evidence
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.sketches import Projections, Sketches
from grail_core.proof.work import (
    OWN,
    REFERENCE,
    AskedAlternatives,
    ComparedRollout,
    MeasuredBatch,
    ModelFacts,
    ProofRow,
    ReferenceMeasurement,
    RolloutMeasurement,
    forward_tokens,
)
from grail_core.protocol import RolloutRecord, RolloutSample, sample_rollouts
from grail_core.protocol.constants import (
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    MAX_ROLLOUTS_CHECKED,
    PROOF_BATCH_SIZE,
)
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_core.verification import measure
from grail_core.verification.challenged import (
    MAX_RESERVE_TAKEN,
    MOST_COMPARED_FIRST,
    Place,
    held_against_float32,
    require_challenged,
)
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, decide, examine
from grail_core.verification.measure import (
    MOST_ROWS,
    ChallengedSample,
    WholeGroup,
    most_forward_tokens,
)
from grail_core.verification.model_checks import NOT_IN_FLOAT32
from grail_core.verification.reward import grade_claim
from grail_core.verification.window_file import Submission, check_file
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
SEED = Digest(b"s" * 32)
GROUPS = range(12)
SAMPLE: RolloutSample = sample_rollouts(SEED, list(GROUPS))


FACTS = ModelFacts(DEFAULT_CLASS, layers=1, hidden_size=64, vocabulary_size=plain.VOCABULARY, context_length=16_384)


class ScriptedWork:
    """Computes nothing: counts the tokens that a model would compute, and knows each row again by its own numbers.

    Args:
        weights: with how many earlier checkpoints rows are compared; they lie too near for a few rollouts to settle it.
        slips: measurements, counted from 0, in which a number is missing. reference_slips: in which one of the reference is.
    """

    def __init__(self, weights: int = 0, slips: Collection[int] = (), reference_slips: Collection[int] = ()) -> None:
        self.facts = FACTS
        self.batches: list[list[ProofRow]] = []
        self.compared: list[list[ProofRow]] = []
        self.classes: set[str | None] = set()
        self.tokens = 0
        self._weights, self._slips, self._reference_slips = weights, slips, reference_slips

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def measure(
        self,
        batch: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        reference: bool = True,
    ) -> MeasuredBatch:
        own, far = (np.float32(np.nan if len(self.batches) in slips else 0.0) for slips in (self._slips, self._reference_slips))
        self.batches.append(list(batch))
        self.classes.add(proof_class)
        self.tokens += (1 + reference) * forward_tokens([len(row.tokens) for row in batch])
        return MeasuredBatch([self._measured(row, own, far if reference else None) for row in batch])

    def _measured(self, row: ProofRow, own: np.float32, reference: np.float32 | None) -> RolloutMeasurement:
        count = len(row.positions)
        nothing = np.zeros(count, np.float32)
        z = _z_of(row)
        return RolloutMeasurement(
            tuple(row.positions),
            z + own,
            nothing,
            np.zeros(count),
            None if reference is None else ReferenceMeasurement(z + np.float32(plain.OWN_DRIFT) + reference, *[nothing] * 5),
        )

    def compare(
        self,
        rows: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        asked: AskedAlternatives | None = None,
    ) -> list[ComparedRollout]:
        self.compared.append(list(rows))
        self.classes.add(proof_class)
        for start in range(0, len(rows), PROOF_BATCH_SIZE):
            lengths = [len(row.tokens) for row in rows[start : start + PROOF_BATCH_SIZE]]
            self.tokens += (2 + self._weights) * forward_tokens(lengths)
        return [self._compared(row) for row in rows]

    def _compared(self, row: ProofRow) -> ComparedRollout:
        current, nothing = _z_of(row) + np.float32(plain.OWN_DRIFT), np.zeros(len(row.positions), np.float32)
        names = [f"previous-{n}" for n in range(1, self._weights + 1)]
        earlier = {name: current + np.float32(0.2 * plain.OWN_DRIFT) for name in names}
        return ComparedRollout(tuple(row.positions), {REFERENCE: current, OWN: _z_of(row), **earlier}, {}, nothing, nothing)


def _z_of(row: ProofRow) -> Sketches:
    """Its own number at each position, small enough that float32 holds the drift beside it."""
    return np.full((len(row.positions), 4), np.float32(row.sampling_seed % 1_000) / 1_000, np.float32)


@pytest.fixture
def work() -> ScriptedWork:
    return ScriptedWork()


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


def test_a_sample_that_can_be_graded_is_measured_as_drawn(work: ScriptedWork) -> None:
    evidence = ChallengedSample(SEED, work).measure(submission(), plain.check_context(CONTEXT, MINER.hotkey))
    assert places(evidence) == list(SAMPLE.places)
    assert evidence.inconclusive == 0
    assert sorted(work.sizes) == sorted([16, 16, len(SAMPLE.singles)])


def test_a_single_rollout_the_grader_cannot_conclude_on_is_measured_and_the_next_of_the_draw_too(work: ScriptedWork) -> None:
    lost = (SAMPLE.singles[0], SAMPLE.singles[3], SAMPLE.reserve[0])
    evidence = ChallengedSample(SEED, work).measure(submission(), cannot_conclude_on(lost))
    assert places(evidence) == [*SAMPLE.places, *SAMPLE.reserve[:3]]
    assert evidence.inconclusive == 3
    unsure = [(one.group, one.rollout) for one in evidence.rollouts if one.grade.stability is GradeStability.INCONCLUSIVE]
    assert unsure == list(lost)
    assert sorted(work.sizes) == sorted([16, 16, len(SAMPLE.singles) + 3])
    assert all(len(one.z) for one in evidence.rollouts)


def test_a_file_of_which_nothing_can_be_graded_is_measured_as_drawn_and_costs_a_quarter_more(work: ScriptedWork) -> None:
    everything = [(group, r) for group in GROUPS for r in range(16)]
    evidence = ChallengedSample(SEED, work).measure(submission(), cannot_conclude_on(everything))
    assert places(evidence) == [*SAMPLE.places, *SAMPLE.reserve[:MAX_RESERVE_TAKEN]]
    assert evidence.inconclusive == len(evidence.rollouts)
    assert sum(work.sizes) <= MAX_ROLLOUTS_CHECKED + MAX_RESERVE_TAKEN


@pytest.mark.parametrize(("lost", "too_many"), [(10, False), (11, True)])
def test_what_is_looked_at_in_place_of_others_does_not_make_the_sample_larger(
    lost: int, too_many: bool, work: ScriptedWork
) -> None:
    """42 rollouts are drawn of twelve groups; ten of them may lack a grade."""
    unsure = [*SAMPLE.singles, *SAMPLE.reserve][:lost]
    evidence = ChallengedSample(SEED, work).measure(submission(), cannot_conclude_on(unsure))
    assert (len(SAMPLE.places), evidence.inconclusive) == (42, lost)
    assert Examination((), submission(), evidence=evidence).too_many_inconclusive == too_many


@pytest.mark.parametrize("piece", ["a grade", "a forward pass", "the comparison with alternatives", "schema"])
def test_a_file_whose_time_is_over_ends_before_the_next_piece_of_work(work: ScriptedWork, piece: str) -> None:
    """None is begun that there is no time for, and what was begun is finished."""
    asked: list[str] = []

    class Timed(CheckContext):
        def require_time(self, work: str) -> None:
            asked.append(work)
            super().require_time(work)

    context = plain.check_context(CONTEXT, MINER.hotkey)
    timed = Timed(**{one.name: getattr(context, one.name) for one in fields(context)})
    object.__setattr__(timed, "seconds_left", lambda: -1.0 if asked[-1] == piece else 1.0)
    with pytest.raises(OutOfTimeError, match=f"before {piece}"):
        examine(submission(), timed, ComparesTruth(SEED, work))
    assert asked.count(piece) == 1
    assert len(work.batches) == (3 if piece.startswith("the comparison") else 0)


class ComparesTruth(ChallengedSample):
    """Measures as a file claims, so that it comes as far as the comparison."""

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        super().measure(submission, context)
        return plain.TruthfulSampling(self.challenge_seed).measure(submission, context)


def test_rollouts_of_a_whole_group_stay_in_it_and_count_as_lost(work: ScriptedWork) -> None:
    """A group is proven together or not at all, so there is nothing to put in the place of one of its rollouts."""
    lost = [(SAMPLE.whole_groups[0], r) for r in range(5)]
    evidence = ChallengedSample(SEED, work).measure(submission(), cannot_conclude_on([*lost, SAMPLE.singles[0]]))
    assert places(evidence)[:16] == [(SAMPLE.whole_groups[0], r) for r in range(16)]
    assert evidence.inconclusive == 6
    stability = [one.grade.stability for one in evidence.rollouts]
    assert stability[:32].count(GradeStability.INCONCLUSIVE) == 5


def test_a_group_to_learn_from_counts_whatever_grade_is_not_sure(work: ScriptedWork) -> None:
    """A trainer learns from no grade that another machine may not give: one that varies is as bad as none."""
    file, context = submission(), plain.check_context(CONTEXT, MINER.hotkey)
    varying, lost = _graded(file, context, (2, 1)), _graded(file, context, (2, 4))
    answers = iter([Grade(0.25, False, True), Grade(0.5, False, True), Grade(0.75, False, True)])

    def outcome(seed: int, text: str) -> Grade | None:
        if (seed, text) == lost:
            return Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE)
        return next(answers) if (seed, text) == varying else None

    evidence = WholeGroup(2, work).measure(file, replace(context, environment=Grader(outcome)))
    assert places(evidence) == [(2, r) for r in range(16)]
    assert evidence.rollouts[1].grade.stability is GradeStability.UNSTABLE
    assert evidence.rollouts[4].grade.stability is GradeStability.INCONCLUSIVE
    assert evidence.inconclusive == 2


@pytest.mark.parametrize(("slips", "good"), [({0}, True), ({0, 1}, False)])
def test_a_device_that_slipped_measures_again_and_one_that_cannot_says_so_to_the_miners_loss(
    slips: set[int], good: bool
) -> None:
    """What is not finite counts against the miner, so it has to be so twice."""
    work = ScriptedWork(slips=slips)
    evidence = WholeGroup(2, work).measure(submission(), plain.check_context(CONTEXT, MINER.hotkey))
    assert len(work.batches) == 2
    assert all(np.isfinite(one.z).all() for one in evidence.rollouts) == good


@pytest.mark.parametrize(("slips", "lost"), [({0}, 0), ({0, 1}, 16)])
def test_a_reference_that_stays_without_a_number_makes_its_rollouts_inconclusive_and_is_nobodys_fault(
    slips: set[int], lost: int
) -> None:
    work = ScriptedWork(reference_slips=slips)
    evidence = WholeGroup(2, work).measure(submission(), plain.check_context(CONTEXT, MINER.hotkey))
    assert len(work.batches) == 2
    assert evidence.inconclusive == lost


@pytest.mark.parametrize(
    ("proof_class", "measured_in"),
    [
        ("bf16-eager-cpu-transformers", "bf16-eager-cpu-transformers"),
        ("bf16-eager-cuda-transformers", "bf16-eager-cpu-transformers"),
        ("bf16-flash-cuda-sglang", DEFAULT_CLASS),
        (DEFAULT_CLASS, DEFAULT_CLASS),
    ],
)
def test_a_file_is_measured_with_its_miners_attention_and_evidence_names_the_class_measured_in(
    proof_class: str, measured_in: str, work: ScriptedWork
) -> None:
    file = submission()
    file = replace(file, file=replace(file.file, header=replace(file.file.header, proof_class=proof_class)))
    context = plain.check_context(CONTEXT, MINER.hotkey)
    sample = ChallengedSample(SEED, work)
    evidence = sample.under_alternatives(file, context, sample.measure(file, context))
    assert evidence.numerics_class == measured_in
    assert work.compared
    assert work.classes == {measured_in}


def test_where_the_coin_does_not_fall_no_float32_pass_is_taken_and_the_finding_says_so(work: ScriptedWork) -> None:
    params = replace(CONTEXT.params, float32_permille=250)
    context = plain.check_context(replace(CONTEXT, params=params), MINER.hotkey)
    file = submission()
    fell = {}
    for seed in (Digest(hashlib.sha256(bytes([n])).digest()) for n in range(8)):
        evidence = ChallengedSample(seed, work, Fraction(1)).measure(file, context)
        fell[held_against_float32(seed, params, Fraction(1))] = seed, evidence
    for coin, (seed, evidence) in fell.items():
        sample = ChallengedSample(seed, work, Fraction(1))
        assert {one.reference is not None for one in evidence.rollouts} == {coin}
        work.compared.clear()
        assert (sample.under_alternatives(file, context, evidence) == evidence) is not coin
        assert bool(work.compared) is coin
        # These sketches are nobody's: by its own statistics such a file is to be compared with nothing.
        require_challenged(file, evidence, seed, context.table, params, context.policy, Fraction(1))
        found = [one.detail for one in decide(file, evidence, context.table, params) if one.check == "proof"]
        assert [NOT_IN_FLOAT32 in detail for detail in found] == [not coin, *[False] * (len(found) - 1)]
    assert set(fell) == {False, True}


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


# --- the cost of a file, and the order of its batches -------------------------------------------------------------------


class _Drawn:
    """A file of which nothing is in memory but what is drawn; of each rollout only the length is said.

    Args:
        groups: how many. length: completion tokens of a rollout.
    """

    hotkey, content_digest = MINER.hotkey, Digest(bytes(32))

    @dataclass(frozen=True)
    class _Header:
        proof_class: str = DEFAULT_CLASS
        generation_class: str = DEFAULT_CLASS

    header = _Header()

    def __init__(self, groups: int, length: Callable[[Place], int], prompt: int = MAX_PROMPT_TOKENS) -> None:
        self.groups = tuple(range(groups))
        self._length, self._prompt = length, prompt

    def rollout_of(self, group: int, rollout: int) -> RolloutRecord:
        length = self._length((group, rollout))
        return RolloutRecord(
            group=group,
            rollout=rollout,
            tokens=np.full(self._prompt + length, 20, np.int32),
            prompt_length=self._prompt,
            logprobs=np.zeros(length, np.float32),
            sketches=bytes(8 * (length + 1)),
            reward=0.0,
            success=False,
        )

    def rollouts_of(self, group: int) -> list[RolloutRecord]:
        return [self.rollout_of(group, r) for r in range(16)]

    def digest_of(self, group: int, rollout: int) -> Digest:
        return Digest(group.to_bytes(16, "big") + rollout.to_bytes(16, "big"))

    @property
    def file(self) -> Submission:
        return cast(Submission, self)


def _longest(place: Place) -> int:
    return MAX_NEW_TOKENS_PROTOCOL_CAP


def _longest_now_and_then(place: Place) -> int:
    return MAX_NEW_TOKENS_PROTOCOL_CAP if place[1] == 0 or place[0] % 16 == 0 else 2


@pytest.mark.parametrize("length", [_longest, _longest_now_and_then])
@pytest.mark.parametrize("graded", [True, False], ids=["graded", "nothing can be graded"])
@pytest.mark.parametrize("slips", [(), range(1_000)], ids=["finite", "never finite"])
def test_a_file_of_the_largest_size_costs_no_more_forward_tokens_than_is_stated(
    length: Callable[[Place], int], graded: bool, slips: Collection[int]
) -> None:
    """Whatever is drawn of it, whatever its grader says, and whatever the model's numbers are; what fills rows up counts."""
    weights, file = 3, _Drawn(313, length).file
    context = plain.check_context(CONTEXT, MINER.hotkey)
    if not graded:
        lost = Grade(0.0, False, False, outcome=GradeOutcome.INCONCLUSIVE)
        context = replace(context, environment=Grader(lambda seed, text: lost))
    work = ScriptedWork(weights, reference_slips=slips)
    sample = ChallengedSample(SEED, work)
    evidence = sample.measure(file, context)
    own = work.tokens
    sample.under_alternatives(file, context, evidence)
    longest = MAX_PROMPT_TOKENS + MAX_NEW_TOKENS_PROTOCOL_CAP
    assert len(evidence.rollouts) == (64 if graded else MOST_ROWS)
    assert own <= most_forward_tokens(longest)
    assert work.tokens <= most_forward_tokens(longest, compared=MOST_ROWS, weights=weights)
    if length is _longest and not graded and slips:
        # The bound of a file whose first rollouts leave nothing open is met.
        assert work.tokens == most_forward_tokens(longest, compared=MOST_COMPARED_FIRST, weights=weights)


def test_the_stated_bound_is_what_the_documents_say() -> None:
    assert most_forward_tokens(131_072) == 3_932_160
    assert most_forward_tokens(131_072, compared=MOST_ROWS, weights=6) == 11_796_480


@pytest.mark.parametrize("order", [lambda batches: range(len(batches)), lambda batches: range(len(batches))[::-1]])
def test_batches_are_measured_longest_first_and_in_whatever_order_they_are_the_evidence_is_the_same(
    monkeypatch: pytest.MonkeyPatch, order: Callable[[Sequence[object]], Sequence[int]]
) -> None:
    file, context = (
        _Drawn(12, lambda place: 10 + 3 * place[0] + place[1], prompt=10).file,
        plain.check_context(CONTEXT, MINER.hotkey),
    )
    work, other = ScriptedWork(), ScriptedWork()
    scheduled = ChallengedSample(SEED, work).measure(file, context)
    costs = [forward_tokens([len(row.tokens) for row in batch]) for batch in work.batches]
    assert costs == sorted(costs, reverse=True)
    monkeypatch.setattr(measure, "longest_first", order)
    otherwise = ChallengedSample(SEED, other).measure(file, context)
    assert [batch[0].sampling_seed for batch in other.batches] != [batch[0].sampling_seed for batch in work.batches]
    assert write_evidence([otherwise]) == write_evidence([scheduled])
    composed = {tuple(row.sampling_seed for row in batch) for batch in work.batches}
    assert composed == {tuple(row.sampling_seed for row in batch) for batch in other.batches}  # never composed anew


def test_single_rollouts_are_measured_sixteen_at_a_time_in_the_order_drawn(work: ScriptedWork) -> None:
    file, context = _Drawn(313, lambda place: 2).file, plain.check_context(CONTEXT, MINER.hotkey)
    evidence = ChallengedSample(SEED, work).measure(file, context)
    sample = sample_rollouts(SEED, list(file.groups))
    seeds = [CONTEXT.sampling_seed(MINER.hotkey, *place) for place in sample.places]
    assert places(evidence) == list(sample.places)
    assert {tuple(row.sampling_seed for row in batch) for batch in work.batches} == {
        tuple(seeds[start : start + 16]) for start in range(0, 64, 16)
    }
