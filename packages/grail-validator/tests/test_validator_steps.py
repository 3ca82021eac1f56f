"""The validator's step on plain values: every arrow of its diagram, without store, chain, clock, disk or model."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from grail_core.errors import GrailError
from grail_core.files.evidence import MinerEvidence
from grail_core.files.window_file import header_of
from grail_core.participant.outcomes import Stopped, Void
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.protocol import (
    MinerStatus,
    MinerVerdict,
    MinerWindow,
    RolloutRecord,
    ScoreInputs,
    WindowStatus,
    score_inputs,
    weights,
)
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_validator import judging
from grail_validator.cases import (
    Memory,
    Sighting,
    Standing,
    WindowResult,
    WindowStage,
)
from grail_validator.steps import (
    RESULT,
    Buckets,
    Event,
    Publication,
    PublishedRecord,
    ResultRecord,
    SightingsRecord,
    Step,
    StoreAnswer,
    Turn,
    Unreadable,
    Wait,
    Weights,
    first_window,
    sight,
    step,
)
from tooling.testing import plain_window as plain
from tooling.testing.plain_case import CONTEXT, GROUPS, NEURONS, STANDING, Stored, case, honest, stored


def changed(change: dict[str, object]) -> bytes:
    """An honest file in which one rollout differs, bound and signed anew."""
    rows: list[RolloutRecord] = plain.rollouts(CONTEXT, plain.MINERS[0], GROUPS)
    rows[3] = replace(rows[3], **change)  # type: ignore[arg-type]
    return plain.window_file(CONTEXT, plain.MINERS[0], rows)


def _audit(back: int, declared: int) -> MinerWindow:
    window = Window(plain.WINDOW - 30 * back)
    return MinerWindow(
        window, declared, active=True, checked=True, unique_valid=declared, failed=False, probability=Fraction(1, 2)
    )


TEN_TIMES = (_audit(3, 176), _audit(2, 144))
"""Audits that found eight times the 32 rollouts of an honest file valid."""


def judged(event: Event, standing: Standing = STANDING) -> WindowResult:
    taken = step(plain.WINDOW, WindowStage.SIGHTED, event, standing)
    assert isinstance(taken.record, ResultRecord)
    assert (taken.stage, taken.publications) == (WindowStage.JUDGED, RESULT)
    return taken.record.result


def miner(result: WindowResult, uid: int = 0) -> MinerVerdict:
    found = result.body.miner(NEURONS[uid].hotkey)
    assert found is not None
    return found


# --- first sight ------------------------------------------------------------------------------------------------------


def test_what_lies_in_the_buckets_in_time_is_recorded_and_the_challenge_waited_for() -> None:
    late = (Sighting(NEURONS[0].hotkey, reason="it did not answer"),)
    taken = sight(WindowStage.UNSEEN, Buckets(late, Block(121), Block(122)))
    assert taken == Step(WindowStage.SIGHTED, SightingsRecord(late), wait=Wait.CHALLENGE)


def test_an_answer_after_first_sight_records_nothing() -> None:
    assert sight(WindowStage.UNSEEN, Buckets((), Block(123), Block(122))) == Step(WindowStage.UNSEEN, wait=Wait.TURN)


@pytest.mark.parametrize("stage", [WindowStage.SIGHTED, WindowStage.JUDGED, WindowStage.PUBLISHED])
def test_a_window_is_sighted_once(stage: WindowStage) -> None:
    assert sight(stage, Buckets((), Block(1), Block(2))) == Step(stage)


# --- its turn ---------------------------------------------------------------------------------------------------------


def test_a_window_never_sighted_is_inconclusive_and_costs_nobody_anything() -> None:
    taken = step(plain.WINDOW, WindowStage.UNSEEN, Turn(), STANDING)
    assert isinstance(taken.record, ResultRecord)
    body = taken.record.result.body
    assert (taken.stage, body.status, body.miners) == (WindowStage.JUDGED, WindowStatus.INCONCLUSIVE, ())
    assert "first sight" in body.reason


def test_a_sighted_window_waits_for_its_challenge() -> None:
    assert step(plain.WINDOW, WindowStage.SIGHTED, Turn()) == Step(WindowStage.SIGHTED, wait=Wait.CHALLENGE)


def test_a_judged_window_is_published_and_needs_nothing_but_the_store() -> None:
    taken = step(plain.WINDOW, WindowStage.JUDGED, Turn())
    assert taken == Step(WindowStage.JUDGED, publications=RESULT, wait=Wait.STORE)
    assert taken.publications[-1] is Publication.VERDICT


def test_a_published_window_is_done() -> None:
    assert step(plain.WINDOW, WindowStage.PUBLISHED, Turn()) == Step(WindowStage.PUBLISHED)


# --- judged, void, unreadable -----------------------------------------------------------------------------------------


def test_an_honest_file_is_accepted_counted_and_handed_on() -> None:
    window = case(stored(0, honest(0)), stored(1, None))
    result = judged(window)
    verdict = miner(result)
    assert (verdict.status, verdict.declared, verdict.unique_valid) == (MinerStatus.ACCEPTED, 32, 32)
    assert [finding.check for finding in verdict.findings][:6] == [
        "file",
        "schema",
        "unique",
        "prompt",
        "termination",
        "reward",
    ]
    assert miner(result, 1).status is MinerStatus.ABSENT
    assert result.body.weights[0] > 0
    assert window.files.shared == [verdict.content_digest]  # type: ignore[attr-defined]
    assert len(result.counted[NEURONS[0].hotkey]) == 32
    assert len(result.evidence) == 1


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (honest() + b"and more", "file"),
        (changed({"logprobs": plain.rollouts(CONTEXT, plain.MINERS[0], [0])[3].logprobs + 2}), "schema"),
        (plain.window_file(CONTEXT, plain.MINERS[0], plain.rollouts(CONTEXT, plain.MINERS[1], GROUPS)), "prompt"),
    ],
    ids=["file", "schema", "prompt"],
)
def test_the_first_stage_that_rejects_ends_it_and_is_named(data: bytes, check: str) -> None:
    header = header_of(honest()) if check == "file" else None
    window = case(stored(0, data, header=header))
    verdict = miner(judged(window))
    assert verdict.status is MinerStatus.FAILED
    assert verdict.reason.startswith(check)
    assert not verdict.sampled
    assert not window.files.shared  # type: ignore[attr-defined]


def test_a_file_that_measures_differently_fails_in_the_proof() -> None:
    result = judged(case(stored(0, honest(0)), offset=0.5))
    assert miner(result).reason.startswith("proof")
    assert result.evidence
    assert not result.counted


def test_a_drawn_file_that_is_gone_fails_with_the_count_of_its_seal() -> None:
    result = judged(case(stored(0, honest(0), gone=True), stored(1, honest(1))))
    verdict = miner(result)
    assert (verdict.status, verdict.declared, verdict.active) == (MinerStatus.FAILED, 32, True)
    assert "the sealed bytes could not be had" in verdict.reason
    assert result.body.score_inputs[0].in_lookback
    assert miner(result, 1).status is MinerStatus.ACCEPTED


def test_a_drawn_file_that_another_validator_has_is_judged_from_there() -> None:
    data = honest(0)
    window = case(stored(0, data, gone=True), stored(1, honest(1)))
    window.files.others[NEURONS[0].hotkey] = data  # type: ignore[attr-defined]
    assert miner(judged(window)).status is MinerStatus.ACCEPTED


def test_a_validator_that_gets_less_than_half_of_the_other_files_blames_nobody() -> None:
    history = {neuron.hotkey: list(TEN_TIMES) for neuron in NEURONS}
    standing = replace(STANDING, memory=Memory(history, {}, {}))
    result = judged(case(*(stored(uid, honest(uid), gone=True) for uid in range(3)), standing=standing), standing)
    assert {miner(result, uid).status for uid in range(3)} == {MinerStatus.INCONCLUSIVE}
    assert not any(miner(result, uid).checked for uid in range(3))


@pytest.mark.parametrize(("holds", "status"), [(True, MinerStatus.FAILED), (False, MinerStatus.INCONCLUSIVE)])
def test_a_validator_that_was_cut_off_after_most_files_came_blames_nobody_for_the_rest(
    holds: bool, status: MinerStatus
) -> None:
    window = case(stored(0, honest(0), gone=True), *(stored(uid, honest(uid)) for uid in (1, 2)))
    result = judged(replace(window, line_holds=lambda: holds))
    assert [miner(result, uid).status for uid in range(3)] == [status, MinerStatus.ACCEPTED, MinerStatus.ACCEPTED]


def test_a_line_is_asked_for_only_where_a_file_is_missing() -> None:
    def asked() -> bool:
        raise AssertionError("every file came")

    window = replace(case(stored(0, honest(0))), line_holds=asked)
    assert miner(judged(window)).status is MinerStatus.ACCEPTED


def test_a_file_whose_header_is_not_the_sealed_one_fails() -> None:
    data = honest(0)
    other = replace(header_of(data), software={"grail-core": "another"})
    assert "not the one that was sealed" in miner(judged(case(stored(0, data, header=other)))).reason


@pytest.mark.parametrize(
    "seal",
    [b"", b"{}", b"[" * 30_000, plain.seal(CONTEXT, plain.MINERS[1], honest(1)).encode()],
    ids=["empty", "no members", "deep", "another hotkey's"],
)
def test_a_seal_that_is_refused_is_as_if_absent_and_says_why(seal: bytes) -> None:
    verdict = miner(judged(case(Stored(0, seal, honest(0)))))
    assert (verdict.status, verdict.active, verdict.checked, verdict.coin) == (MinerStatus.ABSENT, False, False, None)
    assert verdict.reason.startswith("seal")


def test_a_miner_is_held_to_the_numerics_classes_it_is_bound_to() -> None:
    hotkey = NEURONS[0].hotkey
    other = sorted({*CONTEXT.params.proof_classes} - {DEFAULT_CLASS})[0]
    for bound, status in (
        ((DEFAULT_CLASS, DEFAULT_CLASS), MinerStatus.ACCEPTED),
        ((other, DEFAULT_CLASS), MinerStatus.ABSENT),
        ((DEFAULT_CLASS, other), MinerStatus.ABSENT),
    ):
        standing = replace(STANDING, memory=Memory({}, {}, {hotkey: bound}))
        verdict = miner(judged(case(stored(0, honest(0)), standing=standing), standing))
        assert verdict.status is status
        assert ("numerics class changed too soon" in verdict.reason) == (status is MinerStatus.ABSENT)


def test_a_class_that_the_network_does_not_admit_is_refused_with_the_list() -> None:
    header = replace(header_of(honest()), proof_class="[/bold]")
    verdict = miner(judged(case(stored(0, honest(), header=header))))
    assert verdict.status is MinerStatus.ABSENT
    assert all(name in verdict.reason for name in CONTEXT.params.proof_classes)


def test_rollouts_that_two_hotkeys_share_are_named_and_count_for_both() -> None:
    """Two problems of the same number have the same prompt, and the same answers to it."""
    groups = range(60)
    files = [
        plain.window_file(CONTEXT, plain.MINERS[uid], plain.rollouts(CONTEXT, plain.MINERS[uid], groups)) for uid in range(2)
    ]
    result = judged(case(*(stored(uid, data) for uid, data in enumerate(files))))
    counted = [set(result.counted[NEURONS[uid].hotkey]) for uid in range(2)]
    shared = len(counted[0] & counted[1])
    assert shared > 0
    for uid in range(2):
        verdict = miner(result, uid)
        assert verdict.unique_valid == len(counted[uid])
        (unique,) = (finding for finding in verdict.findings if finding.check == "unique")
        assert unique.detail.endswith(f"; {shared} equal another hotkey's")
        others = [finding.detail for finding in verdict.findings if finding.check != "unique"]
        assert not any("another hotkey" in detail for detail in others)


def test_shared_rollouts_move_no_status_no_count_and_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = range(60)
    files = [
        plain.window_file(CONTEXT, plain.MINERS[uid], plain.rollouts(CONTEXT, plain.MINERS[uid], groups)) for uid in range(2)
    ]
    window = case(*(stored(uid, data) for uid, data in enumerate(files)))
    told = judged(window)
    monkeypatch.setattr(judging, "_with_shared", lambda verdict, *_: verdict)
    untold = judged(window)
    assert told.body.miners != untold.body.miners  # something is shared, and said
    assert [replace(one, findings=()) for one in told.body.miners] == [replace(one, findings=()) for one in untold.body.miners]
    assert told.body.score_inputs == untold.body.score_inputs
    assert told.body.weights == untold.body.weights
    assert told.counted == untold.counted


def test_rollouts_that_nobody_shares_are_not_said_to_be_shared() -> None:
    verdict = miner(judged(case(stored(0, honest(0)))))
    assert not any("another hotkey" in finding.detail for finding in verdict.findings)


@pytest.mark.parametrize("event", [Void("no round"), Unreadable("no model")])
def test_a_window_without_scores_keeps_everybodys(event: Event) -> None:
    hotkey = NEURONS[1].hotkey
    former = replace(_audit(1, 32), unique_valid=30)
    standing = replace(STANDING, memory=Memory({hotkey: [former]}, {}, {}))
    body = judged(event, standing).body
    assert body.score_inputs == {
        neuron.uid: score_inputs([former] if neuron.hotkey == hotkey else [], plain.WINDOW) for neuron in NEURONS
    }
    assert body.weights == weights(body.score_inputs, CONTEXT.params)
    assert body.weights[1] > 0


def _inconclusive_after(*former: MinerWindow) -> tuple[MinerVerdict, ScoreInputs]:
    """What an inconclusive window of 32 rollouts counts for a hotkey with this history."""
    standing = replace(STANDING, memory=Memory({NEURONS[0].hotkey: list(former)}, {}, {}))
    result = judged(case(stored(0, honest(0)), inconclusive=20, standing=standing), standing)
    verdict = miner(result)
    assert (verdict.status, verdict.active, verdict.declared) == (MinerStatus.INCONCLUSIVE, False, 32)
    return verdict, result.body.score_inputs[0]


def test_too_many_inconclusive_rollouts_cost_a_well_supported_miner_nothing_the_first_time() -> None:
    verdict, inputs = _inconclusive_after(*TEN_TIMES)
    assert not verdict.checked
    assert (inputs.audits, inputs.supported, inputs.in_lookback) == (2, 320, False)
    assert inputs.product_valid == inputs.product_declared


def test_a_miner_with_less_support_has_no_inconclusive_window_free_and_does_not_fail_by_one() -> None:
    verdict, inputs = _inconclusive_after(TEN_TIMES[0], _audit(2, 96))
    assert verdict.checked
    assert (inputs.audits, inputs.supported, inputs.in_lookback) == (3, 272, False)
    verdict, inputs = _inconclusive_after()
    assert verdict.checked
    assert (inputs.audits, inputs.supported, inputs.in_lookback) == (1, 0, False)


def test_the_second_inconclusive_window_counts_as_work_that_no_audit_supports() -> None:
    former = MinerWindow(
        Window(plain.WINDOW - 30), 32, active=False, checked=False, unique_valid=0, failed=False, inconclusive=True
    )
    verdict, inputs = _inconclusive_after(*TEN_TIMES, former)
    assert verdict.checked
    assert (inputs.audits, inputs.supported, inputs.in_lookback) == (3, 320, False)


@pytest.mark.parametrize(
    ("supported", "statuses"),
    [
        ((), (MinerStatus.FAILED, MinerStatus.FAILED)),  # newcomers all: one of two others came
        ((2,), (MinerStatus.FAILED, MinerStatus.FAILED)),  # what a supported miner sealed did come
        ((0, 1), (MinerStatus.INCONCLUSIVE, MinerStatus.INCONCLUSIVE)),  # of the supported ones nobody's did
        ((1,), (MinerStatus.INCONCLUSIVE, MinerStatus.FAILED)),  # its own file says nothing of the line to it
    ],
)
def test_files_of_supported_miners_alone_tell_whether_it_was_this_validators_line(
    supported: tuple[int, ...], statuses: tuple[MinerStatus, MinerStatus]
) -> None:
    history = {NEURONS[uid].hotkey: [_audit(3, 144)] for uid in supported}  # over four times the 32 of a file here
    standing = replace(STANDING, memory=Memory(history, {}, {}))
    files = [stored(uid, honest(uid), gone=uid < 2) for uid in range(3)]
    body = judged(case(*files, standing=standing), standing).body
    assert tuple(miner.status for miner in body.miners[:2]) == statuses
    assert body.miners[2].status is MinerStatus.ACCEPTED


class _Broken(plain.TruthfulSampling):
    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        raise GrailError("out of memory")


def test_a_fault_of_this_validator_fails_nobody() -> None:
    whole = case(stored(0, honest(0)))
    broken = replace(whole, means=replace(whole.means, sampling=lambda seed, p: _Broken(seed)))
    verdict = miner(judged(broken))
    assert verdict.status is MinerStatus.INCONCLUSIVE
    assert "out of memory" in verdict.reason


class _Unforeseen(plain.TruthfulSampling):
    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        if submission.hotkey == NEURONS[0].hotkey:
            raise ZeroDivisionError("nobody thought of it")
        return super().measure(submission, context)


def test_what_nobody_foresaw_costs_one_miners_verdict_and_not_the_window() -> None:
    whole = case(stored(0, honest(0)), stored(1, honest(1)))
    result = judged(replace(whole, means=replace(whole.means, sampling=lambda seed, p: _Unforeseen(seed))))
    assert (miner(result).status, miner(result).reason) == (
        MinerStatus.INCONCLUSIVE,
        "unforeseen in this validator: ZeroDivisionError",
    )
    assert miner(result, 1).status is MinerStatus.ACCEPTED


def test_a_file_that_was_in_hand_when_the_process_ended_is_given_up_alone() -> None:
    whole = case(stored(0, honest(0)), stored(1, honest(1)))
    result = judged(replace(whole, given_up=frozenset({NEURONS[0].hotkey})))
    assert [miner(result, uid).status for uid in range(2)] == [MinerStatus.INCONCLUSIVE, MinerStatus.ACCEPTED]


def test_whose_file_is_in_hand_is_told_before_it_is_opened_and_after() -> None:
    told: list[Hotkey | None] = []
    whole = case(stored(0, honest(0)), stored(1, honest(1)))
    judged(replace(whole, means=replace(whole.means, working=told.append)))
    assert told == [NEURONS[0].hotkey, None, NEURONS[1].hotkey, None]


def test_the_same_case_gives_the_same_body_every_time() -> None:
    files = honest(0), honest(1)
    bodies = {judged(case(stored(0, files[0]), stored(1, files[1]))).body.canonical() for _ in range(2)}
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("event", "status"),
    [(Void("no valid checkpoint: none"), WindowStatus.VOID), (Unreadable("no model"), WindowStatus.INCONCLUSIVE)],
)
def test_a_window_that_cannot_be_judged_says_why(event: Event, status: WindowStatus) -> None:
    body = judged(event).body
    assert (body.status, body.miners) == (status, ())
    assert body.reason == event.reason  # type: ignore[union-attr]


# --- published --------------------------------------------------------------------------------------------------------


def test_what_the_store_took_leaves_the_ledger_and_what_it_refused_stays() -> None:
    assert step(plain.WINDOW, WindowStage.JUDGED, StoreAnswer.TOOK_ALL) == Step(WindowStage.PUBLISHED, PublishedRecord())
    assert step(plain.WINDOW, WindowStage.JUDGED, StoreAnswer.FAILED) == Step(WindowStage.JUDGED, wait=Wait.STORE)


@pytest.mark.parametrize("stage", WindowStage)
def test_stopping_changes_nothing(stage: WindowStage) -> None:
    assert step(plain.WINDOW, stage, Stopped()) == Step(stage)


def test_an_arrow_that_does_not_exist_is_an_error() -> None:
    for stage, event in (
        (WindowStage.UNSEEN, StoreAnswer.TOOK_ALL),
        (WindowStage.SIGHTED, StoreAnswer.TOOK_ALL),
        (WindowStage.PUBLISHED, Void("late")),
        (WindowStage.JUDGED, case(stored(0, honest(0)))),
    ):
        with pytest.raises(ValueError, match="cannot take"):
            step(plain.WINDOW, stage, event, STANDING)


# --- between windows --------------------------------------------------------------------------------------------------


def test_a_validator_begins_after_its_last_window_but_not_further_back_than_failures_are_remembered() -> None:
    assert first_window(Window(900), None, Window(900)) == 900
    assert first_window(Window(930), None, Window(900)) == 900  # it was killed before it had judged its first one
    assert first_window(Window(900), Window(840), Window(600)) == 870
    assert first_window(Window(9000), Window(30), Window(30)) == 9000 - 36 * 30


def test_weights_are_due_once_an_interval_and_only_where_there_are_any() -> None:
    some, whose = {0: 1}, {0: NEURONS[0].hotkey}
    assert Weights(Window(30), some, whose, None).due(Block(100), 40)
    assert not Weights(Window(30), some, whose, Block(61)).due(Block(100), 40)
    assert Weights(Window(30), some, whose, Block(60)).due(Block(100), 40)
    assert not Weights(None, {}, {}, None).due(Block(100), 40)
    assert not Weights(Window(30), some, whose, Block(139)).due(Block(100), 40)  # by another node, which is ahead
    assert Weights(Window(30), some, whose, Block(10**9)).due(Block(100), 40)  # by one that was not on this chain
