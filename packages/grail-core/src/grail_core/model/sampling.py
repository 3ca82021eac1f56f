"""Section 4: warped logits plus seeded noise decide every token, so that anybody with the logits can check the choice.

`SeededSampler` holds one generation policy for one vocabulary. Warping is exact and in float32, in the order of the protocol:
repetition penalty, temperature, top-k, top-p, ties at a border to the lower id; the mass of top-p is summed in float64. A
verifier sees slightly other logits than the miner did, so `margin` measures how far a claimed token is from winning, and is
lenient at the borders of top-k and top-p by the protocol's rules. The noise is `grail_core.protocol.rollouts.noise`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model import kernels
from grail_core.protocol.constants import BORDER_LOGIT_SLACK, BORDER_TOP_P_SLACK, COMPETITOR_LOGIT_GAP, MARGIN_CLIP
from grail_core.protocol.policy import GenerationPolicy, require_samplable
from grail_core.protocol.rollouts.noise import gumbel_noise

Floats = npt.NDArray[np.float32]
_SEED_MASK = 2**64 - 1
# A nucleus is looked for first among tokens within this of the maximum; what is below weighs under e⁻²⁰ each.
_NUCLEUS_DEPTH = 20.0


@lru_cache(maxsize=8)
def token_words(size: int) -> npt.NDArray[np.uint32]:
    """`kernels.token_words`, made once for a vocabulary."""
    words: npt.NDArray[np.uint32] = kernels.token_words(size)
    words.flags.writeable = False
    return words


@dataclass(frozen=True)
class _Inside:
    """What top-k and top-p keep of one row of x, and what the verifier's lenient borders make of it."""

    kept: npt.NDArray[np.intp]  # by falling x, ties by lower id
    kept_strict: int  # how many of the first of `kept` are inside for top_p − 0.01
    lenient: npt.NDArray[np.intp]  # inside for top_p + 0.01
    least: float  # least x kept


