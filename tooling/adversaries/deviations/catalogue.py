"""Every deviation by its name: the rows of the study's published table, and what only the table of attacks runs."""

from __future__ import annotations

from tooling.adversaries.deviations.deviation import Deviation
from tooling.adversaries.deviations.false_text import false_logprobs, other_sampling, other_text
from tooling.adversaries.deviations.forged_proofs import forgeries, other_weights


def all_deviations() -> dict[str, Deviation]:
    """By name, families A and B in the order of the published table."""
    every = [*forgeries(), *other_weights(), *other_sampling(), *other_text(), *false_logprobs()]
    return {deviation.name: deviation for deviation in every}


def studied_deviations() -> list[Deviation]:
    """Those that the power study measures."""
    return [deviation for deviation in all_deviations().values() if deviation.studied]
