"""The policy being trained: a causal model, asked for log-probabilities and for the gradient of an objective.

What a training log-probability is: that of the token under the softmax of the logits divided by the sampling temperature, over
the whole vocabulary. top-p, top-k and the repetition penalty are not in it: they limit what is drawn, on the side that draws,
and their renormalisation would have to be repeated for every policy that is compared. The behaviour, proximal and trained
policies are all asked here, in the same way, so on the same weights and the same rows their ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grail_trainer.hyper_parameters import ComputeType
from grail_trainer.learning.head import head_pass
from grail_trainer.learning.objective import Objective
from grail_trainer.learning.packing import can_be_packed, completion_states
from grail_trainer.learning.rollouts import TokenSequence


@dataclass(frozen=True)
class PassResult:
    """Of the completion tokens of some rows, row after row in the order given: float32 [n] and without gradients.

    `loss`: the objective's sum over these tokens, a scalar to call `backward` on, once; None where nothing was asked for.
    """

    logprob: Tensor
    entropy: Tensor
    loss: Tensor | None = None


torch.export.register_dataclass(PassResult)  # so that whoever shards the model finds the loss in what `forward` returns


class Policy(nn.Module):
    """A Transformers causal model as the trainer uses it; parameters and their names are the model's.

    Everything that is learned from goes through `forward` of this one module, so that whoever shards a model (FSDP2) has one
    place to gather its weights.
    """

    def __init__(self, module: Any, *, packed: bool | None = None, compute: ComputeType = "float32") -> None:
        """How passes are made.

        Args:
            packed: rows end to end, or padded; None: what the architecture allows, tried before the first pass.
            compute: "bfloat16": products and attention below the head are made in it, from weights that are cast for the pass;
                norms and the stream between layers stay as torch's autocast has them. The head, its sums and every loss are in
                float32 always, and gradients arrive in the type of the weights.
        """
        super().__init__()
        self.module = module
        self.compute: ComputeType = compute
        self._packed = packed

    @property
    def packed(self) -> bool:
        if self._packed is None:
            self._packed = can_be_packed(self.module)
        return self._packed

    @packed.setter
    def packed(self, packed: bool) -> None:
        self._packed = packed

    def forward(
        self, rows: Sequence[TokenSequence], objective: Objective | None = None, *, temperature: float = 1.0
    ) -> PassResult:
        """One pass of the model over some rows, none of which sees another.

        The model's pass is in evaluation mode (no dropout), whatever mode it is in, and is left in.

        Args:
            rows: every row with a prompt and a completion of at least one token.
            objective: None for log-probabilities alone; no gradient is made then.
            temperature: logits are divided by it before the softmax.
        """
        head = self.module.get_output_embeddings()
        narrow = torch.autocast(head.weight.device.type, torch.bfloat16, enabled=self.compute == "bfloat16")
        with torch.set_grad_enabled(objective is not None and torch.is_grad_enabled()), narrow:
            states, targets = completion_states(self.module, rows, packed=self.packed)
        bias = getattr(head, "bias", None)
        out = head_pass(states, head.weight, targets, objective, bias=bias, temperature=temperature)
        return PassResult(out.logprob, out.entropy, out.loss)
