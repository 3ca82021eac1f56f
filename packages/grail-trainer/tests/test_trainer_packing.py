"""Promises of packed rows: each is what it is alone, to its gradient, and no row sees another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from grail_trainer.learning import attention, packing
from grail_trainer.learning.attention import packed_attention
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.packing import can_be_packed, pack, packs
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import update
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model
from tooling.testing.weighted_tokens import WeightedTokens

VOCABULARY = 40
SHAPE = Qwen2Shape(VOCABULARY, hidden=32, heads=4, key_value_heads=2)
WINDOWED = dataclasses.replace(SHAPE, sliding_window=5)


def drawn(seed: int, prompts: tuple[int, ...], completions: tuple[int, ...]) -> list[TokenSequence]:
    """Every completion length behind every prompt length; rows of one prompt length share the prompt."""
    rng = np.random.default_rng(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(0, VOCABULARY, count)))

    texts = [tokens(length) for length in prompts]
    rows = [TokenSequence(text + tokens(length), len(text)) for length in completions for text in texts]
    return [rows[index] for index in rng.permutation(len(rows))]


ROWS = drawn(0, (1, 6, 11), (1, 2, 7, 7, 12)) + drawn(1, (4,), (9,))


def gradients(module: Any) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    return found


def asked(module: Any, rows: list[TokenSequence], weights: Tensor, *, packed: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities of the rows in one pass, and the gradient of Σ weights · log-probability."""
    out = Policy(module, packed=packed)(rows, WeightedTokens(weights, 0.1 * weights))
    out.loss.backward()
    return out.logprob, gradients(module)


