"""The policy being trained: a causal model, asked for log-probabilities and for the gradient of an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from grail_trainer.learning.logprobs import completion_logprobs
from grail_trainer.learning.objective import Objective
from grail_trainer.learning.rollouts import TokenSequence


@dataclass(frozen=True)
class PassResult:
    """Of the completion tokens of some rows, row after row in the order given: float32 [n] and without gradients.

    `loss`: the objective's sum over these tokens, a scalar to call `backward` on; None where nothing was asked for.
    """

    logprob: Tensor
    entropy: Tensor
    loss: Tensor | None = None


class Policy(nn.Module):
    """A Transformers causal model as the trainer uses it; parameters and their names are the model's.

    Everything that is learned from goes through `forward` of this one module, so that whoever shards a model (FSDP2) has one
    place to gather its weights.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, rows: Sequence[TokenSequence], objective: Objective | None = None, *, temperature: float = 1.0
    ) -> PassResult:
        """One pass of the model over some rows, none of which sees another.

        Args:
            objective: None for log-probabilities alone; no gradient is made then.
            temperature: logits are divided by it before the softmax.
        """
        out = completion_logprobs(self.module, rows, temperature=temperature)
        loss = None
        if objective is not None:
            loss = objective.loss(out.logprob, out.entropy, slice(0, len(out.logprob))).sum()
        return PassResult(out.logprob.detach(), out.entropy.detach(), loss)
