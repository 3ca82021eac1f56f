"""The pooled tests move with the claims and not with the model, whatever the length of answers and whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.proof.calibration import BOUNDS, STATISTICS, PairCalibration, Shape, share_of_pooled, shipped_table
from grail_core.proof.comparison import Comparison, ReferenceComparison, Statistic, compare
from grail_core.proof.null import Null
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.pooled import UNIT, Paired, unit_values
from grail_core.proof.statistics import SHARE, bit_equal, evaluate, own_statistics, sketch_ratio_passes
from grail_core.proof.work import ReferenceMeasurement
from grail_core.protocol.constants import SKETCH_SCALE

NOT_FINITE = (math.nan, math.inf, -math.inf)


def shipped_pair() -> PairCalibration:
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    assert pair is not None
    return pair


@dataclass(frozen=True)
class Drawing:
    """How rollouts are drawn: the noise of either side as shares of a model's own drift."""

    drift: float = 0.005
    logit_noise: float = 0.008
    claims: float = 1.0
    logprob_claims: float = 1.0
    lost: float = 0.004  # share of tokens that are not the reference's choice, on either side


def drawn(rng: np.random.Generator, group: int, k: int, how: Drawing = Drawing()) -> Comparison:
    z0 = rng.normal(size=(k, 4))
    own = z0 + rng.normal(0, how.drift, (k, 4))
    claimed = np.rint((z0 + rng.normal(0, how.drift * how.claims, (k, 4))) * SKETCH_SCALE)
    logprobs0 = -rng.exponential(1.0, k)
    doubt = -np.expm1(logprobs0)  # where a token is sure, its log-probability moves with nothing
    own_logprobs, claimed_logprobs = (
        logprobs0 + doubt * rng.normal(0, 0.7 * how.logit_noise * share, k) for share in (1.0, how.logprob_claims)
    )
    margins, twins = (np.where(rng.random(k) < how.lost, rng.exponential(how.logit_noise, k), 0.0) for _ in range(2))
    logprobs32, margins32, twins32 = (np.asarray(v, np.float32) for v in (logprobs0, margins, twins))
    noise = np.full(k, how.logit_noise**2, np.float32)
    return compare(
        group,
        0,
        claimed_sketches=claimed.astype(np.int16),
        claimed_logprobs=claimed_logprobs.astype(np.float32),
        z=own.astype(np.float32),
        logprobs=own_logprobs.astype(np.float32),
        margins=np.zeros(k),
        reference=ReferenceMeasurement(
            z0.astype(np.float32), logprobs32, margins32, twins32, noise, np.full(k, 0.5, np.float32)
        ),
    )


def file_of(seed: int, lengths: Sequence[int] = (32,) * 64, how: Drawing = Drawing()) -> list[Comparison]:
    rng = np.random.default_rng(seed)
    return [drawn(rng, group, k, how) for group, k in enumerate(lengths)]


def values(name: str, sample: Sequence[Comparison]) -> np.ndarray:
    paired = Paired.of(sample)
    assert paired is not None
    return unit_values(name, paired)


def pooled(statistics: Sequence[Statistic]) -> dict[str, Statistic]:
    return {one.name: one for one in statistics if one.name in STATISTICS}


def reference_of(one: Comparison) -> ReferenceComparison:
    assert one.reference is not None
    return one.reference


def beside(one: Comparison, **changes: Any) -> Comparison:
    """The rollout with some of what lies beside its reference changed."""
    return replace(one, reference=replace(reference_of(one), **changes))


def test_the_values_are_those_of_their_formulas() -> None:
    sample = file_of(1, (32,) * 3, Drawing(lost=0.3, claims=1.4))
    reference = [reference_of(one) for one in sample]
    noise = math.fsum(float((r.noise * r.spread).sum()) for r in reference) / math.fsum(
        float(r.spread.sum()) for r in reference
    )
    scale = 8 * math.sqrt(noise)
    for at, r in enumerate(reference):
        e, n = (float(np.mean(np.square(v, dtype=np.float64))) for v in (r.errors, r.drift))
        assert values("sketch_ratio", sample)[at] == pytest.approx(max(0.0, math.log(e / (n + (1 / 4096) ** 2 / 12))))
        lost, own = (float(np.minimum(v.astype(np.float64) / scale, 1).sum()) for v in (r.margins, r.twins))
        assert values("twin_margin", sample)[at] == pytest.approx(np.clip(lost - own, -1, 1.5))
        w = r.informative.astype(np.float64)
        e, n = (float((w * np.square(v, dtype=np.float64)).sum()) for v in (r.logprob_errors, r.logprob_drift))
        assert values("logprob_ratio", sample)[at] == pytest.approx(max(0.0, math.log((e + 1e-6) / (n + 1e-6))))
        lost, own = (
            float(np.minimum(np.abs(v, dtype=np.float64) / scale, 1).sum()) for v in (r.logprob_errors, r.logprob_drift)
        )
        assert values("twin_logprob", sample)[at] == pytest.approx(np.clip(lost - own, 0, 1.5), abs=1e-6)


