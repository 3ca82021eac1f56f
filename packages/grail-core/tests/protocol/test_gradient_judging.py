"""Gradient work, sections 9 to 13: what a round does to who took part in it, and to nobody else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings

from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.challenge import replay_falls
from grail_core.protocol.gradient.judging import MinerFacts, OtherKind, judge_round, selected
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.rating import NANO, START, Rating
from grail_core.protocol.gradient.scores import Standing, failure_rounds, largest_power
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody, MergeSeen
from grail_core.protocol.reading import Node
from grail_core.protocol.types import Signature, Window
from grail_core.protocol.verdicts import MinerStatus, WindowStatus
from tooling.testing.gradient_rules import NETWORK, ROUND, digest, hotkey_of, losses, round_facts, unsigned_seal, update_header
from tooling.testing.gradient_specs import TINY
from tooling.testing.keys import ALICE
from tooling.testing.mutations import TAKEN, mutated, taken_or_refused

REGISTERED = {uid: hotkey_of(uid) for uid in range(6)}
REJECT = (Finding("chunks", Outcome.REJECT, 3, 1, "another scale"),)


def at(round_number: int, spec: GradientSpec = TINY) -> Window:
    return Window(ROUND + round_number * spec.round_blocks)


def honest(
    uid: int, window: Window = ROUND, *, batch: int = 8, mean: int | None = None, spec: GradientSpec = TINY
) -> MinerFacts:
    """A file that lowers the loss by as much as its batch and a little luck say."""
    header = update_header(hotkey_of(uid), window=window, spec=spec)
    return MinerFacts(
        uid,
        hotkey_of(uid),
        unsigned_seal(hotkey_of(uid), batch=batch, window=window, spec=spec),
        digest("challenge", uid, window),
        seal_time_ms=1,
        update_time_ms=2,
        opening_time_ms=3,
        feedback_after=header.feedback_after,
        common=losses(1000 + 10 * batch if mean is None else mean, uid, window),
        own=losses(2500, "own", uid, window, n=16),
    )


def failing(uid: int, window: Window = ROUND, **changes: object) -> MinerFacts:
    return dataclasses.replace(honest(uid, window), findings=REJECT, **changes)  # type: ignore[arg-type]


def played(rounds: int, spec: GradientSpec = TINY, **batches: int) -> tuple[GradientVerdictBody, GradientMemory]:
    """The last body and the memory after so many honest rounds of six miners."""
    memory = GradientMemory()
    for number in range(rounds):
        window = at(number, spec)
        miners = [honest(uid, window, batch=batches.get(f"b{uid}", 8), spec=spec) for uid in REGISTERED]
        body = judge_round(round_facts(miners, REGISTERED, window, spec), memory)
        memory = memory.after(body, spec)
    return body, memory


def row_of(body: GradientVerdictBody, uid: int) -> GradientMinerVerdict:
    row = body.miner(hotkey_of(uid))
    assert row is not None
    return row


def test_an_honest_round_is_accepted_ranked_rated_and_paid() -> None:
    body, memory = played(12)
    assert all(row.status is MinerStatus.ACCEPTED and row.replayed and row.valid == 32 for row in body.miners)
    assert all(standing.work == 12 * 32 and standing.valid == standing.audited for standing in body.standings.values())
    assert sum(body.weights.values()) == 65_535
    assert all(0 < power <= largest_power(TINY) for power in body.powers.values())
    assert memory.of(hotkey_of(2)).standing == body.standings[2]
    assert body.own_reference is not None
    assert body.own_reference.hotkeys == 6


def test_a_body_is_a_function_of_facts_and_memory_and_not_of_their_order() -> None:
    _, memory = played(2)
    miners = [honest(uid, at(2)) for uid in REGISTERED]
    one = judge_round(round_facts(miners, REGISTERED, at(2)), memory)
    other = judge_round(round_facts(miners[::-1], dict(reversed(REGISTERED.items())), at(2)), memory)
    assert one.canonical() == other.canonical()


def test_who_fails_moves_nobody_elses_rating_and_starts_anew_itself() -> None:
    _, memory = played(3)
    miners = [honest(uid, at(3)) for uid in range(5)]
    with_failed = judge_round(round_facts([*miners, failing(5, at(3))], REGISTERED, at(3)), memory)
    without = judge_round(round_facts(miners, REGISTERED, at(3)), memory)
    for uid in range(5):
        assert with_failed.standings[uid].rating == without.standings[uid].rating
    assert row_of(with_failed, 5).rating_before == memory.of(hotkey_of(5)).standing.rating != START
    assert with_failed.standings[5].rating == START
    assert without.standings[5].rating == memory.of(hotkey_of(5)).standing.rating


def test_a_failure_pays_nothing_for_fourteen_rounds_and_then_again() -> None:
    _, memory = played(1)
    paid: list[bool] = []
    for number in range(1, 18):
        miners = [failing(0, at(number)) if number == 1 else honest(0, at(number)), honest(1, at(number))]
        body = judge_round(round_facts(miners, REGISTERED, at(number)), memory)
        memory = memory.after(body, TINY)
        paid.append(body.powers[0] > 0)
    assert paid == [False] * 14 + [True] * 3


@pytest.mark.parametrize(("permille", "rounds"), [(1000, 14), (999, 15), (500, 28), (50, 280), (1, 14_000), (0, 14)])
def test_what_a_replay_shows_weighs_more_the_rarer_replays_are(permille: int, rounds: int) -> None:
    spec = dataclasses.replace(TINY, replay_permille=permille)
    assert failure_rounds(spec, by_replay=True) == rounds
    assert failure_rounds(spec, by_replay=False) == 14


def test_withholding_where_the_coin_fell_costs_as_much_as_the_replay_it_dodged() -> None:
    spec = dataclasses.replace(TINY, replay_permille=200)
    seen = set()
    for number in range(30):
        window = at(number)
        facts = round_facts([dataclasses.replace(honest(0, window), withheld=True, common=None)], REGISTERED, window, spec)
        body = judge_round(facts, GradientMemory())
        row, falls = row_of(body, 0), replay_falls(spec, digest("challenge", 0, window))
        assert row.status is MinerStatus.FAILED
        assert row.replay == row.failed_by_replay == falls
        assert body.standings[0].unpaid_until == window + (70 if falls else 14) * 30
        seen.add(falls)
    assert seen == {True, False}


def test_a_failure_that_outlasts_the_memory_is_remembered_without_its_round() -> None:
    spec = dataclasses.replace(TINY, replay_permille=200)
    replayed = (Finding("replay", Outcome.REJECT, "0.4", "0.12"),)
    first = judge_round(
        round_facts([dataclasses.replace(honest(0), findings=replayed)], REGISTERED, ROUND, spec), GradientMemory()
    )
    memory = GradientMemory().after(first, spec)
    for number in range(1, 72):
        body = judge_round(round_facts([honest(0, at(number))], REGISTERED, at(number), spec), memory)
        memory = memory.after(body, spec)
        assert len(memory.of(hotkey_of(0)).rounds) <= 36
        assert (body.powers[0] > 0) == (number >= 70), number


def test_work_without_value_is_volume_that_audits_do_not_support() -> None:
    _, memory = played(2)
    body = judge_round(round_facts([honest(0, at(2), mean=-5), honest(1, at(2))], REGISTERED, at(2)), memory)
    row = row_of(body, 0)
    assert (row.status, row.valid) == (MinerStatus.ACCEPTED, 0)
    assert (body.standings[0].work, body.standings[0].valid, body.standings[0].audited) == (96, 64, 96)
    assert body.powers[0] < body.powers[1]


def test_not_selected_is_volume_and_absent_is_none() -> None:
    many = {uid: hotkey_of(uid) for uid in range(80)}
    memory = GradientMemory()
    for number in range(5):
        miners = [honest(uid, at(number)) for uid in many]
        body = judge_round(round_facts(miners, many, at(number)), memory)
        memory = memory.after(body, TINY)
    unselected = [row for row in body.miners if row.status is MinerStatus.NOT_SELECTED]
    assert unselected
    assert all(body.standings[row.uid].work == 5 * 32 and row.rating_after is None for row in unselected)
    body = judge_round(round_facts([MinerFacts(0, hotkey_of(0), reason="no seal")], many, at(5)), memory)
    assert body.standings[0].work == 5 * 32
    assert row_of(body, 0).coin is None
    assert body.standings[0].rating == memory.of(hotkey_of(0)).standing.rating


def test_what_is_merged_is_checked_whatever_its_coin_and_what_may_not_be_is_named() -> None:
    many = {uid: hotkey_of(uid) for uid in range(80)}
    miners = [honest(uid) for uid in many if uid != 7]
    bare = judge_round(round_facts(miners, many), GradientMemory())
    unselected = next(row for row in bare.miners if row.status is MinerStatus.NOT_SELECTED)
    assert unselected.content_digest is not None
    seen = MergeSeen(
        digest("next"),
        tuple(sorted([(unselected.uid, unselected.content_digest), (7, digest("absent")), (79, digest("other bytes"))])),
    )
    body = judge_round(dataclasses.replace(round_facts(miners, many), merge=seen), GradientMemory())
    assert row_of(body, unselected.uid).status is MinerStatus.ACCEPTED
    assert body.merge is not None
    assert body.merge.ineligible == (7, 79)


def test_a_fault_of_ours_costs_nobody_a_failure() -> None:
    _, memory = played(3)
    unscored = dataclasses.replace(honest(0, at(3)), common=None)
    missed = dataclasses.replace(honest(1, at(3)), sight_missed=True, feedback_after=None, common=None)
    body = judge_round(round_facts([unscored, missed], REGISTERED, at(3)), memory)
    assert [row.status for row in body.miners] == [MinerStatus.INCONCLUSIVE] * 2
    for uid in (0, 1):
        assert (body.standings[uid].work, body.standings[uid].audited) == (96, 96)
        assert body.standings[uid].rating == memory.of(hotkey_of(uid)).standing.rating
    assert body.standings[0].feedback == honest(0, at(3)).feedback_after
    assert body.standings[1].feedback is None


def test_feedback_goes_on_from_the_last_file_that_was_there() -> None:
    _, memory = played(2)
    last = memory.of(hotkey_of(0)).standing.feedback
    late = dataclasses.replace(honest(0, at(2)), withheld=True, feedback_after=None)
    rejected = failing(1, at(2))
    body = judge_round(round_facts([late, rejected], REGISTERED, at(2)), memory)
    assert body.standings[0].feedback == last
    assert body.standings[1].feedback == rejected.feedback_after
    for status in (WindowStatus.VOID, WindowStatus.INCONCLUSIVE, WindowStatus.MISSED):
        blind = dataclasses.replace(round_facts([], REGISTERED, at(3)), status=status)
        assert judge_round(blind, memory.after(body, TINY)).standings[1].feedback is None, "others may have seen its file"
    assert GradientMemory().with_files_missed().of(hotkey_of(0)).standing.feedback is None
    assert GradientMemory().of(hotkey_of(0)).standing.feedback == bytes(32)


def test_a_round_that_is_not_scored_goes_on_paying_from_what_is_known() -> None:
    body, memory = played(12)
    facts = dataclasses.replace(round_facts([], REGISTERED, at(12)), status=WindowStatus.VOID, reason="no beacon")
    after = judge_round(facts, memory)
    assert after.miners == ()
    assert all(0 < after.powers[uid] < body.powers[uid] for uid in REGISTERED)
    with pytest.raises(ValueError, match="void has none"):
        judge_round(dataclasses.replace(facts, miners=(honest(0, at(12)),)), memory)


def test_facts_that_contradict_each_other_make_no_verdict() -> None:
    whole = round_facts([honest(0), honest(1)], REGISTERED)
    for facts, what in (
        (dataclasses.replace(whole, select_seed=None), "select_seed"),
        (dataclasses.replace(whole, miners=(dataclasses.replace(honest(0), challenge_seed=None),)), "challenge_seed"),
        (dataclasses.replace(whole, miners=(honest(0), honest(0))), "twice"),
        (dataclasses.replace(whole, registered={0: hotkey_of(1), 1: hotkey_of(0)}), "does not hold"),
        (dataclasses.replace(whole, miners=(honest(0), dataclasses.replace(honest(1), common=(1, 2)))), "differences"),
    ):
        with pytest.raises(ValueError, match=what):
            judge_round(facts, GradientMemory())


def test_another_validators_last_rounds_are_the_whole_memory() -> None:
    memory, bodies = GradientMemory(), []
    for number in range(40):
        window = at(number)
        miners = [honest(uid, window) for uid in range(4)] + [failing(4, window)] * (number == 2)
        bodies.append(judge_round(round_facts(miners, REGISTERED, window), memory))
        memory = memory.after(bodies[-1], TINY)
    followed = GradientMemory().with_files_missed()
    for body in bodies[-36:]:
        followed = followed.after(GradientVerdictBody.from_json(body.to_json()), TINY)
    facts = round_facts([honest(uid, at(40)) for uid in range(6)], REGISTERED, at(40))
    assert judge_round(facts, followed).canonical() == judge_round(facts, memory).canonical()
    lead_alone = GradientMemory().with_files_missed().after(bodies[-1], TINY)
    assert {h: one.standing for h, one in lead_alone.hotkeys.items()} == {h: one.standing for h, one in memory.hotkeys.items()}
    with pytest.raises(ValueError, match="not after"):
        memory.after(bodies[-1], TINY)


def test_a_hotkey_that_left_is_forgotten_once_nothing_of_it_counts() -> None:
    _, memory = played(1)
    fewer = {uid: hotkey_of(uid) for uid in range(1, 6)}
    for number in range(1, 37):
        body = judge_round(round_facts([honest(1, at(number))], fewer, at(number)), memory)
        memory = memory.after(body, TINY)
        assert (hotkey_of(0) in memory.hotkeys) == (number < 36)


# Pay ------------------------------------------------------------------------------------------------------------------


def test_f_is_linear_in_work_and_at_most_doubled_by_the_rating() -> None:
    half = Standing(START, work=192, audited=100, valid=100)
    full = dataclasses.replace(half, work=384)
    assert full.power(TINY, ROUND) == 2 * half.power(TINY, ROUND) == 384 * (50 * NANO + 1)
    best = dataclasses.replace(full, rating=Rating(80 * NANO, NANO))
    assert best.power(TINY, ROUND) == largest_power(TINY) == 384 * 100 * NANO
    assert dataclasses.replace(full, rating=Rating(-NANO, NANO)).power(TINY, ROUND) == 384 * 50 * NANO
    assert dataclasses.replace(full, audited=0, valid=0).power(TINY, ROUND) == 0


def test_without_replays_volume_that_is_only_claimed_pays_nothing_by_itself() -> None:
    spec = dataclasses.replace(TINY, replay_permille=0, floor=0)
    assert Standing(Rating(10 * NANO, 4 * NANO), work=384, audited=1, valid=1).power(spec, ROUND) == 0


@pytest.mark.parametrize("permille", [1000, 200])
def test_declaring_more_than_one_trains_pays_less_than_the_truth(permille: int) -> None:
    """Both train batches of 4 and are worth the same; one declares 8, and fails whenever its replay's coin falls."""
    spec, memory = dataclasses.replace(TINY, replay_permille=permille), GradientMemory()
    two = {uid: hotkey_of(uid) for uid in range(2)}
    earned = [0, 0]
    for number in range(200):
        window = at(number, spec)
        truth, claim = (honest(uid, window, batch=4 * (uid + 1), mean=1000, spec=spec) for uid in two)
        if replay_falls(spec, digest("challenge", 1, window)):
            claim = dataclasses.replace(claim, findings=(Finding("replay", Outcome.REJECT, "0.5", "0.12"),))
        body = judge_round(round_facts([truth, claim], two, window, spec), memory)
        memory = memory.after(body, spec)
        earned = [earned[uid] + body.powers[uid] for uid in two]
    assert 4 * earned[1] < earned[0]


