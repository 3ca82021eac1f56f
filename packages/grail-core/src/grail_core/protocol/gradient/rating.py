"""Gradient work, section 11: Plackett–Luce ratings that come out alike on every machine.

The online update of Weng and Lin, "A Bayesian approximation method for online ranking" (JMLR 12, 2011), algorithm 4, with teams
of one. Computed in decimals of 50 digits, whose exp and sqrt are correctly rounded, and kept in integers of 10⁻⁹. Every sum
goes over players in order of rank, then in the caller's order, so that equal calls give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

NANO = 1_000_000_000
MAX_RATING = 1_000 * NANO
"""No number of matches brings μ or σ there; readers refuse what lies beyond."""

_CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999)
_BETA_SQUARED = Decimal(49)  # β = 7
_TAU_SQUARED = Decimal("0.01")  # τ = 0.1
_KAPPA = Decimal("0.0001")
_NANO = Decimal("1e-9")


@dataclass(frozen=True)
class Rating:
    """μ and σ in integers of 10⁻⁹."""

    mu: int = 25 * NANO
    sigma: int = 8_333_333_333  # 25/3

    def __post_init__(self) -> None:
        if abs(self.mu) > MAX_RATING or not 0 < self.sigma <= MAX_RATING:
            raise ValueError(f"rating: μ {self.mu}, σ {self.sigma} are beyond {MAX_RATING}, or σ is not positive")

    @property
    def ordinal(self) -> int:
        """max(0, μ − 3σ) in integers of 10⁻⁹: what the rating is worth."""
        return max(0, self.mu - 3 * self.sigma)


START = Rating()
"""Of a newcomer, and of whoever fails a round."""


def rated(ratings: Sequence[Rating], ranks: Sequence[int]) -> list[Rating]:
    """Ratings after one match, in the order given.

    Args:
        ratings: before it, of all that were ranked. ranks: lower is better, equal is a tie.

    Returns:
        New ratings; those before where fewer than two met.

    Raises:
        ValueError: not one rank for each rating.
    """
    if len(ratings) != len(ranks):
        raise ValueError(f"{len(ranks)} ranks of {len(ratings)} ratings")
    if len(ratings) < 2:
        return list(ratings)
    with localcontext(_CONTEXT):
        return _match(ratings, ranks)


def _match(ratings: Sequence[Rating], ranks: Sequence[int]) -> list[Rating]:
    mu = [one.mu * _NANO for one in ratings]
    variance = [(one.sigma * _NANO) ** 2 + _TAU_SQUARED for one in ratings]
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    c = sum((variance[i] + _BETA_SQUARED for i in order), Decimal(0)).sqrt()
    strength = [(one / c).exp() for one in mu]

    members: dict[int, list[int]] = {}
    for i in order:
        members.setdefault(ranks[i], []).append(i)
    behind, left = {}, Decimal(0)  # strength of all that are no better than a rank
    for rank in reversed(members):
        left += sum((strength[i] for i in members[rank]), Decimal(0))
        behind[rank] = left

    found: list[Rating | None] = [None] * len(ratings)
    inverses, squares = Decimal(0), Decimal(0)  # over the ranks so far, of `behind`
    for rank, tied in members.items():
        inverses += 1 / behind[rank]
        squares += 1 / behind[rank] ** 2
        for i in tied:
            omega = (Decimal(1) / len(tied) - strength[i] * inverses) * variance[i] / c
            delta = (strength[i] * inverses - strength[i] ** 2 * squares) * variance[i] / c**2
            delta *= variance[i].sqrt() / c  # γ
            sigma = (variance[i] * max(1 - delta, _KAPPA)).sqrt()
            found[i] = Rating(_nano(mu[i] + omega), _nano(sigma))
    return [one for one in found if one is not None]


def _nano(value: Decimal) -> int:
    return int((value / _NANO).to_integral_value(ROUND_HALF_EVEN))
