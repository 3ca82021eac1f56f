"""The compiled loops over a vocabulary: what they compute beside the sampler's scores, and that they run on whole vectors."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grail_core.model import kernels

AVX2 = "+64bit,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma"
COMPILE = """
import numba
from grail_core.model import kernels

floats, words, ints = numba.float32[::1], numba.uint32[::1], numba.int64
kernels.claimed_and_best.compile(
    (floats, words, numba.uint64, numba.uint32, numba.float32, ints, numba.float32, numba.float64, ints)
)
print(*kernels.claimed_and_best.inspect_asm().values())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instructions are those of x86-64")
def test_hashes_of_a_vocabulary_are_multiplied_in_vectors_of_full_width(tmp_path: Path) -> None:
    """One variable of 64 bits in the loop would halve them: four hashes a step on AVX2 in place of eight."""
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True)
    products = re.findall(r"\bvpmulld\b.*", done.stdout)
    assert sum("ymm" in line for line in products) >= 8
    assert sum("ymm" in line for line in products) > sum("xmm" in line for line in products)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logit_noise_is_the_variance_of_a_difference_of_two_logits(temperature: float) -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(0, 2.5, (8, 1000)).astype(np.float32)
    other = (reference + rng.normal(0, 0.05, reference.shape)).astype(np.float32)
    reference[:, 3] = other[:, 3] = -np.inf  # warped away: no part in it
    reference[:, 4], other[:, 4] = -60, 900
    noise, spread = np.empty(8, np.float32), np.empty(8, np.float32)
    kernels.logit_noise(reference, other, reference.argmax(axis=1), np.float32(temperature), noise, spread)
    for row in range(8):
        x = reference[row].astype(np.float64) / temperature
        near = x > x.max() - 20
        p = np.exp(x[near] - x.max())
        p /= p.sum()
        difference = other[row, near].astype(np.float64) - reference[row, near]
        left = 1 - (p**2).sum()
        assert noise[row] == pytest.approx(2 * ((p * difference**2).sum() - (p * difference).sum() ** 2) / left, rel=1e-4)
        assert spread[row] == pytest.approx(left, abs=1e-6)


def test_log_sum_exp_is_that_of_float64() -> None:
    logits = np.random.default_rng(6).normal(-30, 4, (8, 5000)).astype(np.float32)
    values = np.empty(8, np.float32)
    kernels.log_sum_exp(logits, logits.argmax(axis=1), values)
    exact = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    assert np.abs(values - exact).max() < 2e-5  # a unit in the last place at 25 is 1.9e-6