def padded_left(module: Any, rows: list[TokenSequence], weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same with padding before the rows, an attention mask, and autograd over all logits."""
    width = max(len(row.tokens) for row in rows)
    tokens, mask = torch.zeros((len(rows), width), dtype=torch.long), torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, -len(row.tokens) :] = torch.tensor(row.tokens)
        mask[index, -len(row.tokens) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = module(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
    logs = logits.log_softmax(-1)
    values, entropies = [], []
    for index, row in enumerate(rows):
        part = logs[index, -row.completion_length - 1 : -1]
        values.append(part.gather(1, torch.tensor(row.tokens[row.prompt_length :])[:, None])[:, 0])
        entropies.append(-(part.exp() * part).sum(-1))
    (torch.cat(values) * weights + 0.1 * torch.cat(entropies) * weights).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat(values).detach(), gradients(module)


@pytest.mark.parametrize("shape", [SHAPE, WINDOWED], ids=["causal", "a window in one layer"])
def test_packed_and_padded_left_and_padded_right_and_alone_are_the_same(shape: Qwen2Shape) -> None:
    module = random_model(shape)
    counts = [row.completion_length for row in ROWS]
    weights = torch.randn(sum(counts), generator=torch.Generator().manual_seed(5))
    logprob, gradient = asked(module, ROWS, weights, packed=True)
    others = [asked(module, ROWS, weights, packed=False), padded_left(module, ROWS, weights)]
    alone = []
    for row, mine in zip(ROWS, torch.split(weights, counts), strict=True):
        out = Policy(module, packed=True)([row], WeightedTokens(mine, 0.1 * mine))
        out.loss.backward()
        alone.append(out.logprob)
    others.append((torch.cat(alone), gradients(module)))
    for other, its_gradient in others:
        assert torch.allclose(logprob, other, atol=1e-5)
        for name, value in gradient.items():
            assert torch.allclose(value, its_gradient[name], atol=1e-5 * max(1.0, float(value.abs().max()))), name


@given(st.integers(0, len(ROWS) - 1), st.data())
@settings(max_examples=15)
def test_a_row_that_is_changed_changes_no_other_by_a_bit(changed: int, data: st.DataObject) -> None:
    policy = Policy(random_model(WINDOWED), packed=True)
    row = ROWS[changed]
    place = data.draw(st.integers(row.prompt_length, len(row.tokens) - 1))
    tokens = list(row.tokens)
    tokens[place] = (tokens[place] + data.draw(st.integers(1, VOCABULARY - 1))) % VOCABULARY
    other = [*ROWS[:changed], TokenSequence(tuple(tokens), row.prompt_length), *ROWS[changed + 1 :]]
    counts = [row.completion_length for row in ROWS]
    before, after = policy(ROWS).logprob.split(counts), policy(other).logprob.split(counts)
    for index, (one, two) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, two) == (index != changed), index


def test_the_rows_of_a_prompt_share_it_and_the_last_token_is_not_read() -> None:
    group = drawn(3, (20,), (5, 5, 9))
    laid = pack(group)
    assert len(laid.tokens) == 20 + 4 + 4 + 8
    assert laid.targets.tolist() == [token for row in group for token in row.tokens[20:]]
    assert int(laid.positions.max()) == 20 + 9 - 2


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30), st.booleans()), min_size=1, max_size=20), st.integers(1, 60))
@settings(max_examples=60)
def test_packs_hold_every_row_once_within_the_budget_and_a_row_beyond_it_by_itself(
    lengths: list[tuple[int, int, bool]], most: int
) -> None:
    rows = [
        TokenSequence((*([1] if shared else [2 + index]), *([7] * (prompt - 1)), *([3] * completion)), prompt)
        for index, (prompt, completion, shared) in enumerate(lengths)
    ]
    for packed in (True, False):
        passes = packs(rows, most, packed=packed)
        assert sorted(index for part in passes for index in part) == list(range(len(rows)))
        for part in passes:
            members = [rows[index] for index in part]
            size = len(pack(members).tokens) if packed else len(part) * max(len(row.tokens) for row in members)
            assert size <= most or len(part) == 1
        largest = max(range(len(rows)), key=lambda index: len(rows[index].tokens))
        if len(rows[largest].tokens) > most:
            assert len(passes[0]) == 1
        assert packs(rows, most, packed=packed) == passes


def test_what_leaks_from_row_to_row_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial tells: with an attention that sees the row before, and with one that refuses what it is handed."""

    def leaking(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **more: Any) -> tuple[Tensor, None]:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2), None

    def refusing(*arguments: Any, **more: Any) -> tuple[Tensor, None]:
        return packed_attention(*arguments, **more, softcap=1.0)

    assert can_be_packed(random_model(SHAPE))
    from transformers import AttentionInterface

    monkeypatch.setattr(packing, "register", lambda: None)
    for instead in (leaking, refusing):
        AttentionInterface.register(attention.PACKED, instead)
        module = random_model(SHAPE)
        assert not can_be_packed(module)
        assert Policy(module)(ROWS).logprob.isfinite().all()  # padded, and right
    monkeypatch.undo()
    assert can_be_packed(random_model(SHAPE))


