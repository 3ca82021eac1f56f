"""Behaviour log-probabilities are those of the code that trains: on weights that did not move every ratio is 1 to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.checkpoints.pinned_table import shipped
from grail_core.errors import OutOfMemoryError
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_trainer.data.behaviour import BehaviourPolicy, behaviour_logprobs, in_float32
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from tooling.testing.models.tiny_qwen2 import BYTES, save_byte_model

LENGTHS = (5, 9, 3, 14, 7, 7)
PROMPT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def loaded(folder: Path) -> LoadedCheckpoint:
    model = PolicyModel.load(folder)
    return LoadedCheckpoint(cast("Any", None), folder, PromptRenderer(folder), cast("Any", None), shipped(), model)


def rows(seed: int = 0) -> list[TokenSequence]:
    chance = np.random.default_rng(seed)
    return [
        TokenSequence(tuple(int(token) for token in chance.integers(BYTES.vocabulary, size=PROMPT + length)), PROMPT)
        for length in LENGTHS
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_weights_that_did_not_move_have_a_ratio_of_exactly_one(
    folder: Path, loaded: LoadedCheckpoint, temperature: float
) -> None:
    masters = Masters.load(folder, OptimiserSettings())
    drawn = np.concatenate(behaviour_logprobs(loaded, rows(), temperature))
    trained = masters.policy(rows(), temperature=temperature).logprob.numpy()
    assert np.array_equal(drawn, trained)
    assert set(np.exp(trained - drawn)) == {np.float32(1)}


def test_the_log_probabilities_of_the_proof_would_not_have_it(folder: Path, loaded: LoadedCheckpoint) -> None:
    """What is promised above is not so by itself: bfloat16 moves log-probabilities."""
    states = loaded.model.hidden_states([row.tokens for row in rows()])
    predicting = torch.cat([state[PROMPT - 1 : -1] for state in states])
    targets = torch.tensor([token for row in rows() for token in row.tokens[PROMPT:]])
    proved = torch.log_softmax(loaded.model.logits(predicting), -1).gather(1, targets[:, None]).squeeze(1)
    trained = Masters.load(folder, OptimiserSettings()).policy(rows()).logprob
    assert (proved - trained).abs().max() > 1e-3


def test_an_update_of_frozen_weights_weighs_every_token_once(folder: Path, loaded: LoadedCheckpoint) -> None:
    drawn = BehaviourPolicy(in_float32(loaded).reference).logprobs(rows(), 0.9)
    group = RolloutGroup(
        "miner/30/0",
        tuple(
            Rollout(row, float(number % 2), bool(number % 2), behaviour)
            for number, (row, behaviour) in enumerate(zip(rows(), drawn, strict=True))
        ),
    )
    settings = HyperParameters(GrpoSettings(epochs=1, minibatches=1, kl_coefficient=0.0), OptimiserSettings(learning_rate=0.0))
    masters = Masters.load(folder, settings.optimiser)
    learned = learn_window(masters, [group], settings, window=30, temperature=0.9, token_limit=16)
    assert (learned.statistics.importance_mean, learned.statistics.kl_behaviour, learned.statistics.clip_share) == (
        1.0,
        0.0,
        0.0,
    )


def test_the_checkpoint_that_verifies_is_left_as_it_is(loaded: LoadedCheckpoint) -> None:
    module = loaded.model.module
    before = {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in module.state_dict().items()}
    bits = {name: tensor.clone() for name, tensor in loaded.model.state().items()}
    policy = BehaviourPolicy(in_float32(loaded).reference)
    values = policy.logprobs(rows(), 1.0)
    assert {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in module.state_dict().items()} == before
    with torch.no_grad(), loaded.model.lock:
        for tensor in loaded.model.state().values():
            tensor.mul_(1.5)  # as a delta steps it to the next window's
    assert all(np.array_equal(one, other) for one, other in zip(policy.logprobs(rows(), 1.0), values, strict=True))
    with torch.no_grad():
        for name, tensor in loaded.model.state().items():
            tensor.copy_(bits[name])


def test_tied_weights_stay_tied_and_are_copied_once(loaded: LoadedCheckpoint) -> None:
    copied = BehaviourPolicy(in_float32(loaded).reference)._policy.module
    assert copied.get_input_embeddings().weight is copied.get_output_embeddings().weight
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in copied.parameters())


@pytest.mark.parametrize("budget", [1, 30, 60])
def test_whatever_runs_together_each_row_gets_its_own_log_probabilities(loaded: LoadedCheckpoint, budget: int) -> None:
    """A rollout longer than the budget is a pass of its own."""
    together = behaviour_logprobs(loaded, rows(), 1.0)
    apart = behaviour_logprobs(loaded, rows(), 1.0, tokens_per_pass=budget)
    assert [len(one) for one in apart] == list(LENGTHS)
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_comes_back_costs_nothing_and_memory_that_does_not_is_this_machines_error(
    loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    policy, left = BehaviourPolicy(in_float32(loaded).reference, 64), [times]
    wanted = policy.logprobs(rows(), 1.0)
    module = policy._policy.module
    forward = module.base_model.forward

    def refusing(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise NO_MEMORY
        return forward(*arguments, **named)

    monkeypatch.setattr(module.base_model, "forward", refusing)
    if times == 1:
        assert all(np.array_equal(one, other) for one, other in zip(policy.logprobs(rows(), 1.0), wanted, strict=True))
        return
    with pytest.raises(OutOfMemoryError, match="behaviour") as caught:
        policy.logprobs(rows(), 1.0)
    assert caught.value.exit_code == 20
    assert "--tokens-per-pass" in caught.value.hint