class SeededSampler:
    """Sampling and its verification under one policy. Immutable; safe to share between threads.

    Args:
        policy: temperature > 0, 0 < top_p ≤ 1, top_k −1 or ≥ 1, repetition_penalty > 0.

    Raises:
        ValueError: a policy outside these.
    """

    def __init__(self, policy: GenerationPolicy) -> None:
        require_samplable(policy)
        self.policy = policy
        self._slack = BORDER_LOGIT_SLACK / policy.temperature  # of x, which is in units of logits over temperature
        self.truncates = policy.top_k != -1 or policy.top_p < 1
        self.needs_history = policy.repetition_penalty != 1
        self._plain = not self.truncates and not self.needs_history

    def warp(self, logits: Floats, history: Sequence[int] = ()) -> Floats:
        """x of one row: float32 [V], −inf for tokens that top-k or top-p remove.

        Args:
            logits: float32 [V]. history: prompt + completion so far; read only with a repetition penalty.
        """
        x = self._scaled(logits, history)
        if self.truncates and np.isfinite(x.max()):  # else there is no border, and nothing is provable
            kept = self._inside(x).kept
            warped = np.full_like(x, -np.inf)
            warped[kept] = x[kept]
            x = warped
        return x

    def sample(
        self,
        logits: Tensor | Floats,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        """The next token of every row: argmax of x + noise, ties to the lower id.

        Args:
            logits: float32 [n, V]. seeds: n sampling seeds modulo 2⁶⁴. positions: index of the last input token of each row.
            histories: prompt + completion so far of each row; needed only where the policy has a repetition penalty.
        """
        rows = _as_rows(logits)
        temperature = self.policy.temperature
        if not self._plain:
            if self.needs_history and histories is None:
                raise ValueError("a repetition penalty needs the tokens so far")
            rows = np.stack([self.warp(row, histories[i] if histories is not None else ()) for i, row in enumerate(rows)])
            temperature = 1.0
        tokens = np.empty(len(rows), dtype=np.int64)
        if len(rows):
            hints = rows.argmax(axis=1)
            kernels.sample_rows(rows, token_words(rows.shape[1]), seeds, positions, np.float32(temperature), hints, tokens)
        return tokens

    def margin(
        self, logits: Floats, seed: int, position: int, claimed: int, history: Sequence[int] = (), *, top: int | None = None
    ) -> float:
        """How far the claimed token is from winning: (max score − claimed score) · T, clipped at 4; 0 where it wins.

        4 too where the row has a logit of NaN or +∞: nothing wins there.

        Competitors below the row's maximum x by more than 12 are left out by rule. Where the policy truncates: a claimed token
        outside even the lenient border has margin 4; a competitor counts only where it is inside by more than the slack.

        Args:
            logits: float32 [V], contiguous. claimed: a token id < V. history: as for `warp`. top: the row's maximum, if known.
        """
        temperature = self.policy.temperature
        x = logits
        hint = int(logits.argmax()) if top is None else top
        if not np.isfinite(logits[hint]):  # argmax gives a NaN precedence
            return MARGIN_CLIP
        if not self._plain:
            x = self._scaled(logits, history)
            if not np.isfinite(x.max()):
                return MARGIN_CLIP
            if self.truncates:
                masked = self._competitors(x, claimed)
                if masked is None:
                    return MARGIN_CLIP
                x = masked
            hint = int(x.argmax())
        scale = np.float32(temperature if self._plain else 1.0)
        highest = np.float32(x[hint] / scale)
        own, best = kernels.claimed_and_best(
            x,
            token_words(x.shape[0]),
            np.uint64(seed & _SEED_MASK),
            np.uint32(position),
            scale,
            claimed,
            np.float32(highest - np.float32(COMPETITOR_LOGIT_GAP)),
            MARGIN_CLIP / temperature,
            hint,
        )
        return _clipped(float(best - own) * temperature)

    def well_inside(self, logits: Floats, history: Sequence[int] = ()) -> npt.NDArray[np.intp] | None:
        """The tokens that are inside top-k and top-p by more than the verifier's slack; None where the policy removes none.

        Args:
            logits: float32 [V]. history: as for `warp`.
        """
        if not self.truncates:
            return None
        x = self._scaled(logits, history)
        if not np.isfinite(x.max()):
            return np.empty(0, dtype=np.intp)
        return self._strictly(x, self._inside(x))

    def _strictly(self, x: Floats, inside: _Inside) -> npt.NDArray[np.intp]:
        strict = inside.kept[: inside.kept_strict]
        return strict[x[strict] > np.float32(inside.least + self._slack)]

    def _scaled(self, logits: Floats, history: Sequence[int]) -> Floats:
        x = np.array(logits, dtype=np.float32)
        if self.needs_history and len(history):
            seen = np.unique(np.asarray(history, dtype=np.int64))
            penalty, values = np.float32(self.policy.repetition_penalty), x[seen]
            x[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self.policy.temperature != 1:
            x /= np.float32(self.policy.temperature)
        return x

    def _inside(self, x: Floats) -> _Inside:
        policy, size = self.policy, x.shape[0]
        k = size if policy.top_k == -1 else min(policy.top_k, size)
        candidates = np.arange(size)
        if k < size:
            border = np.partition(x, size - k)[size - k]
            candidates = np.flatnonzero(x >= border)
        top_p, lenient_p, strict_p = (
            policy.top_p,
            min(1.0, policy.top_p + BORDER_TOP_P_SLACK),
            policy.top_p - BORDER_TOP_P_SLACK,
        )
        if top_p >= 1:
            kept = _falling(x, candidates)[:k]
            return _Inside(kept, len(kept), kept, float(x[kept[-1]]))
        if k < size:
            candidates = _falling(x, candidates)[:k]
        weights = np.exp(x[candidates].astype(np.float64) - float(x.max()))
        total = float(weights.sum())
        if k == size:
            near = np.flatnonzero(x >= x.max() - np.float32(_NUCLEUS_DEPTH))
            order = _falling(x, near if float(weights[near].sum()) > lenient_p * total or len(near) == size else candidates)
            weights = weights[order]
        else:
            order = candidates
        before = (np.cumsum(weights) - weights) / total  # mass of the tokens ahead of each one
        counts = [max(1, int(np.searchsorted(before, p, side="left"))) for p in (top_p, strict_p, lenient_p)]
        kept = order[: counts[0]]
        return _Inside(kept, counts[1], order[: counts[2]], float(x[kept[-1]]))

    def _competitors(self, x: Floats, claimed: int) -> Floats | None:
        """x with −inf for all that may not compete; None where the claimed token is outside the lenient border."""
        inside = self._inside(x)
        if x[claimed] < np.float32(inside.least - self._slack) and claimed not in inside.lenient:
            return None
        strict = self._strictly(x, inside)
        masked = np.full_like(x, -np.inf)
        masked[strict] = x[strict]
        masked[claimed] = x[claimed]
        return masked


def _falling(x: Floats, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """ids (ascending) by falling x, ties by lower id."""
    return ids[np.argsort(-x[ids], kind="stable")]


def _as_rows(logits: Tensor | Floats) -> Floats:
    rows = logits.detach().to(device="cpu", dtype=torch.float32).numpy() if isinstance(logits, Tensor) else logits
    return np.ascontiguousarray(rows, dtype=np.float32)


def sample_plain(x: Floats, seed: int, position: int) -> int:
    """One row's token from warped logits by the text of section 4: every noise, then argmax. The slow reference."""
    return int(np.argmax(x.astype(np.float64) + gumbel_noise(seed, position, np.arange(x.shape[0]))))


def margin_plain(
    sampler: SeededSampler, logits: Floats, seed: int, position: int, claimed: int, history: Sequence[int] = ()
) -> float:
    """`SeededSampler.margin` by the text of section 4, computing every noise. The slow reference."""
    x = sampler._scaled(logits, history)
    if not (np.isfinite(logits.max()) and np.isfinite(x.max())):
        return MARGIN_CLIP
    if sampler.truncates:
        masked = sampler._competitors(x, claimed)
        if masked is None:
            return MARGIN_CLIP
        x = masked
    scores = x.astype(np.float64) + gumbel_noise(seed, position, np.arange(x.shape[0]))
    counts = x >= np.float32(x.max() - np.float32(COMPETITOR_LOGIT_GAP))
    counts[claimed] = True
    return _clipped(float(scores[counts].max() - scores[claimed]) * sampler.policy.temperature)


def _clipped(margin: float) -> float:
    """A margin that is no number is the worst there is."""
    return margin if margin < MARGIN_CLIP else MARGIN_CLIP
