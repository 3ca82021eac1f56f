"""Who would win under an alternative, by the text: every noise of a row, a sort for every nucleus, and no shortcut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.model import kernels
from grail_core.model.sampling import SeededSampler
from grail_core.proof.alternative_test import WEIGHTS_ALTERNATIVES
from grail_core.proof.alternatives import ROUNDED
from grail_core.proof.leads import (
    WARPED,
    WARPED_TEMPERATURES,
    WARPED_TOP_P,
    Choices,
    choose,
    leads_of_warps,
    leads_of_weights,
    own_leads,
)
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.proof.work import MOST_LEAD
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise

F32 = npt.NDArray[np.float32]
POLICIES = [
    GenerationPolicy(9),
    GenerationPolicy(9, temperature=0.6),
    GenerationPolicy(9, temperature=0.8, top_p=0.9),
    GenerationPolicy(9, temperature=1.2, top_k=20),
    GenerationPolicy(9, top_p=0.9, top_k=7),
]
SEED = 2**63 + 5
SEEDS = np.full(6, SEED, np.uint64)


def logits_of(seed: int, rows: int = 6, size: int = 300, sharpness: float = 3.0) -> F32:
    rng = np.random.default_rng(seed)
    return (sharpness * rng.standard_normal((rows, size))).astype(np.float32)


def scores(x: F32, policy: GenerationPolicy, position: int) -> npt.NDArray[np.float64]:
    noise = gumbel_noise(SEED, position, np.arange(len(x)))
    found: npt.NDArray[np.float64] = (x / np.float32(policy.temperature)).astype(np.float64) + noise
    return found


def best(values: npt.NDArray[np.float64], allowed: npt.NDArray[np.bool_]) -> int:
    """The first of the highest; −1 where nothing is allowed."""
    return int(np.where(allowed, values, -np.inf).argmax()) if allowed.any() else -1


def allowed_of(sampler: SeededSampler, x: F32) -> npt.NDArray[np.bool_]:
    ids = sampler.well_inside(x)
    found = np.ones(len(x), np.bool_) if ids is None else np.zeros(len(x), np.bool_)
    found[ids if ids is not None else []] = True
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@given(seed=st.integers(0, 2**32))
def test_leads_are_those_of_the_text(policy: GenerationPolicy, seed: int) -> None:
    reference, other = logits_of(seed), logits_of(seed) + logits_of(seed + 1, sharpness=0.5)
    untouched = reference.copy(), other.copy()
    sampler, inputs = SeededSampler(policy), np.arange(3, 9, dtype=np.uint32)
    choices = choose(sampler, reference, SEEDS, inputs)
    rivals, lead = leads_of_weights(choices, other, policy.temperature)
    own = own_leads(choices, rivals, reference[np.arange(6), np.maximum(rivals, 0)], policy.temperature)
    warped = leads_of_warps(choices, reference, policy, WARPED)
    assert np.array_equal(reference, untouched[0])
    assert np.array_equal(other, untouched[1])
    for row, x in enumerate(reference):
        allowed, at = allowed_of(sampler, x), int(inputs[row])
        under = scores(x, policy, at)
        a = best(under, allowed)
        assert choices.tokens[row] == a
        others = allowed & (np.arange(len(x)) != a)
        second = best(under, others)
        lead_of_choice = MOST_LEAD if min(a, second) < 0 else min((under[a] - under[second]) * policy.temperature, MOST_LEAD)
        assert choices.lead[row] == pytest.approx(lead_of_choice, abs=1e-5)
        expect(scores(other[row], policy, at), under, policy, a, others, (rivals[row], own[row], lead[row]))
        for name, factor in WARPED_TEMPERATURES.items():
            hotter = replace(policy, temperature=policy.temperature * factor)
            found = warped[name].rival[row], warped[name].own[row], warped[name].other[row]
            expect(scores(x, hotter, at), under, policy, a, others, found)


def expect(
    theirs: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    policy: GenerationPolicy,
    a: int,
    others: npt.NDArray[np.bool_],
    found: tuple[int, float, float],
) -> None:
    b = best(theirs, others)
    if a < 0 or b < 0:
        assert found == (-1, MOST_LEAD, -MOST_LEAD)
        return
    assert found[0] == b
    assert found[1] == pytest.approx(np.clip((own[a] - own[b]) * policy.temperature, 0, MOST_LEAD), abs=1e-5)
    assert found[2] == pytest.approx(np.clip((theirs[b] - theirs[a]) * policy.temperature, -MOST_LEAD, MOST_LEAD), abs=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 12.0])
def test_a_nucleus_holds_what_it_says_to_a_twentieth_of_a_nat(policy: GenerationPolicy, sharpness: float) -> None:
    """b stands in it; a outside of it is never drawn, and inside it leads."""
    for seed in range(20):
        logits = logits_of(seed, sharpness=sharpness)
        sampler, inputs = SeededSampler(policy), np.arange(6, dtype=np.uint32)
        choices = choose(sampler, logits, SEEDS, inputs)
        warped = leads_of_warps(choices, logits, policy, WARPED)
        for name, top_p in WARPED_TOP_P.items():
            for row, x in enumerate(logits):
                a, b, lead = int(choices.tokens[row]), int(warped[name].rival[row]), float(warped[name].other[row])
                y = x.astype(np.float64) / policy.temperature
                kept = np.argsort(-y, kind="stable")[: policy.top_k if policy.top_k > 0 else None]
                mass = np.exp(y[kept] - y.max())
                before = (np.cumsum(mass) - mass) / mass.sum()
                border = y[kept][before < top_p][-1]
                if b >= 0:
                    assert y[b] > border - 0.05
                surely_inside, surely_outside = y[a] > border + 0.05, y[a] < border - 0.05
                assert not (surely_inside and lead > 0)
                assert not (surely_outside and b >= 0 and lead != MOST_LEAD)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_what_is_asked_for_is_what_all_together_have(policy: GenerationPolicy) -> None:
    logits, inputs = logits_of(3), np.arange(6, dtype=np.uint32)
    sampler = SeededSampler(policy)
    choices = choose(sampler, logits, SEEDS, inputs)
    whole = leads_of_warps(choices, logits, policy, WARPED)
    assert tuple(whole) == WARPED
    for name in WARPED:
        ((told, leads),) = leads_of_warps(choices, logits, policy, {name, "int8"}).items()
        assert told == name
        for value, other in zip(vars(leads).values(), vars(whole[name]).values(), strict=True):
            if name in WARPED_TEMPERATURES:
                assert np.array_equal(value, other)
    parts = Choices.joined([choices.at(slice(0, 2)), choices.at(np.array([2, 3, 4, 5]))])
    assert len(parts) == 6
    for name in ("seeds", "inputs", "tokens", "scores", "lead", "inside"):
        assert np.array_equal(getattr(parts, name), getattr(choices, name))


@given(st.integers(0, 2**32), st.floats(0.3, 2.0), st.sampled_from([0.0, -0.3]))
def test_the_noise_of_two_rows_of_logits_is_the_texts(seed: int, temperature: float, shift: float) -> None:
    x = logits_of(seed)
    other = x + logits_of(seed + 1, sharpness=0.01) + np.float32(shift)
    noise, spread = np.empty(6, np.float32), np.empty(6, np.float32)
    kernels.logit_noise(x, other, x.argmax(axis=1), np.float32(temperature), noise, spread)
    y = x.astype(np.float64) / np.float32(temperature)
    p = np.exp(y - y.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    difference = other.astype(np.float64) - x
    left = 1 - np.square(p).sum(axis=1)
    variance = (p * difference**2).sum(axis=1) - (p * difference).sum(axis=1) ** 2
    assert noise == pytest.approx(2 * variance / np.maximum(left, 1e-3), rel=1e-3, abs=2e-8)
    assert spread == pytest.approx(left, abs=1e-5)


@given(st.integers(0, 2**32), st.floats(0.3, 2.0))
def test_mass_within_and_at_a_depth_is_the_texts(seed: int, temperature: float) -> None:
    x = logits_of(seed)
    tops, rows = x.argmax(axis=1), np.arange(6)
    floors = np.partition(x, 100, axis=1)[:, 100]
    out, binned = np.empty((6, 3), np.float32), np.zeros((6, 16))
    kernels.mass_within(x, tops, np.float32(temperature), floors, 2.0, 6.0, out)
    depth = (x[rows, tops][:, None].astype(np.float64) - x) / np.float32(temperature)
    mass = np.where(x >= floors[:, None], np.exp(-depth), 0.0)
    assert out[:, 2] == pytest.approx(mass.sum(axis=1), rel=1e-5)
    for column, least in ((0, 2.0), (1, 6.0)):
        lower, upper = (np.where(depth <= least + slack, mass, 0).sum(axis=1) for slack in (-1e-4, 1e-4))
        assert (lower * (1 - 1e-5) <= out[:, column]).all()
        assert (out[:, column] <= upper * (1 + 1e-5)).all()
    kernels.mass_by_depth(x, tops, np.float32(temperature), floors, np.full(6, 2.0, np.float32), binned)
    for row in rows:
        kept = x[row] >= floors[row]
        told = np.minimum(15, ((x[row, tops[row]] - x[row][kept]) * np.float32(2)).astype(np.int64))
        assert binned[row] == pytest.approx(np.bincount(told, weights=mass[row][kept], minlength=16), rel=1e-5)


def test_every_alternative_that_is_measured_is_one_that_is_tested() -> None:
    """α is split over the tests that there are; what has another name would be reported and convict nobody."""
    assert (*WARPED_TEMPERATURES, *WARPED_TOP_P) == SAMPLING_ALTERNATIVES
    assert set(ROUNDED) <= set(WEIGHTS_ALTERNATIVES)
