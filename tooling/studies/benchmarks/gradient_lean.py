"""Rounds of gradient work without stores, chain and files, for figures that take many of them.

The inner loop, the codec with its feedback, the assignment and the merge are the project's own, on the model and the corpus of
local networks; what is left out changes no number of theirs. All miners are honest and all are merged. A seed fixes weights
and sequences.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grail_core.gradient.feedback import compress
from grail_core.gradient.layout import Layout
from grail_core.gradient.merge import merge
from grail_core.proof.inner import train_round
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LOSS_SCALE
from grail_core.proof.trained_model import I32, StateArrays, TrainedModel
from grail_core.protocol.gradient.assignment import Assignment
from grail_core.protocol.gradient.spec import GradientSpec
from grail_envs.corpus.bytes_1 import SEQUENCES, Bytes1
from grail_trainer.tiny.gradient_model import create

HELD_OUT = 256
"""Sequences that nobody is ever assigned."""
_NETWORK = bytes(32)


@dataclass(frozen=True, eq=False)
class LeanRound:
    """`theta`: the weights that everybody began with. `updates`: streams by UID. `merged`: the weights after the merge."""

    number: int
    theta: StateArrays
    updates: tuple[tuple[bytes, ...], ...]
    merged: StateArrays


@dataclass(frozen=True, eq=False)
class LeanNetwork:
    """A model and the data of its rounds. `start`: its first weights."""

    spec: GradientSpec
    seed: int
    model: TrainedModel
    start: StateArrays
    corpus: Bytes1

    @classmethod
    def of(cls, spec: GradientSpec, seed: int) -> LeanNetwork:
        with tempfile.TemporaryDirectory() as folder:
            create(Path(folder) / "model", seed)
            model = TrainedModel.load(Path(folder) / "model")
        return cls(spec, seed, model, model.state(), Bytes1())

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.model.sizes, self.spec)

    def assignment(self, number: int) -> Assignment:
        """Of round 0, 1, …"""
        return Assignment(self.spec, _NETWORK, self.drawn(number, "window"))

    def drawn(self, number: int, name: str) -> bytes:
        """32 bytes that stand where a round has randomness of its own."""
        return hashlib.sha256(f"{self.seed} {number} {name}".encode()).digest()

    def rows(self, indices: Sequence[int]) -> I32:
        return np.stack([self.corpus.sequence(index) for index in indices])

    def batches(self, number: int, uid: int, batch: int) -> list[I32]:
        """What a UID trains on: int32 [b, L] a step."""
        assignment = self.assignment(number)
        return [self.rows(assignment.batch(uid, step, batch)) for step in range(self.spec.inner_steps)]

    def play(self, sizes: Sequence[int], rounds: int) -> Iterator[LeanRound]:
        """Rounds of one honest miner for each batch size."""
        theta = self.start
        rests: list[StateArrays | None] = [None] * len(sizes)
        for number in range(rounds):
            updates = []
            for uid, size in enumerate(sizes):
                trained = train_round(self.model, theta, self.batches(number, uid, size), self.spec, number)
                streams, rests[uid] = compress(self.layout, self.spec, trained.delta, rests[uid])
                updates.append(tuple(streams))
            merged = dict(merge(theta, updates, self.layout, self.spec.outer_rate(number)))
            yield LeanRound(number, theta, tuple(updates), merged)
            theta = merged

    def held_out(self, weights: StateArrays) -> float:
        """Mean loss in nats on sequences that nobody is assigned."""
        self.model.set(weights)
        return float(sequence_losses(self.model, self._held_out).mean() / LOSS_SCALE)

    @cached_property
    def _held_out(self) -> I32:
        return self.rows(range(SEQUENCES, SEQUENCES + HELD_OUT))