def test_a_few_rollouts_of_anything_are_hidden_by_the_mean_and_counted() -> None:
    """A mean over values that are clipped lets a fifth of a file be as far off as the coarse bounds allow."""
    rng = np.random.default_rng(7)
    pair = shipped_pair()
    most = pair.nulls["sketch_ratio"].most_extreme(64, 1e-6 / 34)
    assert 2 <= most <= 8
    for wild in (most, most + 1, 14):
        sample = file_of(11, (32,) * (64 - wild)) + [drawn(rng, 64 + n, 32, Drawing(claims=6.0)) for n in range(wild)]
        found = {one.name: one for one in own_statistics(sample, pair)}
        assert not found["sketch_ratio"].rejects
        assert found["sketch_ratio_share"].value == pytest.approx(wild / 64)
        assert found["sketch_ratio_share"].rejects == (wild > most)
        assert not found["coarse_error"].rejects
    without = {one.name: one for one in own_statistics(sample, None)}["sketch_ratio_share"]
    assert (without.enforced, without.threshold) == (False, None)


@pytest.mark.parametrize("drift", [0.0005, 0.005, 0.04])
def test_a_model_that_drifts_more_has_the_same_values(drift: float) -> None:
    how = Drawing(drift=drift, logit_noise=drift)
    assert abs(values("sketch_ratio", file_of(2, how=how)).mean()) < 0.15
    doubled = replace(how, claims=2.0, logprob_claims=2.0)
    found = pooled(own_statistics(file_of(3, how=doubled), shipped_pair()))
    assert found["sketch_ratio"].rejects
    assert found["logprob_ratio"].rejects
    assert not found["twin_margin"].rejects
    assert not any(one.rejects for one in own_statistics(file_of(3, how=how), shipped_pair()))


def test_tokens_that_the_honest_twin_would_not_have_written_are_lost_margins() -> None:
    lost = file_of(4)
    for one in lost:
        margins = reference_of(one).margins
        margins[:2] = 0.05  # far above 8 S would be 0.064
    found = pooled(evaluate(lost, shipped_pair()))
    assert [name for name, one in found.items() if one.rejects] == ["twin_margin"]
    assert found["twin_margin"].check == "sampling"


@pytest.mark.parametrize("lengths", [(1,) * 64, (3,) * 64, (7,) * 40, (15, 1, 2) * 20, (31,) * 64, (32,) * 8, (5,)])
def test_short_honest_answers_are_as_quiet_as_long_ones(lengths: tuple[int, ...]) -> None:
    """At four coordinates a log ratio varies by more than one: short rollouts are joined until they say as much as others."""
    for seed in range(6):
        found = pooled(own_statistics(file_of(seed, lengths), shipped_pair()))
        assert not any(one.rejects for one in found.values())
        assert found["sketch_ratio"].threshold is not None
        if sum(lengths) >= 2 * UNIT:
            assert found["sketch_ratio"].value < found["sketch_ratio"].threshold * 0.9
    cheat = pooled(own_statistics(file_of(9, lengths, Drawing(claims=4.0)), shipped_pair()))["sketch_ratio"]
    assert cheat.enforced == (sum(lengths) >= 6 * UNIT)  # of one unit or two no value lies above the bound
    assert cheat.rejects == cheat.enforced


