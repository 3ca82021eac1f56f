"""What a validator computes itself of a revealed update: sketches, the gradient of a drawn step, losses before and after.

The only part of gradient work's checks that needs a model. What comes out are numbers that evidence keeps, so that whoever has
them judges again without one. Which miners are measured, and what follows from it, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.corpus import Corpus
from grail_core.gradient.layout import Layout, StateArrays
from grail_core.gradient.merge import apply_one
from grail_core.gradient.update_file import sketch_rows
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.losses import sequence_losses
from grail_core.proof.replay import OpenedChunk, OpenedStep, measure
from grail_core.proof.round_sketches import measure_sketches
from grail_core.proof.round_work import Losses, MeasuredSketches, MeasuredStep
from grail_core.proof.trained_model import I32, TrainedModel
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.assignment import Assignment
from grail_core.protocol.gradient.context import RoundContext
from grail_core.verification.gradient.files import Revealed


@dataclass(frozen=True, eq=False)
class RoundScene:
    """What all of a round's miners are measured with.

    `theta`: the checkpoint's weights; `trained` computes in float32, `policy` has their bf16 cast, `alternatives` are what
    sketches are held against beside it (`RoundModels.alternatives`): without them the coarse bounds alone are tested.
    """

    context: RoundContext
    theta: StateArrays
    layout: Layout
    trained: TrainedModel
    policy: PolicyModel
    corpus: Corpus
    alternatives: Alternatives | None = None

    @property
    def assignment(self) -> Assignment:
        return Assignment(self.context.spec, self.context.network_id, self.context.window_seed)

    def rows(self, indices: Sequence[int]) -> I32:
        """int32 [n, L]. Errors: as the corpus."""
        return np.stack([self.corpus.sequence(index) for index in indices])

    def batch(self, revealed: Revealed, step: int) -> I32:
        """The sequences that a miner was assigned for a step."""
        return self.rows(self.assignment.batch(revealed.sealer.uid, step, revealed.header.batch))


def common_rows(scene: RoundScene, select_seed: bytes, highest_uid: int) -> I32:
    """The sequences that everybody is scored on: unknown until seals are fixed, and nobody's."""
    places = draws.common_places(scene.context.spec, select_seed, highest_uid)
    return scene.rows([scene.assignment.common(place) for place in places])


def own_rows(scene: RoundScene, revealed: Revealed) -> I32:
    """Of the sequences that a miner trained on, those that its challenge draws."""
    places = draws.own_places(scene.context.spec, revealed.seed, revealed.sealer.uid, revealed.header.batch)
    return scene.rows([scene.assignment.assigned(place.uid, place.step, place.row) for place in places])


def losses_at(scene: RoundScene, weights: StateArrays, rows: I32) -> Losses:
    """Of these sequences at these weights. Errors: as `sequence_losses`."""
    scene.trained.set(weights)
    return sequence_losses(scene.trained, rows)


def losses_after(scene: RoundScene, revealed: Revealed, medians: Sequence[int], sets: Sequence[I32]) -> list[Losses]:
    """Of each set of sequences after a miner's own update, clipped to the medians of the round's files.

    Args:
        medians: of the norm² of each tensor over all files that passed checks 1 to 5 (`gradient.merge.medians`).
    """
    spec = scene.context.spec
    moved = dict(apply_one(scene.theta, revealed.file.streams, medians, scene.layout, spec))
    scene.trained.set(moved)
    return [sequence_losses(scene.trained, rows) for rows in sets]


def sketches_of(scene: RoundScene, revealed: Revealed) -> MeasuredSketches:
    """The passes over the sketched rows: the own, and what it is held against. Errors: MachineFaultError."""
    context = scene.context
    rows = scene.batch(revealed, 0)[: sketch_rows(revealed.header.batch)]
    return measure_sketches(scene.policy, rows, context.window_seed, context.randomness, alternatives=scene.alternatives)


def opened_step(layout: Layout, revealed: Revealed, theta: StateArrays) -> OpenedStep | None:
    """The step that the coin drew, as the miner opened it; None where it did not fall.

    Args:
        theta: the checkpoint's weights, where the drawn step is the first.
    """
    step = revealed.asked.step
    if step is None:
        return None
    empty = np.zeros(0, np.float32)
    chunks = []
    for one in revealed.opening.chunks:
        tensor, chunk = layout.place(one.number)
        start = chunk * tensor.chunk
        state = one.step
        chunks.append(
            OpenedChunk(
                tensor=layout.tensor_of(one.number),
                start=start,
                stop=start + tensor.chunk_size(chunk),
                theta_after=state.theta_after if state else layout.chunk_of(theta, one.number) - one.delta,
                first=state.first_moment if state else empty,
                second=state.second_moment if state else empty,
                first_after=state.first_moment_after if state else empty,
                second_after=state.second_moment_after if state else empty,
                delta=empty if state else one.delta,
            )
        )
    opened = revealed.opening.theta
    return OpenedStep(step, theta if opened is None else opened, chunks)


def step_of(scene: RoundScene, revealed: Revealed, opened: OpenedStep) -> MeasuredStep:
    """The own gradient of the drawn step's batch. Errors: MachineFaultError."""
    return measure(scene.trained, opened, scene.batch(revealed, opened.step), scene.context.spec)
