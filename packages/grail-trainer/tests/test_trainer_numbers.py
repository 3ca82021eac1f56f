"""Promises of the loss's numbers: finite however far two policies are apart, no dropout, a head's bias is part of the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grail_core.errors import ConfigurationError
from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from grail_trainer.learning.losses import Batch, PolicyObjective
from grail_trainer.learning.numbers import MAX_LOG_RATIO, bounded_exp
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import update
from tooling.testing.weighted_tokens import WeightedTokens

PLAIN = GrpoSettings(kl_coefficient=0.0)
E20 = math.exp(MAX_LOG_RATIO)
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 1}
PHI = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.3,
}
QWEN2 = {**PHI, "num_key_value_heads": 1, "attention_dropout": 0.5}
ROWS = (TokenSequence((1, 2, 3, 4, 5), 2), TokenSequence((1, 2, 9, 8), 2), TokenSequence((7, 6, 5, 4, 3, 2, 1), 1))


def module_of(model_type: str, configuration: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **configuration))
    if module.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(module.get_output_embeddings().bias)
    return module


def group_of(behaviour: float) -> RolloutGroup:
    rollouts = (
        Rollout(row, float(index), bool(index), np.full(row.completion_length, behaviour, np.float32))
        for index, row in enumerate(ROWS)
    )
    return RolloutGroup("g", tuple(rollouts))


def loss_of(
    logprob: float,
    *,
    proximal: float = 0.0,
    advantage: float = 0.0,
    reference: float | None = None,
    chosen: GrpoSettings = PLAIN,
) -> tuple[float, float]:
    """Loss of one token and its slope."""
    trained, one = torch.tensor([logprob], requires_grad=True), torch.ones(1)
    held = None if reference is None else reference * one
    batch = Batch(torch.ones(1, dtype=torch.long), advantage * one, proximal * one, proximal * one, held)
    objective = PolicyObjective(batch, chosen, one, chosen.kl_coefficient)
    loss = objective.loss(trained, torch.zeros(1), slice(0, 1)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert trained.grad is not None
    return loss.item(), trained.grad.item()


@pytest.mark.parametrize(
    ("x", "value", "slope"),
    [
        (0.0, 1.0, 1.0),
        (-3.0, math.exp(-3), math.exp(-3)),
        (19.5, math.exp(19.5), math.exp(19.5)),
        (MAX_LOG_RATIO, E20, E20),
        (MAX_LOG_RATIO + 3, 4 * E20, E20),
        (2e4, E20 * (2e4 - 19), E20),
        (-2e4, 0.0, 0.0),
        (-math.inf, 0.0, 0.0),
    ],
)
def test_the_bounded_exponential_is_exact_below_the_bound_and_its_tangent_above(x: float, value: float, slope: float) -> None:
    at = torch.tensor([x], requires_grad=True)
    got = bounded_exp(at)
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    assert (got.item(), at.grad.item()) == pytest.approx((value, slope), rel=1e-5)


def test_what_is_no_number_stays_none() -> None:
    assert bounded_exp(torch.tensor([math.nan])).isnan().all()
    assert bounded_exp(torch.tensor([math.inf])).isinf().all()


@pytest.mark.parametrize("apart", [100.0, 1e4, -100.0, -1e4])
def test_a_far_token_without_an_advantage_adds_nothing(apart: float) -> None:
    """e^100 overflows in float32, and 0 · ∞ is no number."""
    assert loss_of(apart - 1e4, proximal=-1e4) == (0.0, 0.0)


def test_k3_of_a_reference_far_away_is_finite_and_pulls_towards_it() -> None:
    loss, slope = loss_of(-200.0, proximal=-200.0, reference=-1.0, chosen=GrpoSettings(kl_coefficient=1.0))
    assert loss == pytest.approx(E20 * (199 - 19) - 1 - 199, rel=1e-5)
    assert slope == pytest.approx(1 - E20, rel=1e-5)
    near, near_slope = loss_of(-2.0, proximal=-2.0, reference=-1.0, chosen=GrpoSettings(kl_coefficient=1.0))
    assert (near, near_slope) == pytest.approx((math.e - 2, 1 - math.e), rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "pushed"),
    [
        (10.0, -1.0, 3.0, False),  # max(min(−10, −1.28), −3) = −3: as much as c allows
        (2.5, -1.0, 2.5, True),  # below c: the loss of PPO
        (0.5, -1.0, 0.8, False),  # clipped from below, as ever
        (10.0, 2.0, -2 * 1.28, False),  # of a gain, the clip
        (10.0, -0.5, 1.5, False),
        (10.0, 0.0, 0.0, False),
    ],
)
def test_dual_clip_bounds_what_a_token_of_negative_advantage_counts(
    ratio: float, advantage: float, loss: float, pushed: bool
) -> None:
    """Ye et al. 2020, equation 5, with c = 3, by hand."""
    got, slope = loss_of(math.log(ratio), advantage=advantage, chosen=GrpoSettings(kl_coefficient=0.0, dual_clip=3.0))
    assert got == pytest.approx(loss, rel=1e-5)
    assert (slope != 0) == pushed


def test_without_dual_clip_such_a_token_counts_in_full_and_a_c_up_to_one_is_refused() -> None:
    assert loss_of(math.log(10.0), advantage=-1.0)[0] == pytest.approx(10.0, rel=1e-5)
    for c in (0.5, 1.0, -3.0, math.nan):
        with pytest.raises(ConfigurationError):
            GrpoSettings(dual_clip=c)


def test_one_token_far_from_its_behaviour_makes_no_step_infinite() -> None:
    masters = Masters(module_of("qwen2", QWEN2), OptimiserSettings(learning_rate=1e-3))
    before = state_digest(masters.tensors())
    for behaviour in (-1e4, 0.0):
        statistics = update(masters, [group_of(behaviour)], PLAIN, window=0)
        assert statistics.steps_refused == 0
        assert math.isfinite(statistics.loss + statistics.gradient_norm + statistics.kl_behaviour)
    assert state_digest(masters.tensors()) != before


@pytest.mark.parametrize(
    ("model_type", "configuration"), [("gpt2", GPT2), ("qwen2", QWEN2), ("phi", {**PHI, "resid_pdrop": 0.5})]
)
def test_a_model_that_was_made_with_dropout_is_updated_without(model_type: str, configuration: dict[str, Any]) -> None:
    """GPT-2's default is 0.1. An update is a function of its arguments, whatever torch's random state and the module's mode."""
    digests, logprobs = set(), []
    for seed in (1, 2):
        masters = Masters(module_of(model_type, configuration), OptimiserSettings(learning_rate=1e-3))
        masters.module.train()  # somebody's, between two updates
        torch.manual_seed(seed)
        with torch.no_grad():
            logprobs.append(masters.policy(ROWS).logprob)
        assert masters.module.training
        update(masters, [group_of(-3.0)], PLAIN, window=0)
        digests.add(state_digest(masters.tensors()))
    assert len(digests) == 1
    assert torch.equal(*logprobs)


