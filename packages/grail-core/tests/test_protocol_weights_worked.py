"""Section 10 worked by hand, in whole numbers: from audits to the u16s that are set."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from grail_core.protocol import Hotkey, MinerWindow, ScoreInputs, Window, score_inputs, weights, weights_now
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.scores import MAX_POWER, MAX_WORK

NOW = Window(30 * 3000)
HALF, FLOOR = Fraction(1, 2), Fraction(1, 10)


def history(*audits: tuple[int, int, Fraction], idle_from: int = 12, failed_at: int | None = None) -> ScoreInputs:
    """Twelve windows of 160 rollouts, of which the newest are these audits: declared, valid, chance."""
    entries = []
    for back in range(idle_from):
        declared, valid, chance = audits[back] if back < len(audits) else (160, 0, None)
        failed = back == failed_at
        entries.append(
            MinerWindow(Window(NOW - 30 * back), declared, True, chance is not None, 0 if failed else valid, failed, chance)
        )
    return score_inputs(reversed(entries), NOW)


SURE = (160, 160, Fraction(1))
AT_HALF = (160, 160, HALF)
JUNK = (160, 0, HALF)


@pytest.mark.parametrize(
    ("inputs", "work", "supported", "estimate", "valid", "declared", "power"),
    [
        # Four audits that had to come speak for their own windows: min(1920, 3 · 640, 640) = 640.
        (history(*[SURE] * 4), 1920, 640, 640, 160**4, 160**4, 2**64 * 1920**3 * 640),
        # At one in two they speak for twice as many.
        (history(*[AT_HALF] * 4), 1920, 640, 1280, 160**4, 160**4, 2**64 * 1920**3 * 1280),
        # Three audits support three times their volume; products are of all three then.
        (history(*[(160, 160, FLOOR)] * 3), 1920, 480, 4800, 160**3, 160**3, 2**64 * 1920**3 * 1440),
        # One of five with nothing valid: one product of the five has all four valid.
        (history(*[AT_HALF] * 4, JUNK), 1920, 640, 1280, 160**4, 5 * 160**4, 2**64 * 1920**3 * 256),
        # One of four with nothing valid leaves no product.
        (history(*[AT_HALF] * 3, JUNK), 1920, 480, 960, 0, 160**4, 0),
        # Who was never drawn.
        (history(), 1920, 0, 0, 1, 1, 0),
        # A failure of chance 1/2 weighs for 14 windows, this one among them.
        (history(*[AT_HALF] * 5, failed_at=4), 1920, 640, 1280, 160**4, 5 * 160**4, 0),
        # A file with a gap holds more valid rows than it declares: they are not counted. Nor is what is above the cap.
        (history(*[(160, 176, Fraction(1))] * 4), 1920, 640, 640, 160**4, 160**4, 2**64 * 1920**3 * 640),
        (history(*[(6000, 6000, Fraction(1))] * 12), 60_000, 60_000, 60_000, 495 * 5000**4, 495 * 5000**4, MAX_POWER),
        # ⌊160 / (3/7)⌋ = 373: every audit is rounded down by itself.
        (history(*[(160, 160, Fraction(3, 7))] * 4), 1920, 640, 4 * 373, 160**4, 160**4, 2**64 * 1920**3 * 1492),
    ],
)
def test_power_in_whole_numbers(
    inputs: ScoreInputs, work: int, supported: int, estimate: int, valid: int, declared: int, power: int
) -> None:
    assert (inputs.work, inputs.supported, inputs.estimate) == (work, supported, estimate)
    assert (inputs.product_valid, inputs.product_declared) == (valid, declared)
    assert inputs.power == power


NETWORK = {
    0: history(),
    1: history(*[SURE] * 4),  # 640 of 896 parts
    2: history(*[AT_HALF] * 5, failed_at=4),
    3: history(*[AT_HALF] * 4, JUNK),  # 256 of 896
}


def test_uncapped_a_tenth_is_shared_by_power_and_the_last_unit_goes_to_the_largest_remainder() -> None:
    # 6553.5 · 5/7 = 4681.07, 6553.5 · 2/7 = 1872.43, burnt 58,981.5: the burn UID's half is the largest remainder.
    assert weights(NETWORK, LOCALNET) == {0: 58_982, 1: 4_681, 2: 0, 3: 1_872}


def test_capped_little_work_is_paid_little_and_the_rest_burns() -> None:
    assert weights(NETWORK, SUBNET_81) == {0: 65_535, 1: 0, 2: 0, 3: 0}
    full = history(*[(5000, 5000, Fraction(1))] * 12)
    assert full.power == MAX_POWER
    # Half the work: W³ · min(W, …) gives (1/2)⁴ of 6553.5 = 409.59; the burn UID's remainder .41 is the smaller one.
    half = ScoreInputs(MAX_WORK // 2, 60_000, 60_000, 12, 1, 1, False)
    assert weights({1: half}, SUBNET_81) == {0: 65_125, 1: 410}
    # Above one full miner in sum the cap holds: 6553.5 · 16/17 = 6168, 6553.5 / 17 = 385.5, burnt 58,981.5; a tie, lower UID.
    assert weights({1: full, 2: half}, SUBNET_81) == {0: 58_982, 1: 6_168, 2: 385}


def test_the_burn_uids_holder_keeps_what_it_earned_on_top_of_what_burns() -> None:
    rule = replace(LOCALNET, burn_share_permille=500)
    # 32,767.5 · 1/2 = 16,383.75 each; the burn UID has 32,767.5 more. Remainders .75 and .25.
    assert weights({0: NETWORK[1], 1: NETWORK[1]}, rule) == {0: 49_151, 1: 16_384}
    assert weights({0: NETWORK[1]}, replace(LOCALNET, burn_share_permille=0)) == {0: 65_535}


def test_a_weight_follows_its_hotkey_and_burns_where_that_is_gone() -> None:
    then = {0: 58_982, 1: 4_681, 2: 0, 3: 1_872}
    owner, one, two, three, new = (Hotkey(bytes([n]) * 32) for n in range(5))
    whose = {0: owner, 1: one, 2: two, 3: three}
    same = {owner: 0, one: 1, two: 2, three: 3}
    assert weights_now(then, whose, same, 0) == then
    # UID 1 is another's now: 58,982 + 4,681. Who holds it gets no entry of its own, which on a chain is 0.
    assert weights_now(then, whose, {owner: 0, new: 1, two: 2, three: 3}, 0) == {0: 63_663, 2: 0, 3: 1_872}
    # UID 3's hotkey came back as UID 1.
    assert weights_now(then, whose, {owner: 0, three: 1, two: 2}, 0) == {0: 63_663, 1: 1_872, 2: 0}
    # Two changed places; who held the burn UID left, and what burns still does.
    assert weights_now(then, whose, {new: 0, three: 1, one: 3}, 0) == {0: 58_982, 1: 1_872, 3: 4_681}
    assert weights_now(then, whose, {}, 0) == {0: 65_535}
