"""Named alternatives from sketches: exact on their assumption, not erased by a few honest rollouts, silent about tiny steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.proof.alternative_test import (
    CLIP,
    DEAD_ZONE,
    LEAST_DISTANCE,
    Projection,
    Sums,
    by_yardstick,
    log_evidences,
    own_drift,
    project,
    sign_evidence,
    sums,
)
from grail_core.proof.mixture import STAKES, log_mixture
from grail_core.proof.sketches import ROUNDING_VARIANCE

VARIANCE = 6.0
ALPHA = 1e-6 / 2 / 16
Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]

NOISES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "uniform": lambda rng, shape: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
    "two points": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
}
"""Of unit variance and sub-Gaussian with that variance."""


def drawn(
    rng: np.random.Generator, rollouts: int, way: float, *, distance: float = 0.7, drift: float = 0.005, positions: int = 64
) -> Sums:
    """Rollouts whose claims lie `way` of the way to an alternative so many times the drift away."""
    deltas = [rng.normal(0, distance * drift, (positions, 4)).astype(np.float32) for _ in range(rollouts)]
    noises = [rng.normal(0, drift, (positions, 4)).astype(np.float32) for _ in range(rollouts)]
    return sums([way * d + e for d, e in zip(deltas, noises, strict=True)], deltas, drift)


def in_float32(column: list[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float32]]:
    return [one.astype(np.float32) for one in column]


NEAR = Sums(np.array([8.0]), np.array([8.0]), np.ones(1), 1.0)
"""By the reference one rollout lies where A does."""


def alone(rollouts: Sums) -> Projection:
    """Tested where own rounding is nothing, so that both yardsticks are one."""
    return project(rollouts, rollouts, VARIANCE)


def joined(*parts: Sums) -> Sums:
    inner, squares, coordinates = (
        np.concatenate([getattr(one, name) for one in parts]) for name in ("inner", "squares", "coordinates")
    )
    return Sums(inner, squares, coordinates, parts[0].variance)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("distance", [0.02, 0.12, 0.3, 0.7, 2.5])
def test_evidence_has_a_mean_of_at_most_one_at_the_edge_of_what_honest_noise_may_be(noise: str, distance: float) -> None:
    """Variance along Δ six times that of independent coordinates at the own drift, and a quarter of the way to A."""
    rng = np.random.default_rng(1)
    sigma2, coordinates = 1.0, 128.0
    q = np.full(200_000, distance**2 * sigma2 * coordinates)
    u = DEAD_ZONE * q + np.sqrt(VARIANCE * sigma2 * q) * NOISES[noise](rng, q.shape)
    e = np.exp(log_evidences(Sums(u, q, np.full_like(q, coordinates), sigma2), VARIANCE))
    assert e.mean() <= 1 + 4 * e.std() / math.sqrt(len(e))
    if noise == "normal" and distance <= 0.3:
        assert e.mean() == pytest.approx(1, abs=0.1)  # the edge is where the test says it is


@given(st.floats(-50, 50), st.floats(0, 50))
def test_the_factor_of_the_sign_test_of_a_point_and_its_mirror_image_is_one_on_average(x: float, shift: float) -> None:
    """Whatever the scale and the tail: a symmetric noise is a mixture of such pairs, and a shift down only lowers it."""
    pair = [
        math.exp(sign_evidence(Sums(np.array([0.25 * 8.0 + x * side - shift]), np.array([8.0]), np.ones(1), 1.0), NEAR))
        for side in (1, -1)
    ]
    assert sum(pair) / 2 <= 1 + 1e-9
    if shift == 0:
        assert sum(pair) / 2 == pytest.approx(1)


def test_honest_files_reach_the_evidence_for_alpha_less_often_than_alpha() -> None:
    rng = np.random.default_rng(4)
    for way in (0.0, 0.25):
        found = np.array([alone(drawn(rng, 16, way, positions=10)).log_evidence for _ in range(800)])
        for alpha in (0.1, 0.01):
            assert np.mean(found >= math.log(1 / alpha)) <= alpha


@pytest.mark.parametrize("honest", [0, 1, 4, 8])
def test_a_few_honest_rollouts_do_not_hide_the_others(honest: int) -> None:
    """Four of sixty-four run honestly erased all evidence of a test that knows only the sign."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        parts = [drawn(rng, n, way, positions=256) for n, way in ((64 - honest, 1.0), (honest, 0.0)) if n]
        mixed = joined(*parts)
        assert alone(mixed).log_evidence > math.log(1 / ALPHA)
        if honest >= 4:
            assert sign_evidence(mixed, mixed) < math.log(1 / ALPHA)


def test_a_sixteenth_of_the_rollouts_cheated_is_found_too() -> None:
    rng = np.random.default_rng(6)
    mixed = joined(drawn(rng, 4, 1.0, positions=256), drawn(rng, 60, 0.0, positions=256))
    assert alone(mixed).log_evidence > math.log(1 / ALPHA)


def test_the_projection_says_how_far_the_way_to_the_alternative_is_and_how_far_apart_the_models_are() -> None:
    rng = np.random.default_rng(2)
    for way in (0.0, 0.5, 1.0):
        found = alone(drawn(rng, 200, way))
        assert found.t == pytest.approx(way, abs=0.05)
        assert found.distance == pytest.approx(0.7, rel=0.03)
        assert len(found.rollouts) == 200
    nothing = alone(drawn(rng, 64, 0.0, distance=0.0))
    assert (nothing.t, nothing.log_evidence, nothing.testable) == (0.0, 0.0, False)