def test_a_file_of_one_sequence_is_judged_without_the_test_of_own_data() -> None:
    body = judge_round(round_facts([dataclasses.replace(honest(0), own=(5,))], REGISTERED), GradientMemory())
    assert row_of(body, 0).status is MinerStatus.ACCEPTED
    assert row_of(body, 0).advantage is None


def test_twice_the_work_is_paid_more_and_no_more_than_four_times() -> None:
    body, _ = played(12, b1=4)
    assert all(body.weights[1] < body.weights[uid] < 4 * body.weights[1] for uid in range(2, 6))


def test_two_kinds_of_work_share_what_is_paid() -> None:
    _, memory = played(12)
    facts = round_facts([honest(uid, at(12)) for uid in REGISTERED], REGISTERED, at(12))
    alone = judge_round(facts, memory)
    other = OtherKind("rollouts", 8, digest("the last body of rollouts"), {40: 1}, 1)
    both = judge_round(dataclasses.replace(facts, windows=4, others=(other,)), memory)
    assert both.weights[40] > both.weights[1] > 0
    assert abs(3 * both.weights[1] - alone.weights[1]) <= 3
    assert [(one.kind, one.windows) for one in both.kinds] == [("gradient", 4), ("rollouts", 8)]


def test_who_is_checked_follows_the_declared_up_to_what_can_be_paid() -> None:
    _, memory = played(6)
    declared = {hotkey_of(uid): 32 for uid in range(60)} | {hotkey_of(60): 32 * 100}
    chosen = selected(TINY, at(6), digest("select"), declared, memory)
    assert chosen[hotkey_of(59)].probability == chosen[hotkey_of(60)].probability


