"""Weights are exact, sum to one, and pay no strategy more than honest work."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import MinerWindow, ScoreInputs, Window, score_inputs, weights
from grail_core.protocol.network import LOCALNET, SUBNET_81, NetworkParameters
from grail_core.protocol.scores import MAX_SCORE, SCORE_UNIT, score_units

NOW = Window(3000)
FULL = ScoreInputs(60_000, 64, 64, False)
INPUTS = st.builds(
    lambda work, audited, share, failed: ScoreInputs(work, audited * share // 100, audited, failed),
    st.integers(0, 60_000),
    st.integers(0, 720_000),
    st.integers(0, 100),
    st.booleans(),
)


def window(back: int, declared: int = 160, **changes: Any) -> MinerWindow:
    fields: dict[str, Any] = {"active": True, "checked": True, "unique_valid": declared, "failed": False}
    return MinerWindow(Window(NOW - 30 * back), declared, **(fields | changes))


def inputs_of(*entries: MinerWindow) -> ScoreInputs:
    return score_inputs(sorted(entries, key=lambda entry: entry.window), NOW)


def exact_shares(inputs: Mapping[int, ScoreInputs], rule: NetworkParameters) -> dict[int, Fraction]:
    """Section 10 in fractions, from its text, with U rounded down to 2⁻³² rollouts."""
    u = {}
    for uid, entry in inputs.items():
        rho = Fraction(entry.valid, entry.audited) if entry.audited and not entry.failed else Fraction(0)
        u[uid] = Fraction(int(rho * entry.work * 2**32), 2**32)
    m = 1 - Fraction(rule.burn_share_permille, 1000)
    rel = {uid: (value / (12 * 5000)) ** 4 for uid, value in u.items()}
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
    nobody = {1: ScoreInputs(100, 0, 0, False), 2: replace(FULL, failed=True), 3: ScoreInputs(0, 5, 5, False)}
    for network in (SUBNET_81, LOCALNET):
        assert weights(nobody, network) == {0: 65_535, 1: 0, 2: 0, 3: 0}


def test_capped_miners_share_at_most_a_tenth() -> None:
    assert weights({1: FULL}, SUBNET_81) == {0: 58_982, 1: 6_553}
    three = weights({1: FULL, 2: FULL, 3: FULL}, SUBNET_81)
    assert three[0] >= 58_981
    assert max(three[uid] for uid in (1, 2, 3)) - min(three[uid] for uid in (1, 2, 3)) <= 1
    half = weights({1: ScoreInputs(30_000, 64, 64, False)}, SUBNET_81)
    assert half[1] == round(6553.5 / 16)


def test_uncapped_miners_share_what_is_not_burnt_however_little_they_do() -> None:
    assert weights({1: ScoreInputs(16, 16, 16, False)}, LOCALNET)[1] == 6_553


def test_a_tie_goes_to_the_lower_uid() -> None:
    rule = replace(LOCALNET, burn_share_permille=0, burn_uid=9)
    assert weights({5: FULL, 3: FULL}, rule) == {3: 32_768, 5: 32_767, 9: 0}


def test_a_miner_on_the_burn_uid_keeps_its_own_share_on_top() -> None:
    rule = replace(SUBNET_81, burn_share_permille=500)
    assert weights({0: FULL, 1: FULL}, rule)[0] == pytest.approx(65_535 * 0.75, abs=1)


@given(st.integers(1, 60_000), st.integers(2, 8), st.sampled_from([SUBNET_81, LOCALNET]))
def test_splitting_work_over_hotkeys_gains_nothing_up_to_the_cap(work: int, k: int, network: NetworkParameters) -> None:
    rule = replace(network, burn_share_permille=0)
    others = {100 + i: ScoreInputs(30_000, 64, 64, False) for i in range(3)}
    one = weights({1: ScoreInputs(work, 64, 64, False), **others}, rule)[1]
    split = weights({**{i: ScoreInputs(work // k, 64, 64, False) for i in range(1, k + 1)}, **others}, rule)
    assert sum(split[i] for i in range(1, k + 1)) <= one + k  # rounding


def test_a_failure_weighs_for_14_windows() -> None:
    assert inputs_of(window(0), window(13, failed=True, unique_valid=0)).failed
    assert not inputs_of(window(0), window(14, failed=True, unique_valid=0)).failed
    assert score_units(inputs_of(window(0), window(13, failed=True, unique_valid=0))) == 0


def test_a_failed_window_counts_its_declared_and_nothing_valid() -> None:
    inputs = inputs_of(window(0, 160), window(20, 480, failed=True, unique_valid=0, checked=False))
    assert (inputs.valid, inputs.audited, inputs.failed) == (160, 640, False)


def test_twelve_windows_of_work_and_thirty_six_of_audits_count() -> None:
    inputs = inputs_of(*(window(back) for back in range(50)))
    assert inputs == ScoreInputs(12 * 160, 36 * 160, 36 * 160, False)


def test_work_counts_up_to_the_cap_and_only_when_active() -> None:
    inputs = inputs_of(window(0, 20_000), window(1, 4000), window(2, 160, active=False))
    assert inputs.work == 9000
    assert inputs.audited == 24_160


def test_without_an_audit_there_is_no_score() -> None:
    inputs = inputs_of(*(window(back, checked=False, unique_valid=0) for back in range(12)))
    assert inputs.work == 12 * 160
    assert score_units(inputs) == 0


def test_a_full_window_now_and_tiny_ones_else_do_not_pay() -> None:
    """ρ multiplies work over twelve windows, so that one audited full window does not stand for eleven empty ones."""
    even = inputs_of(*(window(back, 1600) for back in range(12)))
    burst = inputs_of(window(0, 5000), *(window(back, 16) for back in range(1, 12)))
    assert score_units(burst) < score_units(even)


def test_a_window_counts_once_and_later_ones_are_of_no_account() -> None:
    with pytest.raises(ValueError, match="each window once"):
        score_inputs([window(3), window(3)], NOW)
    with pytest.raises(ValueError, match="ascending"):
        score_inputs([window(0), window(1)], NOW)
    assert score_inputs([window(1), window(0), window(-1)], NOW) == score_inputs([window(1), window(0)], NOW)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError):
        window(0, 20_001)
    with pytest.raises(ValueError):
        window(0, failed=True)
    for wrong in ((-1, 0, 0), (60_001, 0, 0), (0, 2, 1), (0, 0, 36 * 20_000 + 1)):
        with pytest.raises(ValueError):
            ScoreInputs(*wrong, False)
    with pytest.raises(ValueError):
        weights({}, _Rule("capped", 1001, 0))


@dataclass(frozen=True)
class _Rule:
    weight_mode: Literal["capped", "uncapped"]
    burn_share_permille: int
    burn_uid: int


def test_every_integer_fits_256_bits() -> None:
    """What the fixed unit is for: a u256 implementation of 256 full miners does not overflow."""
    assert (MAX_SCORE**4 * 256 * 65_535 * 1000).bit_length() <= 256
    assert score_units(FULL) == MAX_SCORE == 60_000 * SCORE_UNIT


def test_order_of_inputs_does_not_matter() -> None:
    rng = random.Random(5)
    entries = [(uid, ScoreInputs(rng.randrange(60_001), 50, 60 + uid, False)) for uid in range(100)]
    expected = weights(dict(entries), SUBNET_81)
    rng.shuffle(entries)
    assert weights(dict(entries), SUBNET_81) == expected
