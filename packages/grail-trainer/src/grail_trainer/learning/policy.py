"""The policy being trained: a causal model, asked for log-probabilities and for the gradient of an objective.

What a training log-probability is: that of the token under the softmax of the logits divided by the sampling temperature, over
the whole vocabulary. top-p, top-k and the repetition penalty are not in it: they limit what is drawn, on the side that draws,
and their renormalisation would have to be repeated for every policy that is compared. The behaviour, proximal and trained
policies are all asked here, in the same way, so on the same weights and the same rows their ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grail_trainer.learning.head import head_pass
from grail_trainer.learning.objective import Objective
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

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

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
        with torch.set_grad_enabled(objective is not None and torch.is_grad_enabled()):
            states, targets = _completion_states(self.module, rows)
        bias = getattr(head, "bias", None)
        out = head_pass(states, head.weight, targets, objective, bias=bias, temperature=temperature)
        return PassResult(out.logprob, out.entropy, out.loss)


def _completion_states(module: Any, rows: Sequence[TokenSequence]) -> tuple[Tensor, Tensor]:
    """For every completion token the hidden state [n, d] it is predicted from, and the token itself, int64 [n].

    Rows are padded on the right: the model is causal, so padding changes nothing before it.
    """
    device = module.get_input_embeddings().weight.device
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.long)
    lengths = torch.tensor([row.completion_length for row in rows])
    starts = torch.tensor([row.prompt_length for row in rows])
    row_of = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    column = torch.arange(len(row_of)) - first + torch.repeat_interleave(starts, lengths)
    targets = tokens[row_of, column]
    with _evaluating(module):
        hidden = module.base_model(input_ids=tokens.to(device), use_cache=False).last_hidden_state
    return hidden[row_of.to(device), (column - 1).to(device)], targets.to(device)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
