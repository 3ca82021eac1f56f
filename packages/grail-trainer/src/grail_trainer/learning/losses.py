"""Token losses of GRPO and its relatives: what is lowered, as functions of a token's (or a completion's) log-probabilities.

With ρ = trained : proximal, where proximal is the policy at the start of the update, A a completion's advantage and
clip(ρ) = min(max(ρ, 1 − low), 1 + high), a token loses

| kind | a token loses | counted (`normalisers`) | paper |
| --- | --- | --- | --- |
| grpo | −min(ρA, clip(ρ)A) | mean of a completion's tokens, mean over completions | Shao et al. 2024, equation 3 |
| dr_grpo | the same | sum over tokens by completions · token limit | Liu et al. 2025, section 3.2 |
| dapo | the same | mean over all tokens of the step | Yu et al. 2025, equation 8 |
| bnpo | the same | mean over all tokens of the batch, which is the step here: dapo's number | the name of TRL and others |
| gspo | −min(sA, clip(s)A), s = (∏ρ)^(1/length) of its completion | as grpo | Zheng et al. 2025, equation 5 |
| cispo | −sg(clip(ρ)) A log π, sg: no gradient | as dapo | MiniMax-M1, 2025, equations 4 and 5 |

Dual clip (Ye et al. 2020, equation 5): where A < 0, the loss is at most −cA. TRL's `delta` is the same for delta = c above
1 + high: it bounds ρ in the unclipped branch, which for A > 0 the clip has bounded already.

The importance weight w = proximal : behaviour (`importance`) multiplies what the policy loses, whatever the kind: for gspo with
weights of tokens, the mean of a completion's weights multiplies its ratio; for cispo w · sg(clip(ρ)) is the whole weight from
the policy that drew the token. The KL term and the entropy bonus are not weighted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from grail_trainer.hyper_parameters import GrpoSettings, KlEstimator
from grail_trainer.learning.importance import importance
from grail_trainer.learning.numbers import bounded_exp, row_means


@dataclass(frozen=True)
class Batch:
    """The completion tokens of whole rows, row after row: all [tokens] but `lengths` [rows], int64.

    `proximal` None: the trained policy is the proximal one, so that its own log-probability stands for it, without gradient.
    `reference` None: no KL term.
    """

    lengths: Tensor
    advantage: Tensor
    behaviour: Tensor
    proximal: Tensor | None = None
    reference: Tensor | None = None

    def part(self, tokens: slice) -> Batch:
        """Some of the tokens; `lengths` stay those of whole rows."""
        return replace(
            self,
            advantage=self.advantage[tokens],
            behaviour=self.behaviour[tokens],
            proximal=None if self.proximal is None else self.proximal[tokens],
            reference=None if self.reference is None else self.reference[tokens],
        )

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        def moved(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.to(device, dtype)

        return Batch(
            self.lengths.to(device),
            self.advantage.to(device, dtype),
            self.behaviour.to(device, dtype),
            moved(self.proximal),
            moved(self.reference),
        )


def elementwise(batch: Batch, settings: GrpoSettings) -> bool:
    """Is a token's loss a function of its own log-probability and entropy alone?

    Not where a completion has one ratio (gspo), nor where its weight is one and still depends on the pass.
    """
    return settings.loss != "gspo" and (settings.importance_level == "token" or batch.proximal is not None)


def policy_loss(logprob: Tensor, batch: Batch, settings: GrpoSettings) -> Tensor:
    """What each token loses by the clipped policy gradient, without its importance weight: [tokens]."""
    proximal = logprob.detach() if batch.proximal is None else batch.proximal
    ratio = policy_ratio(logprob, proximal, batch.lengths, settings)
    low, high = settings.clip
    clipped = ratio.clamp(1 - low, 1 + high)
    if settings.loss == "cispo":
        return -clipped.detach() * batch.advantage * logprob
    gain = torch.minimum(ratio * batch.advantage, clipped * batch.advantage)
    if settings.dual_clip:
        gain = torch.where(batch.advantage < 0, torch.maximum(gain, settings.dual_clip * batch.advantage), gain)
    return -gain


def policy_ratio(logprob: Tensor, proximal: Tensor, lengths: Tensor, settings: GrpoSettings) -> Tensor:
    """trained : proximal of each token, or of its completion where the loss is gspo: [tokens], bounded."""
    log_ratio = logprob - proximal
    return bounded_exp(row_means(log_ratio, lengths) if settings.loss == "gspo" else log_ratio)


def kl_to_reference(logprob: Tensor, reference: Tensor, estimator: KlEstimator) -> Tensor:
    """KL(trained ‖ reference) as one token tells of it, nats, [tokens] (Schulman 2020).

    With d = log trained − log reference, for tokens that the trained policy drew:
    k1 = d: without bias, of either sign; its gradient as a loss is ∇ log π, whose mean is 0 and not the KL's gradient: such a
    term adds noise and holds on to nothing. It is here to repeat runs that had it.
    k2 = d²/2: a little biased, never negative; its gradient d ∇ log π is the gradient of the KL without bias.
    k3 = e^−d − 1 + d: without bias, never negative; its gradient (1 − e^−d) ∇ log π is that of KL(reference ‖ trained).
    Tokens that an older policy drew are not weighted here.
    """
    gap = logprob - reference
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return gap.square() / 2
    return bounded_exp(-gap) - 1 + gap


@dataclass(frozen=True)
class PolicyObjective:
    """What an optimiser step lowers, of the tokens of one pass; an `Objective`.

    Σ normaliser · (w · policy loss + kl_coefficient · KL) − entropy_share · entropy.

    Attributes:
        normaliser: [tokens] of the pass; see `normalisers.token_normaliser`.
        entropy_share: what each token's entropy counts: the bonus's coefficient over the step's tokens, whatever the loss.
    """

    batch: Batch
    settings: GrpoSettings
    normaliser: Tensor
    kl_coefficient: float = 0.0
    entropy_share: float = 0.0

    @property
    def elementwise(self) -> bool:
        return elementwise(self.batch, self.settings)

    def loss(self, logprob: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        batch, settings = self.batch.part(tokens), self.settings
        weight = _weight(logprob, batch, settings) if batch.proximal is None else self._known_weight[tokens]
        lost = weight * policy_loss(logprob, batch, settings)
        if self.kl_coefficient and batch.reference is not None:
            lost = lost + self.kl_coefficient * kl_to_reference(logprob, batch.reference, settings.kl_estimator)
        lost = lost * self.normaliser[tokens]
        return lost - self.entropy_share * entropy if self.entropy_share else lost

    @cached_property
    def _known_weight(self) -> Tensor:
        """Of all tokens, where proximal is known and weights are constants: one weight of a completion that is asked about in
        parts."""
        return _weight(self.batch.behaviour, self.batch, self.settings)  # what is trained is not looked at


def _weight(logprob: Tensor, batch: Batch, settings: GrpoSettings) -> Tensor:
    return importance(logprob, batch.proximal, batch.behaviour, batch.lengths, settings).weight
