"""The inner loop: the formula's bits, one thread's determinism, and what a round keeps of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from grail_core.checkpoints.publish import publishable
from grail_core.errors import CheckpointError
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.proof.errors import UnprovableError
from grail_core.proof.inner import InnerLoop, Rates, clipped_gradient, learning_rate, train_round
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LARGEST_LOSS, LOSS_SCALE
from grail_core.proof.trained_model import I32, StateArrays, TrainedModel
from tooling.testing.inner_rounds import SGD, SPEC, VOCABULARY
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model


def rows(seed: int, count: int = 8) -> I32:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, SPEC.sequence_length), dtype=np.int32)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel(random_model(Qwen2Shape(VOCABULARY, tied=True)))


@pytest.fixture(scope="module")
def theta0(model: TrainedModel) -> StateArrays:
    return model.state()


def equal(one: StateArrays, other: StateArrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}
LLAMA = LlamaConfig(**SMALL, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
GPT2 = GPT2Config(**SMALL, n_embd=16, n_layer=1, n_head=2)  # tied, with a table of positions
MODULES = {
    "tied": lambda: random_model(Qwen2Shape(VOCABULARY, tied=True)),
    "untied": lambda: random_model(Qwen2Shape(VOCABULARY)),
    "llama": lambda: AutoModelForCausalLM.from_config(LLAMA),
    "gpt2": lambda: AutoModelForCausalLM.from_config(GPT2),
}


@pytest.mark.parametrize("kind", MODULES)
def test_weights_are_those_that_a_checkpoint_publishes_in_its_order(kind: str) -> None:
    torch.manual_seed(0)
    model = TrainedModel(MODULES[kind]())
    state, published = model.state(), publishable(model.module.state_dict())
    assert list(state) == list(published) == [name for name, _ in model.sizes]
    for name, value in state.items():
        assert np.array_equal(value.reshape(-1).view("<u4"), published[name].bits)
        value.flags.writeable = False  # as those of a mapped file
    model.set(state)
    gradient = model.gradient(rows(1))
    assert all(value.any() and value.shape == state[name].shape for name, value in gradient.items())


def test_setting_weights_changes_what_the_model_says_and_touches_nothing_where_they_do_not_fit(
    model: TrainedModel, theta0: StateArrays
) -> None:
    before = sequence_losses(model, rows(1))
    changed = {name: value * np.float32(1.5) for name, value in theta0.items()}
    model.set(changed)
    assert not np.array_equal(sequence_losses(model, rows(1)), before)
    assert equal(model.state(), changed)
    short = dict(list(theta0.items())[1:])
    other = {**theta0, next(iter(theta0)): np.zeros(3, np.float32)}
    for bad in (short, other):
        with pytest.raises(CheckpointError):
            model.set(bad)
        assert equal(model.state(), changed)
    model.set(theta0)
    assert np.array_equal(sequence_losses(model, rows(1)), before)


def test_a_model_whose_weights_are_not_all_float32_is_refused() -> None:
    with pytest.raises(CheckpointError, match="float32"):
        TrainedModel(random_model(Qwen2Shape(VOCABULARY)).to(torch.bfloat16))


def test_the_same_round_gives_the_same_bits(model: TrainedModel, theta0: StateArrays) -> None:
    batches = [rows(step) for step in range(3)]
    one, two = (train_round(model, theta0, batches, SPEC, 5) for _ in range(2))
    assert equal(one.delta, two.delta)
    assert one.states.keys() == {0, 1, 2, 3}
    assert equal(one.end.first, two.end.first)
    assert equal(one.end.second, two.end.second)
    assert equal(one.delta, {name: theta0[name] - one.end.theta[name] for name in theta0})
    ends = train_round(model, theta0, batches, replace(SPEC, commit="ends"), 5)
    assert ends.states.keys() == {0, 1, 3}
    assert equal(ends.delta, one.delta)


def test_a_step_is_adamw_as_pytorch_has_it(model: TrainedModel, theta0: StateArrays) -> None:
    """Three steps by torch.optim from the same gradients; its order of operations differs in last bits alone."""
    loop = InnerLoop(model, SPEC, 5)
    trained = loop.train(theta0, [rows(step) for step in range(3)])
    parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in theta0.values()]
    oracle = torch.optim.AdamW(
        parameters, lr=SPEC.learning_rate(5) / 1e9, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False
    )
    for step in range(3):
        gradient = loop.gradient(trained.states[step].theta, rows(step), step)
        for parameter, one in zip(parameters, gradient.values(), strict=True):
            parameter.grad = torch.from_numpy(one)
        oracle.step()
    for parameter, value in zip(parameters, trained.end.theta.values(), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=0, atol=2e-6)


def test_sgd_sends_its_rate_times_the_clipped_gradient(model: TrainedModel, theta0: StateArrays) -> None:
    trained = train_round(model, theta0, [rows(0)], SGD, 0)
    gradient = clipped_gradient(model, theta0, rows(0), SGD)
    for name, value in gradient.items():
        assert np.array_equal(trained.delta[name], np.float32(0.04) * value)
        assert np.array_equal(trained.end.theta[name], theta0[name] - trained.delta[name])
    assert trained.end.first == trained.end.second == {}


def test_a_long_gradient_is_cut_to_the_clip_and_a_short_one_is_left(model: TrainedModel, theta0: StateArrays) -> None:
    def norm(gradient: StateArrays) -> float:
        return float(np.sqrt(sum(np.square(one, dtype=np.float64).sum() for one in gradient.values())))

    free = clipped_gradient(model, theta0, rows(0), replace(SPEC, clip=1000 * 10**6))
    cut = clipped_gradient(model, theta0, rows(0), replace(SPEC, clip=500_000))
    assert norm(free) > 0.5
    assert norm(cut) == pytest.approx(0.5, rel=1e-6)
    assert equal(free, model.gradient(rows(0)))


def test_micro_batches_give_the_gradient_of_the_whole_batch(model: TrainedModel, theta0: StateArrays) -> None:
    model.set(theta0)
    whole = model.gradient(rows(0))
    for size in (1, 3):
        assert _distance(model.gradient(rows(0), rows=size), whole) < 1e-4
    assert 0 < _distance(model.gradient(rows(0), compute="bf16"), whole) < 0.12


def _distance(one: StateArrays, other: StateArrays) -> float:
    a, b = (np.concatenate([value.reshape(-1) for value in state.values()]).astype(np.float64) for state in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_the_rate_rises_over_the_warmup_and_follows_its_table() -> None:
    warm = replace(SPEC, warmup=3)
    assert [learning_rate(warm, 0, step) for step in range(3)] == [1_333_333, 2_666_666, 4_000_000]
    assert learning_rate(SPEC, 3, 0) == 3_400_000
    rates = Rates.of(SPEC, 0, 1)
    assert rates.kept == np.float32(1 - 0.004 * 0.1)
    assert rates.correction1 == np.float32(1 - 0.9**2)


def test_batches_that_are_too_few_too_many_or_not_of_the_model_are_refused(model: TrainedModel, theta0: StateArrays) -> None:
    for count in (2, 4):
        with pytest.raises(ValueError, match="batches"):
            train_round(model, theta0, [rows(0)] * count, SPEC, 0)
    with pytest.raises(OutOfVocabularyError):
        train_round(model, theta0, [rows(0) + VOCABULARY] * 3, SPEC, 0)
    with pytest.raises(OverlongSequenceError):
        sequence_losses(model, np.zeros((1, 2000), np.int32))


def test_training_that_leaves_the_numbers_is_a_typed_error(model: TrainedModel, theta0: StateArrays) -> None:
    wild = {name: value * np.float32(1e30) for name, value in theta0.items()}
    with pytest.raises(UnprovableError):
        train_round(model, wild, [rows(0)] * 3, SPEC, 0)


class OneStep(InnerLoop):
    """An adversary that replaces a part: it takes the first step and invents none of the others."""

    def gradient(self, theta: StateArrays, tokens: I32, step: int) -> StateArrays:
        if step:
            return {name: np.zeros_like(value) for name, value in theta.items()}
        return super().gradient(theta, tokens, step)


def test_a_part_of_the_loop_can_be_replaced(model: TrainedModel, theta0: StateArrays) -> None:
    batches = [rows(step) for step in range(3)]
    lazy, honest = OneStep(model, SPEC, 0).train(theta0, batches), train_round(model, theta0, batches, SPEC, 0)
    assert equal(lazy.states[1].theta, honest.states[1].theta)
    assert not equal(lazy.delta, honest.delta)


def test_a_loss_is_the_rounded_mean_of_its_tokens(model: TrainedModel, theta0: StateArrays) -> None:
    model.set(theta0)
    tokens = rows(7, 18)
    with torch.no_grad():
        logits = model.module(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits
    expected = [
        functional.cross_entropy(logits[row, :-1], torch.from_numpy(tokens[row, 1:].astype(np.int64))).item()
        for row in range(18)
    ]
    found = sequence_losses(model, tokens)
    assert found.dtype == np.int32
    np.testing.assert_allclose(found / LOSS_SCALE, expected, atol=3e-6)
    assert np.array_equal(sequence_losses(model, tokens), found)
    assert np.array_equal(sequence_losses(model, tokens[:16]), found[:16])
    assert sequence_losses(model, tokens[:0]).shape == (0,)


def test_a_loss_that_is_no_number_is_the_largest_there_is(model: TrainedModel, theta0: StateArrays) -> None:
    model.set({name: np.full_like(value, np.nan) for name, value in theta0.items()})
    assert set(sequence_losses(model, rows(0)).tolist()) == {LARGEST_LOSS}
    model.set(theta0)
