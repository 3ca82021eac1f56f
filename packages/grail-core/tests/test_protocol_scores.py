"""Weights are exact, sum to one, and an honest miner's own audits never lower its pay."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from math import ceil, prod
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import Hotkey, MinerWindow, ScoreInputs, Window, score_inputs, weights
from grail_core.protocol.network import LOCALNET, SUBNET_81, NetworkParameters
from grail_core.protocol.scores import (
    MAX_POWER,
    MAX_WORK,
    POWER_UNIT,
    WEIGHT_TOTAL,
    counts_inconclusive,
    elementary_symmetric,
    lookback_windows,
    weights_now,
)

NOW = Window(30 * 3000)
CAP = 5000


def even(work: int, *, valid: int = 1, of: int = 1, in_lookback: bool = False) -> ScoreInputs:
    """Volume enough, and this share of the products valid."""
    return ScoreInputs(work, 4 * CAP, 12 * CAP, 4, valid, of, in_lookback)


FULL = even(MAX_WORK)
INPUTS = st.builds(
    lambda work, supported, more, declared, share, in_lookback: ScoreInputs(
        work, supported, supported * more // 10, 72, declared * share // 100, declared, in_lookback
    ),
    st.integers(0, MAX_WORK),
    st.integers(0, 72 * CAP),
    st.integers(10, 100),
    st.integers(0, 2**80 - 1),
    st.integers(0, 100),
    st.booleans(),
)


def window(back: int, declared: int = 160, **changes: Any) -> MinerWindow:
    fields: dict[str, Any] = {"active": True, "checked": True, "unique_valid": declared, "failed": False}
    fields["probability"] = Fraction(1, 3)
    return MinerWindow(Window(NOW - 30 * back), declared, **(fields | changes))


def failure(back: int, declared: int = 160, lookback: int = 36) -> MinerWindow:
    p = Fraction(5, lookback) if lookback > 14 else Fraction(1)
    return window(back, declared, active=False, unique_valid=0, failed=True, probability=p)


def inconclusive(back: int, declared: int = 160, *, counted: bool) -> MinerWindow:
    return window(back, declared, active=False, checked=counted, unique_valid=0, inconclusive=True)


def inputs_of(*entries: MinerWindow) -> ScoreInputs:
    return score_inputs(sorted(entries, key=lambda entry: entry.window), NOW)


# What a miner is worth ------------------------------------------------------------------------------------------------


def products(values: Sequence[int], degree: int) -> int:
    return sum(prod(chosen) for chosen in combinations(values, degree))


@given(st.lists(st.integers(0, CAP), max_size=9), st.integers(0, 5))
def test_an_elementary_symmetric_polynomial_is_the_sum_of_all_products(values: list[int], degree: int) -> None:
    assert elementary_symmetric(values, degree) == products(values, degree)


AUDITS = st.lists(
    st.tuples(st.integers(0, 71), st.integers(0, 6000), st.integers(0, 6000), st.booleans(), st.booleans()),
    max_size=10,
    unique_by=lambda audit: audit[0],
)


@given(AUDITS)
@settings(max_examples=200)
def test_power_is_that_of_the_text(audits: list[tuple[int, int, int, bool, bool]]) -> None:
    """Section 10 in fractions, products written out."""
    chances = [Fraction(1), Fraction(1, 10), Fraction(7, 50), Fraction(35, 121)]
    entries = [
        window(
            back,
            declared,
            checked=checked,
            active=active,
            unique_valid=valid if checked else 0,
            probability=chances[valid % 4],
        )
        for back, declared, valid, checked, active in audits
    ]
    inputs = inputs_of(*entries)
    work = sum(min(one.declared, CAP) for one in entries if one.active and one.window > NOW - 12 * 30)
    d = [min(one.declared, CAP) for one in entries if one.checked and one.declared]
    v = [min(one.unique_valid, one.declared, CAP) for one in entries if one.checked and one.declared]
    m = min(4, len(d))
    p = [one.probability or 0 for one in entries if one.checked and one.declared]
    estimate = sum(int(valid / chance) for valid, chance in zip(v, p, strict=True))
    expected = (
        POWER_UNIT * work**3 * min(work, 3 * sum(v), estimate) * Fraction(products(v, m), products(d, m)) if d else Fraction(0)
    )
    assert inputs.power == expected.numerator // expected.denominator


@given(st.lists(st.tuples(st.integers(0, 71), st.integers(1, 6000)), min_size=1, max_size=72, unique_by=lambda audit: audit[0]))
def test_honest_audits_of_any_sizes_give_a_ratio_of_exactly_one(audits: list[tuple[int, int]]) -> None:
    inputs = inputs_of(*(window(back, declared) for back, declared in audits))
    assert inputs.product_valid == inputs.product_declared > 0
    assert inputs.power == POWER_UNIT * inputs.work**3 * min(inputs.work, 3 * inputs.supported)


def test_who_works_full_and_is_honest_has_the_greatest_power_however_few_audits_support_it() -> None:
    for audits in (4, 5, 30, 72):
        inputs = inputs_of(*(window(back, CAP, checked=back < audits) for back in range(72)))
        assert inputs.power == MAX_POWER


@given(INPUTS)
def test_no_power_exceeds_a_full_miners_nor_any_product_198_bits(inputs: ScoreInputs) -> None:
    assert 0 <= inputs.power <= MAX_POWER
    assert POWER_UNIT * MAX_WORK**4 < 2**128
    assert (POWER_UNIT * MAX_WORK**4 * elementary_symmetric([CAP] * 72, 4)).bit_length() <= 198


@given(st.lists(st.integers(0, 71), min_size=4, max_size=40, unique=True), st.integers(0, 40))
def test_one_junk_audit_more_never_pays(backs: list[int], at: int) -> None:
    entries = [window(back, CAP) for back in backs]
    junk = list(entries)
    spoilt = junk[at % len(junk)]
    junk[at % len(junk)] = replace(spoilt, unique_valid=0)
    assert inputs_of(*junk).power < max(1, inputs_of(*entries).power)


def test_a_share_of_valid_windows_counts_by_its_fourth_power_without_bias() -> None:
    """The mean of e_4(v) / e_4(d) over all ways to find half of the windows valid is (1/2)⁴, exactly."""
    audits = 8
    total = Fraction(0)
    for found in range(2**audits):
        v = [CAP * (found >> i & 1) for i in range(audits)]
        total += Fraction(elementary_symmetric(v, 4), elementary_symmetric([CAP] * audits, 4))
    assert total / 2**audits == Fraction(1, 16)


def test_work_counts_up_to_three_times_the_audited_volume() -> None:
    tiny = [window(20 + back, 16) for back in range(10)]
    full = [window(back, CAP, checked=False, unique_valid=0) for back in range(12)]
    inputs = inputs_of(*tiny, *full)
    assert inputs.power == POWER_UNIT * MAX_WORK**3 * (3 * 160)
    assert inputs.power * 100 < MAX_POWER
    assert inputs_of(*full, *(window(20 + back, CAP) for back in range(4))).power == MAX_POWER


def test_twelve_windows_of_work_and_seventy_two_of_audits_count() -> None:
    inputs = inputs_of(*(window(back) for back in range(100)))
    assert (inputs.work, inputs.supported, inputs.audits) == (12 * 160, 72 * 160, 72)


def test_work_counts_up_to_the_cap_and_only_when_active() -> None:
    inputs = inputs_of(window(0, 6000), window(1, 4000), window(2, 160, active=False))
    assert inputs.work == 9000
    assert inputs.supported == 9160


def test_without_an_audit_there_is_no_power() -> None:
    inputs = inputs_of(*(window(back, checked=False, unique_valid=0) for back in range(12)))
    assert inputs.work == 12 * 160
    assert inputs.power == 0


def test_an_audit_of_a_file_that_declares_nothing_is_none() -> None:
    inputs = inputs_of(window(0, 160), window(1, 0, unique_valid=16))
    assert (inputs.audits, inputs.supported) == (1, 160)


@pytest.mark.parametrize(("p", "windows"), [(Fraction(1), 4), (Fraction(1, 2), 8), (Fraction(1, 3), 12), (Fraction(7, 50), 12)])
def test_audits_that_had_to_come_speak_for_no_more_windows_than_their_own(p: Fraction, windows: int) -> None:
    """Four full audits support twelve windows where their chance was a third or less; drawn for certain they support four."""
    audits = [window(20 + back, CAP, probability=p) for back in range(4)]
    later = [window(back, CAP, checked=False, unique_valid=0) for back in range(12)]
    assert inputs_of(*audits, *later).power == POWER_UNIT * MAX_WORK**3 * min(MAX_WORK, windows * CAP)


def test_a_full_window_now_and_tiny_ones_else_do_not_pay() -> None:
    even_work = inputs_of(*(window(back, 1600) for back in range(12)))
    burst = inputs_of(window(0, 5000), *(window(back, 16) for back in range(1, 12)))
    assert burst.power < even_work.power


def test_a_window_counts_once_and_later_ones_are_of_no_account() -> None:
    with pytest.raises(ValueError, match="each window once"):
        score_inputs([window(3), window(3)], NOW)
    with pytest.raises(ValueError, match="ascending"):
        score_inputs([window(0), window(1)], NOW)
    assert score_inputs([window(1), window(0), window(-1)], NOW) == score_inputs([window(1), window(0)], NOW)


# Failures and faults --------------------------------------------------------------------------------------------------


@given(st.fractions(min_value=Fraction(1, 10), max_value=1))
def test_a_look_back_is_as_long_as_five_checks_take(p: Fraction) -> None:
    assert lookback_windows(p) == min(36, max(14, ceil(5 / p)))


@pytest.mark.parametrize(
    ("p", "windows"),
    [
        (Fraction(1), 14),
        (Fraction(1, 2), 14),
        (Fraction(5, 14), 14),
        (Fraction(1, 3), 15),
        (Fraction(5, 36), 36),
        (Fraction(1, 10), 36),
    ],
)
def test_look_backs_at_their_borders(p: str, windows: int) -> None:
    assert lookback_windows(Fraction(p)) == windows


@pytest.mark.parametrize("lookback", [14, 20, 36])
def test_a_failure_weighs_for_as_many_windows_as_its_look_back_says(lookback: int) -> None:
    last = inputs_of(window(0), failure(lookback - 1, lookback=lookback))
    after = inputs_of(window(0), failure(lookback, lookback=lookback))
    assert last.in_lookback
    assert last.power == 0
    assert not after.in_lookback


def test_a_failed_window_counts_its_declared_and_nothing_valid() -> None:
    inputs = inputs_of(window(0, 160), failure(40, 480))
    assert (inputs.audits, inputs.supported, inputs.product_valid, inputs.product_declared) == (2, 160, 0, 160 * 480)


def test_the_longest_of_several_look_backs_counts() -> None:
    assert inputs_of(window(0), failure(20, lookback=36), failure(15, lookback=14)).in_lookback


SUPPORT = [window(back, 160) for back in range(1, 11)]
"""Ten audited windows of 160 rollouts."""


def test_the_first_inconclusive_window_of_the_memory_is_free_and_the_next_counts_as_unsupported() -> None:
    assert not counts_inconclusive(SUPPORT, NOW, 160)
    assert counts_inconclusive([*SUPPORT, inconclusive(71, counted=False)], NOW, 160)
    assert counts_inconclusive([*SUPPORT, inconclusive(71, counted=True)], NOW, 160)
    assert not counts_inconclusive([*SUPPORT, inconclusive(72, counted=False)], NOW, 160)
    assert not counts_inconclusive([*SUPPORT, inconclusive(0, counted=False)], NOW, 160)  # the window itself is none before it


def test_it_is_free_only_where_audits_found_ten_windows_of_its_size_valid() -> None:
    assert counts_inconclusive([], NOW, 16)  # a new hotkey has none free
    assert counts_inconclusive(SUPPORT[:9], NOW, 160)
    assert counts_inconclusive(SUPPORT, NOW, 176)  # nor has who seals more than before
    assert not counts_inconclusive(SUPPORT[:5], NOW, 80)
    for worthless in (
        window(72),  # forgotten
        window(11, checked=False, unique_valid=0),
        window(11, unique_valid=0),
        window(11, 0, unique_valid=16),  # declares nothing: no audit
        window(0),  # its own
        failure(11),
    ):
        assert counts_inconclusive([*SUPPORT[:9], worthless], NOW, 160), worthless


def test_audits_of_small_files_buy_no_free_fault_of_a_full_one() -> None:
    tiny_first = [*(window(back, 16) for back in range(11, 60)), *(window(back, CAP) for back in range(1, 5))]
    assert counts_inconclusive(tiny_first, NOW, CAP)
    assert not counts_inconclusive([window(back, CAP) for back in range(1, 11)], NOW, 6000)  # the cap is what counts


@given(AUDITS, st.integers(0, 6000))
@settings(max_examples=200)
def test_what_counts_is_that_of_the_text(audits: list[tuple[int, int, int, bool, bool]], declared: int) -> None:
    entries = [
        window(back, size, checked=checked, active=active, unique_valid=valid if checked else 0)
        for back, size, valid, checked, active in audits
    ]
    supported = sum(min(one.unique_valid, one.declared, CAP) for one in entries if one.checked and one.window < NOW)
    assert counts_inconclusive(entries, NOW, declared) == (supported < 10 * min(declared, CAP))


def test_a_counted_one_is_an_audit_with_nothing_valid_and_no_failure() -> None:
    free = inputs_of(window(1), inconclusive(0, counted=False))
    assert free == inputs_of(window(1))
    counted = inputs_of(window(1), inconclusive(3, counted=False), inconclusive(0, counted=True))
    assert (counted.audits, counted.product_valid, counted.in_lookback, counted.work) == (2, 0, False, 160)


def test_impossible_counts_are_refused() -> None:
    for wrong in (
        lambda: window(0, 6001),
        lambda: window(0, failed=True),
        lambda: window(0, unique_valid=0, failed=True, probability=None),  # who was checked had a chance of it
        lambda: window(0, probability=None),
        lambda: window(0, probability=Fraction(99, 1000)),
        lambda: window(0, probability=Fraction(1001, 1000)),
        lambda: window(0, inconclusive=True),
        lambda: ScoreInputs(-1, 0, 0, 0, 0, 0, False),
        lambda: ScoreInputs(MAX_WORK + 1, 0, 0, 0, 0, 0, False),
        lambda: ScoreInputs(0, 1, 1, 0, 0, 0, False),
        lambda: ScoreInputs(0, 16, 15, 1, 0, 0, False),
        lambda: ScoreInputs(0, 16, 161, 1, 0, 0, False),
        lambda: ScoreInputs(0, 0, 0, 73, 0, 0, False),
        lambda: ScoreInputs(0, 0, 0, 1, 2, 1, False),
        lambda: ScoreInputs(0, 0, 0, 1, 0, 2**80, False),
        lambda: weights({}, _Rule("capped", 1001, 0)),
    ):
        with pytest.raises(ValueError):
            wrong()


# Weights --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    weight_mode: Literal["capped", "uncapped"]
    burn_share_permille: int
    burn_uid: int


def exact_shares(inputs: Mapping[int, ScoreInputs], rule: NetworkParameters) -> dict[int, Fraction]:
    """Section 10 in fractions, from its text."""
    m = 1 - Fraction(rule.burn_share_permille, 1000)
    rel = {uid: Fraction(entry.power, POWER_UNIT * MAX_WORK**4) for uid, entry in inputs.items()}
    total = sum(rel.values())
    if not total:
        return dict.fromkeys(inputs, Fraction(0)) | {rule.burn_uid: Fraction(1)}
    factor = min(Fraction(1), total) if rule.weight_mode == "capped" else Fraction(1)
    shares = {uid: m * factor * value / total for uid, value in rel.items()}
    shares[rule.burn_uid] = shares.get(rule.burn_uid, Fraction(0)) + 1 - sum(shares.values())
    return shares


@given(
    st.dictionaries(st.integers(0, 255), INPUTS, max_size=12),
    st.sampled_from([SUBNET_81, LOCALNET]),
    st.sampled_from([0, 1, 900, 1000]),
    st.sampled_from([0, 7]),
)
@settings(max_examples=150)
def test_weights_are_the_largest_remainders_of_the_exact_shares(
    inputs: dict[int, ScoreInputs], network: NetworkParameters, burn: int, burn_uid: int
) -> None:
    rule = replace(network, burn_share_permille=burn, burn_uid=burn_uid)
    result = weights(inputs, rule)
    shares = exact_shares(inputs, rule)
    assert list(result) == sorted({*inputs, burn_uid})
    assert sum(result.values()) == 65_535
    ideal = {uid: 65_535 * share for uid, share in shares.items()}
    raised = sorted(ideal, key=lambda uid: (int(ideal[uid]) - ideal[uid], uid))[: 65_535 - sum(map(int, ideal.values()))]
    assert result == {uid: int(ideal[uid]) + (uid in raised) for uid in result}


def test_without_a_score_everything_burns() -> None:
    assert weights({}, SUBNET_81) == {0: 65_535}
    nobody = {
        1: ScoreInputs(100, 0, 0, 0, 1, 1, False),
        2: replace(FULL, in_lookback=True),
        3: even(0),
        4: replace(FULL, product_valid=0),
    }
    for network in (SUBNET_81, LOCALNET):
        assert weights(nobody, network) == {0: 65_535, 1: 0, 2: 0, 3: 0, 4: 0}


def test_capped_miners_share_at_most_a_tenth() -> None:
    assert weights({1: FULL}, SUBNET_81) == {0: 58_982, 1: 6_553}
    three = weights({1: FULL, 2: FULL, 3: FULL}, SUBNET_81)
    assert three[0] >= 58_981
    assert max(three[uid] for uid in (1, 2, 3)) - min(three[uid] for uid in (1, 2, 3)) <= 1
    half = weights({1: even(30_000)}, SUBNET_81)
    assert half[1] == round(6553.5 / 16)


def test_uncapped_miners_share_what_is_not_burnt_however_little_they_do() -> None:
    assert weights({1: even(16)}, LOCALNET)[1] == 6_553


def test_a_tie_goes_to_the_lower_uid() -> None:
    rule = replace(LOCALNET, burn_share_permille=0, burn_uid=9)
    assert weights({5: FULL, 3: FULL}, rule) == {3: 32_768, 5: 32_767, 9: 0}


def test_a_miner_on_the_burn_uid_keeps_its_own_share_on_top() -> None:
    rule = replace(SUBNET_81, burn_share_permille=500)
    assert weights({0: FULL, 1: FULL}, rule)[0] == pytest.approx(65_535 * 0.75, abs=1)


@given(st.integers(1, MAX_WORK), st.integers(2, 8), st.sampled_from([SUBNET_81, LOCALNET]))
def test_splitting_work_over_hotkeys_gains_nothing_up_to_the_cap(work: int, k: int, network: NetworkParameters) -> None:
    rule = replace(network, burn_share_permille=0)
    others = {100 + i: even(30_000) for i in range(3)}
    one = weights({1: even(work), **others}, rule)[1]
    split = weights({**{i: even(work // k) for i in range(1, k + 1)}, **others}, rule)
    assert sum(split[i] for i in range(1, k + 1)) <= one + k  # rounding


def test_every_integer_of_the_weights_fits_256_bits() -> None:
    """A u256 implementation of 256 full miners does not overflow."""
    assert (MAX_POWER * 256 * WEIGHT_TOTAL * 1000).bit_length() <= 256
    assert FULL.power == MAX_POWER


def test_order_of_inputs_does_not_matter() -> None:
    rng = random.Random(5)
    entries = [(uid, even(rng.randrange(60_001), valid=50, of=60 + uid)) for uid in range(100)]
    expected = weights(dict(entries), SUBNET_81)
    rng.shuffle(entries)
    assert weights(dict(entries), SUBNET_81) == expected


@given(st.dictionaries(st.integers(0, 9), INPUTS, max_size=6), st.sampled_from([SUBNET_81, LOCALNET]))
def test_shares_of_who_left_burn_and_no_weight_is_lost_or_won(
    inputs: dict[int, ScoreInputs], network: NetworkParameters
) -> None:
    then = weights(inputs, network)
    hotkeys = {uid: Hotkey(bytes([uid]) * 32) for uid in then}
    # Odd hotkeys left, and another holds the UID now; the even ones moved on by 20. What is the burn UID's stays there.
    now = {hotkey: uid + 20 for uid, hotkey in hotkeys.items() if uid % 2 == 0} | {Hotkey(b"\xff" * 32): 1}
    moved = weights_now(then, hotkeys, now, burn_uid=network.burn_uid)
    assert sum(moved.values()) == WEIGHT_TOTAL
    assert moved.get(1, 0) == 0
    burn = network.burn_uid  # what stands there stays, whoever holds it
    assert all(moved[uid + 20] == then[uid] for uid in then if uid % 2 == 0 and uid != burn)
    assert moved[burn] >= then[burn]
    assert list(moved) == sorted(moved)
