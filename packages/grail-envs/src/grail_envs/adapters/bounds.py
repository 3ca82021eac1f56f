"""What the rewards of a foreign package lie in, and how they become a share of what can be earned.

Scaling is exact at both ends, so that a full reward is 1 and a right answer a success, whatever the weights sum to in floating
point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError

_SLACK: Final = 1e-9
_DECIMAL: Final = re.compile(r"[-+]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][-+]?\d{1,2})?|[-+]?\d{1,28}/\d{1,18}", re.ASCII)
_LARGEST: Final = 10**18


@dataclass(frozen=True)
class Bounds:
    """What the sum of rewards lies in, and from what share of it on an answer is a success."""

    lowest: Fraction
    highest: Fraction
    success_at: Fraction
    each_in_unit: bool

    def scaled(self, total: float) -> float | None:
        """The sum in [0, 1]; None outside of the bounds."""
        low, high = float(self.lowest), float(self.highest)
        if not math.isfinite(total):
            return None
        share = (total - low) / (high - low)
        if not -_SLACK <= share <= 1 + _SLACK:
            return None
        return 1.0 if share > 1 - _SLACK else max(0.0, share) + 0.0

    def is_success(self, share: float) -> bool:
        return share >= float(self.success_at) - _SLACK


def bounds_of(weights: Mapping[str, str], lowest: object, highest: object, success_at: object) -> Bounds:
    """Those that were given, else what the weights come to when every function is in [0, 1]. Weights are hexadecimal floats.

    A bound is a number or its text; "" is one that was not given.

    Raises:
        ConfigurationError: a bound that is no number, or one without the other, or in the wrong order.
        EnvironmentUnavailableError: nothing can be earned.
    """
    given = lowest != ""
    if given != (highest != ""):
        raise ConfigurationError(
            "one bound of the reward alone", where="lowest, highest", hint="give both, as decimals, or neither"
        )
    known = [Fraction(float.fromhex(weight)).limit_denominator(10**9) for weight in weights.values()]
    low = _number("lowest", lowest) if given else sum((min(Fraction(0), one) for one in known), Fraction(0))
    high = _number("highest", highest) if given else sum((max(Fraction(0), one) for one in known), Fraction(0))
    if given and float(low) >= float(high):
        raise ConfigurationError(f"lowest is {low}, highest {high}", where="lowest, highest", hint="the lower one first")
    if low >= high:
        raise EnvironmentUnavailableError(
            "it pays nothing: no reward function has a weight other than 0",
            where=", ".join(weights) or "no reward function",
            hint="give the reward functions weights, or say what the sum lies in: --param lowest=0 --param highest=1",
        )
    at = _number("success_at", success_at)
    if not 0 < at <= 1:
        raise ConfigurationError("success_at is a share of the reward", where="success_at", hint="above 0, at most 1")
    return Bounds(low, high, at, each_in_unit=not given)


def _number(name: str, given: object) -> Fraction:
    """A short decimal or fraction, exactly; an exponent of more than two digits would be a number of gigabytes."""
    text = repr(given) if type(given) in (int, float) else given
    try:
        if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
            raise ValueError("no number")
        found = Fraction(text).limit_denominator(10**9)
        if abs(found) > _LARGEST:
            raise ValueError("too large")
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{name} is {str(text)[:40]!r}", where=name, hint="a number below 10¹⁸, as in 1, 0.5 or 1/2"
        ) from error
    return found
