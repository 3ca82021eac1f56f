"""An optimiser step is one thing: however its rows are split into passes and over processes, it has one gradient.

In every token's log-probability and entropy, in float64 and to 1e-6 relative; `heavy`: in a model's weights too.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings, ImportanceLevel, ImportanceMode, KlEstimator, LossKind
from grail_trainer.learning.policy import Policy
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence
from grail_trainer.learning.statistics import StepSums
from grail_trainer.learning.update import accumulate
from grail_trainer.learning.window_rows import WindowRows
from tooling.testing.given_logprobs import GivenLogprobs
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, random_model

VOCABULARY = 19
LENGTHS = (3, 1, 7, 2, 5)
GROUPS = (0, 1)
TOKEN_LIMIT = 8
KINDS: tuple[LossKind, ...] = get_args(LossKind)

Split = tuple[tuple[int, ...], ...]


def splits(items: Sequence[int]) -> Iterator[Split]:
    """Every way to put the items into sets."""
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for split in splits(rest):
        yield ((first,), *split)
        for place in range(len(split)):
            yield (*split[:place], (first, *split[place]), *split[place + 1 :])


SPLITS: tuple[Split, ...] = tuple(splits(range(len(LENGTHS))))


@dataclasses.dataclass(frozen=True)
class Case:
    settings: GrpoSettings
    begun: bool  # is the proximal policy another one?

    @property
    def name(self) -> str:
        s = self.settings
        kl = s.kl_estimator if s.kl_coefficient else "no KL"
        return f"{s.loss} {s.importance_level} {s.importance_mode} {kl} {s.entropy_bonus} {self.begun}"


def cases(kind: LossKind) -> list[Case]:
    levels, modes = get_args(ImportanceLevel), get_args(ImportanceMode)
    kls: tuple[KlEstimator | None, ...] = (None, *get_args(KlEstimator))
    return [
        Case(
            GrpoSettings(
                loss=kind,
                clip_high=0.1 if kind == "gspo" else 0.0,  # so that some of five completions are inside it
                clip_low=0.1 if kind == "gspo" else 0.0,
                importance_level=level,
                importance_mode=mode,
                importance_cap=1.5,
                kl_coefficient=0.0 if kl is None else 0.3,
                kl_estimator=kl or "k3",
                entropy_bonus=bonus,
            ),
            begun,
        )
        for level, mode, kl, bonus, begun in itertools.product(levels, modes, kls, (0.0, 0.05), (False, True))
    ]


def shuffled(split: Split, seed: int) -> list[list[int]]:
    """The same sets, they and their members in another order."""
    rng = np.random.default_rng(seed)
    return [list(map(int, rng.permutation(split[place]))) for place in rng.permutation(len(split))]


class Step:
    """Five rollouts of two groups, and what policies near each other say of their tokens."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sequences = [TokenSequence(tuple(map(int, rng.integers(0, VOCABULARY, 3 + n))), 3) for n in LENGTHS]
        total = sum(LENGTHS)
        self.now = torch.from_numpy(rng.normal(-2, 1, total))
        self.entropy = torch.from_numpy(rng.uniform(0.1, 2, total))
        drawn = np.split((self.now.numpy() + rng.normal(0, 0.2, total)).astype(np.float32), np.cumsum(LENGTHS)[:-1])
        rollouts = [
            Rollout(row, float(reward), reward > 0.5, part)
            for row, reward, part in zip(sequences, rng.random(len(LENGTHS)), drawn, strict=True)
        ]
        self.groups = (RolloutGroup("0", tuple(rollouts[:3])), RolloutGroup("1", tuple(rollouts[3:])))
        self.proximal = (self.now + torch.from_numpy(rng.normal(0, 0.2, total))).float()
        self.reference = (self.now + torch.from_numpy(rng.normal(0, 0.5, total))).float()

    def rows(self, case: Case) -> WindowRows:
        rows = WindowRows.of(self.groups, case.settings)
        everything = range(len(LENGTHS))
        if case.begun:
            rows.keep_proximal(everything, self.proximal)
        if case.settings.kl_coefficient:
            rows.keep_reference(everything, self.reference)
        return rows

    def given(self) -> GivenLogprobs:
        return GivenLogprobs([rollout.row for group in self.groups for rollout in group.rollouts], self.now, self.entropy)


