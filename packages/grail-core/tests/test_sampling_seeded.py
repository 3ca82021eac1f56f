"""Every token is the one that the text of section 4 gives, and a margin says how far a claim is from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.model import kernels
from grail_core.model.sampling import SeededSampler, margin_plain, sample_plain
from grail_core.protocol.constants import MARGIN_CLIP
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import MAX_NOISE, MIN_NOISE, gumbel_noise, murmur3_words, noise_of

GOLDEN_TOKENS = [27, 43, 16, 20, 47, 47, 5, 31, 32, 35, 8, 4, 43, 35, 35, 4]
GOLDEN_COLD_TOKENS = [27, 8, 12, 31, 31, 27, 31, 31, 4, 31, 31, 4, 27, 31, 39, 39]
POLICIES = [
    GenerationPolicy(8),
    GenerationPolicy(8, temperature=0.6),
    GenerationPolicy(8, temperature=1.7),
    GenerationPolicy(8, top_k=7),
    GenerationPolicy(8, top_k=1),
    GenerationPolicy(8, top_p=0.9),
    GenerationPolicy(8, top_p=0.3, temperature=0.8),
    GenerationPolicy(8, temperature=0.9, top_p=0.95, top_k=20, repetition_penalty=1.3),
    GenerationPolicy(8, repetition_penalty=0.7),
]


def one(sampler: SeededSampler, logits: np.ndarray, seed: int, position: int, history: list[int]) -> int:
    seeds, positions = np.array([seed % 2**64], np.uint64), np.array([position], np.uint32)
    return int(sampler.sample(logits[None], seeds, positions, [history])[0])


@given(
    data=st.data(),
    policy=st.sampled_from(POLICIES),
    size=st.sampled_from([2, 3, 64, 127, 128, 129, 1000]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 4.0, 300.0, 5e3]),
    level=st.sampled_from([0.0, -40.0, 900.0]),  # all logits negative, all positive, both
    rounded=st.booleans(),
    seed=st.integers(-(2**63), 2**64 - 1),
    position=st.integers(0, 2**32 - 1),
)
@settings(max_examples=250)
def test_fast_and_plain_agree_on_tokens_and_margins(
    data: st.DataObject,
    policy: GenerationPolicy,
    size: int,
    spread: float,
    level: float,
    rounded: bool,
    seed: int,
    position: int,
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = rng.normal(level, spread, size).astype(np.float32)
    if rounded:
        logits = np.round(logits)  # ties, at the borders of top-k and top-p too
    history = rng.integers(0, size, 9).tolist()
    sampler = SeededSampler(policy)
    token = one(sampler, logits, seed, position, history)
    assert token == sample_plain(sampler.warp(logits, history), seed, position)
    assert sampler.margin(logits, seed, position, token, history) == 0
    claimed = int(rng.integers(size))
    fast, plain = (f(logits, seed, position, claimed, history) for f in (sampler.margin, lambda *a: margin_plain(sampler, *a)))
    assert fast == pytest.approx(plain, abs=1e-9)
    assert 0 <= fast <= 4


@pytest.mark.parametrize("zipf", [False, True])
def test_fast_and_plain_agree_at_the_size_of_a_real_vocabulary(zipf: bool) -> None:
    size = 151_936
    rng = np.random.default_rng(8)
    logits = (-1.1 * np.log(rng.permutation(size) + 1.0) if zipf else rng.normal(0, 2.5, size)).astype(np.float32)
    sampler = SeededSampler(GenerationPolicy(8))
    for position in range(12):
        token = one(sampler, logits, 77, position, [])
        assert token == sample_plain(logits, 77, position)
        for claimed in (token, int(logits.argmax()), int(rng.integers(size))):
            fast = sampler.margin(logits, 77, position, claimed)
            assert fast == pytest.approx(margin_plain(sampler, logits, 77, position, claimed), abs=1e-9)


@pytest.mark.parametrize("seed", [1234, -7, 2**63 - 5, 0, 2**64 - 1])
def test_compiled_hash_is_the_protocols(seed: int) -> None:
    # With equal logits the token is the one of the greatest hash, which pins the compiled hash position by position.
    flat = np.zeros(1000, dtype=np.float32)
    for position in (0, 5, 20, 31, 2**31, 2**32 - 1):
        expected = int(murmur3_words(seed, position, np.arange(1000)).argmax())
        assert one(SeededSampler(GenerationPolicy(1)), flat, seed, position, []) == expected


def test_extreme_hashes_give_the_protocols_extreme_noise() -> None:
    assert noise_of([0])[0] == pytest.approx(MIN_NOISE)
    assert noise_of([2**32 - 1])[0] == pytest.approx(MAX_NOISE)
    assert kernels._noise(np.uint32(0)) == pytest.approx(MIN_NOISE)
    assert kernels._noise(np.uint32(2**32 - 1)) == pytest.approx(MAX_NOISE)


def test_a_tie_at_a_border_goes_to_the_lower_id() -> None:
    sampler = SeededSampler(GenerationPolicy(1, top_k=2))
    kept = np.flatnonzero(np.isfinite(sampler.warp(np.array([1, 3, 3, 3, 0], dtype=np.float32))))
    assert kept.tolist() == [1, 2]
    nucleus = SeededSampler(GenerationPolicy(1, top_p=0.5))
    assert np.flatnonzero(np.isfinite(nucleus.warp(np.zeros(10, dtype=np.float32)))).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("policy", [p for p in POLICIES if p.top_k != 1])
def test_warping_is_what_transformers_does_where_there_are_no_ties(policy: GenerationPolicy) -> None:
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    rng = np.random.default_rng(4)
    for _ in range(20):
        logits = rng.normal(0, 3, 500).astype(np.float32)
        history = rng.integers(0, 500, 30).tolist()
        ids, scores = torch.tensor([history]), torch.from_numpy(logits.copy())[None]
        if policy.repetition_penalty != 1:
            scores = RepetitionPenaltyLogitsProcessor(policy.repetition_penalty)(ids, scores)
        if policy.temperature != 1:
            scores = TemperatureLogitsWarper(policy.temperature)(ids, scores)
        if policy.top_k != -1:
            scores = TopKLogitsWarper(policy.top_k)(ids, scores)
        if policy.top_p < 1:
            scores = TopPLogitsWarper(policy.top_p)(ids, scores)
        assert np.array_equal(SeededSampler(policy).warp(logits, history), scores[0].numpy())


def test_borders_are_lenient_towards_the_claim_and_strict_towards_competitors() -> None:
    sampler = SeededSampler(GenerationPolicy(1, top_k=3))
    logits = np.array([5.0, 4.0, 3.0, 2.9, 1.0], dtype=np.float32)
    # Token 3 is outside top-3 but within 0.25 of the least kept: judged by its score like any other.
    near = [sampler.margin(logits, 9, p, 3) for p in range(200)]
    assert min(near) < 4
    # Token 4 is not: no seed makes it right.
    assert {sampler.margin(logits, 9, p, 4) for p in range(200)} == {4.0}
    # Token 2 stands on the border, so it can never be held against token 1.
    against = [margin_plain(sampler, logits, 9, p, 1) for p in range(200)]
    without = SeededSampler(GenerationPolicy(1, top_k=2))
    alone = [sample_plain(np.where(np.arange(5) < 2, logits, -np.inf).astype(np.float32), 9, p) for p in range(200)]
    assert [m == 0 for m in against] == [token == 1 for token in alone]
    assert without.truncates


def test_competitors_twelve_below_the_maximum_are_left_out() -> None:
    sampler = SeededSampler(GenerationPolicy(1))
    logits = np.full(200_000, -12.5, dtype=np.float32)
    logits[:2] = 0
    for position in range(20):
        winner = one(sampler, logits, 3, position, [])
        pair = [sampler.margin(logits, 3, position, claimed) for claimed in (0, 1)]
        assert min(pair) == 0  # the better of the two near tokens, though a far one may have won
        assert sampler.margin(logits, 3, position, winner) == 0  # and the far one itself is accepted where it was sampled


def test_margins_are_in_units_of_logits_at_any_temperature() -> None:
    logits = np.array([0.0, -1.0], dtype=np.float32)
    cold, warm = SeededSampler(GenerationPolicy(1, temperature=0.5)), SeededSampler(GenerationPolicy(1, temperature=2.0))
    for position in range(50):
        g = gumbel_noise(4, position, [0, 1])
        for sampler, temperature in ((cold, 0.5), (warm, 2.0)):
            gap = float((g[0] - g[1]) * temperature + 1.0)
            assert sampler.margin(logits, 4, position, 1) == pytest.approx(min(max(gap, 0), 4), abs=1e-6)


@pytest.mark.parametrize(
    "policy",
    [
        GenerationPolicy(1, temperature=0.0),
        GenerationPolicy(1, temperature=float("nan")),
        GenerationPolicy(1, top_p=0.0),
        GenerationPolicy(1, top_p=1.1),
        GenerationPolicy(1, top_k=0),
        GenerationPolicy(1, repetition_penalty=0.0),
    ],
)
def test_a_policy_that_is_none_is_refused(policy: GenerationPolicy) -> None:
    with pytest.raises(ValueError, match=r"sampling policy|top_k"):
        SeededSampler(policy)


def test_seeded_tokens_follow_the_distribution() -> None:
    logits = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    n = 20_000
    rows = np.broadcast_to(logits, (n, 3))
    tokens = SeededSampler(GenerationPolicy(1)).sample(rows, np.arange(n, dtype=np.uint64), np.full(n, 5, np.uint32))
    expected = np.exp(logits) / np.exp(logits).sum()
    counts = np.bincount(tokens, minlength=3) / n
    assert np.abs(counts - expected).max() < 5 * np.sqrt(0.25 / n)


def test_golden_tokens_of_a_fixed_row() -> None:
    # Logits are multiples of 1/8 and no call is close: no library's logarithm can change these.
    logits = (((np.arange(50) * 37) % 50) / 8).astype(np.float32)
    tokens = [one(SeededSampler(GenerationPolicy(1)), logits, 1234, position, []) for position in range(20, 36)]
    assert tokens == GOLDEN_TOKENS
    cold = SeededSampler(GenerationPolicy(1, temperature=0.5, top_k=8))
    assert [one(cold, logits, -7, position, []) for position in range(20, 36)] == GOLDEN_COLD_TOKENS


@pytest.mark.parametrize("temperature", [0.001, 0.7, 1.0, 10.0])
def test_the_borders_are_lenient_by_logits_whatever_the_temperature(temperature: float) -> None:
    """Numerics move logits, not what a temperature makes of them: 0.2 logits below the border is near, 0.3 is far."""
    sampler = SeededSampler(GenerationPolicy(1, temperature, top_k=1))
    near, far = np.array([1.0, 0.8, -9.0], np.float32), np.array([1.0, 0.7, -9.0], np.float32)
    assert sampler.margin(near, 5, 0, 1) < MARGIN_CLIP
    assert sampler.margin(far, 5, 0, 1) == MARGIN_CLIP
