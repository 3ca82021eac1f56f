"""The replay: honest steps pass in other arithmetic, and what was not the step on the assigned batch is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from grail_core.proof.inner import InnerLoop, InnerState, Rates, Trained, adamw, train_round
from grail_core.proof.replay import OpenedChunk, OpenedStep, judge, measure, replay
from grail_core.proof.round_work import MeasuredStep
from grail_core.proof.trained_model import F32, I32, StateArrays, TrainedModel
from grail_core.protocol.gradient.spec import GradientSpec
from tooling.testing.inner_rounds import SGD, SPEC, VOCABULARY
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

CHUNKS = [(0, 0, 256), (0, 512, 768), (2, 0, 256), (4, 1024, 1280), (5, 0, 32), (12, 256, 512), (15, 0, 256), (22, 0, 256)]
NONE = np.zeros(0, np.float32)
LARGE = 1 << 20
SEQUENCE = 5


def rows(seed: int, count: int = 8) -> I32:
    """Sequences with something to learn: each counts up from somewhere, with a stumble now and then."""
    random = np.random.default_rng(seed)
    counting = random.integers(0, VOCABULARY, (count, 1)) + np.arange(SPEC.sequence_length)
    stumbles = random.integers(0, 2, counting.shape) * random.integers(0, 2, counting.shape)
    return ((counting + stumbles) % VOCABULARY).astype(np.int32)


BATCHES = [rows(step) for step in range(3)]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Trained for a while, as checkpoints are: a random model's gradients of different data are more alike."""
    model = TrainedModel(random_model(Qwen2Shape(VOCABULARY, tied=True, spread=0.05)))
    long = replace(SPEC, inner_steps=60, weight_decay=0)
    model.set(train_round(model, model.state(), [rows(100 + step) for step in range(60)], long, 0).end.theta)
    return model


@pytest.fixture(scope="module")
def theta0(model: TrainedModel) -> StateArrays:
    return model.state()


@pytest.fixture(scope="module")
def honest(model: TrainedModel, theta0: StateArrays) -> Trained:
    return train_round(model, theta0, BATCHES, SPEC, SEQUENCE)


def opened(model: TrainedModel, trained: Trained, step: int, places: list[tuple[int, int, int]] = CHUNKS) -> OpenedStep:
    before, after = trained.states[step], trained.states[step + 1]
    names = [name for name, _ in model.sizes]

    def cut(state: Mapping[str, F32], tensor: int, start: int, stop: int) -> F32:
        return state[names[tensor]].reshape(-1)[start:stop] if state else NONE

    chunks = [
        OpenedChunk(
            *place,
            cut(after.theta, *place),
            cut(before.first, *place),
            cut(before.second, *place),
            cut(after.first, *place),
            cut(after.second, *place),
            NONE if after.first else cut(trained.delta, *place),
        )
        for place in places
    ]
    return OpenedStep(step, before.theta, chunks)


def rejected(model: TrainedModel, one: OpenedStep, batch: I32, spec: GradientSpec = SPEC) -> set[str]:
    """Names of the statistics that reject."""
    _, found = replay(model, one, batch, spec, sequence=SEQUENCE)
    return {statistic.name for statistic in found if statistic.rejects}


@pytest.mark.parametrize("step", [0, 1, 2])
def test_an_honest_step_passes_in_micro_batches_and_in_bfloat16(model: TrainedModel, honest: Trained, step: int) -> None:
    one = opened(model, honest, step)
    assert rejected(model, one, BATCHES[step]) == set()
    _, [exact, moment, landed] = replay(model, one, BATCHES[step], SPEC, sequence=SEQUENCE, rows=3)
    assert exact.value < 1e-4
    assert moment.value < 1
    assert landed.value < 1
    assert rejected(model, one, BATCHES[step], replace(SPEC, compute="bf16")) == set()


class Flipped(InnerLoop):
    """Climbs the loss."""

    def gradient(self, theta: StateArrays, tokens: I32, step: int) -> StateArrays:
        return {name: -value for name, value in super().gradient(theta, tokens, step).items()}


