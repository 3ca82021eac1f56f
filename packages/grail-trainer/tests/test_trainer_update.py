"""Promises of the update: exact gradients, normalisers that no batching changes, a state that resumes to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import CheckpointError
from grail_trainer.hyper_parameters import CLIPS, AdvantageKind, GrpoSettings, HyperParameters, LossKind, OptimiserSettings
from grail_trainer.learning.advantages import group_advantages, varies
from grail_trainer.learning.losses import Batch, policy_loss
from grail_trainer.learning.normalisers import StepCounts, token_normaliser
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import micro_batches, update, visiting_order
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model
from tooling.testing.weighted_tokens import WeightedTokens

VOCABULARY = 19
PLAIN = GrpoSettings(kl_coefficient=0.0)


def tiny_module(seed: int = 0, hidden: int = 16) -> Any:
    return random_model(Qwen2Shape(VOCABULARY, hidden=hidden, heads=2, tied=True), seed)


def random_rows(count: int, seed: int = 0) -> list[TokenSequence]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt, completion = int(rng.integers(2, 7)), int(rng.integers(1, 9))
        rows.append(TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, prompt + completion))), prompt))
    return rows


def random_groups(module: Any, count: int = 5, size: int = 4, seed: int = 0) -> list[RolloutGroup]:
    """Groups whose behaviour policy is a little off the module's."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        rows = random_rows(size, seed=seed * 1000 + number)
        with torch.no_grad():
            drawn = Policy(module)(rows)
        noisy = drawn.logprob.numpy() + rng.normal(0, 0.2, len(drawn.logprob)).astype(np.float32)
        parts = np.split(noisy, np.cumsum([row.completion_length for row in rows])[:-1])
        rewards = rng.random(size)
        groups.append(
            RolloutGroup(
                str(number),
                tuple(
                    Rollout(row, float(reward), bool(reward > 0.5), part.astype(np.float32))
                    for row, reward, part in zip(rows, rewards, parts, strict=True)
                ),
            )
        )
    return groups


