"""What one update did, in numbers.

A step's values are means over the tokens that it learned from, made of sums (`StepSums`), so that they are right over
micro-batches and processes of different lengths; an update's are means over its steps, but where they say least or greatest.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings
from grail_trainer.learning.importance import importance
from grail_trainer.learning.losses import Batch, policy_ratio
from grail_trainer.learning.numbers import bounded_exp

_GREATEST = "importance_max"


@dataclass(frozen=True)
class StepSums:
    """Sums over the tokens of one optimiser step, or of a part of it; `importance_max` is the greatest.

    Processes add up `sums()` and take the greatest of `importance_max`; `of_sums` brings both back.
    """

    tokens: float = 0.0
    loss: float = 0.0
    ratio: float = 0.0
    below: float = 0.0  # tokens whose ratio lies under the clip
    above: float = 0.0
    entropy: float = 0.0
    kl_behaviour: float = 0.0
    kl_reference: float = 0.0
    importance: float = 0.0
    capped: float = 0.0
    importance_max: float = 0.0

    def __add__(self, other: StepSums) -> StepSums:
        return self.of_sums(self.sums() + other.sums(), max(self.importance_max, other.importance_max))

    def sums(self) -> Tensor:
        """float64 [10], in the order of the fields."""
        return torch.tensor([getattr(self, name) for name in _summed()], dtype=torch.float64)

    @staticmethod
    def of_sums(sums: Tensor, importance_max: float) -> StepSums:
        return StepSums(**dict(zip(_summed(), sums.tolist(), strict=True)), importance_max=importance_max)


def _summed() -> list[str]:
    return [one.name for one in dataclasses.fields(StepSums) if one.name != _GREATEST]


@torch.no_grad()
def measured(logprob: Tensor, entropy: Tensor, loss: float, batch: Batch, settings: GrpoSettings) -> StepSums:
    """What one pass says.

    Args:
        logprob, entropy: [tokens] of the pass; loss: its share of the step's loss. batch: on the same device.
    """
    proximal = logprob if batch.proximal is None else batch.proximal
    ratio = policy_ratio(logprob, proximal, batch.lengths, settings)
    low, high = settings.clip
    drawn = logprob - batch.behaviour  # the tokens were drawn from the behaviour policy
    weights = importance(logprob, batch.proximal, batch.behaviour, batch.lengths, settings)
    held = 0.0
    if batch.reference is not None:
        gap = batch.reference - logprob
        held = (bounded_exp(gap) - 1 - gap).double().sum().item()
    return StepSums(
        tokens=float(len(logprob)),
        loss=loss,
        ratio=ratio.double().sum().item(),
        below=(ratio < 1 - low).sum().item(),
        above=(ratio > 1 + high).sum().item(),
        entropy=entropy.double().sum().item(),
        kl_behaviour=(bounded_exp(drawn) - 1 - drawn).double().sum().item(),
        kl_reference=held,
        importance=weights.weight.double().sum().item(),
        capped=weights.capped.sum().item(),
        importance_max=weights.weight.max().item() if len(logprob) else 0.0,
    )


@dataclass
class UpdateStatistics:
    """Of one update. Nats a token where nothing else is said; a value that is not finite is left out of the means."""

    groups: int = 0
    rollouts: int = 0
    tokens: int = 0  # of all completions
    steps: int = 0
    steps_refused: int = 0  # loss or gradient was no number
    steps_refused_in_row: int = 0  # the longest run of them
    loss: float = 0.0
    gradient_norm: float = 0.0  # before clipping
    gradient_norm_max: float = 0.0  # of a step
    ratio_mean: float = 0.0  # trained : proximal
    clip_share: float = 0.0  # of tokens whose ratio is outside the clip
    clip_share_low: float = 0.0
    clip_share_high: float = 0.0
    entropy: float = 0.0
    entropy_least: float = 0.0  # the least of the steps' means
    kl_behaviour: float = 0.0  # k3 estimate of KL(behaviour ‖ trained)
    kl_reference: float = 0.0  # k3 estimate of KL(trained ‖ reference), of tokens that the behaviour policy drew
    kl_coefficient: float = 0.0  # of the KL term, in this update
    importance_mean: float = 0.0  # weights as they count, capped
    importance_max: float = 0.0
    importance_capped_share: float = 0.0
    length_mean: float = 0.0  # completion tokens a rollout
    truncated_share: float = 0.0  # of rollouts
    _steps: list[dict[str, float]] = field(default_factory=list, repr=False)
    _run: int = field(default=0, repr=False)

    def take_step(self, sums: StepSums, norm: float) -> None:
        """What a step measured, over all passes and processes, and its gradient's norm before clipping."""
        self.steps += 1
        refused = not math.isfinite(norm)
        self.steps_refused += refused
        self._run = self._run + 1 if refused else 0
        self.steps_refused_in_row = max(self.steps_refused_in_row, self._run)
        tokens = max(1.0, sums.tokens)
        self._steps.append(
            {
                "loss": sums.loss,
                "gradient_norm": norm,
                "ratio_mean": sums.ratio / tokens,
                "clip_share": (sums.below + sums.above) / tokens,
                "clip_share_low": sums.below / tokens,
                "clip_share_high": sums.above / tokens,
                "entropy": sums.entropy / tokens,
                "kl_behaviour": sums.kl_behaviour / tokens,
                "kl_reference": sums.kl_reference / tokens,
                "importance_mean": sums.importance / tokens,
                "importance_max": sums.importance_max,
                "importance_capped_share": sums.capped / tokens,
            }
        )

    def close(self) -> None:
        """Make what `take_step` was told into the update's numbers."""
        for name in self._steps[0] if self._steps else ():
            values = [step[name] for step in self._steps if math.isfinite(step[name])]
            setattr(self, name, sum(values) / len(values) if values else 0.0)
        finite = [step for step in self._steps if all(map(math.isfinite, step.values()))]
        self.entropy_least = min((step["entropy"] for step in finite), default=0.0)
        self.importance_max = max((step["importance_max"] for step in finite), default=0.0)
        self.gradient_norm_max = max((step["gradient_norm"] for step in finite), default=0.0)
