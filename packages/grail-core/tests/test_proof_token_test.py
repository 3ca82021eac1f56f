"""Named alternatives from tokens: exact for every symmetric unimodal noise within κ times the own variance, and any tail."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from grail_core.proof.calibration import shipped_table
from grail_core.proof.comparison import NamedComparison
from grail_core.proof.leads import WARPED
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.proof.statistics import left_open
from grail_core.proof.token_test import (
    LEAST_PROBABILITY,
    SAMPLING_ALTERNATIVES,
    factors,
    gauss_bound,
    noise_variance,
    normal_cdf,
    scales,
    token_evidence,
)
from grail_core.proof.work import Leads

KAPPA = 2.0
Tail = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def _student3(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P(η > x) of Student's t with 3 degrees of freedom, scaled to unit variance."""
    t = x * math.sqrt(3)
    upper: npt.NDArray[np.float64] = 0.5 - (np.arctan(t / math.sqrt(3)) + math.sqrt(3) * t / (t**2 + 3)) / math.pi
    return upper


def _worst_of_gauss(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A uniform part around 0 and the rest at 0, as unlucky as unit variance and one mode allow for each x."""
    a = np.maximum(1.5 * x, math.sqrt(3))  # half width; its share is 3/a² of the mass
    upper: npt.NDArray[np.float64] = 3 / a**2 * np.maximum(a - x, 0) / (2 * a)
    return upper


UNIT_TAILS: dict[str, Tail] = {
    "normal": lambda x: 1 - normal_cdf(x),
    "Laplace": lambda x: 0.5 * np.exp(-math.sqrt(2) * x),
    "uniform": lambda x: np.maximum(math.sqrt(3) - x, 0) / (2 * math.sqrt(3)),
    "Student t 3": _student3,
    "worst of Gauss": _worst_of_gauss,
}
"""P(η > x) for x ≥ 0 of symmetric unimodal noises of unit variance."""

GRID = np.array(
    [
        (m0, mA, s)
        for m0 in np.geomspace(1e-4, 40, 25)
        for mA in (-3.0, -0.3, -0.01, 0.0, 0.003, 0.03, 0.5, 50.0)
        for s in (0.002, 0.03, 0.4)
    ]
)


@pytest.mark.parametrize("noise", UNIT_TAILS)
@pytest.mark.parametrize("variance", [0.05, 1.0, KAPPA])
def test_the_mean_factor_is_at_most_one_at_every_lead_and_scale(noise: str, variance: float) -> None:
    own, other, s = GRID.T
    if_rival, if_not = factors(own, other, s, KAPPA)
    chance = UNIT_TAILS[noise](own / (math.sqrt(variance) * s))
    mean = chance * np.exp(if_rival) + (1 - chance) * np.exp(if_not)
    assert mean.max() <= 1 + 1e-9
    # The rival may be third: then the honest miner writes b less often still.
    rarer = 0.3 * chance
    assert (rarer * np.exp(if_rival) + (1 - rarer) * np.exp(if_not)).max() <= 1 + 1e-9
    assert (if_rival != 0).sum() > 50  # most positions of the grid say something
    assert ((if_rival > 0) == (if_not < 0)).all()


def test_the_bound_is_met_by_the_worst_noise_and_never_falls_below_what_it_bounds() -> None:
    x = np.geomspace(0.01, 30, 200)
    ones = np.ones_like(x)
    bound = gauss_bound(x * math.sqrt(KAPPA), ones, KAPPA)
    for name, tail in UNIT_TAILS.items():
        assert (tail(x) <= bound + 1e-9).all(), name
    inside = bound > LEAST_PROBABILITY
    assert _worst_of_gauss(x)[inside] == pytest.approx(bound[inside], rel=1e-9)
    assert (gauss_bound(np.zeros(1), np.ones(1), KAPPA)) == 0.5


def test_more_noise_than_the_table_allows_is_what_the_bound_rests_on() -> None:
    own, other, s = GRID.T
    if_rival, if_not = factors(own, other, s, KAPPA)
    chance = _worst_of_gauss(own / (math.sqrt(3 * KAPPA) * s))
    assert (chance * np.exp(if_rival) + (1 - chance) * np.exp(if_not)).max() > 1.1


def test_the_normal_distribution_is_that_of_the_error_function() -> None:
    x = np.linspace(-9, 9, 2001)
    wanted = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    assert np.abs(normal_cdf(x) - wanted).max() < 2e-7


def leads_of(rng: np.random.Generator, m: int, noise: float) -> tuple[Leads, npt.NDArray[np.float64]]:
    """Contested positions of a real kind: how far a leads b, and A's difference of the two logits."""
    own = rng.exponential(10 * noise, m)
    change = rng.normal(0, 2 * noise, m)
    rival = rng.integers(10, 1000, m)
    return Leads(own.astype(np.float32), (change - own).astype(np.float32), rival.astype(np.int32)), change


def written(rng: np.random.Generator, leads: Leads, shift: npt.NDArray[np.float64], sd: float) -> npt.NDArray[np.int32]:
    """Tokens of a miner whose logits favour b by `shift` and noise of this size: b, or another (0)."""
    return np.where(shift + rng.normal(0, sd, len(leads.own)) > leads.own, leads.rival, 0).astype(np.int32)


@pytest.mark.parametrize("kappa", [1.0, KAPPA])
def test_who_drew_by_the_alternative_is_found_and_honest_draws_are_not(kappa: float) -> None:
    rng, noise, m, n = np.random.default_rng(1), 0.01, 256, 64
    per = np.full(m, noise**2, np.float32)
    rollouts = [leads_of(rng, m, noise) for _ in range(n)]
    leads = [one for one, _ in rollouts]
    honest = [written(rng, one, np.zeros(m), noise * math.sqrt(kappa)) for one in leads]
    cheat = [written(rng, one, change, noise) for one, change in rollouts]
    mixed = [honest[r] if r < 4 else cheat[r] for r in range(n)]
    for tokens, found in ((honest, False), (cheat, True), (mixed, True)):
        evidence = token_evidence(tokens, leads, [per] * n, noise**2, KAPPA)
        assert (evidence.log_evidence > math.log(1 / 3e-8)) == found
        assert 0 < evidence.found < evidence.positions < m * n
    e = np.exp(token_evidence(honest, leads, [per] * n, noise**2, KAPPA).rollouts)
    assert e.mean() <= 1 + 3 * e.std() / math.sqrt(n)


def test_the_other_rollouts_are_asked_where_the_tokens_of_the_first_speak_together() -> None:
    rng, noise, m = np.random.default_rng(2), 0.01, 64
    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    rollouts = [leads_of(rng, m, noise) for _ in range(16)]
    nothing, per = np.zeros((m, 4), np.float32), np.full(m, noise**2, np.float32)

    def first(cheats: int, share: float) -> list[NamedComparison]:
        """Rollouts of which so many were drawn `share` of the way to the alternative, the others honestly."""
        return [
            NamedComparison(
                errors=nothing,
                deltas={},
                drift=nothing + np.float32(0.005),
                tokens=written(rng, leads, change * (share if r < cheats else 0.0), noise),
                leads={"int8": leads},
                noise=per,
                spread=np.full(m, 0.5, np.float32),
            )
            for r, (leads, change) in enumerate(rollouts)
        ]

    assert not any(left_open(first(0, 0.0), pair) for _ in range(5))
    assert sum(left_open(first(16, 0.5), pair).tokens == {"int8"} for _ in range(8)) >= 6  # too few to find it, enough to go on
    assert not left_open(first(16, 1.0), pair)  # found already


def test_every_other_token_than_the_rival_counts_as_the_references() -> None:
    leads = Leads(np.full(4, 0.05, np.float32), np.full(4, 0.05, np.float32), np.full(4, 7, np.int32))
    per = np.full(4, 1e-4, np.float32)
    by = {token: token_evidence([np.full(4, token, np.int32)], [leads], [per], 1e-4, KAPPA) for token in (7, 3, 8)}
    assert by[3].rollouts == pytest.approx(by[8].rollouts)
    assert by[7].rollouts[0] > 0 > by[3].rollouts[0]
    assert (by[7].found, by[3].found, by[7].positions) == (4, 0, 4)
    # Positions without a rival, or where nothing is inside, say nothing.
    none = Leads(np.full(4, 50.0, np.float32), np.full(4, -50.0, np.float32), np.full(4, -1, np.int32))
    silent = token_evidence([np.full(4, -1, np.int32)], [none], [per], 1e-4, KAPPA)
    assert silent.positions == 0
    assert silent.log_evidence == pytest.approx(0, abs=1e-12)


def test_a_position_counts_with_its_own_noise_up_to_sixteen_times_the_files() -> None:
    s = scales(np.array([0.0, 1.0, 16.0, 1e9]), 1.0)
    assert s == pytest.approx(np.sqrt([0.5, 1.0, 8.5, 8.5]))
    noise = [np.array([1.0, 3.0], np.float32), np.array([100.0], np.float32)]
    spread = [np.array([1.0, 1.0], np.float32), np.array([0.0], np.float32)]
    assert noise_variance(noise, spread) == pytest.approx(2.0)


def test_the_alternatives_that_only_sample_otherwise_are_those_that_are_measured() -> None:
    assert tuple(WARPED) == SAMPLING_ALTERNATIVES
