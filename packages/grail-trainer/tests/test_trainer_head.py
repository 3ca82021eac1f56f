"""Promises of the head: the plain way's values and gradients from one chunk of logits, finite at both ends of entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grail_trainer.learning.head import HeadResult, head_pass
from grail_trainer.learning.objective import Objective
from tooling.testing.weighted_tokens import WeightedTokens

N, WIDTH, VOCABULARY = 9, 6, 50


def leaf(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


class Case:
    """Hidden states, a head and targets; the plain way is autograd over all logits at once."""

    def __init__(self, *, bias: bool = False, dtype: torch.dtype = torch.float64, spread: float = 1.0) -> None:
        self.hidden, self.weight = leaf(N, WIDTH, seed=1, dtype=dtype), leaf(VOCABULARY, WIDTH, seed=2, dtype=dtype)
        with torch.no_grad():
            self.weight.mul_(spread)
        self.bias = leaf(VOCABULARY, seed=3, dtype=dtype) if bias else None
        self.targets = torch.arange(N) * 7 % VOCABULARY

    def head(self, objective: Objective | None, temperature: float = 1.0, chunk_rows: int | None = 4) -> HeadResult:
        return head_pass(
            self.hidden, self.weight, self.targets, objective, bias=self.bias, temperature=temperature, chunk_rows=chunk_rows
        )

    def plain(self, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        logits = self.hidden @ self.weight.t() + (0 if self.bias is None else self.bias)
        logs = (logits / temperature).log_softmax(-1)
        return logs.gather(1, self.targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)

    def gradients(self, loss: Tensor | None) -> list[Tensor]:
        leaves = [self.hidden, self.weight] + ([] if self.bias is None else [self.bias])
        assert loss is not None
        return list(torch.autograd.grad(loss, leaves))


def numbers(seed: int) -> Tensor:
    return leaf(N, seed=seed).detach()


@pytest.mark.parametrize("elementwise", [True, False])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_all_logits_at_once(
    elementwise: bool, with_entropy: bool, bias: bool, temperature: float
) -> None:
    case = Case(bias=bias)
    objective = WeightedTokens(numbers(4), numbers(5) if with_entropy else None, elementwise)
    out = case.head(objective, temperature)
    logprob, entropy = case.plain(temperature)
    loss = objective.loss(logprob, entropy, slice(0, N)).sum()
    assert out.loss is not None
    for one, other in ((out.logprob, logprob), (out.entropy, entropy), (out.loss, loss)):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(case.gradients(2 * out.loss), case.gradients(2 * loss), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-12)


@given(st.integers(1, N + 1), st.booleans())
@settings(max_examples=12)
def test_chunks_change_nothing_but_rounding(chunk: int, elementwise: bool) -> None:
    case, objective = Case(dtype=torch.float32), WeightedTokens(numbers(4).float(), numbers(5).float(), elementwise)
    one, other = case.head(objective, chunk_rows=chunk), case.head(objective, chunk_rows=N)
    assert torch.allclose(one.logprob, other.logprob, atol=1e-6)
    for got, wanted in zip(case.gradients(one.loss), case.gradients(other.loss), strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("chunk", [2, N])
def test_log_probabilities_with_and_without_an_objective_are_the_same_to_the_bit(chunk: int) -> None:
    case = Case(dtype=torch.float32)
    alone = case.head(None, 0.7, chunk)
    for elementwise in (True, False):
        learned = case.head(WeightedTokens(numbers(4).float(), None, elementwise), 0.7, chunk)
        assert torch.equal(alone.logprob, learned.logprob)
        assert torch.equal(alone.entropy, learned.entropy)
    assert alone.loss is None


@pytest.mark.parametrize("gap", [0.0, 1.0, 8.0, 16.0, 17.5, 30.0, 100.0, 1e4, 1e30])
@pytest.mark.parametrize("elementwise", [True, False])
def test_loss_and_gradient_are_finite_and_right_down_to_an_entropy_of_nothing(gap: float, elementwise: bool) -> None:
    """One token is `gap` nats likelier than the 49 others: entropies from log 50 over 1e-6 (gap 17.5) down to 0."""
    hidden = torch.ones(2, 1, requires_grad=True)
    weight = torch.zeros(VOCABULARY, 1)
    weight[3] = gap
    weight.requires_grad_()
    targets = torch.tensor([3, 5])  # the likely one, and one of the others
    objective = WeightedTokens(torch.tensor([0.5, -0.25]), torch.tensor([0.1, 0.2]), elementwise)
    out = head_pass(hidden, weight, targets, objective, chunk_rows=1)
    assert out.loss is not None
    out.loss.backward()  # type: ignore[no-untyped-call]
    p = 1 / (1 + 49 * math.exp(-gap))
    q = math.exp(-gap) * p
    entropy = -p * math.log(p) - (49 * q * math.log(q) if q else 0.0)
    assert out.logprob.tolist() == pytest.approx([math.log(p), math.log(p) - gap], rel=1e-5, abs=1e-6)
    assert out.entropy.tolist() == pytest.approx([entropy, entropy], rel=1e-5, abs=2e-6)
    assert (out.entropy >= 0).all()
    on_entropy = -p * (math.log(p) + entropy)
    likely = 0.5 * (1 - p) - 0.25 * -p + 0.3 * on_entropy
    assert weight.grad is not None
    assert hidden.grad is not None
    assert weight.grad[3].item() == pytest.approx(likely, rel=1e-4, abs=2e-6)
    assert weight.grad.isfinite().all()
    assert hidden.grad.isfinite().all()


def test_gradients_are_made_only_for_what_wants_them() -> None:
    case, objective = Case(), WeightedTokens(numbers(4))
    wanted = case.gradients(case.head(objective).loss)
    case.weight.requires_grad_(False)  # as where only adapters are trained
    out = case.head(objective)
    assert out.loss is not None
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert case.weight.grad is None
    assert case.hidden.grad is not None
    assert torch.equal(case.hidden.grad, wanted[0])


def test_gradients_add_up_over_passes_and_are_handed_out_once() -> None:
    case, objective = Case(), WeightedTokens(numbers(4), numbers(5))
    once = case.gradients(case.head(objective).loss)
    for _ in range(2):
        loss = case.head(objective).loss
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
    for leaf_, gradient in zip((case.hidden, case.weight), once, strict=True):
        assert leaf_.grad is not None
        assert torch.allclose(leaf_.grad, 2 * gradient)
    with pytest.raises(RuntimeError, match="another"):
        loss.backward()  # type: ignore[union-attr]


def test_a_loss_without_a_slope_and_a_pass_without_positions_give_zeros() -> None:
    case = Case()

    class Constant(WeightedTokens):
        def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
            return self.on_logprob[tokens]

    assert all((gradient == 0).all() for gradient in case.gradients(case.head(Constant(numbers(4))).loss))
    empty = head_pass(case.hidden[:0], case.weight, case.targets[:0], WeightedTokens(numbers(4)[:0]))
    assert all((gradient == 0).all() for gradient in case.gradients(empty.loss))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_of_a_narrow_type_are_worked_on_in_float32(dtype: Any) -> None:
    case = Case(dtype=torch.float32)
    narrow = case.hidden.detach().to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    objective = WeightedTokens(numbers(4).float(), numbers(5).float())
    one, other = (head_pass(hidden, case.weight, case.targets, objective) for hidden in (narrow, wide))
    assert torch.equal(one.logprob, other.logprob)
    assert one.loss is not None
    assert other.loss is not None
    (one.loss + other.loss).backward()  # type: ignore[no-untyped-call]
    assert narrow.grad is not None
    assert wide.grad is not None
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


def test_what_is_no_number_is_not_hidden() -> None:
    case = Case(dtype=torch.float32)
    with torch.no_grad():
        case.hidden[2, 0] = math.nan
    out = case.head(WeightedTokens(numbers(4).float(), numbers(5).float()))
    assert out.loss is not None
    assert out.loss.isnan()
    assert out.logprob.isnan().tolist() == [row == 2 for row in range(N)]
