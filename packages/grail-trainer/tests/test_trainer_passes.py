"""Promises of an update: no pass more than it needs, statistics of all its passes, and a KL coefficient that follows a rule."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grail_trainer.hyper_parameters import GrpoSettings, OptimiserSettings
from grail_trainer.learning.kl_controller import COEFFICIENT, KlController
from grail_trainer.learning.optimiser import Masters, state_digest
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import accumulate, planned_steps, update
from grail_trainer.learning.window_rows import WindowRows
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 19
PLAIN = GrpoSettings(kl_coefficient=0.0, epochs=1, minibatches=1)


def module_of(seed: int = 0) -> Any:
    return random_model(Qwen2Shape(VOCABULARY, hidden=16, heads=2, layers=1, tied=True), seed)


def masters_of(seed: int = 0, learning_rate: float = 1e-2) -> Masters:
    return Masters(module_of(seed), OptimiserSettings(learning_rate=learning_rate, warmup_steps=0))


def groups_of(module: Any, count: int = 4, size: int = 3, seed: int = 0) -> list[RolloutGroup]:
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        rollouts = []
        for index in range(size):
            prompt, completion = int(rng.integers(2, 5)), int(rng.integers(1, 7))
            row = TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, prompt + completion))), prompt)
            drawn = Policy(module)([row]).logprob.numpy() + rng.normal(0, 0.3, completion).astype(np.float32)
            rollouts.append(Rollout(row, float(rng.random()), False, drawn.astype(np.float32), truncated=index == 0))
        groups.append(RolloutGroup(str(number), tuple(rollouts)))
    return groups


class Passes:
    """The number of rows of each pass of a policy."""

    def __init__(self, policy: Policy) -> None:
        self.rows: list[int] = []
        policy.register_forward_pre_hook(lambda module, arguments: self.rows.append(len(arguments[0])))


def test_one_epoch_of_one_step_makes_no_pass_but_its_own() -> None:
    masters = masters_of()
    passes = Passes(masters.policy)
    update(masters, groups_of(masters.module), PLAIN, window=0)
    assert passes.rows == [12]


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 2), (3, 1), (2, 4)])
def test_before_the_first_step_only_the_rows_of_later_steps_are_measured_and_none_twice(epochs: int, minibatches: int) -> None:
    masters = masters_of()
    passes = Passes(masters.policy)
    chosen = dataclasses.replace(PLAIN, epochs=epochs, minibatches=minibatches)
    update(masters, groups_of(masters.module), chosen, window=0)
    of_a_step = 12 // minibatches
    before = [12 - of_a_step] if minibatches > 1 else []
    assert passes.rows == before + [of_a_step] * minibatches * epochs


def test_what_the_first_step_gives_itself_is_what_a_pass_before_it_would_have_given() -> None:
    """Gradient by gradient, and for the epochs after it."""
    chosen = GrpoSettings(kl_coefficient=0.0, epochs=2, minibatches=2, importance_level="sequence", tokens_per_pass=30)
    straight, measured = masters_of(), masters_of()
    groups = groups_of(straight.module)
    update(straight, groups, chosen, window=3)
    rows = WindowRows.of(groups, chosen)
    everything = range(len(rows.rows))
    rows.keep_proximal(everything, measured.policy(rows.sequences(everything)).logprob)
    for step in planned_steps(len(groups), chosen, 3):
        accumulate(measured.policy, rows, rows.learned(step), rows.counts(step, 1), chosen, begun=True)
        measured.step(largest_norm=1.0)
    before = masters_of().tensors()
    moved = 0.0
    for name, tensor in straight.tensors().items():
        if name.startswith("master."):
            moved = max(moved, float((tensor - before[name]).abs().max()))
            assert torch.allclose(tensor, measured.tensors()[name], atol=2e-4), name
    assert moved > 0.02


def test_statistics_say_what_an_update_did_whatever_its_passes() -> None:
    seen = []
    for tokens in (1, 40, 10**6):
        masters, reference = masters_of(), module_of(1)
        groups = groups_of(masters.module)
        chosen = GrpoSettings(epochs=1, minibatches=2, kl_coefficient=0.01, importance_cap=1.2, tokens_per_pass=tokens)
        seen.append(update(masters, groups, chosen, window=0, reference=reference))
    one = seen[0]
    for other in seen[1:]:
        for field in dataclasses.fields(one):
            if not field.name.startswith("_"):
                assert getattr(other, field.name) == pytest.approx(getattr(one, field.name), rel=1e-3, abs=1e-5), field.name
    lengths = [rollout.row.completion_length for group in groups for rollout in group.rollouts]
    assert one.tokens == sum(lengths)
    assert one.length_mean == pytest.approx(float(np.mean(lengths)))
    assert one.truncated_share == pytest.approx(1 / 3)
    assert one.clip_share == pytest.approx(one.clip_share_low + one.clip_share_high)
    assert 0 < one.entropy_least <= one.entropy
    assert one.gradient_norm_max >= one.gradient_norm > 0
    assert one.importance_max == pytest.approx(1.2)
    assert 0 < one.importance_capped_share < 1
    assert one.kl_reference > 0.01
    assert one.kl_coefficient == 0.01


def test_the_first_steps_numbers_by_hand() -> None:
    masters, reference = masters_of(learning_rate=0.0), module_of(1)
    groups = groups_of(masters.module)
    rows = [rollout.row for group in groups for rollout in group.rollouts]
    now, held = Policy(masters.module)(rows), Policy(reference)(rows)
    drawn = torch.from_numpy(np.concatenate([rollout.behaviour for group in groups for rollout in group.rollouts]))
    got = update(masters, groups, dataclasses.replace(PLAIN, kl_coefficient=0.01), window=0, reference=reference)
    gap, behind = held.logprob - now.logprob, now.logprob - drawn
    assert got.ratio_mean == pytest.approx(1)
    assert got.clip_share == 0
    assert got.entropy == got.entropy_least == pytest.approx(now.entropy.mean().item(), rel=1e-5)
    assert got.kl_reference == pytest.approx((gap.exp() - 1 - gap).mean().item(), rel=1e-4)
    assert got.kl_behaviour == pytest.approx((behind.exp() - 1 - behind).mean().item(), rel=1e-4)
    assert got.importance_mean == pytest.approx(behind.exp().clamp(max=2).mean().item(), rel=1e-4)
    assert got.importance_capped_share == pytest.approx((behind.exp() > 2).float().mean().item())


def test_a_window_of_masked_rollouts_alone_changes_nothing() -> None:
    masters = masters_of()
    groups = [
        dataclasses.replace(group, rollouts=tuple(dataclasses.replace(one, truncated=True) for one in group.rollouts))
        for group in groups_of(masters.module)
    ]
    before = state_digest(masters.tensors())
    statistics = update(masters, groups, dataclasses.replace(PLAIN, mask_truncated=True), window=0)
    assert (statistics.steps, statistics.rollouts, statistics.truncated_share) == (0, 12, 1.0)
    assert state_digest(masters.tensors()) == before


@pytest.mark.parametrize(
    ("coefficient", "measured", "after"),
    [
        (0.01, 0.049, 0.015),  # above 0.04 · 1.2
        (0.01, 0.0479, 0.01),
        (0.01, 0.0321, 0.01),
        (0.03, 0.0319, 0.02),  # below 0.04 · 0.8
        (0.15, 5.0, 0.2),
        (0.0012, 0.0, 0.001),
        (0.01, math.nan, 0.01),
        (0.01, math.inf, 0.01),
    ],
)
def test_the_coefficient_moves_by_its_rule_and_within_its_bounds(coefficient: float, measured: float, after: float) -> None:
    assert KlController(0.04).next(coefficient, measured) == pytest.approx(after)


def test_an_update_moves_the_coefficient_that_the_next_one_uses(tmp_path: Path) -> None:
    masters, reference = masters_of(learning_rate=0.0), module_of(1)
    groups = groups_of(masters.module)
    chosen = dataclasses.replace(PLAIN, kl_coefficient=0.01, kl_target=0.04)  # two random models are further apart than that
    used = []
    for window in range(3):
        used.append(update(masters, groups, chosen, window=window, reference=reference).kl_coefficient)
        masters.save(tmp_path / "state")
        masters = masters_of(learning_rate=0.0)  # as after a restart
        masters.resume(tmp_path / "state")
    assert used == pytest.approx([0.01, 0.015, 0.0225])
    assert masters.scalars[COEFFICIENT] == pytest.approx(0.03375)
    update(masters, groups, dataclasses.replace(chosen, kl_target=1e3), window=3, reference=reference)
    assert masters.scalars[COEFFICIENT] == pytest.approx(0.0225)
    fixed = update(masters, groups, dataclasses.replace(chosen, kl_target=0.0), window=4, reference=reference)
    assert fixed.kl_coefficient == 0.01
    assert COEFFICIENT not in masters.scalars


def test_a_coefficient_that_was_moved_is_the_gradients_too() -> None:
    """The KL term of an update is weighed with the coefficient of the masters, not with that of the settings."""
    norms = []
    for coefficient in (0.001, 0.2):
        masters = masters_of(learning_rate=0.0)
        masters.scalars[COEFFICIENT] = coefficient
        chosen = dataclasses.replace(PLAIN, kl_coefficient=0.01, kl_target=0.04)
        norms.append(update(masters, groups_of(masters.module), chosen, window=0, reference=module_of(1)).gradient_norm)
    assert abs(norms[0] - norms[1]) > 0.01


def test_an_update_of_refused_steps_alone_leaves_the_coefficient() -> None:
    masters = masters_of()
    groups = groups_of(masters.module)
    with torch.no_grad():
        next(iter(masters.module.parameters())).fill_(math.nan)
    chosen = dataclasses.replace(PLAIN, kl_coefficient=0.01, kl_target=0.04)
    statistics = update(masters, groups, chosen, window=0, reference=module_of(1))
    assert statistics.steps == statistics.steps_refused == 1
    assert masters.scalars[COEFFICIENT] == 0.01