def plain_logprobs(module: Any, rows: list[TokenSequence], temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row, all logits in memory, autograd all the way: what the fused path must equal."""
    values, entropies = [], []
    for row in rows:
        tokens = torch.tensor([row.tokens])
        logits = module(input_ids=tokens, use_cache=False).logits[0].float() / temperature
        logs = logits.log_softmax(-1)[row.prompt_length - 1 : -1]
        values.append(logs.gather(1, tokens[0, row.prompt_length :, None])[:, 0])
        entropies.append(-(logs.exp() * logs).sum(-1))
    return torch.cat(values), torch.cat(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_equal_the_plain_way(temperature: float) -> None:
    module, rows = tiny_module(), random_rows(7)
    weights = torch.randn(sum(row.completion_length for row in rows))
    fused = Policy(module)(rows, WeightedTokens(weights, 0.3 * weights), temperature=temperature)
    fused.loss.backward()
    got = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    logprob, entropy = plain_logprobs(module, rows, temperature)
    (logprob * weights + 0.3 * entropy * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(fused.logprob, logprob, atol=1e-6)
    assert torch.allclose(fused.entropy, entropy, atol=1e-5)
    for name, parameter in module.named_parameters():
        assert torch.allclose(got[name], parameter.grad, atol=1e-5), name


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_the_gradient_of_a_step_equals_a_plain_reference(kind: LossKind, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny_module()
    groups = random_groups(module)
    chosen = dataclasses.replace(PLAIN, loss=kind, epochs=1, minibatches=1)
    limit = 12
    expected = _reference_gradient(module, groups, chosen, limit)
    masters = Masters(module, OptimiserSettings(learning_rate=0.0))
    seen: dict[str, torch.Tensor] = {}
    original = masters.step

    def spying(*, largest_norm: float) -> float:
        seen.update({name: p.grad.clone() for name, p in masters.module.named_parameters()})
        return original(largest_norm=largest_norm)

    monkeypatch.setattr(masters, "step", spying)
    update(masters, groups, chosen, window=0, token_limit=limit)
    for name, gradient in expected.items():
        assert torch.allclose(seen[name], gradient, atol=1e-5), name


def _reference_gradient(module: Any, groups: list[RolloutGroup], chosen: GrpoSettings, limit: int) -> dict[str, torch.Tensor]:
    """The definition of each loss, rollout by rollout, nothing shared with the code under test but the model."""
    module.zero_grad()
    rollouts = [(rollout, group) for group in groups for rollout in group.rollouts]
    tokens = sum(rollout.row.completion_length for rollout, _ in rollouts)
    total = torch.zeros(())
    for rollout, group in rollouts:
        rewards = np.array(group.rewards)
        advantage = (rollout.reward - rewards.mean()) / (rewards.std() + 1e-4)
        logprob, _ = plain_logprobs(module, [rollout.row])
        ratio = torch.exp(logprob - logprob.detach())
        weight = torch.exp(logprob.detach() - torch.from_numpy(rollout.behaviour)).clamp(max=2.0)
        low, high = CLIPS[chosen.loss]
        clipped = ratio.clamp(1 - low, 1 + high)
        token = -weight * torch.minimum(ratio * advantage, clipped * advantage)
        scale = {
            "grpo": 1 / (len(rollouts) * rollout.row.completion_length),
            "dapo": 1 / tokens,
            "dr_grpo": 1 / (len(rollouts) * limit),
        }[chosen.loss]
        total = total + token.sum() * scale
    total.backward()  # type: ignore[no-untyped-call]
    gradient = {name: p.grad.clone() for name, p in module.named_parameters()}
    module.zero_grad()
    return gradient


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_change_nothing_but_rounding(kind: LossKind) -> None:
    results = []
    for tokens in (1, 60, 10**6):
        module = tiny_module()
        masters = Masters(module, OptimiserSettings(learning_rate=1e-2))
        update(
            masters,
            random_groups(module, 6),
            dataclasses.replace(PLAIN, loss=kind, tokens_per_pass=tokens),
            window=3,
            token_limit=9,
        )
        results.append(masters.tensors())
    for other in results[1:]:
        for name, tensor in results[0].items():
            if name.startswith("master."):
                assert torch.allclose(tensor, other[name], atol=2e-4), name


def test_micro_batches_hold_every_row_once_and_the_longest_first() -> None:
    rows = random_rows(23)
    parts = micro_batches(rows, 80)
    assert sorted(index for part in parts for index in part) == list(range(23))
    widths = [max(len(rows[index].tokens) for index in part) for part in parts]
    assert widths == sorted(widths, reverse=True)
    assert len(parts) > 1
    assert all(len(part) * width <= 80 for part, width in zip(parts, widths, strict=True))
    assert micro_batches(rows, 1) == [[index] for part in parts for index in part]


def test_normalisers_add_up_to_one() -> None:
    lengths = torch.tensor([3, 1, 7])
    counts = StepCounts(rollouts=3, tokens=11, token_limit=8)
    kinds: tuple[LossKind, ...] = ("grpo", "gspo", "dapo", "bnpo", "cispo")
    for kind in kinds:
        assert token_normaliser(lengths, kind, counts).sum().item() == pytest.approx(1)
    assert token_normaliser(lengths, "dr_grpo", counts).sum().item() == pytest.approx(11 / 24)


def test_the_clip_stops_pushing_a_token_that_moved_far_enough() -> None:
    for advantage, moved, pushed in ((1.0, 0.5, False), (1.0, 0.1, True), (-1.0, -0.5, False), (-1.0, 0.5, True)):
        logprob = torch.tensor([moved], requires_grad=True)
        one = torch.ones(1)
        batch = Batch(torch.ones(1, dtype=torch.long), advantage * one, torch.zeros(1), torch.zeros(1))
        policy_loss(logprob, batch, PLAIN).backward()  # type: ignore[no-untyped-call]
        assert logprob.grad is not None
        assert (logprob.grad.item() != 0) == pushed


@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=16))
def test_advantages_sum_to_zero_and_flat_groups_have_none(rewards: list[float]) -> None:
    for kind in get_args(AdvantageKind):
        advantages = group_advantages(rewards, kind)
        assert abs(advantages.sum()) < 1e-6
        if not varies(rewards):
            assert not advantages.any()


def test_a_resumed_trainer_is_the_same_to_the_bit(tmp_path: Path) -> None:
    module = tiny_module()
    groups = [random_groups(module, 4, seed=seed) for seed in range(3)]
    chosen = dataclasses.replace(PLAIN, seed=5)
    straight = Masters(tiny_module(), OptimiserSettings(learning_rate=3e-3))
    for window in range(3):
        update(straight, groups[window], chosen, window=window)
    first = Masters(tiny_module(), OptimiserSettings(learning_rate=3e-3))
    update(first, groups[0], chosen, window=0)
    update(first, groups[1], chosen, window=1)
    first.save(tmp_path / "state.safetensors")
    resumed = Masters(
        tiny_module(seed=9), OptimiserSettings(learning_rate=3e-3)
    )  # other weights: everything must come from the file
    resumed.resume(tmp_path / "state.safetensors")
    update(resumed, groups[2], chosen, window=2)
    assert state_digest(resumed.tensors()) == state_digest(straight.tensors())
    assert all(torch.equal(a, straight.published()[name]) for name, a in resumed.published().items())


def test_a_state_of_another_model_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    Masters(tiny_module(hidden=32), OptimiserSettings(learning_rate=1e-3)).save(tmp_path / "other")
    (tmp_path / "broken").write_bytes(b"no tensors")
    masters = Masters(tiny_module(), OptimiserSettings(learning_rate=1e-3))
    before = state_digest(masters.tensors())
    for name in ("other", "broken"):
        with pytest.raises(CheckpointError):
            masters.resume(tmp_path / name)
    assert state_digest(masters.tensors()) == before


def test_the_kl_term_pulls_back_to_the_reference() -> None:
    """With no advantage to gain, only the KL term acts: the trained policy comes nearer to the reference."""
    reference, module = tiny_module(seed=0), tiny_module(seed=1)
    masters = Masters(module, OptimiserSettings(learning_rate=1e-2))
    groups = [
        dataclasses.replace(group, rollouts=tuple(dataclasses.replace(r, reward=0.5) for r in group.rollouts))
        for group in random_groups(module, 4)
    ]
    rows = [rollout.row for group in groups for rollout in group.rollouts]

    def distance() -> float:
        with torch.no_grad():
            gap = Policy(reference)(rows).logprob - masters.policy(rows).logprob
        return float((torch.exp(gap) - 1 - gap).mean())

    before = distance()
    for window in range(5):
        update(masters, groups, GrpoSettings(kl_coefficient=0.5), window=window, reference=reference)
    assert distance() < 0.7 * before
    with pytest.raises(ValueError, match="reference"):
        update(masters, groups, GrpoSettings(kl_coefficient=0.5), window=9)


def test_learning_rate_zero_changes_no_weight() -> None:
    module = tiny_module()
    masters = Masters(module, OptimiserSettings(learning_rate=0.0))
    before = masters.published()
    statistics = update(masters, random_groups(module), PLAIN, window=0)
    assert statistics.steps == 12
    assert statistics.gradient_norm > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in masters.published().items())


def test_a_gradient_that_is_not_finite_makes_no_step() -> None:
    masters = Masters(tiny_module(), OptimiserSettings(learning_rate=1e-2))
    before = state_digest(masters.tensors())
    for parameter in masters.module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    assert not np.isfinite(masters.step(largest_norm=1.0))
    assert state_digest(masters.tensors()) == before


def test_the_visiting_order_is_a_permutation_that_only_its_arguments_decide() -> None:
    order = visiting_order(40, 1, 30, 0)
    assert sorted(order) == list(range(40))
    assert (order == visiting_order(40, 1, 30, 0)).all()
    for other in (visiting_order(40, 2, 30, 0), visiting_order(40, 1, 60, 0), visiting_order(40, 1, 30, 1)):
        assert (order != other).any()


def test_published_weights_are_the_cast_of_the_masters_with_tied_weights_once() -> None:
    masters = Masters(tiny_module(), OptimiserSettings(learning_rate=1e-3))
    published = masters.published()
    assert "lm_head.weight" not in published
    assert all(tensor.dtype is torch.bfloat16 for tensor in published.values())
    embedding = masters.module.get_input_embeddings().weight
    assert torch.equal(published["model.embed_tokens.weight"], embedding.to(torch.bfloat16))


def test_reinforcement_raises_the_reward_of_a_toy_task_every_time() -> None:
    """Reward: share of completion tokens equal to the prompt's first. From chance to most of them in a few updates."""
    module = tiny_module(seed=2)
    masters = Masters(module, OptimiserSettings(learning_rate=1e-2))
    chosen = dataclasses.replace(PLAIN, epochs=2, minibatches=2)
    generator = torch.Generator().manual_seed(0)
    curve = []
    for window in range(12):
        groups = [_toy_group(masters.module, target, generator) for target in range(1, 7)]
        curve.append(float(np.mean([reward for group in groups for reward in group.rewards])))
        update(masters, [group for group in groups if varies(group.rewards)], chosen, window=window)
    assert curve[0] < 0.2
    assert np.mean(curve[-2:]) > 0.5, curve


def _toy_group(module: Any, target: int, generator: torch.Generator, size: int = 16, length: int = 3) -> RolloutGroup:
    prompt = (target, 0)
    rows = torch.tensor([prompt] * size)
    with torch.no_grad():
        for _ in range(length):
            logits = module(input_ids=rows, use_cache=False).logits[:, -1]
            rows = torch.cat([rows, torch.multinomial(logits.softmax(-1), 1, generator=generator)], dim=1)
        tokens = [TokenSequence(tuple(row), len(prompt)) for row in rows.tolist()]
        drawn = Policy(module)(tokens).logprob.numpy().reshape(size, length)
    rollouts = []
    for row, behaviour in zip(tokens, drawn, strict=True):
        reward = sum(token == target for token in row.tokens[len(prompt) :]) / length
        rollouts.append(Rollout(row, reward, reward == 1.0, behaviour.astype(np.float32)))
    return RolloutGroup(f"toy/{target}", tuple(rollouts))


def test_settings_travel_as_canonical_json() -> None:
    from grail_core.protocol.encoding import canonical_json

    value = HyperParameters().to_json()
    assert canonical_json(value)
    assert value["update"].keys() == {field.name for field in dataclasses.fields(GrpoSettings)}
    assert value["optimiser"].keys() == {field.name for field in dataclasses.fields(OptimiserSettings)}
