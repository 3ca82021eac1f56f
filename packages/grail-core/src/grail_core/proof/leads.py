"""Section 6: under which alternative would another token have won? The part of the comparison that reads tokens and seeds.

At a position the reference chooses a = argmax(x⁰/T + g). An alternative A, with logits x^A or with x⁰ warped otherwise, would
put b first among the other tokens. How far a leads b under the reference and b leads a under A is all that the test of tokens
(`token_test`) needs beside the token that the miner wrote. Where the policy truncates, a and b are looked for among the tokens
that are inside by more than the verifier's slack, so that no border decides. A policy with a repetition penalty has no such
test: its warp depends on what was written before. Logits come a few rows at a time; their finiteness is the caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.model import kernels
from grail_core.model.sampling import Floats, SeededSampler, token_words
from grail_core.proof.work import MOST_LEAD, Leads
from grail_core.protocol.policy import GenerationPolicy

WARPED_TEMPERATURES: Final[Mapping[str, float]] = {"temperature x 0.9": 0.9, "temperature x 0.95": 0.95}
WARPED_TOP_P: Final[Mapping[str, float]] = {"top-p 0.95": 0.95, "top-p 0.99": 0.99}
WARPED: Final = (*WARPED_TEMPERATURES, *WARPED_TOP_P)
"""Alternatives that cost no forward pass: the reference's own logits, sampled otherwise than the network's policy says."""

_NUCLEUS_DEPTHS: Final = (3.0, 8.0, 24.0)
_NUCLEUS_BINS: Final = 512
"""A nucleus is looked for among the tokens within the least of these depths (nats) that holds it, and its border told to one
part in so many of that: what an alternative keeps at its border decides about no honest token."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choices:
    """What the reference chose at n positions, of whichever rollouts."""

    seeds: npt.NDArray[np.uint64]  # [n], the rollout's sampling seed
    inputs: npt.NDArray[np.uint32]  # [n], index of the last input token
    tokens: Ids  # [n], a; −1 where nothing is inside
    scores: npt.NDArray[np.float64]  # [n], a's under the reference: logit / temperature + noise
    lead: Floats  # [n], how far a leads the best other token under the reference, in logits, 0 … MOST_LEAD
    inside: npt.NDArray[np.uint8] | None  # [n, V/8], bits of the tokens that a and b are looked for among; None for all

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, rows: slice | npt.NDArray[np.intp]) -> Choices:
        inside = None if self.inside is None else self.inside[rows]
        return Choices(self.seeds[rows], self.inputs[rows], self.tokens[rows], self.scores[rows], self.lead[rows], inside)

    @classmethod
    def joined(cls, parts: Sequence[Choices]) -> Choices:
        seeds, inputs, tokens, scores, lead = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("seeds", "inputs", "tokens", "scores", "lead")
        )
        bits = [part.inside for part in parts if part.inside is not None]
        return cls(seeds, inputs, tokens, scores, lead, np.concatenate(bits) if bits else None)


def choose(sampler: SeededSampler, logits: Floats, seeds: npt.NDArray[np.uint64], inputs: npt.NDArray[np.uint32]) -> Choices:
    """The reference's choices from its logits, float32 [n, V]; changed and put back. `seeds`, `inputs`: [n], as Choices has."""
    count, size = logits.shape
    inside: npt.NDArray[np.uint8] | None = None
    if sampler.truncates:
        bits = np.zeros((count, size), dtype=np.bool_)
        for row, x in enumerate(logits):
            bits[row, sampler.well_inside(x)] = True
        inside = np.packbits(bits, axis=1)
    temperature = sampler.policy.temperature
    nothing = Choices(seeds, inputs, np.full(count, -1, np.int64), np.zeros(count), np.zeros(count, np.float32), inside)
    tokens = _best(nothing, _masked(logits, inside), temperature)
    chosen = replace(nothing, tokens=tokens, scores=_scores(nothing, logits, tokens, temperature))
    with _without(logits, tokens):
        seconds = _best(chosen, _masked(logits, inside), temperature)
    return replace(chosen, lead=own_leads(chosen, seconds, logits[np.arange(count), np.maximum(seconds, 0)], temperature))


def leads_of_weights(choices: Choices, logits: Floats, temperature: float) -> tuple[Ids, Floats]:
    """b and how far it leads a under an alternative that is other weights, [n] each.

    Args:
        logits: its own, float32 [n, V]; changed and put back. temperature: the network's.
    """
    with _without(logits, choices.tokens):
        rivals = _best(choices, _masked(logits, choices.inside), temperature)
    return rivals, _lead(choices, logits, rivals, temperature, temperature)


