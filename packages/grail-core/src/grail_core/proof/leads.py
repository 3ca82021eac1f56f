"""Section 6: under which alternative would another token have won? The part of the comparison that reads tokens and seeds.

At a position the reference chooses a = argmax(x⁰/T + g). An alternative A, with logits x^A or with x⁰ warped otherwise, would
put b first among the other tokens. How far a leads b under the reference and b leads a under A is all that the test of tokens
(`token_test`) needs beside the token that the miner wrote. Where the policy truncates, a and b are looked for among the tokens
that are inside by more than the verifier's slack, so that no border decides. A policy with a repetition penalty has no such
test: its warp depends on what was written before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.model import kernels
from grail_core.model.sampling import Floats, SeededSampler, token_words
from grail_core.protocol.policy import GenerationPolicy

MOST_LEAD: Final = 50.0
"""Leads are clipped here; more says nothing more."""

WARPED: Final[Mapping[str, tuple[float, float]]] = {
    "temperature x 0.9": (0.9, 1.0),
    "temperature x 0.95": (0.95, 1.0),
    "top-p 0.95": (1.0, 0.95),
    "top-p 0.99": (1.0, 0.99),
}
"""Alternatives that cost no forward pass: (factor of the temperature, top-p) by name."""

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Choices:
    """What the reference chose at n positions of one rollout. `allowed` [n] are token ids, None for all of them."""

    seeds: Words  # [n], the rollout's sampling seed n times
    inputs: npt.NDArray[np.uint32]  # [n], index of the last input token
    tokens: npt.NDArray[np.int64]  # [n], a; −1 where nothing is inside
    scores: npt.NDArray[np.float64]  # [n], a's under the reference: logit / temperature + noise
    allowed: Sequence[npt.NDArray[np.intp]] | None


def supports(policy: GenerationPolicy) -> bool:
    """Whether tokens of this policy can be tested against alternatives."""
    return policy.repetition_penalty == 1


def warped_policies(policy: GenerationPolicy) -> dict[str, GenerationPolicy]:
    """The policies of `WARPED` where the network's is `policy`."""
    return {
        name: replace(policy, temperature=policy.temperature * factor, top_p=min(policy.top_p, top_p))
        for name, (factor, top_p) in WARPED.items()
    }


def choices_of(sampler: SeededSampler, logits: Floats, seed: int, inputs: Sequence[int]) -> Choices:
    """The reference's choices from its logits, float32 [n, V]."""
    allowed = [sampler.well_inside(row) for row in logits] if sampler.truncates else None
    inside = None if allowed is None else [ids if ids is not None else np.empty(0, np.intp) for ids in allowed]
    seeds = np.full(len(logits), seed & (2**64 - 1), dtype=np.uint64)
    places = np.array(inputs, dtype=np.uint32)
    tokens = _best(logits, inside, None, seeds, places, sampler.policy.temperature)
    scores = _scores(logits, tokens, seeds, places, sampler.policy.temperature)
    return Choices(seeds, places, tokens, scores, inside)


def rivals(
    choices: Choices, logits: Floats, policy: GenerationPolicy, temperature: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """b and how far it leads a under an alternative, from its logits [n, V].

    Args:
        policy: how the alternative samples. temperature: the network's, in whose units leads are told.
    """
    allowed = choices.allowed
    sampler = SeededSampler(policy)
    if policy.top_p < 1:
        warped = np.stack([sampler.warp(row) for row in logits])
        warped *= np.float32(policy.temperature)
    else:
        warped = logits
    tokens = _best(warped, allowed, choices.tokens, choices.seeds, choices.inputs, policy.temperature)
    there = _scores(warped, tokens, choices.seeds, choices.inputs, policy.temperature)
    own = _scores(warped, choices.tokens, choices.seeds, choices.inputs, policy.temperature)
    with np.errstate(invalid="ignore"):
        lead = (there - own) * temperature
    lead = np.where((tokens < 0) | (choices.tokens < 0), -MOST_LEAD, lead)
    return tokens, np.clip(np.nan_to_num(lead, nan=-MOST_LEAD), -MOST_LEAD, MOST_LEAD).astype(np.float32)


def own_leads(
    choices: Choices, rivals_: npt.NDArray[np.int64], rival_logits: Floats, temperature: float
) -> npt.NDArray[np.float32]:
    """How far a leads b under the reference, [n]. `rival_logits` [n]: b's logits there."""
    noise = np.zeros(len(rivals_), dtype=np.float64)
    kernels.noise_at(choices.seeds, choices.inputs, np.maximum(rivals_, 0), noise)
    theirs = (rival_logits / np.float32(temperature)).astype(np.float64) + noise
    with np.errstate(invalid="ignore"):
        lead = (choices.scores - theirs) * temperature
    none = (rivals_ < 0) | (choices.tokens < 0)
    return np.where(none, MOST_LEAD, np.clip(lead, 0.0, MOST_LEAD)).astype(np.float32)


def _best(
    logits: Floats,
    allowed: Sequence[npt.NDArray[np.intp]] | None,
    without: npt.NDArray[np.int64] | None,
    seeds: Words,
    inputs: npt.NDArray[np.uint32],
    temperature: float,
) -> npt.NDArray[np.int64]:
    """argmax of logits / temperature + noise among the tokens allowed, `without` one of them a row; −1 where none is left."""
    masked = np.ascontiguousarray(logits, dtype=np.float32)
    if allowed is not None:
        inside = np.full_like(masked, -np.inf)
        for row, ids in enumerate(allowed):
            inside[row, ids] = masked[row, ids]
        masked = inside
    if without is not None:
        masked = masked.copy() if masked is logits else masked
        rows = np.flatnonzero(without >= 0)
        masked[rows, without[rows]] = -np.inf
    tokens = np.empty(len(masked), dtype=np.int64)
    hints = masked.argmax(axis=1)
    left = np.isfinite(masked[np.arange(len(masked)), hints])
    kernels.sample_rows(masked, token_words(masked.shape[1]), seeds, inputs, np.float32(temperature), hints, tokens)
    return np.where(left, tokens, -1)


def _scores(
    logits: Floats,
    tokens: npt.NDArray[np.int64],
    seeds: Words,
    inputs: npt.NDArray[np.uint32],
    temperature: float,
) -> npt.NDArray[np.float64]:
    safe = np.maximum(tokens, 0)
    noise = np.empty(len(tokens), dtype=np.float64)
    kernels.noise_at(seeds, inputs, safe, noise)
    values: npt.NDArray[np.float64] = (logits[np.arange(len(tokens)), safe] / np.float32(temperature)).astype(
        np.float64
    ) + noise
    return values