# Bytes ----------------------------------------------------------------------------------------------------------------


def a_body() -> GradientVerdictBody:
    _, memory = played(2)
    miners = [honest(0, at(2)), failing(1, at(2)), MinerFacts(2, hotkey_of(2), reason="no seal"), honest(3, at(2))]
    seal = miners[0].seal
    assert seal is not None
    facts = dataclasses.replace(
        round_facts(miners, REGISTERED, at(2)),
        merge=MergeSeen(digest("next"), ((0, seal.content_digest), (2, digest("absent")))),
        windows=11,
        others=(OtherKind("rollouts", 1, digest("body"), {3: 2**130}, 2**131),),
    )
    return judge_round(facts, memory)


BODY = a_body()


def test_a_signed_verdict_verifies_and_reads_back() -> None:
    message = SignedGradientVerdict.message(BODY, ALICE.hotkey, digest("evidence"))
    verdict = SignedGradientVerdict(BODY, ALICE.hotkey, ALICE.sign(message), digest("evidence"))
    assert verdict.verify(NETWORK)
    assert SignedGradientVerdict.decode(verdict.encode()) == verdict
    for other in (
        dataclasses.replace(verdict, evidence_digest=None),
        dataclasses.replace(verdict, body=dataclasses.replace(BODY, reason="other")),
        dataclasses.replace(verdict, signature=Signature(bytes(64))),
    ):
        assert not other.verify(NETWORK)
    assert not verdict.verify(bytes(32))