def leads_of_warps(choices: Choices, logits: Floats, policy: GenerationPolicy, names: Collection[str]) -> dict[str, Leads]:
    """Of those in WARPED that are named, from the reference's logits, float32 [n, V]; changed and put back."""
    found: dict[str, Leads] = {}
    rows = np.arange(len(logits))
    for name, factor in WARPED_TEMPERATURES.items():
        if name not in names:
            continue
        with _without(logits, choices.tokens):
            rivals = _best(choices, _masked(logits, choices.inside), policy.temperature * factor)
        other = _lead(choices, logits, rivals, policy.temperature * factor, policy.temperature)
        own = own_leads(choices, rivals, logits[rows, np.maximum(rivals, 0)], policy.temperature)
        found[name] = Leads(own, other, rivals.astype(np.int32))
    nuclei = [name for name in WARPED_TOP_P if name in names]
    borders = _nucleus_borders(logits, policy, [WARPED_TOP_P[name] for name in nuclei]) if nuclei else []
    for name, border in zip(nuclei, borders, strict=True):
        rivals, other = _within(choices, logits, border, policy.temperature)
        own = own_leads(choices, rivals, logits[rows, np.maximum(rivals, 0)], policy.temperature)
        found[name] = Leads(own, other, rivals.astype(np.int32))
    return found


def own_leads(choices: Choices, rivals: Ids, rival_logits: Floats, temperature: float) -> Floats:
    """How far a leads b under the reference, [n], 0 … MOST_LEAD, and that where there is no b. `rival_logits` [n]: b's."""
    theirs = _noised(choices, rival_logits, np.maximum(rivals, 0), temperature)
    lead = (choices.scores - theirs) * temperature
    none = (rivals < 0) | (choices.tokens < 0)
    return np.where(none, MOST_LEAD, np.clip(lead, 0.0, MOST_LEAD)).astype(np.float32)


def _within(choices: Choices, logits: Floats, border: Floats, temperature: float) -> tuple[Ids, Floats]:
    """As `leads_of_weights`, where nothing is drawn whose logit lies below the row's border, [n]."""
    with _without(logits, choices.tokens):
        kept = np.where(logits >= border[:, None], logits, np.float32(-np.inf))
        rivals = _best(choices, _masked(kept, choices.inside), temperature)
    lead = _lead(choices, logits, rivals, temperature, temperature)
    of_choice = logits[np.arange(len(logits)), np.maximum(choices.tokens, 0)]
    # Outside of its nucleus A never draws a: there the lead is as long as it gets.
    never = (choices.tokens >= 0) & (rivals >= 0) & (of_choice < border)
    return rivals, np.where(never, np.float32(MOST_LEAD), lead).astype(np.float32)


def _nucleus_borders(logits: Floats, policy: GenerationPolicy, top_ps: Sequence[float]) -> list[Floats]:
    """The least logit of the smallest set of the most probable tokens that holds at least so much of a row's mass, of each row;
    after the policy's top-k."""
    tops = logits.argmax(axis=1)
    floors = np.full(len(logits), -np.inf, dtype=np.float32)
    size = logits.shape[1]
    if 0 < policy.top_k < size:
        floors = np.partition(logits, size - policy.top_k, axis=1)[:, size - policy.top_k]
    near, far, most = _NUCLEUS_DEPTHS
    mass = np.empty((len(logits), 3), dtype=np.float32)
    kernels.mass_within(logits, tops, np.float32(policy.temperature), floors, near, far, mass)
    enough = max(top_ps) * mass[:, 2]
    depths = np.where(mass[:, 0] > enough, near, np.where(mass[:, 1] > enough, far, most))
    highest = logits[np.arange(len(logits)), tops].astype(np.float64)
    least = np.maximum(floors, (highest - depths * policy.temperature).astype(np.float32))
    binned = np.zeros((len(logits), _NUCLEUS_BINS))
    scales = (_NUCLEUS_BINS / (depths * policy.temperature)).astype(np.float32)
    kernels.mass_by_depth(logits, tops, np.float32(policy.temperature), least, scales, binned)
    ends = (np.arange(_NUCLEUS_BINS) + 1) / _NUCLEUS_BINS * depths[:, None]
    held = np.cumsum(binned, axis=1)
    borders = []
    for top_p in top_ps:
        last = np.minimum((held < top_p * mass[:, 2:]).sum(axis=1), _NUCLEUS_BINS - 1)
        borders.append((highest - ends[np.arange(len(logits)), last] * policy.temperature).astype(np.float32))
    return borders


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