@given(st.lists(st.integers(1, 150), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_units_hold_every_position_once_and_are_neither_noisy_nor_too_long(lengths: list[int]) -> None:
    ones = [np.ones((k, 4), np.float32) for k in lengths]
    zeros = [np.zeros(k, np.float32) for k in lengths]
    sample = []
    for group, (one, nothing) in enumerate(zip(ones, zeros, strict=True)):
        per = np.full(len(nothing), 1e-3, np.float32)
        reference = ReferenceComparison(one * 1e-3, one * 1e-3, per, nothing, per, per, nothing, np.ones_like(per), per)
        sample.append(Comparison(group, 0, one, nothing, nothing, np.zeros(len(nothing)), reference))
    paired = Paired.of(sample)
    assert paired is not None
    assert paired.own_noise == pytest.approx(1.0)
    of_positions = unit_values("twin_margin", paired) * 8 / 1e-3  # a margin of 1e-3 at every position, S = 1
    assert of_positions.sum() == pytest.approx(sum(lengths), rel=1e-4)
    assert of_positions.max() <= UNIT * (1 + 1e-4)
    joined = unit_values("sketch_ratio", paired)
    assert len(joined) <= max(1, sum(lengths) // UNIT)
    assert len(joined) == len(lengths) or min(lengths) < UNIT


def test_every_value_stays_within_the_bounds_that_tables_are_fitted_to() -> None:
    wild = file_of(5, how=Drawing(claims=60.0, logprob_claims=60.0))
    for one in wild:
        reference_of(one).margins[:] = 4.0
    still = [beside(one, errors=reference_of(one).errors * 0, margins=reference_of(one).margins * 0) for one in file_of(5)]
    for name in STATISTICS:
        low, high = BOUNDS[name]
        assert (values(name, wild) == high).all()
        assert (values(name, still) >= low).all()
    assert (values("sketch_ratio", still) == 0).all()


def test_rollouts_computed_better_than_their_class_pay_for_none_that_no_model_saw() -> None:
    """The same share of false rollouts is found beside exact ones as beside honest ones."""
    pair = shipped_pair()
    honest, false = file_of(7), file_of(8, how=Drawing(claims=40.0, logprob_claims=40.0))
    exact = [
        beside(one, errors=reference_of(one).errors * 0, logprob_errors=reference_of(one).logprob_errors * 0)
        for one in file_of(9)
    ]
    for name in ("sketch_ratio", "logprob_ratio", "twin_logprob"):
        for rest in (honest, exact):
            mixed = [*false[:44], *rest[44:]]
            found = next(one for one in own_statistics(mixed, pair) if one.name == name)
            assert found.rejects, (name, found)


def test_certain_text_has_no_log_probability_to_compare() -> None:
    sample = file_of(6)
    sure = [
        beside(
            one,
            informative=np.full(32, 1e-6, np.float32),
            logprob_errors=np.full(32, 3e-6, np.float32),
            logprob_drift=np.full(32, 1e-7, np.float32),
        )
        for one in sample
    ]
    assert np.abs(values("logprob_ratio", sure)).max() < 1e-3


# What the reference does not say


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_reference_without_a_number_leaves_its_rollout_out_and_nothing_else(data: st.DataObject) -> None:
    sample = file_of(7, (32, 5, 32, 17))
    at = data.draw(st.integers(0, 3))
    names = [f.name for f in fields(ReferenceComparison) if f.name not in ("logprob_errors",)]
    name = data.draw(st.sampled_from(names))
    array = getattr(reference_of(sample[at]), name)
    rest = [one for place, one in enumerate(sample) if place != at]
    wanted = pooled(own_statistics(rest, shipped_pair()))
    if name == "errors":  # differences to a reference without a number have none on either side
        reference_of(sample[at]).drift.flat[0] = math.nan
    array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(st.sampled_from(NOT_FINITE))
    found = pooled(own_statistics(sample, shipped_pair()))
    for statistic, one in found.items():
        assert (one.value, one.threshold, one.enforced) == (
            wanted[statistic].value,
            wanted[statistic].threshold,
            wanted[statistic].enforced,
        )
        assert "1 left out" in one.detail


@pytest.mark.parametrize(("field", "value"), [("drift", 3e38), ("drift", 1.0), ("logprob_drift", -1e30), ("noise", 1e30)])
def test_huge_numbers_of_a_reference_are_as_none(field: str, value: float) -> None:
    sample = file_of(8)
    array = getattr(reference_of(sample[3]), field)
    array[:] = value
    found = pooled(own_statistics(sample, shipped_pair()))
    assert all("1 left out" in one.detail and not one.rejects and not one.undecided for one in found.values())


def test_a_claim_that_is_no_number_is_the_worst_one_and_spares_nobody() -> None:
    sample = file_of(10)
    before = pooled(own_statistics(sample, shipped_pair()))
    for bad in NOT_FINITE:
        reference_of(sample[0]).logprob_errors[3] = bad
        after = pooled(own_statistics(sample, shipped_pair()))
        assert after["logprob_ratio"].value > before["logprob_ratio"].value
        assert after["twin_logprob"].value > before["twin_logprob"].value
        assert "left out" not in after["logprob_ratio"].detail


@pytest.mark.parametrize("drift", [0.0, 0.06])
def test_a_validator_that_drifts_by_nothing_or_too_much_decides_nothing(drift: float) -> None:
    sample = file_of(11, how=Drawing(drift=drift or 0.005, claims=6.0))
    if drift == 0:
        sample = [beside(one, drift=reference_of(one).drift * 0) for one in sample]
    found = own_statistics(sample, shipped_pair())
    assert not sketch_ratio_passes(found)
    for one in pooled(found).values():
        assert (one.undecided, one.rejects) == (True, False)
        assert "undecided: the validator's own drift" in one.detail
    assert all(not one.undecided for one in found if one.name not in (*STATISTICS, SHARE))


def test_nothing_is_decided_where_no_reference_says_anything_and_nothing_is_said_where_there_is_none() -> None:
    sample = file_of(12, (32,) * 4)
    lost = [beside(one, drift=np.full((32, 4), np.nan, np.float32)) for one in sample]
    found = pooled(own_statistics(lost, shipped_pair()))
    assert set(found) == set(STATISTICS)
    assert all(one.undecided and one.threshold is None and not one.rejects for one in found.values())
    assert pooled(own_statistics([replace(one, reference=None) for one in sample], shipped_pair())) == {}


# What is enforced


@pytest.mark.parametrize("name", STATISTICS)
def test_what_no_value_can_exceed_is_not_told_as_enforced(name: str) -> None:
    sample, pair = file_of(3, (32,) * 8), shipped_pair()
    null = pair.nulls[name]
    for dead_zone in (0.0, null.high - null.low):
        given = replace(pair, nulls={**pair.nulls, name: replace(null, dead_zone=dead_zone)})
        (told,) = (one for one in own_statistics(sample, given) if one.name == name)
        assert told.threshold is not None
        assert told.enforced is (told.threshold < null.high)
    assert not told.enforced
    assert "no value is above the threshold" in told.detail


def test_what_is_enforced_follows_from_the_pair_and_the_shape() -> None:
    sample = file_of(13, how=Drawing(claims=3.0))
    pair = shipped_pair()
    largest = pair.largest
    within = pooled(own_statistics(sample, pair, shape=largest))
    beyond = pooled(own_statistics(sample, pair, shape=Shape(2 * largest.layers, largest.hidden_size)))
    outside = pooled(own_statistics(sample, pair, shape=Shape(2 * largest.layers + 1, 8)))
    unknown = pooled(own_statistics(sample, None))
    assert all(one.enforced for one in (*within.values(), *beyond.values()))
    assert within["sketch_ratio"].rejects
    assert beyond["sketch_ratio"].rejects
    assert "dead zone doubled" in beyond["sketch_ratio"].detail
    for name in STATISTICS:
        wide, narrow = beyond[name].threshold, within[name].threshold
        assert wide is not None
        assert narrow is not None
        assert wide - narrow == pytest.approx(pair.nulls[name].dead_zone, abs=1e-5)
        assert narrow == pytest.approx(pair.threshold(name, 64, share_of_pooled()), rel=1e-4)
        assert (outside[name].enforced, unknown[name].enforced, unknown[name].threshold) == (False, False, None)
        assert outside[name].threshold is not None  # still reported


def test_margins_are_held_against_the_class_that_drew_the_tokens() -> None:
    sample, pair = file_of(14), shipped_pair()
    wide = {**pair.nulls, "twin_margin": Null.fit([np.full(100, 0.7)], *BOUNDS["twin_margin"])}
    other = replace(pair, nulls=wide)
    found, usual = (pooled(own_statistics(sample, pair, margins=margins)) for margins in (other, pair))
    assert [name for name in STATISTICS if found[name] != usual[name]] == ["twin_margin"]
    without = pooled(own_statistics(sample, pair, margins=None))
    assert [name for name in STATISTICS if not without[name].enforced] == ["twin_margin"]


def test_absolute_statistics_are_told_and_never_acted_on() -> None:
    told = {one.name: one for one in own_statistics(file_of(15, how=Drawing(claims=30.0)), shipped_pair())}
    for name in ("energy", "margin", "logprob", "logprob_tail"):
        assert (told[name].threshold, told[name].enforced, told[name].rejects) == (None, False, False)
    assert told["energy"].value > 0


# Bit-equal classes


def with_own_bits(one: Comparison) -> Comparison:
    """The rollout whose claims are the validator's own sketches, rounded as on the wire."""
    reference = reference_of(one)
    return replace(
        one,
        errors=((np.random.default_rng(1).random((len(one.errors), 4)) - 0.5) / SKETCH_SCALE).astype(np.float32),
        reference=reference,
    )


@pytest.mark.parametrize("drift", [1e-6, 1e-4, 0.005, 0.03])
def test_reproduced_bits_lie_below_the_bound_at_any_drift_and_one_other_rollout_does_not(drift: float) -> None:
    honest = [with_own_bits(one) for one in file_of(16, (32, 1, 7, 32), Drawing(drift=drift))]
    found = bit_equal(honest)
    assert found is not None
    assert (found.check, found.rejects) == ("proof", False)
    if drift >= 0.005:
        other = file_of(17, (32,), Drawing(drift=drift))
        found = bit_equal([*honest, replace(other[0], group=9)])
        assert found is not None
        assert (found.rejects, found.group, found.rollout) == (True, 9, 0)
        assert abs(found.value) < 2
    assert bit_equal([replace(one, reference=None) for one in honest]) is None
