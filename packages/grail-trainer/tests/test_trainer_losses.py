"""Promises of the losses: each one's formula by hand, what weights and KL estimators do, and which settings are refused."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from grail_core.errors import ConfigurationError
from grail_trainer.hyper_parameters import CLIPS, GrpoSettings, ImportanceLevel, ImportanceMode, KlEstimator, LossKind
from grail_trainer.learning.advantages import group_advantages
from grail_trainer.learning.head import head_pass
from grail_trainer.learning.importance import importance
from grail_trainer.learning.losses import Batch, PolicyObjective, kl_to_reference, policy_loss
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.update import accumulate
from grail_trainer.learning.window_rows import WindowRows
from tooling.testing.given_logprobs import GivenLogprobs

PLAIN = GrpoSettings(kl_coefficient=0.0)


def tokens(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slopes(logprob: Tensor, batch: Batch, chosen: GrpoSettings) -> tuple[Tensor, Tensor]:
    """Loss and slope of each token."""
    trained = logprob.clone().requires_grad_()
    lost = policy_loss(trained, batch, chosen)
    lost.sum().backward()  # type: ignore[no-untyped-call]
    assert trained.grad is not None
    return lost.detach(), trained.grad


def batch_of(advantages: Tensor, proximal: Tensor | None, *lengths: int) -> Batch:
    return Batch(torch.tensor(lengths), advantages, torch.zeros_like(advantages), proximal)


def test_gspo_moves_all_tokens_of_a_completion_by_the_mean_of_their_log_ratios() -> None:
    """Zheng et al. 2025, equations 5 and 7: s = (∏ρ)^(1/n), slope of a token s · A / n; clipped or not as a whole."""
    chosen = dataclasses.replace(PLAIN, loss="gspo", clip_low=0.1, clip_high=0.1)
    logs = tokens(0.3, -0.2, 0.05, 0.9, 0.1)
    lost, slope = slopes(logs, batch_of(tokens(2, 2, 2, 2, 2), torch.zeros(5), 3, 2), chosen)
    inside = math.exp(0.15 / 3)
    assert lost.tolist() == pytest.approx([-2 * inside] * 3 + [-2 * 1.1] * 2)
    assert slope.tolist() == pytest.approx([-2 * inside] * 3 + [0, 0])  # three tokens lose it, each moves a third
    lost, slope = slopes(logs, batch_of(tokens(-2, -2, -2, -2, -2), torch.zeros(5), 3, 2), chosen)
    assert lost.tolist() == pytest.approx([2 * inside] * 3 + [2 * math.exp(0.5)] * 2)
    assert (slope > 0).all()


def test_cispo_weighs_every_token_and_stops_pushing_none() -> None:
    """MiniMax-M1, equations 4 and 5: the slope is −min(ρ, 1 + high) · A, beyond the clip too."""
    chosen = dataclasses.replace(PLAIN, loss="cispo", clip_high=0.5)
    logs = tokens(math.log(3), math.log(1.2), math.log(0.1))
    for advantage in (1.0, -1.0):
        _, slope = slopes(logs, batch_of(advantage * torch.ones(3).double(), torch.zeros(3), 3), chosen)
        assert slope.tolist() == pytest.approx([-advantage * 1.5, -advantage * 1.2, -advantage * 0.1])


def test_without_a_proximal_policy_every_loss_is_the_policy_gradient() -> None:
    advantages = tokens(1.5, 1.5, 1.5, -0.5, -0.5)
    for kind in get_args(LossKind):
        chosen = dataclasses.replace(PLAIN, loss=kind)
        _, slope = slopes(tokens(-1, -2, -3, -1, -4), batch_of(advantages, None, 3, 2), chosen)
        assert slope.tolist() == pytest.approx((-advantages).tolist()), kind


def test_a_clip_is_what_it_is_set_to_and_else_the_losss_own() -> None:
    for kind, own in CLIPS.items():
        assert GrpoSettings(loss=kind).clip == own
        assert GrpoSettings(loss=kind, clip_low=0.15).clip == (0.15, own[1])
        assert GrpoSettings(loss=kind, clip_high=0.4).clip == (own[0], 0.4)
    chosen = GrpoSettings(clip_low=0.1, clip_high=0.5)
    for moved, advantage, pushed in ((0.45, 1, True), (0.55, 1, False), (-0.08, -1, True), (-0.12, -1, False)):
        _, slope = slopes(tokens(math.log(1 + moved)), batch_of(tokens(advantage), torch.zeros(1), 1), chosen)
        assert bool(slope.item()) is pushed


WEIGHTS = {
    ("token", "truncate"): ([2, 0.5, 1.5, 1.2], [True, False, False, False]),
    ("token", "mask"): ([0, 0.5, 1.5, 1.2], [True, False, False, False]),
    ("sequence", "truncate"): ([1.5, 1.5, 1.8, 1.8], [False, False, False, False]),
    ("sequence", "mask"): ([1.5, 1.5, 1.8, 1.8], [False, False, False, False]),
}


@pytest.mark.parametrize(("level", "mode"), WEIGHTS)
def test_weights_are_ratios_of_tokens_or_completions_and_end_at_the_cap(level: ImportanceLevel, mode: ImportanceMode) -> None:
    chosen = dataclasses.replace(PLAIN, importance_level=level, importance_mode=mode)
    behaviour, lengths = torch.full((4,), -1.0, dtype=torch.float64), torch.tensor([2, 2])
    ratios = tokens(3, 0.5, 1.5, 1.2)
    expected, capped = WEIGHTS[level, mode]
    for proximal in (behaviour + ratios.log(), None):  # None: the policy that is trained is the proximal one
        got = importance(behaviour + ratios.log(), proximal, behaviour, lengths, chosen)
        assert got.weight.tolist() == pytest.approx(expected)
        assert got.capped.tolist() == capped
    beyond = importance(behaviour + 400, None, behaviour, lengths, chosen)
    assert beyond.weight.tolist() == [2.0 if mode == "truncate" else 0.0] * 4
    assert beyond.capped.all()


@pytest.mark.parametrize("kind", get_args(LossKind))
@pytest.mark.parametrize(("level", "mode"), WEIGHTS)
@pytest.mark.parametrize("begun", [False, True])
def test_chunks_that_cut_completions_change_no_loss(
    kind: LossKind, level: ImportanceLevel, mode: ImportanceMode, begun: bool
) -> None:
    """The head works on as many tokens as fit its memory, 262 with a vocabulary of 32,000, wherever completions end."""
    chosen = GrpoSettings(loss=kind, importance_level=level, importance_mode=mode, importance_cap=1.2, entropy_bonus=0.01)
    generator = torch.Generator().manual_seed(3)
    hidden, weight, spread = (
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((12, 5), (9, 5), (3, 12))
    )
    hidden.requires_grad_()
    targets, lengths = torch.arange(12) % 9, torch.tensor([3, 1, 6, 2])
    now = head_pass(hidden, weight, targets).logprob
    batch = Batch(lengths, spread[0], now + 0.3 * spread[1], now + 0.1 * spread[2] if begun else None)
    objective = PolicyObjective(batch, chosen, torch.full((12,), 0.1, dtype=torch.float64), entropy_share=0.01)
    whole, *cut = (head_pass(hidden, weight, targets, objective, chunk_rows=rows).loss for rows in (12, 5, 1))
    assert whole is not None
    (wanted,) = torch.autograd.grad(whole, hidden)
    for loss in cut:
        assert loss is not None
        assert loss.item() == pytest.approx(whole.item(), rel=1e-12)
        (got,) = torch.autograd.grad(loss, hidden)
        assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", get_args(LossKind))
def test_weights_multiply_what_the_policy_loses_and_neither_kl_nor_entropy(kind: LossKind) -> None:
    chosen = GrpoSettings(loss=kind, importance_cap=100)
    logs, entropy, behaviour = tokens(-1, -2, -1.5), tokens(1, 1, 1), tokens(-2, -2.5, -1.5)
    advantage, reference, lengths = tokens(1, 1, -1), tokens(-1.2, -2.2, -1.2), torch.tensor([2, 1])
    one = torch.ones(3).double()

    def lost(at: Tensor) -> Tensor:
        batch = Batch(lengths, advantage, at, logs - 0.1, reference)
        return PolicyObjective(batch, chosen, one, 0.5, 0.25).loss(logs, entropy, slice(0, 3))

    plain = lost(logs - 0.1)  # every weight is 1
    rest = 0.5 * kl_to_reference(logs, reference, "k3") - 0.25 * entropy
    weight = torch.exp(logs - 0.1 - behaviour)
    assert torch.allclose(lost(behaviour) - rest, weight * (plain - rest))


def test_each_estimator_has_the_mean_and_the_gradient_that_is_said_of_it() -> None:
    """Exact, over every token of a small vocabulary: with p trained and q the reference."""
    torch.manual_seed(0)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(7, dtype=torch.float64).log_softmax(0)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits)[0]

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one.exp() * (one - other)).sum()

    trained = logits.log_softmax(0)
    drawn = trained.detach().exp()
    forward, backward = gradient(kl(trained, reference)), gradient(kl(reference, logits.log_softmax(0)))
    expected: dict[KlEstimator, Tensor] = {"k1": torch.zeros(7).double(), "k2": forward, "k3": backward}
    for estimator, wanted in expected.items():
        one_token = kl_to_reference(logits.log_softmax(0), reference, estimator)
        mean = float((drawn * one_token.detach()).sum())
        if estimator != "k2":
            assert mean == pytest.approx(float(kl(trained, reference).detach()))
        assert estimator == "k1" or (one_token >= 0).all()
        assert torch.allclose(gradient((drawn * one_token).sum()), wanted, atol=1e-12), estimator


def test_leave_one_out_and_maxrl_by_hand() -> None:
    assert group_advantages([1, 0, 0, 1], "rloo").tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert group_advantages([1, 0, 0, 0], "rloo").tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert group_advantages([1, 0, 0, 0], "maxrl").tolist() == pytest.approx([3, -1, -1, -1])
    assert group_advantages([1, 1, 1, 0], "maxrl").tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1])
    rare = group_advantages([1] + [0] * 15, "maxrl")
    assert rare.max() == pytest.approx(15)  # n − 1, however small the rewards
    assert group_advantages([1e-3] + [0] * 15, "maxrl").tolist() == pytest.approx(rare.tolist())
    assert group_advantages([-5, 0, 1, 1], "maxrl").tolist() == pytest.approx([-1, -1, 1, 1])
    assert not group_advantages([-2, -1, -3, 0], "maxrl").any()


def group_with_a_truncated_rollout() -> RolloutGroup:
    rows = [TokenSequence((1, *range(2, 2 + n)), 1) for n in (2, 3, 4)]
    return RolloutGroup(
        "g",
        tuple(
            Rollout(row, float(i), i > 1, np.full(row.completion_length, -1, np.float32), truncated=i == 2)
            for i, row in enumerate(rows)
        ),
    )


@pytest.mark.parametrize("kind", get_args(LossKind))
def test_a_truncated_completion_stays_in_its_groups_advantages_and_leaves_the_loss_only_where_asked(kind: LossKind) -> None:
    group = group_with_a_truncated_rollout()
    seen = {}
    for masked in (False, True):
        chosen = dataclasses.replace(PLAIN, loss=kind, mask_truncated=masked, entropy_bonus=0.1)
        rows = WindowRows.of([group], chosen)
        assert rows.learned([0]) == ([0, 1] if masked else [0, 1, 2])
        counts = rows.counts([0], 8)
        assert (counts.rollouts, counts.tokens) == (3, 5 if masked else 9)
        policy = GivenLogprobs(rows.rows, torch.full((9,), -1.0), torch.ones(9))
        accumulate(policy, rows, rows.learned([0]), counts, chosen, begun=False)
        assert policy.logprob.grad is not None
        assert policy.entropy.grad is not None
        assert bool(policy.logprob.grad[5:].any()) is not masked
        assert bool(policy.entropy.grad[5:].any()) is not masked
        seen[masked] = rows.advantage, policy.logprob.grad[:5]
    assert torch.equal(seen[True][0], seen[False][0])
    scale = 9 / 5 if kind in ("dapo", "bnpo", "cispo") else 1  # a mean of tokens is over those that count
    assert torch.allclose(seen[True][1], scale * seen[False][1])


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"loss": "cispo", "dual_clip": 3.0}, "--dual-clip"),
        ({"kl_coefficient": 0.0, "kl_target": 0.04}, "--kl-coefficient"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"importance_cap": 0.0}, "importance_cap"),
        ({"entropy_bonus": math.inf}, "entropy_bonus"),
        ({"kl_target": math.nan}, "kl_target"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        GrpoSettings(**wrong)
    assert refused.value.where == where


def test_rows_of_arrays_that_may_not_be_written_to_are_taken_without_a_warning_and_without_sharing() -> None:
    """A rollout of another rank lies in the bytes of a message."""
    group = group_with_a_truncated_rollout()
    for rollout in group.rollouts:
        rollout.behaviour.flags.writeable = False
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else torch tells of it once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = WindowRows.of([group], PLAIN)
    finally:
        torch.set_warn_always(before)
    rows.behaviour += 1
    assert all((rollout.behaviour == -1).all() for rollout in group.rollouts)