class Stale(InnerLoop):
    """Computes every gradient at weights of its own, and says that it was at θ_j."""

    old: StateArrays

    def gradient(self, theta: StateArrays, tokens: I32, step: int) -> StateArrays:
        return super().gradient(self.old, tokens, step)


@pytest.mark.parametrize("step", [0, 2])
def test_steps_on_other_batches_or_other_weights_are_rejected(model: TrainedModel, theta0: StateArrays, step: int) -> None:
    swapped = [np.concatenate([batch[:-1], rows(50 + at, 1)]) for at, batch in enumerate(BATCHES)]
    others = [rows(60 + at) for at in range(3)]
    stale = Stale(model, SPEC, SEQUENCE)
    stale.old = train_round(model, theta0, [rows(70 + at) for at in range(3)], SPEC, 0).end.theta
    cheats = {
        "one of 8 sequences swapped": train_round(model, theta0, swapped, SPEC, SEQUENCE),
        "other data": train_round(model, theta0, others, SPEC, SEQUENCE),
        "stale weights": stale.train(theta0, BATCHES),
        "sign flipped": Flipped(model, SPEC, SEQUENCE).train(theta0, BATCHES),
    }
    assert {name: rejected(model, opened(model, one, step), BATCHES[step]) for name, one in cheats.items()} == {
        name: {"gradient"} for name in cheats
    }


def _altered(one: OpenedStep, change: Callable[[OpenedChunk], OpenedChunk]) -> OpenedStep:
    return OpenedStep(one.step, one.theta, [change(chunk) for chunk in one.chunks])


def test_a_state_that_does_not_follow_from_its_gradient_is_rejected(model: TrainedModel, honest: Trained) -> None:
    one = opened(model, honest, 1)
    moved = _altered(one, lambda chunk: replace(chunk, theta_after=chunk.theta_after + np.float32(1e-5)))
    assert rejected(model, moved, BATCHES[1]) == {"step"}
    grown = _altered(one, lambda chunk: replace(chunk, second_after=chunk.second_after * np.float32(1.01)))
    assert "second_moment" in rejected(model, grown, BATCHES[1])
    negative = _altered(one, lambda chunk: replace(chunk, second=-chunk.second))
    assert "second_moment" in rejected(model, negative, BATCHES[1])


def test_numbers_that_are_none_are_rejects_and_no_exceptions(model: TrainedModel, honest: Trained) -> None:
    one = opened(model, honest, 1)
    for bad in (np.nan, np.inf, -np.inf):
        broken = {name: value.copy() for name, value in one.theta.items()}
        broken[next(iter(broken))].reshape(-1)[-1] = bad
        assert rejected(model, OpenedStep(1, broken, one.chunks), BATCHES[1]) == {"finite"}
        chunks = [replace(chunk, first_after=np.full_like(chunk.first_after, bad)) for chunk in one.chunks]
        assert rejected(model, OpenedStep(1, one.theta, chunks), BATCHES[1]) == {"finite"}
    wild = {name: value * np.float32(1e30) for name, value in one.theta.items()}
    assert rejected(model, OpenedStep(1, wild, one.chunks), BATCHES[1])


def test_nobody_is_to_blame_where_the_checkpoint_itself_has_no_gradient(model: TrainedModel, honest: Trained) -> None:
    one = opened(model, honest, 0)
    broken = {name: np.full_like(value, np.nan) for name, value in one.theta.items()}
    _, [found] = replay(model, OpenedStep(0, broken, one.chunks), BATCHES[0], SPEC, sequence=SEQUENCE)
    assert found.undecided
    assert not found.rejects


def test_a_round_begins_with_moments_of_zero(model: TrainedModel, honest: Trained) -> None:
    kept = honest.states[3]
    theta = honest.states[0].theta
    after = InnerLoop(model, SPEC, SEQUENCE)
    start = InnerState(theta, kept.first, kept.second)
    step = after.step(start, after.gradient(theta, BATCHES[0], 0), 0)
    warm = Trained({0: start, 1: step}, honest.delta)
    assert rejected(model, opened(model, warm, 0), BATCHES[0]) == {"moments"}


