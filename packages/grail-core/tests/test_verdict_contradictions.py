"""What of a verdict anybody can compute: every honest draw passes, and what contradicts coin, chain or probability does not."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grail_core.protocol import (
    Candidate,
    MinerStatus,
    MinerVerdict,
    ScoreInputs,
    Selection,
    VerdictBody,
    Versions,
    WindowInputs,
    WindowStatus,
    select_miners,
)
from grail_core.protocol.selection import miner_coin
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.verdict import contradictions

SEED = bytes(range(32))
INPUTS = WindowInputs(b"b" * 32, b"s" * 32, 7, 8, Digest(b"c" * 32), Digest(b"e" * 32))
NETWORK = Digest(b"n" * 32)
DRAWN = (MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)

candidates = st.builds(
    Candidate,
    declared=st.integers(0, 6000),
    supported=st.sampled_from([0, 100, 20_000]),
    in_lookback=st.booleans(),
)
"""Most with a probability between the floor and 1 where there are many of them."""


def hotkey(number: int) -> Hotkey:
    return Hotkey(number.to_bytes(32, "big"))


def body_of(sealed: list[tuple[Candidate, MinerStatus]], seed: bytes = SEED, absent: int = 1) -> VerdictBody:
    """As a validator writes it: draws by the protocol's own `select_miners`; a drawn file ends in the status given."""
    draw = {one.hotkey: one for one in select_miners(seed, {hotkey(i): one for i, (one, _) in enumerate(sealed)})}
    miners = [_miner(i, draw[hotkey(i)], one, status) for i, (one, status) in enumerate(sealed)]
    miners += [MinerVerdict(hotkey(i), i, MinerStatus.ABSENT) for i in range(len(sealed), len(sealed) + absent)]
    looked_back = {i for i, (one, _) in enumerate(sealed) if one.in_lookback}
    looked_back |= {miner.uid for miner in miners if miner.status is MinerStatus.FAILED}
    return VerdictBody(
        NETWORK,
        Window(90),
        WindowStatus.SCORED,
        Versions("0", "0", "0"),
        inputs=INPUTS,
        miners=tuple(miners),
        hotkeys={miner.uid: miner.hotkey for miner in miners},
        score_inputs={miner.uid: ScoreInputs(0, 0, 0, 0, 0, 0, miner.uid in looked_back) for miner in miners},
    )


def _miner(uid: int, one: Selection, candidate: Candidate, status: MinerStatus) -> MinerVerdict:
    return MinerVerdict(
        one.hotkey,
        uid,
        status if one.selected else MinerStatus.NOT_SELECTED,
        content_digest=Digest(bytes(32)),
        active=not one.selected or status is not MinerStatus.INCONCLUSIVE,
        declared=candidate.declared,
        check_probability=one.probability,
        coin=one.coin,
    )


def with_miner(body: VerdictBody, uid: int, **changes: object) -> VerdictBody:
    miners = list(body.miners)
    miners[uid] = replace(miners[uid], **changes)  # type: ignore[arg-type]
    return replace(body, miners=tuple(miners))


def rules(body: VerdictBody, **options: object) -> set[str]:
    return {one.rule for one in contradictions(body, INPUTS, SEED, **options)}  # type: ignore[arg-type]


sealings = st.lists(st.tuples(candidates, st.sampled_from(DRAWN)), min_size=0, max_size=60)


@given(sealings, st.binary(min_size=32, max_size=32))
def test_whatever_is_honestly_drawn_passes(sealed: list[tuple[Candidate, MinerStatus]], seed: bytes) -> None:
    body = body_of(sealed, seed)
    assert contradictions(body, INPUTS, seed, dict(body.hotkeys)) == ()
    assert contradictions(VerdictBody.from_json(body.to_json()), INPUTS, seed) == ()


@given(sealings.filter(bool), st.data())
def test_every_other_coin_is_seen(sealed: list[tuple[Candidate, MinerStatus]], data: st.DataObject) -> None:
    body = body_of(sealed)
    uid = data.draw(st.integers(0, len(sealed) - 1))
    coin = data.draw(st.integers(0, 2**64 - 1))
    assume(coin != body.miners[uid].coin)
    assert "coin" in rules(with_miner(body, uid, coin=coin))


@given(sealings.filter(bool), st.binary(min_size=32, max_size=32))
def test_coins_of_another_windows_seed_are_seen(sealed: list[tuple[Candidate, MinerStatus]], seed: bytes) -> None:
    assume(seed != SEED)
    assert "coin" in rules(body_of(sealed, seed))


