"""Section 6: the test of one named alternative from the tokens, whoever wrote them and however.

At a position the reference chooses a and leads the rival b by m₀ ≥ 0; alternative A would have b lead a by m_A (`leads`). An
honest miner writes b only if the noise η of the difference of two logits exceeds m₀. If, given the text so far, η is symmetric
and unimodal with variance at most κs² (κ: the table's `logit_variance`, s: the validator's own noise there), Gauss's inequality
bounds that probability by b₀ = ½ G(m₀ / (√κ s)), whatever the tail. Where A makes b likelier than that, p₁ = Φ(m_A / s), the
factor is p₁/b₀ for b and (1 − p₁)/(1 − b₀) for every other token: it rises with the event and has mean 1 at b₀, so its mean is
at most 1 below. The Gumbel noise is fresh at each position, so E_r, the product over a rollout, has E[E_r] ≤ 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.mixture import log_mixture
from grail_core.proof.work import Leads
from grail_core.protocol.policy import GenerationPolicy

SAMPLING_ALTERNATIVES: Final = ("temperature x 0.9", "temperature x 0.95", "top-p 0.95", "top-p 0.99")
"""Alternatives that only sample otherwise; `leads.WARPED` says how."""

LEAST_PROBABILITY: Final = 1e-4
"""What b₀, p₁ and 1 − p₁ are at least: one token is never worth more than 9.2 nats."""

LEAST_GAIN: Final = 1.05
"""p₁ over b₀ below which a position says nothing."""

MOST_NOISE: Final = 16.0
"""A position's own noise counts up to so many times the file's mean, in variance."""

Floats = npt.NDArray[np.float64]


def supports(policy: GenerationPolicy) -> bool:
    """Whether tokens of this policy can be tested against alternatives."""
    return policy.repetition_penalty == 1


@dataclass(frozen=True)
class TokenEvidence:
    """Outcome of one alternative: ln W, at how many positions it could tell, and where the miner wrote A's token there."""

    log_evidence: float
    rollouts: Floats  # ln E_r
    positions: int
    found: int


def noise_variance(noise: Sequence[npt.NDArray[np.float32]], spread: Sequence[npt.NDArray[np.float32]]) -> float:
    """S², the file's: the mean of a position's variance of the difference of two logits, weighted by its spread."""
    weights = np.concatenate(spread).astype(np.float64)
    weighted = np.concatenate(noise).astype(np.float64) * weights
    return math.fsum(weighted) / max(math.fsum(weights), 1e-30)


def scales(noise: Floats, of_file: float) -> Floats:
    """s of every position: between its own noise and the file's, so that neither a lucky nor a wild one decides."""
    own: Floats = np.sqrt(0.5 * of_file + 0.5 * np.minimum(noise, MOST_NOISE * of_file))
    return own


def gauss_bound(leads: Floats, scale: Floats, logit_variance: float) -> Floats:
    """b₀: P(η > lead) for any symmetric unimodal η of variance κ scale², by Gauss's inequality, at least LEAST_PROBABILITY."""
    with np.errstate(divide="ignore"):
        u = leads / (math.sqrt(logit_variance) * scale)
        tail = np.where(u < 2 / math.sqrt(3), 1 - u / math.sqrt(3), 4 / (9 * np.square(u)))
    bound: Floats = np.clip(0.5 * tail, LEAST_PROBABILITY, 0.5)
    return bound


def normal_cdf(x: Floats) -> Floats:
    """Φ, to 2e-7: Abramowitz and Stegun 26.2.17 with numpy alone. What it misses moves p₁, which may be anything."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    powers = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = powers * np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    cdf: Floats = np.where(x >= 0, 1 - upper, upper)
    return cdf


def factors(own: Floats, other: Floats, scale: Floats, logit_variance: float) -> tuple[Floats, Floats]:
    """ln of the factor where the token is b, and where it is any other, [m]; both 0 where A makes b no likelier.

    Args:
        own: m₀, other: m_A, scale: s.
    """
    b0 = gauss_bound(own, scale, logit_variance)
    p1 = np.clip(normal_cdf(other / scale), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    tells = p1 > LEAST_GAIN * b0
    return np.where(tells, np.log(p1 / b0), 0.0), np.where(tells, np.log((1 - p1) / (1 - b0)), 0.0)


def token_evidence(
    tokens: Sequence[npt.NDArray[np.int32]],
    leads: Sequence[Leads],
    noise: Sequence[npt.NDArray[np.float32]],
    of_file: float,
    logit_variance: float,
) -> TokenEvidence:
    """Test one alternative on independent rollouts, at least one; arrays [m] each, finite.

    Args:
        of_file: S², above 0.
    """
    lengths = np.array([len(one) for one in tokens])
    own, other = (np.concatenate([getattr(one, side) for one in leads]).astype(np.float64) for side in ("own", "other"))
    scale = scales(np.concatenate(noise).astype(np.float64), of_file)
    if_rival, if_not = factors(own, other, scale, logit_variance)
    wrote_rival = np.concatenate(tokens) == np.concatenate([one.rival for one in leads])
    log_e = np.add.reduceat(np.where(wrote_rival, if_rival, if_not), np.cumsum(lengths) - lengths)
    tells = if_rival != 0
    return TokenEvidence(log_mixture(log_e), log_e, int(tells.sum()), int((tells & wrote_rival).sum()))