def test_sgd_opens_its_delta(model: TrainedModel, theta0: StateArrays) -> None:
    honest = train_round(model, theta0, BATCHES[:1], SGD, SEQUENCE)
    one = opened(model, honest, 0)
    assert rejected(model, one, BATCHES[0], SGD) == set()
    assert rejected(model, one, rows(60), SGD) == {"gradient"}
    double = _altered(one, lambda chunk: replace(chunk, delta=2 * chunk.delta))
    assert rejected(model, double, BATCHES[0], SGD) == {"gradient", "step"}


def test_a_gradient_of_zero_is_met_by_zero_alone(model: TrainedModel, honest: Trained) -> None:
    """A table of embeddings has rows that no token of the batch asked for."""
    one = opened(model, honest, 1)
    zero = MeasuredStep([chunk.first for chunk in one.chunks], [np.zeros_like(chunk.first) for chunk in one.chunks])
    [gradient, *_] = judge(one.chunks, zero, SPEC, sequence=SEQUENCE, step=1, parameters=1)
    assert gradient.rejects
    still = [replace(chunk, first_after=np.float32(0.9) * chunk.first) for chunk in one.chunks]
    [gradient, *_] = judge(still, zero, SPEC, sequence=SEQUENCE, step=1, parameters=1)
    assert gradient.value == 0
    assert not gradient.rejects


def test_a_larger_model_has_its_distance_reported_and_its_arithmetic_enforced(model: TrainedModel, honest: Trained) -> None:
    one = opened(model, honest, 1)
    measured = measure(model, one, rows(60), SPEC)
    found = judge(one.chunks, measured, SPEC, sequence=SEQUENCE, step=1, parameters=LARGE)
    assert {statistic.name: statistic.enforced for statistic in found} == {
        "gradient": False,
        "second_moment": True,
        "step": True,
    }
    assert found[0].exceeds


def test_chunks_of_another_layout_are_refused_before_the_model_runs(model: TrainedModel, honest: Trained) -> None:
    one = opened(model, honest, 1)
    beyond = replace(one.chunks[0], tensor=len(model.sizes))
    with pytest.raises(ValueError, match=r"^\$opening\.chunks\[0\]"):
        measure(model, OpenedStep(1, one.theta, [beyond]), BATCHES[1], SPEC)
    fewer = dict(list(one.theta.items())[1:])
    with pytest.raises(ValueError, match=r"^\$opening\.theta"):
        measure(model, OpenedStep(1, fewer, one.chunks), BATCHES[1], SPEC)
    short = replace(one.chunks[0], first=NONE)
    with pytest.raises(ValueError, match=r"^\$opening\.chunks\[0\]"):
        replay(model, OpenedStep(1, one.theta, [short]), BATCHES[1], SPEC, sequence=SEQUENCE)


def test_moments_so_large_that_no_gradient_could_be_told_from_them_are_rejected(
    model: TrainedModel, theta0: StateArrays
) -> None:
    """A state that was jumped to once must not free every later step: what rounding leaves open is honest rounding's alone."""
    large, square = np.float32(1e6), np.float32(1e12)
    rates = Rates.of(SPEC, SEQUENCE, 1)

    def filled(value: np.float32) -> StateArrays:
        return {name: np.full_like(array, value) for name, array in theta0.items()}

    before = InnerState(theta0, filled(large), filled(square))
    after = {
        name: adamw(theta0[name], before.first[name], before.second[name], np.zeros_like(theta0[name]), rates)
        for name in theta0
    }
    jumped = InnerState(*({name: after[name][i] for name in theta0} for i in range(3)))
    invented = Trained({1: before, 2: jumped}, {})
    assert rejected(model, opened(model, invented, 1), BATCHES[1]) == {"clip"}
