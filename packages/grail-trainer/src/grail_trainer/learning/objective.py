"""What a pass of the policy is asked to lower: how the log-probabilities of its tokens become a loss."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """The loss of one pass's tokens; the sum over all passes of an optimiser step is the step's loss.

    `elementwise`: a token's loss is a function of its own log-probability and entropy (and of constants) alone, so that some
    tokens can be asked about without the others. Otherwise `loss` is asked about all tokens of the pass at once.
    """

    @property
    def elementwise(self) -> bool: ...

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        """[n] of the tokens `tokens` of the pass, which are counted row after row; differentiable in both arguments.

        Args:
            logprob, entropy: [n], nats, of these tokens under the policy as it is now.
        """
        ...
