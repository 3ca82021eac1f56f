"""Section 6: under which alternative would another token have won? The part of the comparison that reads tokens and seeds.

At a position the reference chooses a = argmax(x⁰/T + g). An alternative A, with logits x^A or with x⁰ warped otherwise, would
put b first among the other tokens. How far a leads b under the reference and b leads a under A is all that the test of tokens
(`token_test`) needs beside the token that the miner wrote. Where the policy truncates, a and b are looked for among the tokens
that are inside by more than the verifier's slack, so that no border decides. A policy with a repetition penalty has no such
test: its warp depends on what was written before. Logits come a few rows at a time; their finiteness is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.model import kernels
from grail_core.model.sampling import Floats, SeededSampler, token_words
from grail_core.proof.work import MOST_LEAD, Leads
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise

WARPED_TEMPERATURES: Final[Mapping[str, float]] = {"temperature x 0.9": 0.9, "temperature x 0.95": 0.95}
WARPED_TOP_P: Final[Mapping[str, float]] = {"top-p 0.95": 0.95, "top-p 0.99": 0.99}
WARPED: Final = (*WARPED_TEMPERATURES, *WARPED_TOP_P)
"""Alternatives that cost no forward pass: the reference's own logits, sampled otherwise than the network's policy says."""

_NUCLEUS_DEPTHS: Final = (6.0, 12.0, 20.0, np.inf)
"""A nucleus is looked for among the tokens within so many nats of the best, then within more."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choices:
    """What the reference chose at n positions."""

    seeds: npt.NDArray[np.uint64]  # [n], the rollout's sampling seed
    inputs: npt.NDArray[np.uint32]  # [n], index of the last input token
    tokens: Ids  # [n], a; −1 where nothing is inside
    scores: npt.NDArray[np.float64]  # [n], a's under the reference: logit / temperature + noise
    inside: npt.NDArray[np.uint8] | None  # [n, V/8], bits of the tokens that a and b are looked for among; None for all

    def at(self, rows: slice) -> Choices:
        inside = None if self.inside is None else self.inside[rows]
        return Choices(self.seeds[rows], self.inputs[rows], self.tokens[rows], self.scores[rows], inside)


def supports(policy: GenerationPolicy) -> bool:
    """Whether tokens of this policy can be tested against alternatives."""
    return policy.repetition_penalty == 1


def choose(sampler: SeededSampler, logits: Floats, seed: int, inputs: npt.NDArray[np.uint32]) -> Choices:
    """The reference's choices from its logits, float32 [n, V]."""
    count, size = logits.shape
    seeds = np.full(count, seed & (2**64 - 1), dtype=np.uint64)
    inside: npt.NDArray[np.uint8] | None = None
    if sampler.truncates:
        bits = np.zeros((count, size), dtype=np.bool_)
        for row, x in enumerate(logits):
            bits[row, sampler.well_inside(x)] = True
        inside = np.packbits(bits, axis=1)
    nothing = Choices(seeds, inputs, np.full(count, -1, np.int64), np.zeros(count), inside)
    tokens = _best(nothing, _masked(logits, inside), sampler.policy.temperature)
    return Choices(seeds, inputs, tokens, _scores(nothing, logits, tokens, sampler.policy.temperature), inside)


def leads_of_weights(choices: Choices, logits: Floats, temperature: float) -> tuple[Ids, Floats]:
    """b and how far it leads a under an alternative that is other weights, [n] each.

    Args:
        logits: its own, float32 [n, V]; changed and put back. temperature: the network's.
    """
    with _without(logits, choices.tokens):
        rivals = _best(choices, _masked(logits, choices.inside), temperature)
    return rivals, _lead(choices, logits, rivals, temperature, temperature)


def leads_of_warps(choices: Choices, logits: Floats, policy: GenerationPolicy) -> dict[str, Leads]:
    """Of every alternative in WARPED, from the reference's logits, float32 [n, V]; changed and put back."""
    found: dict[str, Leads] = {}
    rows = np.arange(len(logits))
    for name, factor in WARPED_TEMPERATURES.items():
        with _without(logits, choices.tokens):
            rivals = _best(choices, _masked(logits, choices.inside), policy.temperature * factor)
        other = _lead(choices, logits, rivals, policy.temperature * factor, policy.temperature)
        own = own_leads(choices, rivals, logits[rows, np.maximum(rivals, 0)], policy.temperature)
        found[name] = Leads(own, other, rivals.astype(np.int32))
    nuclei = [_nuclei(row, policy, list(WARPED_TOP_P.values())) for row in logits]
    for at, name in enumerate(WARPED_TOP_P):
        rivals, other = _under_nuclei(choices, logits, [one[at] for one in nuclei], policy.temperature)
        own = own_leads(choices, rivals, logits[rows, np.maximum(rivals, 0)], policy.temperature)
        found[name] = Leads(own, other, rivals.astype(np.int32))
    return found


def own_leads(choices: Choices, rivals: Ids, rival_logits: Floats, temperature: float) -> Floats:
    """How far a leads b under the reference, [n], 0 … MOST_LEAD, and that where there is no b. `rival_logits` [n]: b's."""
    theirs = _noised(choices, rival_logits, np.maximum(rivals, 0), temperature)
    lead = (choices.scores - theirs) * temperature
    none = (rivals < 0) | (choices.tokens < 0)
    return np.where(none, MOST_LEAD, np.clip(lead, 0.0, MOST_LEAD)).astype(np.float32)