def test_a_heads_bias_is_in_log_probabilities_and_is_trained() -> None:
    module = module_of("phi", PHI).eval()
    weights = torch.linspace(-1, 1, sum(row.completion_length for row in ROWS))
    got = Policy(module)(ROWS, WeightedTokens(weights, torch.full_like(weights, 0.1)))
    got.loss.backward()
    slopes = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    wanted, entropies = [], []
    for row in ROWS:
        logs = module(torch.tensor([row.tokens]), use_cache=False).logits[0].log_softmax(-1)[row.prompt_length - 1 : -1]
        wanted.append(logs.gather(1, torch.tensor(row.tokens[row.prompt_length :])[:, None])[:, 0])
        entropies.append(-(logs.exp() * logs).sum(-1))
    assert torch.allclose(got.logprob, torch.cat(wanted), atol=1e-5)
    (torch.cat(wanted) * weights + 0.1 * torch.cat(entropies)).sum().backward()  # type: ignore[no-untyped-call]
    assert slopes["lm_head.bias"].abs().max() > 0.01
    for name, parameter in module.named_parameters():
        assert torch.allclose(slopes[name], parameter.grad, atol=1e-4), name
    masters = Masters(module, OptimiserSettings(learning_rate=1e-2))
    before = masters.published()["lm_head.bias"].clone()
    update(masters, [group_of(-3.0)], PLAIN, window=0)
    assert not torch.equal(masters.published()["lm_head.bias"], before)


def test_a_weight_that_the_published_type_does_not_hold_is_not_finite(tmp_path: Path) -> None:
    masters = Masters(module_of("qwen2", QWEN2), OptimiserSettings(learning_rate=1e-3))
    assert masters.finite()
    name, parameter = next(iter(masters.module.named_parameters()))
    for value, finite in ((3.38e38, True), (3.4e38, False), (-3.4e38, False), (math.inf, False), (math.nan, False)):
        with torch.no_grad():
            parameter.view(-1)[0] = value
        assert masters.finite() is finite, value
        assert bool(masters.published()[name].isfinite().all()) is finite
