"""Seeds belong to one network, one purpose and one context; draws are permutations nobody can steer."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import Randomness, Window, WindowTimes, draw, window_of
from grail_core.protocol.network import LOCALNET, SUBNET_81, NetworkParameters
from grail_core.protocol.randomness import drawn

SEED = bytes(range(32))
TAG = "grail/draw/groups"
A, B, C, D = (bytes([i]) * 32 for i in range(4))


def reference_draw(seed: bytes, tag: str, n: int, k: int) -> list[int]:
    """Fisher–Yates over a full list, words cut from one long stream: written from the text of section 2."""
    raw = tag.encode()
    stream = hashlib.shake_256(len(raw).to_bytes(4, "big") + raw + len(seed).to_bytes(4, "big") + seed).digest(1 << 16)
    words = iter([int.from_bytes(stream[i : i + 8], "big") for i in range(0, 1 << 16, 8)])
    values = list(range(n))
    for i in range(k):
        left = n - i
        word = next(w for w in words if w < (2**64 // left) * left)
        j = i + word % left
        values[i], values[j] = values[j], values[i]
    return values[:k]


@given(st.binary(max_size=40), st.sampled_from([TAG, "grail/draw/singles", "é"]), st.integers(0, 400), st.data())
@settings(max_examples=60)
def test_draw_is_partial_fisher_yates(seed: bytes, tag: str, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert draw(seed, tag, n, k) == reference_draw(seed, tag, n, k)


@given(st.integers(1, 300))
def test_a_full_draw_is_a_permutation_and_starts_with_every_shorter_one(n: int) -> None:
    full = draw(SEED, TAG, n, n)
    assert sorted(full) == list(range(n))
    assert draw(SEED, TAG, n, n // 2) == full[: n // 2] == list(islice(drawn(SEED, TAG, n), n // 2))


def test_words_that_would_bias_a_draw_are_skipped() -> None:
    n = 2**63 + 1  # nearly every second word is at or above ⌊2⁶⁴/n⌋·n = n
    raw = TAG.encode()
    stream = hashlib.shake_256(len(raw).to_bytes(4, "big") + raw + (32).to_bytes(4, "big") + SEED).digest(8 * 64)
    words = [int.from_bytes(stream[i : i + 8], "big") for i in range(0, len(stream), 8)]
    assert any(word >= n for word in words[:8])
    assert draw(SEED, TAG, n, 1) == [next(word for word in words if word < n)]


def test_every_value_is_drawn_about_equally_often() -> None:
    counts = Counter(draw(i.to_bytes(4, "big"), TAG, 10, 3)[place] for i in range(3000) for place in range(3))
    # 9,000 draws of ten values: 900 each, standard deviation about 25
    assert all(abs(counts[value] - 900) < 150 for value in range(10))


def test_a_few_of_a_huge_range_cost_no_memory() -> None:
    assert len(set(draw(SEED, TAG, 2**64, 50))) == 50


@pytest.mark.parametrize(("n", "k"), [(3, 4), (0, 1), (5, -1)])
def test_more_than_there_is_cannot_be_drawn(n: int, k: int) -> None:
    with pytest.raises(ValueError):
        draw(SEED, TAG, n, k)


def all_seeds(network: bytes) -> list[object]:
    r = Randomness(network)
    return [
        r.window_seed(A, B),
        r.select_seed(A, B),
        r.challenge_seed(A, B, C),
        r.problem_seed(A, B, C, 1),
        r.sampling_seed(A, B, C, D, 1, 1),
        r.sketch_bits(A, 0, 128).tobytes(),
    ]


def test_two_networks_share_no_seed() -> None:
    one, two = all_seeds(A), all_seeds(B)
    assert not [1 for left, right in zip(one, two, strict=True) if left == right]


def test_two_purposes_share_no_seed() -> None:
    seeds = all_seeds(A)
    assert len(set(map(str, seeds))) == len(seeds)


def test_every_argument_changes_its_seed() -> None:
    r = Randomness(A)
    other = bytes([9]) * 32
    seeds = {r.sampling_seed(A, B, C, D, 1, 2)}
    seeds |= {r.sampling_seed(other, B, C, D, 1, 2), r.sampling_seed(A, other, C, D, 1, 2)}
    seeds |= {r.sampling_seed(A, B, other, D, 1, 2), r.sampling_seed(A, B, C, other, 1, 2)}
    seeds |= {r.sampling_seed(A, B, C, D, 2, 2), r.sampling_seed(A, B, C, D, 1, 3), r.sampling_seed(A, B, C, D, 2, 1)}
    assert len(seeds) == 8
    assert len({r.problem_seed(A, B, C, g) for g in range(100)}) == 100


def test_sampling_seeds_fit_a_signed_64_bit_integer_and_problem_seeds_use_all_bits() -> None:
    r = Randomness(A)
    sampling = [r.sampling_seed(A, B, C, D, g, 0) for g in range(200)]
    problem = [r.problem_seed(A, B, C, g) for g in range(200)]
    assert max(sampling) < 2**63
    assert max(problem) >= 2**63
    assert max(sampling) >= 2**62


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33), "00" * 32, "0" * 32])
def test_hex_text_or_a_wrong_size_is_no_hash(wrong: Any) -> None:
    r = Randomness(A)
    for call in (
        lambda: Randomness(wrong),
        lambda: r.window_seed(wrong, B),
        lambda: r.challenge_seed(A, B, wrong),
        lambda: r.problem_seed(A, wrong, C, 0),
    ):
        with pytest.raises(ValueError):
            call()


def test_projections_are_balanced_signs_and_differ() -> None:
    r = Randomness(A)
    rows = np.stack([r.sketch_bits(A, j, 4096) for j in range(4)]).astype(np.int64)
    assert rows.dtype == np.int64
    assert set(np.unique(rows)) == {-1, 1}
    gram = rows @ rows.T
    assert (np.diag(gram) == 4096).all()
    assert abs(gram - np.diag(np.diag(gram))).max() < 6 * 64
    assert abs(rows.sum(axis=1)).max() < 6 * 64


def test_a_longer_projection_begins_with_the_shorter_one() -> None:
    r = Randomness(A)
    assert r.sketch_bits(A, 2, 100)[:77].tolist() == r.sketch_bits(A, 2, 77).tolist()


@given(st.integers(0, 10**12))
def test_a_window_is_named_by_its_first_block(block: int) -> None:
    window = window_of(block)
    assert window % 30 == 0
    assert window <= block < window + 30


@pytest.mark.parametrize("network", [SUBNET_81, LOCALNET])
def test_the_challenge_is_unknown_until_first_sight_is_over(network: NetworkParameters) -> None:
    times = WindowTimes(window_of(3_000), network)
    assert times.first_block == 3000
    assert times.seed_beacon_block == 3001
    assert times.deadline_block == 3030 == times.next_window
    assert times.deadline_block < times.first_sight_end_block <= times.challenge_block < times.void_block


def test_a_block_inside_a_window_names_none() -> None:
    with pytest.raises(ValueError):
        WindowTimes(Window(31), SUBNET_81)
    with pytest.raises(ValueError):
        window_of(-1)