def _under_nuclei(choices: Choices, logits: Floats, nuclei: Sequence[Ids], temperature: float) -> tuple[Ids, Floats]:
    """As `leads_of_weights`, where only a nucleus of the reference's own logits is drawn from."""
    rivals = np.full(len(logits), -1, np.int64)
    lead = np.full(len(logits), -MOST_LEAD)
    for row, nucleus in enumerate(nuclei):
        a, others = int(choices.tokens[row]), nucleus
        if choices.inside is not None:
            inside = np.unpackbits(choices.inside[row], count=logits.shape[1]).view(np.bool_)
            others = others[inside[others]]
        others = others[others != a]
        if a < 0 or not len(others):
            continue
        noise = gumbel_noise(int(choices.seeds[row]), int(choices.inputs[row]), others)
        scores = (logits[row, others] / np.float32(temperature)).astype(np.float64) + noise
        best = int(scores.argmax())
        rivals[row] = others[best]
        # Outside of its nucleus A never draws a: there the lead is as long as it gets.
        lead[row] = (scores[best] - choices.scores[row]) * temperature if a in nucleus else MOST_LEAD
    return rivals, np.clip(lead, -MOST_LEAD, MOST_LEAD).astype(np.float32)


def _nuclei(logits: Floats, policy: GenerationPolicy, top_ps: Sequence[float]) -> list[Ids]:
    """The smallest sets of the most probable tokens that hold at least so much of one row's mass, after the policy's top-k."""
    scale = 1 / policy.temperature
    top = float(logits.max())
    total = 0.0
    for depth in _NUCLEUS_DEPTHS:
        near = np.flatnonzero(logits >= np.float32(top - depth / scale))
        weights = np.exp((logits[near].astype(np.float64) - top) * scale)
        if not total:
            total = _mass(logits, policy, near, weights)
        if weights.sum() >= max(top_ps) * total:
            break
    order = np.argsort(-weights, kind="stable")[: policy.top_k if policy.top_k > 0 else None]
    before = np.cumsum(weights[order]) - weights[order]
    return [near[order[: max(1, int(np.searchsorted(before, top_p * total, side="left")))]] for top_p in top_ps]


def _mass(logits: Floats, policy: GenerationPolicy, near: npt.NDArray[np.intp], weights: npt.NDArray[np.float64]) -> float:
    """Σ exp of a row over its maximum; of the top k where the policy keeps no more."""
    if 0 < policy.top_k < len(logits):
        kept = np.partition(logits, len(logits) - policy.top_k)[len(logits) - policy.top_k :]
        return float(np.exp((kept.astype(np.float64) - float(logits.max())) / policy.temperature).sum())
    if len(near) == len(logits):
        return float(weights.sum())
    with np.errstate(under="ignore"):
        return float(np.exp((logits - logits.max()) * np.float32(1 / policy.temperature)).sum(dtype=np.float64))


def _masked(logits: Floats, inside: npt.NDArray[np.uint8] | None) -> Floats:
    if inside is None:
        return logits
    bits = np.unpackbits(inside, axis=1, count=logits.shape[1]).view(np.bool_)
    return np.where(bits, logits, np.float32(-np.inf))


@contextmanager
def _without(logits: Floats, tokens: Ids) -> Iterator[None]:
    """One token a row that cannot win, for a time: a copy of the logits would be another V numbers a row."""
    rows = np.flatnonzero(tokens >= 0)
    taken = logits[rows, tokens[rows]]
    logits[rows, tokens[rows]] = -np.inf
    try:
        yield
    finally:
        logits[rows, tokens[rows]] = taken


def _best(choices: Choices, logits: Floats, temperature: float) -> Ids:
    """argmax of logits / temperature + noise a row; −1 where no logit is finite."""
    tokens = np.empty(len(logits), dtype=np.int64)
    hints = logits.argmax(axis=1)
    left = np.isfinite(logits[np.arange(len(logits)), hints])
    kernels.sample_rows(
        logits, token_words(logits.shape[1]), choices.seeds, choices.inputs, np.float32(temperature), hints, tokens
    )
    return np.where(left, tokens, -1)


def _lead(choices: Choices, logits: Floats, rivals: Ids, temperature: float, unit: float) -> Floats:
    """How far b leads a in logits that are sampled at `temperature`, [n], told in logits of temperature `unit`."""
    lead = (_scores(choices, logits, rivals, temperature) - _scores(choices, logits, choices.tokens, temperature)) * unit
    none = (rivals < 0) | (choices.tokens < 0)
    return np.where(none, -MOST_LEAD, np.clip(lead, -MOST_LEAD, MOST_LEAD)).astype(np.float32)


def _scores(choices: Choices, logits: Floats, tokens: Ids, temperature: float) -> npt.NDArray[np.float64]:
    safe = np.maximum(tokens, 0)
    return _noised(choices, logits[np.arange(len(safe)), safe], safe, temperature)


def _noised(choices: Choices, logits: Floats, tokens: Ids, temperature: float) -> npt.NDArray[np.float64]:
    """The score of one token a row from its logit."""
    noise = np.empty(len(tokens), dtype=np.float64)
    kernels.noise_at(choices.seeds, choices.inputs, tokens, noise)
    scores: npt.NDArray[np.float64] = (logits / np.float32(temperature)).astype(np.float64) + noise
    return scores
