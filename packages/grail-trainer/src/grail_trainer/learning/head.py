"""The language-model head, the objective and their gradient in one pass: a chunk's logits are made once and never again.

For a chunk of positions: logits, from them log-probability and entropy of each token, from those the objective's loss and its
slopes (autograd on vectors of one number a token), from those the products that are the gradients of the hidden states and of
the weight. What comes out is a scalar whose backward hands out gradients that are ready. Memory is one chunk of logits and the
gradients themselves, whatever the lengths and the vocabulary.

With logits l, p = softmax(l), H its entropy: ∂ log p_t / ∂l = 1_t − p and ∂H / ∂l = −p (log p + H). The chunk holds
e^(l − max), not p: the sum it would be divided by, the objective's slope and the temperature are one number a row, so they are
applied to rows of the products, which are [chunk, d], and not to [chunk, V].

An objective that is not elementwise is asked once about all tokens; the head is passed twice then, the body still once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grail_trainer.learning.objective import Objective

CHUNK_BYTES = 32 * 2**20
"""Logits held at one time. At V 32,000, d 256 on one core, half of it costs 4 % more time and twice of it saves 1 %."""

BLOCK_BYTES = 2**20
"""Of a chunk, what is looked at at a time on a CPU, so that it stays in the cache from one operation to the next."""


@dataclass(frozen=True)
class HeadResult:
    """Per position, [n] float32 (float64 if the weight is) and without gradients: log-probability of the target, entropy, nats.

    `loss`: the objective's sum; `backward` on it once gives the gradients of hidden states, weight and bias.
    """

    logprob: Tensor
    entropy: Tensor
    loss: Tensor | None = None


def head_pass(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    objective: Objective | None = None,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> HeadResult:
    """Log-probabilities and entropies of some positions and, if an objective is given, its loss.

    Products and sums are in float32 (float64 if the weight is), whatever the hidden states are in. A weight of a narrower type
    is cast once a pass.

    Args:
        hidden: [n, d] final hidden states. weight: [V, d] of the head. targets: int64 [n]. bias: [V], if there is one.
        objective: token i of it is position i. None: no gradient is made.
        temperature: logits are divided by it before the softmax.
        chunk_rows: rows of logits in memory at one time; by default what fits CHUNK_BYTES.
    """
    head = _Head(weight.detach(), None if bias is None else bias.detach(), targets, 1.0 / temperature, chunk_rows)
    if objective is None:
        with torch.no_grad():
            return HeadResult(*head.measure(hidden))
    loss, logprob, entropy = _HeadLoss.apply(hidden, weight, bias, head, objective)  # type: ignore[no-untyped-call]
    return HeadResult(logprob, entropy, loss)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = _Wanted(*ctx.needs_input_grad[:3])
        gradients = _Gradients(hidden, head, wanted)
        if objective.elementwise or len(hidden) <= head.chunk_rows:
            logprob, entropy, losses = head.learn(hidden, objective, gradients)
        else:
            logprob, entropy = head.measure(hidden)
            losses, slopes = _slopes(objective, logprob, entropy, slice(0, len(hidden)))
            head.learn_again(hidden, entropy, slopes, gradients)
        ctx.ready = gradients.in_types_of(hidden, weight, bias)
        ctx.mark_non_differentiable(logprob, entropy)
        return losses.sum(), logprob, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *on_outputs: Tensor) -> tuple[Tensor | None, ...]:
        ready: list[Tensor | None] | None = ctx.ready
        if ready is None:
            raise RuntimeError("the gradients of this pass were handed out already; make another pass")
        ctx.ready = None  # whoever takes them over may keep them without a copy
        on_loss = on_outputs[0]
        if on_loss.device.type != "cpu" or on_loss.item() != 1.0:
            for gradient in ready:
                if gradient is not None:
                    gradient.mul_(on_loss)
        return *ready, None, None


@dataclass(frozen=True)
class _Slopes:
    """∂ loss / ∂ log-probability and ∂ loss / ∂ entropy, [n]; None: the objective does not look at entropies."""

    logprob: Tensor
    entropy: Tensor | None

    def of(self, part: slice) -> _Slopes:
        return _Slopes(self.logprob[part], None if self.entropy is None else self.entropy[part])


def _slopes(objective: Objective, logprob: Tensor, entropy: Tensor, tokens: slice) -> tuple[Tensor, _Slopes]:
    """Losses of some tokens, [n], and their slopes."""
    with torch.enable_grad():
        ats = logprob.detach().requires_grad_(), entropy.detach().requires_grad_()
        losses = objective.loss(*ats, tokens)
        if not losses.requires_grad:
            return losses, _Slopes(torch.zeros_like(logprob), None)
        to_logprob, to_entropy = torch.autograd.grad(losses.sum(), ats, allow_unused=True)
    return losses.detach(), _Slopes(torch.zeros_like(logprob) if to_logprob is None else to_logprob, to_entropy)


@dataclass(frozen=True)
class _Wanted:
    hidden: bool
    weight: bool
    bias: bool


class _Gradients:
    """Where the products go: straight into what is handed out."""

    def __init__(self, hidden: Tensor, head: _Head, wanted: _Wanted) -> None:
        def empty(like: Tensor | None, needed: bool) -> Tensor | None:
            if like is None or not needed:
                return None
            made = torch.empty(like.shape, dtype=head.dtype, device=like.device)
            return made if len(hidden) else made.zero_()

        self.hidden = empty(hidden, wanted.hidden)
        self.weight = empty(head.weight, wanted.weight)
        self.bias = empty(head.bias, wanted.bias)

    def in_types_of(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
        pairs = ((self.hidden, hidden), (self.weight, weight), (self.bias, bias))
        return [None if made is None or like is None else made.to(like.dtype) for made, like in pairs]


class _Chunk:
    """Some rows of logits in the place they are worked on, and what each row came to."""

    def __init__(self, states: Tensor, place: Tensor, scratch: Tensor) -> None:
        self.states = states  # [c, d], times 1 / temperature
        self.exponentials, self._scratch = place, scratch  # [c, V] e^(l − max); [block, V]
        count = len(states)
        self.sums = place.new_empty(count)  # Σ e^(l − max)
        self.entropy = place.new_empty(count)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        step = len(self._scratch)
        for start in range(0, len(self.states), step):
            rows = slice(start, min(start + step, len(self.states)))
            yield rows, self.exponentials[rows], self._scratch[: rows.stop - start]

    def fold(self, targets: Tensor) -> Tensor:
        """From logits to exponentials, in place. Returns the log-probabilities [c]."""
        at_target = self.exponentials.gather(1, targets[:, None]).squeeze(1)
        largest = torch.empty_like(self.sums)
        for rows, block, scratch in self.blocks():
            torch.amax(block, 1, out=largest[rows])
            torch.sub(block, largest[rows, None], out=scratch)
            torch.exp(scratch, out=block)
            torch.sum(block, 1, out=self.sums[rows])
            torch.sum(scratch.mul_(block), 1, out=self.entropy[rows])  # Σ p (l − max), not yet divided
        logs = self.sums.log()
        self.entropy = (logs - self.entropy / self.sums).clamp_(min=0)  # rounding must not make it negative
        return at_target.sub_(largest).sub_(logs)

    def unfold(self, targets: Tensor, slopes: _Slopes, entropy: Tensor) -> Tensor:
        """From exponentials to what the products take, in place; the factor [c, 1] that its rows still need."""
        at_targets = (torch.arange(len(targets), device=targets.device), targets)
        if slopes.entropy is None:
            self.exponentials[at_targets] -= self.sums
            return (-slopes.logprob / self.sums)[:, None]
        # p (a + b log p), with a = slope of the log-probability + slope of the entropy · H, and b = slope of the entropy
        logs, floor = self.sums.log(), torch.finfo(self.sums.dtype).tiny
        for rows, block, scratch in self.blocks():
            torch.log(block.clamp_(min=floor), out=scratch)  # e^(l − max) that is 0 counts nothing either way
            scratch.sub_(logs[rows, None]).add_(entropy[rows, None]).mul_(slopes.entropy[rows, None])
            block.mul_(scratch.add_(slopes.logprob[rows, None]))
        self.exponentials[at_targets] -= self.sums * slopes.logprob
        return (-1 / self.sums)[:, None]


class _Head:
    """One head and the targets of one pass."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, chunk_rows: int | None = None
    ) -> None:
        self.dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.weight, self.bias = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        self.chunk_rows = chunk_rows or max(1, CHUNK_BYTES // (self.weight.element_size() * len(weight)))
        self._targets, self._scale = targets, scale

    def measure(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probability, entropy) of every position, [n]."""
        logprob, entropy = self._vectors(hidden, 2)
        for part, chunk in self._chunks(hidden):
            logprob[part] = chunk.fold(self._targets[part])
            entropy[part] = chunk.entropy
        return logprob, entropy

    def learn(self, hidden: Tensor, objective: Objective, gradients: _Gradients) -> tuple[Tensor, Tensor, Tensor]:
        """(log-probability, entropy, loss) of every position, [n], and the gradients: logits are made once."""
        logprob, entropy, losses = self._vectors(hidden, 3)
        for part, chunk in self._chunks(hidden):
            logprob[part] = chunk.fold(self._targets[part])
            entropy[part] = chunk.entropy
            losses[part], slopes = _slopes(objective, logprob[part], entropy[part], part)
            self._products(part, chunk, slopes, chunk.entropy, gradients)
        return logprob, entropy, losses

    def learn_again(self, hidden: Tensor, entropy: Tensor, slopes: _Slopes, gradients: _Gradients) -> None:
        """The gradients, where the slopes could be known only from all log-probabilities."""
        for part, chunk in self._chunks(hidden):
            chunk.fold(self._targets[part])
            self._products(part, chunk, slopes.of(part), entropy[part], gradients)

    def _vectors(self, hidden: Tensor, count: int) -> list[Tensor]:
        return [torch.empty(len(hidden), dtype=self.dtype, device=hidden.device) for _ in range(count)]

    def _chunks(self, hidden: Tensor) -> Iterator[tuple[slice, _Chunk]]:
        """Logits of one chunk after the other, each in the place of the one before."""
        rows, width = max(1, min(self.chunk_rows, len(hidden))), len(self.weight)
        place = torch.empty((rows, width), dtype=self.dtype, device=hidden.device)
        fitting = max(1, BLOCK_BYTES // (place.element_size() * width)) if hidden.device.type == "cpu" else rows
        scratch = torch.empty((min(rows, fitting), width), dtype=self.dtype, device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, min(start + rows, len(hidden)))
            states = hidden.detach()[part].to(self.dtype) * self._scale
            logits = torch.mm(states, self.weight.t(), out=place[: len(states)])
            if self.bias is not None:
                logits.add_(self.bias, alpha=self._scale)
            yield part, _Chunk(states, logits, scratch)

    def _products(self, part: slice, chunk: _Chunk, slopes: _Slopes, entropy: Tensor, gradients: _Gradients) -> None:
        factor = chunk.unfold(self._targets[part], slopes, entropy)
        on_logits, keep = chunk.exponentials, float(part.start > 0)  # what is in a new tensor is not kept
        if gradients.hidden is not None:
            torch.mm(on_logits, self.weight, out=gradients.hidden[part]).mul_(factor * self._scale)
        if gradients.weight is not None:
            gradients.weight.addmm_(on_logits.t(), chunk.states * factor, beta=keep)
        if gradients.bias is not None:
            gradients.bias.addmv_(on_logits.t(), factor.squeeze(1) * self._scale, beta=keep)
