"""The trainer's functions under the names and arguments that they had when scripts were written, for scripts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings as GrpoSettings
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning import losses, optimiser
from grail_trainer.learning.optimiser import state_digest as state_digest
from grail_trainer.learning.policy import PassResult, Policy
from grail_trainer.learning.rollouts import Rollout as Rollout
from grail_trainer.learning.rollouts import RolloutGroup as RolloutGroup
from grail_trainer.learning.rollouts import TokenSequence as TokenRow
from grail_trainer.learning.update import update as update


@dataclass(frozen=True)
class Batch:
    """`weight` was made before; it is made of the behaviour policy's log-probabilities now."""

    rows: tuple[TokenRow, ...]
    lengths: Tensor
    advantage: Tensor
    proximal: Tensor
    weight: Tensor
    reference: Tensor | None


def policy_loss(logprob: Tensor, entropy: Tensor, batch: Batch, settings: GrpoSettings, *, normaliser: Tensor) -> Tensor:
    """The loss of some rollouts, a scalar."""
    behaviour = batch.proximal - batch.weight.log()
    now = losses.Batch(batch.lengths, batch.advantage, behaviour, batch.proximal, batch.reference)
    objective = losses.PolicyObjective(now, settings, normaliser, settings.kl_coefficient, settings.entropy_bonus)
    return objective.loss(logprob, entropy, slice(0, len(logprob))).sum()


def completion_logprobs(module: Any, rows: Sequence[TokenRow], *, temperature: float = 1.0) -> PassResult:
    """Log-probabilities of every completion token, without gradients."""
    out: PassResult = Policy(module)(rows, temperature=temperature)
    return out


def Masters(module: Any, learning_rate: float) -> optimiser.Masters:  # noqa: N802 - it was called so
    """Masters whose one setting is the learning rate."""
    return optimiser.Masters(module, OptimiserSettings(learning_rate=learning_rate))
