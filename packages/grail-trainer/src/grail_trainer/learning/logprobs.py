"""Log-probabilities of completions with gradients, without ever holding `[sequence, vocabulary]`.

The base model runs on whole rows, padded on the right (causal, so padding changes nothing before it); the language-model
head is fused with the log-softmax and applied a few positions at a time, and its logits are computed again in the backward
pass. Memory is one chunk of logits, whatever the lengths and the vocabulary. Values and gradients equal those of the plain
way (tests: 1e-6 in float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grail_trainer.learning.rollouts import TokenSequence

CHUNK_BYTES = 32 * 2**20
"""Logits (float32) held at one time."""


@dataclass(frozen=True)
class CompletionLogprobs:
    """Per completion token, rows after each other in the order given: all float32 [sum of completion lengths].

    `logprob` (nats) of the token under the policy at the stated temperature; `entropy` (nats) of the distribution it was
    drawn from; `row` the index of its row (int64).
    """

    logprob: Tensor
    entropy: Tensor
    row: Tensor


def completion_logprobs(module: Any, rows: Sequence[TokenSequence], *, temperature: float = 1.0) -> CompletionLogprobs:
    """Log-probabilities of every completion token of some rows, in one pass of the base model: a function of its arguments.

    Args:
        module: a Transformers causal model; gradients flow to its parameters where they are enabled. Its pass is in evaluation
            mode (no dropout), whatever mode it is in, and is left in.
        rows: every row with a prompt and a completion of at least one token.
        temperature: logits are divided by it before the softmax.
    """
    device = module.get_input_embeddings().weight.device
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.long)
    lengths = torch.tensor([row.completion_length for row in rows])
    starts = torch.tensor([row.prompt_length for row in rows])
    rollout_of = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    column = torch.arange(len(rollout_of)) - first + torch.repeat_interleave(starts, lengths)
    targets = tokens[rollout_of, column]
    with _evaluating(module):
        hidden = module.base_model(input_ids=tokens.to(device), use_cache=False).last_hidden_state
    states = hidden[rollout_of.to(device), (column - 1).to(device)]
    head = module.get_output_embeddings()
    bias = getattr(head, "bias", None)
    logprob, entropy = token_logprobs(states, head.weight, targets.to(device), bias=bias, temperature=temperature)
    return CompletionLogprobs(logprob, entropy, rollout_of.to(device))


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


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(log-probability of each target, entropy of each distribution), float32 [n], differentiable in hidden, weight, bias.

    Args:
        hidden: [n, d] final hidden states. weight: [V, d] of the head. targets: int64 [n]. bias: [V], if there is one.
        chunk_rows: rows of logits in memory at one time; by default what fits CHUNK_BYTES.
    """
    rows = chunk_rows or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    return _TokenLogprobs.apply(hidden, weight, bias, targets, 1.0 / temperature, rows)  # type: ignore[no-any-return, no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    """With logits l, p = softmax(l), H its entropy: ∂ log p_t / ∂l = 1_t − p, ∂H / ∂l = −p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, rows: int
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        logprob = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty(count, dtype=torch.float32, device=hidden.device)
        head = _Head(weight, bias)
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            logs = torch.log_softmax(head.logits(hidden[part].float()) * scale, dim=-1)
            logprob[part] = logs.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -(logs.exp() * logs).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.scale, ctx.rows = scale, rows
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, None]:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        on_logprob, on_entropy = gradients
        head = _Head(weight, bias)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(head.weight)
        to_bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            states = hidden[part].float()
            logs = torch.log_softmax(head.logits(states) * ctx.scale, dim=-1)
            p = logs.exp()
            slope = -p * on_logprob[part, None]
            slope.scatter_add_(1, targets[part, None], on_logprob[part, None])
            slope -= p * (logs + entropy[part, None]) * on_entropy[part, None]
            slope *= ctx.scale
            to_hidden[part] = (slope @ head.weight).to(hidden.dtype)
            to_weight += slope.t() @ states
            to_bias += slope.sum(0)
        on_bias = None if bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight.to(weight.dtype), on_bias, None, None, None


class _Head:
    """The language-model head in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self._bias = weight.float(), None if bias is None else bias.float()

    def logits(self, states: Tensor) -> Tensor:
        product = states @ self.weight.t()
        return product if self._bias is None else product + self._bias
