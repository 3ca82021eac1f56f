"""Whose word a trainer takes: every situation of stake, on plain values. No bucket, chain or clock."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.protocol import MinerStatus, MinerVerdict, ScoreInputs, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.quorum import accepted_digests, half_scored, settled
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.verdicts import Versions
from grail_trainer.data.refusals import MAX_REFUSED, Refusals

A, B, C, STRANGER, MINER, OTHER = (Hotkey(bytes([i]) * 32) for i in range(1, 7))
FILE, REPLACED = Digest(b"f" * 32), Digest(b"r" * 32)
YES, NO, UNSEEN, UNSURE = MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.NOT_SELECTED, MinerStatus.INCONCLUSIVE
NOTHING = ScoreInputs(0, 0, 0, 0, 0, 0, in_lookback=False)


def says(*entries: tuple[Hotkey, Digest, MinerStatus], status: WindowStatus = WindowStatus.SCORED) -> SignedVerdict:
    miners = tuple(
        MinerVerdict(
            hotkey,
            uid,
            state,
            content_digest=digest,
            checked=state in (YES, NO),
            active=state is not UNSURE,
            check_probability=Fraction(1, 2),
            coin=0,
        )
        for uid, (hotkey, digest, state) in enumerate(entries)
    )
    body = VerdictBody(
        Digest(bytes(32)),
        Window(30),
        status,
        Versions("0", "0", "0"),
        miners=miners,
        hotkeys={miner.uid: miner.hotkey for miner in miners},
        score_inputs={miner.uid: NOTHING for miner in miners},
    )
    return SignedVerdict(body, A, Signature(bytes(64)))


def of(state: MinerStatus, status: WindowStatus = WindowStatus.SCORED) -> SignedVerdict:
    """A verdict about one file."""
    return says((MINER, FILE, state), status=status)


VOID, DOWN = says(status=WindowStatus.VOID), says(status=WindowStatus.INCONCLUSIVE)
SCORED_NOTHING = says()
RAO = 10**9

SITUATIONS = [
    # stake, verdicts, is the file taken?
    ("all accept", {A: 1, B: 1}, {A: of(YES), B: of(YES)}, True),
    ("one of two equal validators is down", {A: 1, B: 1}, {A: of(YES)}, True),
    ("one of two equal validators missed first sight", {A: 1, B: 1}, {A: of(YES), B: DOWN}, True),
    ("one of two equal validators found the window void", {A: 1, B: 1}, {A: of(YES), B: VOID}, True),
    ("exactly half accepts", {A: 1, B: 1}, {A: of(YES), B: of(NO)}, False),
    ("exactly half drew it", {A: 1, B: 1}, {A: of(YES), B: of(UNSEEN)}, False),
    ("exactly half, the other never heard of the miner", {A: 1, B: 1}, {A: of(YES), B: SCORED_NOTHING}, False),
    ("exactly half, the other could not judge it", {A: 1, B: 1}, {A: of(YES), B: of(UNSURE)}, False),
    ("half and one rao accept", {A: 2**63 + 1, B: 2**63}, {A: of(YES), B: of(NO)}, True),
    ("one rao less than half", {A: 2**63, B: 2**63 + 1}, {A: of(YES), B: of(NO)}, False),
    ("one in 10^12 names a file, the other is down", {A: 10**12 - 1, B: 1}, {B: of(YES)}, False),
    ("one in 10^12 names a file, the other is inconclusive", {A: 10**12 - 1, B: 1}, {A: DOWN, B: of(YES)}, False),
    ("one in 10^12 names a file, the other scored none", {A: 10**12 - 1, B: 1}, {A: SCORED_NOTHING, B: of(YES)}, False),
    ("one in 10^12 rejects what the other accepts", {A: 10**12 - 1, B: 1}, {A: of(YES), B: of(NO)}, True),
    ("just less than half of the stake scored", {A: 4, B: 5}, {A: of(YES)}, False),
    ("just half scored, and it agrees", {A: 2, B: 2, C: 1}, {A: of(YES), C: of(YES)}, True),
    ("more than half of the scored, less than half of all", {A: 3, B: 2, C: 5}, {A: of(YES), B: of(NO), C: DOWN}, True),
    ("three equal, two agree", {A: 1, B: 1, C: 1}, {A: of(YES), B: of(YES), C: of(NO)}, True),
    ("three equal, one accepts", {A: 1, B: 1, C: 1}, {A: of(YES), B: of(NO), C: of(UNSEEN)}, False),
    ("a stranger's word has no weight", {A: 1, B: 1}, {A: of(NO), STRANGER: of(YES)}, False),
    ("nobody spoke", {A: 1, B: 1}, {}, False),
    ("no stake at all", {A: 0, B: 0}, {A: of(YES), B: of(YES)}, False),
    ("nobody is trusted", {}, {A: of(YES)}, False),
    ("all is void", {A: 1, B: 1}, {A: VOID, B: VOID}, False),
    ("a void verdict that names a file", {A: 1, B: 1}, {A: of(YES, WindowStatus.VOID), B: SCORED_NOTHING}, False),
    ("sums beyond 64 bits", {A: 2**64 - 1, B: 2**64 - 1, C: 2**64 - 1}, {A: of(YES), B: of(YES), C: of(NO)}, True),
]


@pytest.mark.parametrize(("stake", "verdicts", "taken"), [row[1:] for row in SITUATIONS], ids=[row[0] for row in SITUATIONS])
def test_a_file_is_taken_by_more_than_half_of_the_stake_that_scored_if_half_of_all_has(
    stake: dict[Hotkey, int], verdicts: dict[Hotkey, SignedVerdict], taken: bool
) -> None:
    assert accepted_digests(verdicts, stake) == ({MINER: FILE} if taken else {})


def test_of_two_files_of_one_miner_at_most_one_is_taken() -> None:
    both = {A: says((MINER, FILE, YES)), B: says((MINER, REPLACED, YES))}
    assert accepted_digests(both, {A: 5, B: 5}) == {}
    assert accepted_digests(both, {A: 6, B: 5}) == {MINER: FILE}


def test_what_is_taken_is_in_order_of_hotkey() -> None:
    verdict = says((OTHER, FILE, YES), (MINER, REPLACED, YES))
    assert list(accepted_digests({A: verdict}, {A: 1})) == [MINER, OTHER]


def test_who_is_silent_is_waited_for_as_long_as_it_matters() -> None:
    everything = {A: 5, B: 3, C: 1}
    assert not settled({}, everything, [A, B, C])
    assert not settled({B: of(YES)}, everything, [A, C])
    assert settled({A: of(YES), B: of(YES)}, everything, [C])
    assert settled({A: of(YES)}, everything, [B, C])  # four of nine change nothing
    assert not settled({A: of(YES), B: of(NO)}, everything | {C: 2}, [C])  # the file's fate: 5 of 8, or 5 of 10
    assert settled({A: VOID}, everything, [B, C])  # half of the stake will never have scored
    assert not settled({A: VOID}, {A: 2, B: 2}, [B])
    assert settled({A: VOID, B: VOID, C: of(YES)}, everything, [])


words = st.sampled_from([of(YES), of(NO), of(UNSEEN), of(UNSURE), says((MINER, REPLACED, YES)), SCORED_NOTHING, VOID, DOWN])
stakes = st.one_of(st.integers(0, 4), st.integers(2**63, 2**64))


@given(st.lists(st.tuples(stakes, words, st.booleans()), min_size=1, max_size=5), st.data())
def test_what_is_settled_is_what_waiting_would_have_ended_in(
    validators: list[tuple[int, SignedVerdict, bool]], data: st.DataObject
) -> None:
    hotkeys = [Hotkey(bytes([i]) * 32) for i in range(len(validators))]
    stake = {hotkey: amount for hotkey, (amount, _, _) in zip(hotkeys, validators, strict=True)}
    heard = {hotkey: word for hotkey, (_, word, spoke) in zip(hotkeys, validators, strict=True) if spoke}
    silent = [hotkey for hotkey in hotkeys if hotkey not in heard]
    if settled(heard, stake, silent):
        later = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(silent, words)))
        assert accepted_digests(heard | later, stake) == accepted_digests(heard, stake)


@given(st.lists(stakes, min_size=1, max_size=5), st.data())
def test_void_inconclusive_and_small_voices_never_change_a_decision(amounts: list[int], data: st.DataObject) -> None:
    hotkeys = [Hotkey(bytes([i]) * 32) for i in range(len(amounts))]
    stake = dict(zip(hotkeys, amounts, strict=True))
    verdicts = {hotkey: data.draw(words) for hotkey in hotkeys}
    taken = accepted_digests(verdicts, stake)
    counted = {hotkey: word for hotkey, word in verdicts.items() if word.body.status is WindowStatus.SCORED}
    assert accepted_digests(counted, stake) == taken
    scored = sum(stake[hotkey] for hotkey in counted)
    for digest in taken.values():
        accepting = [hotkey for hotkey, word in counted.items() for one in word.body.miners if one.status is YES]
        assert 2 * sum(stake[hotkey] for hotkey in accepting) > scored
        assert digest in (FILE, REPLACED)
    if taken:
        assert half_scored(verdicts, stake)


def test_every_split_of_three_equal_validators() -> None:
    for words_said in product([YES, NO, UNSEEN, UNSURE], repeat=3):
        verdicts = {validator: of(word) for validator, word in zip((A, B, C), words_said, strict=True)}
        expected = words_said.count(YES) >= 2
        assert bool(accepted_digests(verdicts, {A: RAO, B: RAO, C: RAO})) is expected


def test_an_object_that_was_refused_is_known_by_its_etag_and_a_bucket_is_given_up_after_a_few() -> None:
    refusals = Refusals()
    assert not refusals.knows(A, "verdict", "1")
    for number in range(MAX_REFUSED):
        assert not refusals.given_up(A)
        refusals.add(A, "verdict", str(number))
        assert refusals.knows(A, "verdict", str(number))
    assert refusals.given_up(A)
    assert not refusals.given_up(B)
    assert not refusals.knows(B, "verdict", "0")
