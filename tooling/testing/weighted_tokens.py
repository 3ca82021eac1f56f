"""An objective whose gradient is known by hand: Σ a · log-probability + b · entropy, with given numbers a and b a token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WeightedTokens:
    """`on_entropy` None: it does not look at entropies. `elementwise` False: it must be asked about all tokens at once."""

    on_logprob: Tensor
    on_entropy: Tensor | None = None
    elementwise: bool = True

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        if not self.elementwise:
            assert len(logprob) == len(self.on_logprob), "asked about a part"
        loss = self.on_logprob[tokens] * logprob
        return loss if self.on_entropy is None else loss + self.on_entropy[tokens] * entropy