@pytest.mark.parametrize("shape", [SHAPE, WINDOWED], ids=["causal", "a window in one layer"])
def test_segments_longer_than_any_mask_are_the_same_too(shape: Qwen2Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    module, weights = random_model(shape), torch.ones(sum(row.completion_length for row in ROWS))
    logprob, gradient = asked(module, ROWS, weights, packed=True)
    monkeypatch.setattr(attention, "MASKED_QUERIES", 3)
    other, its_gradient = asked(module, ROWS, weights, packed=True)
    assert torch.allclose(logprob, other, atol=1e-5)
    for name, value in gradient.items():
        assert torch.allclose(value, its_gradient[name], atol=1e-5 * max(1.0, float(value.abs().max()))), name


def test_a_pack_leaves_the_module_with_its_own_attention() -> None:
    module = random_model(SHAPE)
    before = module.config._attn_implementation
    Policy(module, packed=True)(ROWS)
    assert module.config._attn_implementation == before


@pytest.mark.parametrize(
    "policy",
    [
        GenerationPolicy(12),
        GenerationPolicy(12, temperature=0.7),
        GenerationPolicy(12, top_k=3),
        GenerationPolicy(12, top_p=0.6),
        GenerationPolicy(12, repetition_penalty=1.3),
        GenerationPolicy(12, temperature=1.4, top_p=0.9, top_k=5, repetition_penalty=1.1),
    ],
    ids=["plain", "temperature", "top-k", "top-p", "penalty", "all of them"],
)
def test_on_weights_that_do_not_move_the_ratio_is_one_to_the_bit(policy: GenerationPolicy) -> None:
    """Whatever drew the tokens: behaviour, proximal and trained log-probabilities are the same numbers."""
    module = random_model(SHAPE)
    masters = Masters(module, OptimiserSettings(learning_rate=0.0))
    sampler, rows = SeededSampler(policy), []
    for seed in range(4):
        tokens = [5, 9, 2]
        for _ in range(policy.max_tokens):
            with torch.no_grad():
                logits = module(torch.tensor([tokens]), use_cache=False).logits[0, -1:].float()
            at = np.array([seed], np.uint64), np.array([len(tokens) - 1], np.uint32)
            tokens.append(int(sampler.sample(logits, *at, [tokens])[0]))
        rows.append(TokenSequence(tuple(tokens), 3))
    behaviour = masters.policy(rows, temperature=policy.temperature).logprob
    chosen = GrpoSettings(epochs=2, minibatches=1, kl_coefficient=0.0)
    rollouts = tuple(
        Rollout(row, float(index % 2), bool(index % 2), part.numpy())
        for index, (row, part) in enumerate(zip(rows, behaviour.split(policy.max_tokens), strict=True))
    )
    seen = update(masters, [RolloutGroup("g", rollouts)], chosen, window=0, temperature=policy.temperature)
    assert (seen.importance_mean, seen.clip_share, seen.kl_behaviour) == (1.0, 0.0, 0.0)
    trained = masters.policy(rows, WeightedTokens(torch.ones(len(behaviour))), temperature=policy.temperature)
    assert torch.equal(trained.logprob, behaviour)


@pytest.mark.parametrize("packed", [True, False])
def test_layers_that_compute_in_bfloat16_leave_masters_head_and_ratio_as_they_are(packed: bool) -> None:
    module = random_model(dataclasses.replace(SHAPE, spread=0.05))
    wide, narrow = Policy(module, packed=packed), Policy(module, packed=packed, compute="bfloat16")
    weights = torch.randn(sum(row.completion_length for row in ROWS), generator=torch.Generator().manual_seed(5))
    exact, near = wide(ROWS, WeightedTokens(weights)), narrow(ROWS, WeightedTokens(weights))
    assert torch.equal(near.logprob, narrow(ROWS).logprob)
    assert near.logprob.dtype is torch.float32
    assert not torch.equal(near.logprob, exact.logprob)
    assert torch.allclose(near.logprob, exact.logprob, atol=0.02)
    exact.loss.backward()
    wanted = gradients(module)
    near.loss.backward()
    for name, value in gradients(module).items():
        assert value.dtype is torch.float32
        assert torch.linalg.vector_norm(value - wanted[name]) < 0.05 * torch.linalg.vector_norm(wanted[name]) + 1e-4, name


@pytest.mark.heavy
def test_sixteen_thousand_tokens_are_the_same_packed_and_alone() -> None:
    module = random_model(dataclasses.replace(SHAPE, layers=1, heads=1, key_value_heads=1, context=16_384))
    rows = drawn(7, (300,), (9_000, 5_000, 2_000)) + drawn(8, (16_000,), (380,))
    weights = torch.randn(sum(row.completion_length for row in rows), generator=torch.Generator().manual_seed(5))
    logprob, gradient = asked(module, rows, weights, packed=True)
    other, its_gradient = asked(module, rows, weights, packed=False)
    assert torch.allclose(logprob, other, atol=1e-5)
    for name, value in gradient.items():
        assert torch.allclose(value, its_gradient[name], atol=1e-5 * max(1.0, float(value.abs().max()))), name