@settings(max_examples=150)
@given(mutated(BODY.to_json()))
def test_a_changed_verdict_is_refused_with_its_path_or_says_what_it_says(body: bytes) -> None:
    message = b'"evidence_digest":null,"signature":"' + b"00" * 64 + b'","validator":"' + b"ab" * 32 + b'"}'
    raw = b'{"adopted":null,"body":' + body + b"," + message
    assert taken_or_refused(raw, lambda raw: SignedGradientVerdict.decode(raw).encode()).startswith(("$verdict", TAKEN))


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("kind",), "rollouts", "kind"),
        (("gradient_version",), 2, "gradient work 2"),
        (("powers", 0, 1), "01", r"powers\[0\]"),
        (("powers", 0, 1), "٣", r"powers\[0\]"),
        (("powers", 0, 1), "9" * 31, r"powers\[0\]"),
        (("standings", 0, "unpaid_until"), -1, "unpaid_until"),
        (("standings", 0, "valid"), 10**6, "valid"),
        (("standings", 1, "uid"), 0, "standings"),
        (("miners", 0, "valid"), 1, "valid"),
        (("miners", 0, "rating_after"), None, "rating_before"),
        (("miners", 0, "rating_after"), [25, 0], "rating_after"),
        (("miners", 0, "score", "rank"), 0, "rank"),
        (("miners", 0, "score"), None, "score"),
        (("miners", 0, "replay"), "yes", "replay"),
        (("miners", 1, "status"), "accepted", "score"),
        (("miners", 2, "coin"), "00" * 8, "coin"),
        (("miners", 2, "declared"), 2**32, "declared"),
        (("merge", "ineligible"), [5], "ineligible"),
        (("merge", "merged", 0, 1), "00", "merged"),
        (("kinds", 1, "windows"), 2, "kinds"),
        (("weights", 0, 1), 65_535, "weights"),
    ],
)
def test_what_no_validator_writes_is_refused_by_name(path: tuple[str | int, ...], value: object, what: str) -> None:
    document = BODY.to_json()
    holder: object = document
    for key in path[:-1]:
        holder = holder[key]  # type: ignore[index]
    holder[path[-1]] = value  # type: ignore[index]
    with pytest.raises(ValueError, match=what) as refused:
        GradientVerdictBody.from_json(Node(document, "$verdict.body"))
    assert str(refused.value).startswith("$verdict.body")
