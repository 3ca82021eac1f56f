"""Noise anybody can recompute, and positions nobody can foresee."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import challenged_positions, gumbel_noise, murmur3_words, noise_of

MASK = 0xFFFFFFFF


def reference_murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 as published, for whole 4-byte blocks."""
    h = seed
    for i in range(0, len(data), 4):
        k = int.from_bytes(data[i : i + 4], "little") * 0xCC9E2D51 & MASK
        k = ((k << 15) | (k >> 17)) & MASK
        h ^= k * 0x1B873593 & MASK
        h = ((h << 13) | (h >> 19)) & MASK
        h = (h * 5 + 0xE6546B64) & MASK
    h ^= len(data)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & MASK
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & MASK
    return h ^ (h >> 16)


def test_the_reference_is_murmur3() -> None:
    assert reference_murmur3(b"test") == 0xBA6BD213  # published test value
    assert reference_murmur3(b"") == 0


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, MASK), st.lists(st.integers(0, MASK), min_size=1, max_size=5))
def test_h_is_murmur3_over_four_little_endian_words(seed: int, position: int, tokens: list[int]) -> None:
    expected = [
        reference_murmur3((seed % 2**64).to_bytes(8, "little") + position.to_bytes(4, "little") + v.to_bytes(4, "little"))
        for v in tokens
    ]
    words = murmur3_words(seed, position, tokens)
    assert words.dtype == np.uint32
    assert words.tolist() == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 20_000))
@settings(max_examples=20)
def test_noise_of_one_token_is_that_of_the_vocabulary(seed: int, position: int) -> None:
    whole = gumbel_noise(seed, position, np.arange(1000))
    assert whole.dtype == np.float64
    assert gumbel_noise(seed, position, [17])[0] == whole[17]
    assert float(gumbel_noise(seed, position, 999)) == whole[999]


def test_noise_at_the_ends_is_finite() -> None:
    assert float(noise_of(0)) == pytest.approx(-709.782712893384, abs=1e-9)
    assert float(noise_of(MASK)) == pytest.approx(32 * math.log(2), rel=1e-14)
    assert float(noise_of(MASK - 1)) == pytest.approx(32 * math.log(2), rel=1e-8)
    assert (np.diff(noise_of(np.linspace(0, MASK, 10_001).astype(np.uint32))) > 0).all()


def test_noise_is_gumbel_distributed() -> None:
    noise = np.concatenate([gumbel_noise(seed, 3, np.arange(50_000)) for seed in range(4)])
    assert abs(noise.mean() - 0.5772156649) < 0.015  # Euler's constant; standard error 0.003
    assert abs(noise.var() - math.pi**2 / 6) < 0.05


@pytest.mark.parametrize("wrong", [[-1], [2**32], [0.5]])
def test_what_is_no_token_id_has_no_noise(wrong: list[int]) -> None:
    with pytest.raises((ValueError, TypeError)):
        murmur3_words(1, 1, wrong)
    with pytest.raises(ValueError):
        murmur3_words(1, 2**32, [1])


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(1, 8192))
def test_positions_are_32_distinct_ones_with_first_and_last(seed: bytes, digest: bytes, length: int) -> None:
    positions = challenged_positions(seed, digest, length)
    assert positions == sorted(set(positions))
    assert len(positions) == min(32, length)
    assert positions[0] == 0
    assert positions[-1] == length - 1


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(1, 8192))
def test_the_positions_of_alternatives_hold_the_challenged_ones(seed: bytes, digest: bytes, length: int) -> None:
    more = challenged_positions(seed, digest, length, 256)
    assert more == sorted(set(more))
    assert len(more) == min(256, length)
    assert set(challenged_positions(seed, digest, length)) <= set(more)


def test_positions_follow_the_row_and_the_challenge() -> None:
    a, b = bytes(32), bytes([1]) * 32
    assert len({tuple(challenged_positions(*pair, 1000)) for pair in ((a, a), (a, b), (b, a), (b, b))}) == 4


def test_every_inner_position_is_challenged_about_equally_often() -> None:
    counts: Counter[int] = Counter()
    for i in range(1500):
        counts.update(challenged_positions(i.to_bytes(32, "big"), bytes(32), 62))
    # 30 of the 60 inner positions: 750 ± 19
    assert all(abs(counts[i] - 750) < 120 for i in range(1, 61))
    assert counts[0] == counts[61] == 1500


def test_an_empty_completion_has_no_positions() -> None:
    with pytest.raises(ValueError):
        challenged_positions(bytes(32), bytes(32), 0)