@pytest.mark.parametrize("rollouts", [16, 64, 512])
def test_an_honest_miner_who_leans_towards_a_tiny_step_is_never_tested_however_many_positions(rollouts: int) -> None:
    """Seen: half of the way to a checkpoint one step of 1e-6 apart, at a cosine of 0.02 between drift and Δ."""
    rng = np.random.default_rng(7)
    leaning = alone(drawn(rng, rollouts, 0.47, distance=0.04, positions=256))
    assert leaning.distance < LEAST_DISTANCE
    assert not leaning.testable
    assert alone(drawn(rng, rollouts, 0.03 / 0.13, distance=0.13, positions=256)).log_evidence < 3  # a cosine of 0.03


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("cosine", [-0.3, -0.15, 0.15, 0.3])
def test_a_lean_that_a_miner_shares_with_the_validator_in_whatever_part_is_no_evidence(share: float, cosine: float) -> None:
    """Rounding lies along Δ throughout a file, by as much as twice what was ever met, and the nearest alternative is tested."""
    rng = np.random.default_rng(9)
    drift, distance = 0.005, 0.2
    deltas = [rng.normal(0, distance * drift, (256, 4)) for _ in range(64)]
    lean = cosine / distance
    own = [lean * d + rng.normal(0, drift, d.shape) for d in deltas]
    claimed = [share * lean * d + rng.normal(0, drift, d.shape) for d in deltas]
    errors = [c - o for c, o in zip(claimed, own, strict=True)]
    taken = by_yardstick(in_float32(errors), in_float32(own), in_float32(deltas), drift)
    found = project(*taken, VARIANCE)
    assert found.testable
    assert found.log_evidence < math.log(2)
    if share == 1 and cosine > 0:  # against the reference alone an honest miner would be convicted
        assert alone(taken[1]).log_evidence > math.log(1 / ALPHA)
    if share == 0 and cosine < 0:  # against the own pass alone one of better arithmetic would
        assert alone(taken[0]).log_evidence > math.log(1 / ALPHA)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("lean", [-0.4, 0.0, 0.4])
def test_who_ran_the_alternative_is_found_whichever_way_rounding_leans(lean: float, share: float) -> None:
    """In the validator's arithmetic, or in a better one."""
    rng = np.random.default_rng(10)
    drift = 0.005
    deltas = [rng.normal(0, 0.3 * drift, (128, 4)) for _ in range(64)]
    own = [lean * d + rng.normal(0, drift, d.shape) for d in deltas]
    claimed = [(1 + share * lean) * d + share * rng.normal(0, drift, d.shape) for d in deltas]
    errors = [c - o for c, o in zip(claimed, own, strict=True)]
    found = project(*by_yardstick(in_float32(errors), in_float32(own), in_float32(deltas), drift), VARIANCE)
    assert found.t == pytest.approx(1 + (share - 1) * lean, abs=0.1)
    assert found.by_reference == pytest.approx(1 + share * lean, abs=0.1)
    if share == 1 or lean <= 0:
        assert found.log_evidence > math.log(1 / ALPHA)


def test_one_wild_coordinate_does_no_more_than_four_standard_deviations_can() -> None:
    rng = np.random.default_rng(8)
    delta = rng.normal(0, 0.004, (32, 4)).astype(np.float32)
    error = rng.normal(0, 0.005, (32, 4)).astype(np.float32)
    usual = sums([error], [delta], 0.005)
    delta[3, 1], error[3, 1] = 3.0, 3.0
    wild = sums([error], [delta], 0.005)
    most = CLIP**2 * usual.variance
    assert 0 < wild.inner[0] - usual.inner[0] <= 2 * most
    assert wild.squares[0] - usual.squares[0] <= most
    assert usual.variance == pytest.approx(0.005**2 + ROUNDING_VARIANCE)


def test_evidence_beyond_every_float_and_none_at_all_are_numbers() -> None:
    assert log_mixture(np.array([1e6, -1e6])) > 1e5
    assert log_mixture(np.array([-math.inf])) == pytest.approx(math.log(np.mean([1 - stake for stake in STAKES])))
    assert log_mixture(np.array([-math.inf, 2000.0])) > 1990
    assert log_mixture(np.zeros(0)) == 0
    assert log_mixture(np.zeros(64)) == pytest.approx(0)
    drift = own_drift([np.full((3, 4), 0.01, np.float32), np.full((1, 4), 0.03, np.float32)])
    assert drift == pytest.approx(math.sqrt((3 * 0.01**2 + 0.03**2) / 4))


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.permutations(range(20)))
def test_evidence_does_not_depend_on_the_order_of_rollouts(values: list[float], order: list[int]) -> None:
    turned = [values[i] for i in order if i < len(values)]
    assert log_mixture(np.array(values)) == pytest.approx(log_mixture(np.array(turned)))
    # No rollout can take more than the stake, or add more than e times it.
    assert log_mixture(np.array([*values, -math.inf])) >= log_mixture(np.array(values)) - 40
