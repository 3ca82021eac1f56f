"""The dry step runs the largest pass of an update, says what to lower where it does not fit, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grail_core.errors import OutOfMemoryError
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.dry_step import dry_step
from grail_trainer.learning.optimiser import Masters
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model


def masters() -> Masters:
    return Masters(random_model(Qwen2Shape(64, hidden=16, heads=2, tied=True)), OptimiserSettings())


@pytest.mark.parametrize(("budget", "rows"), [(1, 1), (24, 1), (60, 2), (240, 10)])
def test_it_is_as_large_as_the_budget_allows_and_one_rollout_at_least(
    monkeypatch: pytest.MonkeyPatch, budget: int, rows: int
) -> None:
    model, seen = masters(), list[list[int]]()
    forward = model.policy.forward

    def watched(batch: Any, *arguments: Any, **options: Any) -> Any:
        seen.append([len(row.tokens) for row in batch])
        return forward(batch, *arguments, **options)

    monkeypatch.setattr(model.policy, "forward", watched)
    assert dry_step(model, prompt_length=10, longest=24, tokens_per_pass=budget) == 24 * rows
    assert seen == [[24] * rows]


def test_weights_moments_counters_and_gradients_are_what_they_were() -> None:
    model = masters()
    before = model.tensors()
    dry_step(model, prompt_length=10, longest=24, tokens_per_pass=100)
    after = model.tensors()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_every_weight_has_a_gradient_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass without a backward pass would find nothing out."""
    model, norms = masters(), list[float]()
    monkeypatch.setattr(model, "zero_gradients", lambda: norms.extend(float(p.grad.norm()) for p in model.module.parameters()))
    dry_step(model, prompt_length=10, longest=24, tokens_per_pass=100)
    assert norms
    assert all(norm > 0 for norm in norms)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()],
)
def test_memory_that_does_not_suffice_is_told_with_what_to_lower(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    model = masters()
    before = model.tensors()

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(model.module.base_model, "forward", refuse)
    with pytest.raises(OutOfMemoryError, match="does not fit") as caught:
        dry_step(model, prompt_length=10, longest=24, tokens_per_pass=100)
    assert caught.value.exit_code == 20
    assert "--tokens-per-pass" in caught.value.hint
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.tensors().items())


def test_any_other_error_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = masters()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model.module.base_model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        dry_step(model, prompt_length=10, longest=24, tokens_per_pass=100)
