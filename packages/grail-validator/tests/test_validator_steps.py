"""The validator's step on plain values: every arrow of its diagram, without store, chain, clock, disk or model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grail_core.errors import GrailError
from grail_core.files.evidence import MinerEvidence
from grail_core.participant.outcomes import Stopped, Void
from grail_core.proof.numerics import DEFAULT_CLASS, NUMERICS_CLASSES
from grail_core.protocol import MinerStatus, MinerVerdict, MinerWindow, RolloutRecord, WindowStatus, score_inputs, weights
from grail_core.protocol.types import Block, Digest, Window
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_validator.cases import (
    Announcement,
    Case,
    FetchedFile,
    Means,
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

CONTEXT = plain.window_context()
NEURONS = tuple(plain.neuron(uid) for uid in range(3))
STANDING = Standing(CONTEXT.network_id, CONTEXT.params, NEURONS, Memory({}, {}, {}))
GROUPS = range(2)


def announced(uid: int, data: bytes | None, *, gone: bool = False) -> Announcement:
    """What first sight saw of a miner and what was fetched; no bytes: nothing was there."""
    if data is None and not gone:
        return Announcement(NEURONS[uid], Sighting(NEURONS[uid].hotkey), None, False)
    file = FetchedFile(data, None if data is None else plain.digest_of(data), gone=gone, reason="removed" if gone else "")
    return Announcement(NEURONS[uid], Sighting(NEURONS[uid].hotkey, "etag", 100, 5), file, True)


def honest(uid: int = 0) -> bytes:
    return plain.window_file(CONTEXT, plain.MINERS[uid], plain.rollouts(CONTEXT, plain.MINERS[uid], GROUPS))


def changed(change: dict[str, object]) -> bytes:
    """An honest file in which one rollout differs, bound and signed anew."""
    rows: list[RolloutRecord] = plain.rollouts(CONTEXT, plain.MINERS[0], GROUPS)
    rows[3] = replace(rows[3], **change)  # type: ignore[arg-type]
    return plain.window_file(CONTEXT, plain.MINERS[0], rows)


def case(*announcements: Announcement, offset: float = 0.0, inconclusive: int = 0) -> Case:
    def sampling(seed: Digest) -> plain.TruthfulSampling:
        return plain.TruthfulSampling(seed, offset, inconclusive)

    means = Means(plain.PlainEnvironment(), plain.PlainRenderer(), plain.VOCABULARY, plain.CONTEXT_LENGTH, sampling)
    return Case(CONTEXT, plain.challenge(CONTEXT), announcements, means)


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
    sightings = (Sighting(NEURONS[0].hotkey, "etag", 10, 5),)
    taken = sight(WindowStage.UNSEEN, Buckets(sightings, Block(121), Block(122)))
    assert taken == Step(WindowStage.SIGHTED, SightingsRecord(sightings), wait=Wait.CHALLENGE)


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
    result = judged(case(announced(0, honest(0)), announced(1, None)))
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
    assert [file.hotkey for file in result.accepted] == [NEURONS[0].hotkey]
    assert len(result.counted[NEURONS[0].hotkey]) == 32
    assert len(result.evidence) == 1


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"no parquet at all", "file"),
        (changed({"logprobs": plain.rollouts(CONTEXT, plain.MINERS[0], [0])[3].logprobs + 2}), "schema"),
        (plain.window_file(CONTEXT, plain.MINERS[0], plain.rollouts(CONTEXT, plain.MINERS[1], GROUPS)), "prompt"),
    ],
    ids=["file", "schema", "prompt"],
)
def test_the_first_stage_that_rejects_ends_it_and_is_named(data: bytes, check: str) -> None:
    verdict = miner(judged(case(announced(0, data))))
    assert verdict.status is MinerStatus.FAILED
    assert verdict.reason.startswith(check)
    assert not verdict.sampled


def test_a_file_that_measures_differently_fails_in_the_proof() -> None:
    result = judged(case(announced(0, honest(0)), offset=0.5))
    assert miner(result).reason.startswith("proof")
    assert result.evidence
    assert not result.accepted
    assert not result.counted


def test_a_file_that_is_gone_fails_and_one_that_cannot_be_had_does_not() -> None:
    assert miner(judged(case(announced(0, None, gone=True)))).status is MinerStatus.FAILED
    missing = Announcement(
        NEURONS[0], Sighting(NEURONS[0].hotkey, "etag", 100, 5), FetchedFile(None, None, reason="late"), True
    )
    assert miner(judged(case(missing))).status is MinerStatus.INCONCLUSIVE


def test_a_multipart_upload_is_no_window_file() -> None:
    """Its ETag says nothing of the bytes: what is fetched could be something else than what was seen."""
    whole = announced(0, honest(0))
    multipart = replace(whole, sighting=replace(whole.sighting, etag="0123456789abcdef-2"))
    verdict = miner(judged(case(multipart)))
    assert (verdict.status, verdict.unique_valid) == (MinerStatus.FAILED, 0)
    assert verdict.reason == "file: a multipart upload is no window file"


def test_a_miner_is_held_to_the_numerics_class_it_is_bound_to() -> None:
    hotkey = NEURONS[0].hotkey
    for bound, status in (
        (DEFAULT_CLASS, MinerStatus.ACCEPTED),
        (sorted({*NUMERICS_CLASSES} - {DEFAULT_CLASS})[0], MinerStatus.FAILED),
    ):
        standing = replace(STANDING, memory=Memory({}, {}, {hotkey: bound}))
        verdict = miner(judged(case(announced(0, honest(0))), standing))
        assert verdict.status is status
        assert ("numerics class changed too soon" in verdict.reason) == (status is MinerStatus.FAILED)


def test_rollouts_that_two_hotkeys_share_are_named_and_count_for_both() -> None:
    """Two problems of the same number have the same prompt, and the same answers to it."""
    groups = range(60)
    files = [
        plain.window_file(CONTEXT, plain.MINERS[uid], plain.rollouts(CONTEXT, plain.MINERS[uid], groups)) for uid in range(2)
    ]
    result = judged(case(*(announced(uid, data) for uid, data in enumerate(files))))
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


def test_rollouts_that_nobody_shares_are_not_said_to_be_shared() -> None:
    verdict = miner(judged(case(announced(0, honest(0)))))
    assert not any("another hotkey" in finding.detail for finding in verdict.findings)


@pytest.mark.parametrize("event", [Void("no round"), Unreadable("no model")])
def test_a_window_without_scores_keeps_everybodys(event: Event) -> None:
    hotkey = NEURONS[1].hotkey
    former = MinerWindow(Window(plain.WINDOW - 30), 32, active=True, checked=True, unique_valid=30, failed=False)
    standing = replace(STANDING, memory=Memory({hotkey: [former]}, {}, {}))
    body = judged(event, standing).body
    assert body.score_inputs == {
        neuron.uid: score_inputs([former] if neuron.hotkey == hotkey else [], plain.WINDOW) for neuron in NEURONS
    }
    assert body.weights == weights(body.score_inputs, CONTEXT.params)
    assert body.weights[1] > 0


def test_too_many_inconclusive_rollouts_are_nobodys_failure() -> None:
    verdict = miner(judged(case(announced(0, honest(0)), inconclusive=20)))
    assert (verdict.status, verdict.checked, verdict.active) == (MinerStatus.INCONCLUSIVE, False, False)


class _Broken(plain.TruthfulSampling):
    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        raise GrailError("out of memory")


def test_a_fault_of_this_validator_fails_nobody() -> None:
    whole = case(announced(0, honest(0)))
    broken = replace(whole, means=replace(whole.means, sampling=_Broken))
    verdict = miner(judged(broken))
    assert verdict.status is MinerStatus.INCONCLUSIVE
    assert "out of memory" in verdict.reason


def test_the_same_case_gives_the_same_body_every_time() -> None:
    files = honest(0), honest(1)
    bodies = {judged(case(announced(0, files[0]), announced(1, files[1]))).body.canonical() for _ in range(2)}
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
        (WindowStage.JUDGED, case(announced(0, honest(0)))),
    ):
        with pytest.raises(ValueError, match="cannot take"):
            step(plain.WINDOW, stage, event, STANDING)


# --- between windows --------------------------------------------------------------------------------------------------


def test_a_validator_begins_after_its_last_window_but_not_further_back_than_failures_are_remembered() -> None:
    assert first_window(Window(900), None) == 900
    assert first_window(Window(900), Window(840)) == 870
    assert first_window(Window(9000), Window(30)) == 9000 - 14 * 30


def test_weights_are_due_once_an_interval_and_only_where_there_are_any() -> None:
    some = {0: 1}
    assert Weights(Window(30), some, None).due(Block(100), 40)
    assert not Weights(Window(30), some, Block(61)).due(Block(100), 40)
    assert Weights(Window(30), some, Block(60)).due(Block(100), 40)
    assert not Weights(None, {}, None).due(Block(100), 40)