def gradient(policy: Policy) -> Tensor:
    """float64, of all parameters in one."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in policy.parameters()])


def of_step(step: Step, case: Case, policy: Policy, packs: Sequence[Sequence[int]]) -> tuple[Tensor, StepSums]:
    rows = step.rows(case)
    policy.zero_grad()
    sums = accumulate(
        policy,
        rows,
        rows.learned(GROUPS),
        rows.counts(GROUPS, TOKEN_LIMIT),
        case.settings,
        begun=case.begun,
        coefficient=case.settings.kl_coefficient,
        packs=packs,
    )
    return gradient(policy), sums


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def require_one_gradient(step: Step, case: Case, policy: Policy, some: Sequence[Split], seed: int) -> None:
    whole, sums = of_step(step, case, policy, [range(len(LENGTHS))])
    assert whole.abs().max() > 1e-3, case.name
    for split in some:
        other, other_sums = of_step(step, case, policy, shuffled(split, seed))
        assert apart(other, whole) < 1e-6, (case.name, split)
        assert torch.allclose(other_sums.sums(), sums.sums(), rtol=1e-6, atol=1e-9), (case.name, split)
        assert other_sums.importance_max == pytest.approx(sums.importance_max)


def test_there_are_as_many_splits_of_five_as_there_have_to_be() -> None:
    as_sets = {frozenset(frozenset(part) for part in split) for split in SPLITS}
    assert len(as_sets) == len(SPLITS) == 52  # Bell's number of 5
    assert all(sorted(itertools.chain(*split)) == list(range(5)) for split in SPLITS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_split_of_a_step_changes_its_gradient(kind: LossKind) -> None:
    """Every split of five rollouts, and every choice of weights, KL and entropy; not each with each, which is `heavy`."""
    step, policy = Step(), Step().given()
    chosen = itertools.cycle(SPLITS)
    for seed, case in enumerate(cases(kind)):
        require_one_gradient(step, case, policy, [next(chosen)], seed)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_no_split_of_a_step_changes_its_gradient_whatever_the_settings(kind: LossKind) -> None:
    step, policy = Step(1), Step(1).given()
    for case in cases(kind):
        for seed in range(2):
            require_one_gradient(step, case, policy, SPLITS, seed)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_no_split_of_a_step_changes_the_gradient_of_a_models_weights(kind: LossKind) -> None:
    step = Step(2)
    module: Any = random_model(Qwen2Shape(VOCABULARY, hidden=8, layers=1, heads=2, key_value_heads=1)).double()
    for number, case in enumerate(cases(kind)):
        if number % 8 in (3, 6):
            require_one_gradient(step, case, Policy(module), SPLITS, number)


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_pass_averages_by_itself_is_another_gradient(kind: LossKind) -> None:
    """The mistake that the tests above are there for, made on purpose: they would see it."""
    step, policy = Step(), Step().given()
    case = Case(GrpoSettings(loss=kind, kl_coefficient=0.0), begun=True)
    whole, _ = of_step(step, case, policy, [range(len(LENGTHS))])
    rows = step.rows(case)
    total = torch.zeros_like(whole)
    halves = ([0, 1, 2], [3, 4])
    for half, group in zip(halves, GROUPS, strict=True):
        policy.zero_grad()
        accumulate(policy, rows, half, rows.counts([group], TOKEN_LIMIT), case.settings, begun=True)
        total += gradient(policy)
    assert apart(total / len(halves), whole) > 0.02
    assert apart(total, whole) > 0.5  # summed instead: too large by the number of passes


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_share_a_step_add_up_to_it(kind: LossKind) -> None:
    step = Step()
    case = Case(GrpoSettings(loss=kind, kl_coefficient=0.2, importance_level="sequence", entropy_bonus=0.01), begun=True)
    whole, sums = of_step(step, case, step.given(), [range(len(LENGTHS))])
    total, together = torch.zeros_like(whole), StepSums()
    for share in ([4, 1], [0], [2, 3]):
        policy, rows = step.given(), step.rows(case)
        together += accumulate(
            policy, rows, share, rows.counts(GROUPS, TOKEN_LIMIT), case.settings, begun=True, coefficient=0.2
        )
        total += gradient(policy)
    assert apart(total, whole) < 1e-6
    assert torch.allclose(together.sums(), sums.sums(), rtol=1e-6)


def test_a_row_that_was_not_measured_before_the_first_step_is_not_learned_from_after_it() -> None:
    step, case = Step(), Case(GrpoSettings(kl_coefficient=0.0), begun=False)
    rows = step.rows(case)
    counts = rows.counts(GROUPS, TOKEN_LIMIT)
    accumulate(step.given(), rows, [0, 1], counts, case.settings, begun=False)
    accumulate(step.given(), rows, [1, 0], counts, case.settings, begun=True)
    with pytest.raises(ValueError, match="not known"):
        accumulate(step.given(), rows, [1, 2], counts, case.settings, begun=True)