@given(sealings.filter(bool), st.data())
def test_a_probability_on_the_other_side_of_the_coin_is_seen(
    sealed: list[tuple[Candidate, MinerStatus]], data: st.DataObject
) -> None:
    """All the same where the draw stays explained: one that fell, and would be among the two lowest anyway."""
    body = body_of(sealed)
    uid = data.draw(st.integers(0, len(sealed) - 1))
    chance = data.draw(st.fractions(Fraction(1, 10), 1, max_denominator=1000))
    miner = body.miners[uid]
    assert miner.coin is not None
    drawn, falls_now = miner.status in DRAWN, Fraction(miner.coin, 2**64) < chance
    forged = rules(with_miner(body, uid, check_probability=chance))
    if not drawn and falls_now:
        assert forged
    elif drawn and not falls_now:
        lower = sum(
            other.coin is not None
            and (other.coin, other.hotkey) < (miner.coin, miner.hotkey)
            and not sealed[other.uid][0].in_lookback
            for other in body.miners
        )
        assert forged or lower < 2


@given(sealings.filter(bool), st.data())
def test_a_status_that_the_coin_contradicts_is_seen(sealed: list[tuple[Candidate, MinerStatus]], data: st.DataObject) -> None:
    """Between accepted, failed and inconclusive the coin says nothing."""
    body = body_of(sealed)
    uid = data.draw(st.integers(0, len(sealed) - 1))
    miner = body.miners[uid]
    assert miner.coin is not None
    assert miner.check_probability is not None
    fell = Fraction(miner.coin, 2**64) < miner.check_probability
    unclear = any(other.status is MinerStatus.FAILED and other.check_probability == Fraction(1, 10) for other in body.miners)
    if miner.status is MinerStatus.NOT_SELECTED:
        forged = with_miner(body, uid, status=MinerStatus.ACCEPTED)
    else:
        forged = with_miner(body, uid, status=MinerStatus.NOT_SELECTED, unique_valid=0)
    assert rules(forged) or (unclear and not fell)


@given(sealings.filter(bool), st.data())
def test_a_drawn_miner_is_not_made_absent_and_an_absent_one_has_no_coin(
    sealed: list[tuple[Candidate, MinerStatus]], data: st.DataObject
) -> None:
    body = body_of(sealed)
    uid = data.draw(st.integers(0, len(sealed) - 1))
    assert "coin" in rules(with_miner(body, uid, status=MinerStatus.ABSENT, active=False, unique_valid=0))
    assert "coin" in rules(with_miner(body, uid, status=MinerStatus.NOT_SELECTED, coin=None, check_probability=None))


def test_who_is_inside_a_look_back_is_drawn_at_the_floor() -> None:
    body = body_of([(Candidate(800, 0, in_lookback=True), MinerStatus.ACCEPTED)] + [(Candidate(800), MinerStatus.ACCEPTED)] * 3)
    assert contradictions(body, INPUTS, SEED) == ()
    assert rules(with_miner(body, 0, status=MinerStatus.ACCEPTED, check_probability=Fraction(1))) == {"probability"}


def test_of_a_quiet_window_the_two_lowest_coins_are_drawn_and_no_other() -> None:
    """Three miners at a quarter, with a seed under which no coin falls."""
    seed = next(s for s in (n.to_bytes(32, "little") for n in range(10**4)) if min(_coins(s)) > 2**63)
    order = sorted(range(3), key=lambda uid: _coins(seed)[uid])
    body = body_of([(Candidate(5000, 20_000), MinerStatus.ACCEPTED)] * 3, seed, absent=0)
    for uid in range(3):
        status = MinerStatus.ACCEPTED if uid in order[:2] else MinerStatus.NOT_SELECTED
        body = with_miner(body, uid, check_probability=Fraction(1, 4), status=status)
    assert contradictions(body, INPUTS, seed) == ()
    for uid in range(3):
        turned = MinerStatus.NOT_SELECTED if uid in order[:2] else MinerStatus.ACCEPTED
        assert {one.rule for one in contradictions(with_miner(body, uid, status=turned), INPUTS, seed)} == {"draw"}


def _coins(seed: bytes) -> list[int]:
    return [miner_coin(seed, hotkey(uid)) for uid in range(3)]


@pytest.mark.parametrize("name", list(WindowInputs.__dataclass_fields__))
def test_every_input_is_held_against_the_chain(name: str) -> None:
    body = body_of([(Candidate(800), MinerStatus.ACCEPTED)])
    for other in (None, 9 if name.endswith("round") else b"x" * 32):
        inputs = replace(INPUTS, **{name: other})  # type: ignore[arg-type]
        assert rules(replace(body, inputs=inputs)) == {"inputs"}


def test_a_window_that_was_not_scored_may_lack_inputs_and_may_not_forge_them() -> None:
    body = VerdictBody(NETWORK, Window(90), WindowStatus.VOID, Versions("0", "0", "0"))
    assert rules(body) == set()
    assert rules(replace(body, inputs=WindowInputs(block_hash=b"x" * 32))) == {"inputs"}


def test_a_hotkey_that_did_not_hold_its_uid_is_seen() -> None:
    body = body_of([(Candidate(800), MinerStatus.ACCEPTED)] * 2, absent=0)
    assert rules(body, registered={0: hotkey(0), 1: hotkey(1), 2: hotkey(2)}) == set()
    assert rules(body, registered={0: hotkey(0)}) == {"registration"}
    assert rules(body, registered={0: hotkey(1), 1: hotkey(0)}) == {"registration"}
