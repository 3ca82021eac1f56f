"""How the double draws the next token of a row: with the plug-in's keys, greedily, or as the engine's own sampler would.

With keys the token is `SeededSampler`'s, after the engine's penalties, as a processor that forces the winner has it. The
engine's own draws with a seed repeat, but are nobody's who has only the protocol; without a seed nothing repeats them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from grail_core.model.sampling import Floats, SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.rollouts.noise import gumbel_noise
from tooling.testing.engine_double.requests import Request, Sampling

GREEDY_BELOW = 1e-5
_DETERMINISTIC_SEED = 42  # SGLang's, where its deterministic mode is on and a request has none


@lru_cache(maxsize=64)
def _sampler(temperature: float, top_k: int, top_p: float) -> SeededSampler:
    return SeededSampler(GenerationPolicy(1, temperature, top_p, top_k))


def draw(logits: Floats, request: Request, *, deterministic: bool, clone: bool = False) -> int:
    """The next token of a row.

    Args:
        logits: float32 [V]. deterministic: SGLang's mode in which `sampling_seed` counts. clone: the fault in which none does.
    """
    sampling = request.sampling
    x = _penalised(np.array(logits, dtype=np.float32), request)
    position = len(request.prompt) + len(request.tokens) - 1
    keys = sampling.keys
    if keys is not None:
        seeds = np.array([0 if clone else keys.seed], dtype=np.uint64)
        sampler = _sampler(keys.temperature, keys.top_k, keys.top_p)
        return int(sampler.sample(x[None], seeds, np.array([position], dtype=np.uint32))[0])
    if sampling.temperature < GREEDY_BELOW:
        return int(x.argmax())
    if deterministic:
        return _deterministic(x, sampling, position)
    return _own(x, sampling, request.generator)


def log_probability(logits: Floats, token: int) -> float:
    """Of the raw distribution, in nats."""
    wide = logits.astype(np.float64)
    top = wide.max()
    return float(wide[token] - top - np.log(np.exp(wide - top).sum()))


def _penalised(x: Floats, request: Request) -> Floats:
    sampling = request.sampling
    if sampling.repetition_penalty != 1:
        seen = np.unique(np.array([*request.prompt, *request.tokens], dtype=np.int64))
        values, penalty = x[seen], np.float32(sampling.repetition_penalty)
        x[seen] = np.where(values > 0, values / penalty, values * penalty)
    if request.tokens and (sampling.presence_penalty or sampling.frequency_penalty):
        drawn, counts = np.unique(np.array(request.tokens, dtype=np.int64), return_counts=True)
        x[drawn] -= np.float32(sampling.presence_penalty) + np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
    if len(request.tokens) < sampling.min_tokens and sampling.stop:
        x[_within(sampling.stop, x.shape[0])] = -np.inf
    return x


def _within(tokens: frozenset[int], size: int) -> Sequence[int]:
    return [token for token in sorted(tokens) if 0 <= token < size]


def _truncated(x: Floats, sampling: Sampling) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Log-probabilities of what top-k, top-p and min-p keep, by falling logit, and whose they are."""
    order = np.argsort(-x, kind="stable")
    logs = x[order].astype(np.float64) / sampling.temperature
    logs -= logs[0] + np.log(np.exp(logs - logs[0]).sum())
    probabilities = np.exp(logs)
    keep = (np.cumsum(probabilities) - probabilities) < sampling.top_p
    if sampling.top_k >= 1:
        keep[sampling.top_k :] = False
    keep &= probabilities >= sampling.min_p * probabilities[0]
    return logs[keep], order[keep]


def _deterministic(x: Floats, sampling: Sampling, position: int) -> int:
    """`multinomial_with_seed`. Where something is cut off, the noise follows the rank and not the token's id, as in SGLang."""
    seed = _DETERMINISTIC_SEED if sampling.seed is None else sampling.seed
    logs, order = _truncated(x, sampling)
    columns = order if len(order) == x.shape[0] else np.arange(len(order))
    return int(order[int(np.argmax(logs + gumbel_noise(seed, position, columns)))])


def _own(x: Floats, sampling: Sampling, generator: np.random.Generator) -> int:
    logs, order = _truncated(x, sampling)
    return int(order[int(np.argmax(logs - np.log(generator.exponential(size=len(logs)))))])
