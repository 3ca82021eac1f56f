"""Dishonest rules for the next token; each has the shape of `grail_core.model.sampling.SeededSampler.sample`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from grail_core.model.sampling import SeededSampler
from grail_core.protocol.rollouts.noise import gumbel_noise

Seeds = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.uint32]
Histories = Sequence[Sequence[int]] | None
Tokens = npt.NDArray[np.int64]


class Greedy:
    """The likeliest token, whatever the seed."""

    def sample(self, logits: Tensor, seeds: Seeds, positions: Positions, histories: Histories = None) -> Tokens:
        return np.asarray(logits.argmax(dim=1).numpy(), dtype=np.int64)


class NearTieSteering:
    """The seeded token, except that at near ties the runner-up is taken, at a set rate.

    Args:
        rate: flips per token over the whole run. gap: most by which the runner-up's score may trail (nats).
    """

    def __init__(self, rate: float, gap: float) -> None:
        self._rate, self._gap = rate, gap
        self.tokens = 0
        self.flips = 0

    def sample(self, logits: Tensor, seeds: Seeds, positions: Positions, histories: Histories = None) -> Tokens:
        rows = logits.numpy().astype(np.float64)
        ids = np.arange(rows.shape[1])
        for index in range(len(rows)):
            rows[index] += gumbel_noise(int(seeds[index]), int(positions[index]), ids)
        two = np.argpartition(rows, -2, axis=1)[:, -2:]
        values = np.take_along_axis(rows, two, axis=1)
        ahead = values.argmax(axis=1)
        chosen: Tokens = two[np.arange(len(rows)), ahead].astype(np.int64)
        second = two[np.arange(len(rows)), 1 - ahead]
        gaps = np.abs(values[:, 0] - values[:, 1])
        for index in np.random.default_rng(self.tokens).permutation(len(rows)):
            self.tokens += 1
            if self.flips + 1 <= self._rate * self.tokens and gaps[index] < self._gap:
                chosen[index] = second[index]
                self.flips += 1
        return chosen


class EarlyEnd:
    """The seeded token, but the end as soon as it is merely possible.

    Args:
        end: the end token. least: probability from which it is taken. after: completion tokens before that.
    """

    def __init__(self, honest: SeededSampler, end: int, least: float, after: int) -> None:
        self._honest, self._end, self._least, self._after = honest, end, least, after
        self._steps = 0

    def sample(self, logits: Tensor, seeds: Seeds, positions: Positions, histories: Histories = None) -> Tokens:
        chosen = self._honest.sample(logits, seeds, positions, histories)
        self._steps += 1
        if self._steps > self._after:
            likely = logits.softmax(dim=1)[:, self._end].numpy() >= self._least
            chosen[likely] = self._end
        return chosen


class WithoutEnd:
    """The seeded token among all but the end token: runs into the limit."""

    def __init__(self, honest: SeededSampler, end: int) -> None:
        self._honest, self._end = honest, end

    def sample(self, logits: Tensor, seeds: Seeds, positions: Positions, histories: Histories = None) -> Tokens:
        without = logits.clone()
        without[:, self._end] = -1e9
        return self._honest.sample(without, seeds, positions, histories)
