"""Section 6: models that a miner may have run instead, run by the validator itself.

An alternative A is other weights for the same architecture: an earlier checkpoint, an 8-bit copy. Its sketches and the
current model's are both computed in float32, so that their difference is the weights' alone: in bf16 both ends carry kernel
noise, which is larger than what one step of training changes, and which stands in the miner's difference too. What is decided
from these numbers is `projection`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model import kernels
from grail_core.model.memory import in_parts, on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.alternative_test import REFERENCE
from grail_core.proof.batch import measure_sketches
from grail_core.proof.errors import UnprovableError
from grail_core.proof.leads import Choices, choices_of, own_leads, rivals, supports, warped_policies
from grail_core.proof.sketches import Projections, Sketches, sketch
from grail_core.proof.work import ComparedRollout, Leads, ProofRow, RolloutTokens, share_of
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy

EIGHT_BIT_GROUP: Final = 32
"""Columns to a scale in the 8-bit formats that do not scale whole channels."""

Weights = Callable[[], Mapping[str, Tensor]]
"""Gives the weights of an alternative by the names of `PolicyModel.state`, in any floating dtype."""


class Alternatives:
    """What a validator compares miners with. One float32 copy of the model in memory, whatever the number of alternatives.

    Args:
        current: the window's model. others: weights by name; a name says what a finding will say ("previous-1", "int8").
        share: of a miner's sampled rollouts, how many are measured: the cost is a float32 pass for each name and one more.

    Raises:
        ValueError: an alternative has the reference's name, or the share is not in (0, 1].
    """

    def __init__(self, current: PolicyModel, others: Mapping[str, Weights], share: float = 1.0) -> None:
        if REFERENCE in others or not 0 < share <= 1:
            raise ValueError(f"alternatives {', '.join(others)} with share {share}: a share in (0, 1], none named {REFERENCE}")
        self._weights: dict[str, Weights] = {REFERENCE: current.state, **others}
        self._share = share
        # TF32 is off unless somebody switches it on; it would bring the kernel noise back.
        self._scratch = PolicyModel(copy.deepcopy(current.module).float().requires_grad_(False))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._weights if name != REFERENCE)

    @property
    def hidden_size(self) -> int:
        return self._scratch.hidden_size

    @property
    def reference(self) -> PolicyModel:
        """The current model in float32, until the next comparison."""
        self._become(self._weights[REFERENCE]())
        return self._scratch

    def count(self, sampled: int) -> int:
        """How many of so many sampled rollouts are measured."""
        return share_of(self._share, sampled)

    @on_this_machine
    def sketches(self, rows: RolloutTokens, signs: Projections) -> list[dict[str, Sketches]]:
        """Per row, by name: float32 z [k, 4] at its positions, the reference's among them.

        An alternative without a sketch at some position of a row cannot have proved that row: it is left out there. Where 16
        rows do not fit, fewer are run at once: in float32 that changes a sketch by less than its rounding on the wire.

        Raises:
            OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
            MachineFaultError: as `on_this_machine`.
        """
        found: list[dict[str, Sketches]] = [{} for _ in rows.tokens]
        with self._scratch.lock:
            for name, weights in self._weights.items():
                self._become(weights())
                for start in range(0, len(found), PROOF_BATCH_SIZE):
                    batch = range(start, min(start + PROOF_BATCH_SIZE, len(found)))
                    measured, _ = in_parts(batch, lambda places: self._measured(rows, places, signs))
                    for place, z in zip(batch, measured, strict=True):
                        if name == REFERENCE or np.isfinite(z).all():
                            found[place][name] = z
        return found

    @on_this_machine
    @torch.inference_mode()
    def compare(
        self,
        rows: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        own: Sequence[Tensor],
        head: PolicyModel,
    ) -> list[ComparedRollout]:
        """Per row, at its positions: sketches under the reference and every other weights, and leads under all alternatives.

        Args:
            own: per row, the validator's own states before every completion token, [completion, d]; head: the model that
                makes logits of them.

        Raises:
            OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
            MachineFaultError: as `on_this_machine`.
        """
        sampler = SeededSampler(policy)
        told: list[_Told] = []
        with self._scratch.lock:
            self._become(self._weights[REFERENCE]())
            for row, states in zip(rows, self._hidden(rows), strict=True):
                told.append(self._under_reference(row, states, own[len(told)], head, signs, sampler))
            head0 = self._scratch.head_weight.clone() if supports(policy) else None
            for name, weights in self._weights.items():
                if name == REFERENCE:
                    continue
                self._become(weights())
                for one, states in zip(told, self._hidden(rows), strict=True):
                    self._under_alternative(name, one, states, signs, policy, head0)
        return [ComparedRollout(tuple(one.row.positions), one.z, one.leads, one.noise, one.spread) for one in told]

    def _hidden(self, rows: Sequence[ProofRow]) -> list[Tensor]:
        """Float32 states of every row from its last prompt token on, at most PROOF_BATCH_SIZE rows in one pass."""
        found: list[Tensor] = []
        for start in range(0, len(rows), PROOF_BATCH_SIZE):
            batch = rows[start : start + PROOF_BATCH_SIZE]
            states, _ = in_parts(batch, lambda part: self._scratch.hidden_states([row.tokens for row in part]))
            found += [one[row.prompt_length - 1 :] for row, one in zip(batch, states, strict=True)]
        return found

    def _under_reference(
        self,
        row: ProofRow,
        states: Tensor,
        own: Tensor,
        head: PolicyModel,
        signs: Projections,
        sampler: SeededSampler,
    ) -> _Told:
        at = torch.as_tensor(row.positions, dtype=torch.long, device=states.device)
        before = states.index_select(0, at)
        logits = self._scratch.logits(before).cpu().numpy()
        theirs = head.logits(own.index_select(0, at.to(own.device))).cpu().numpy()
        noise, spread = (np.empty(len(at), dtype=np.float32) for _ in range(2))
        policy = sampler.policy
        kernels.logit_noise(logits, theirs, logits.argmax(axis=1), np.float32(policy.temperature), noise, spread)
        told = _Told(row, {REFERENCE: _sketch_at(states, at + 1, signs)}, {}, noise, spread, before, None)
        if supports(policy):
            inputs = [row.prompt_length + position - 1 for position in row.positions]
            told.choices = choices_of(sampler, logits, row.sampling_seed, inputs)
            for name, warped in warped_policies(policy).items():
                rival, other = rivals(told.choices, logits, warped, policy.temperature)
                theirs_there = logits[np.arange(len(rival)), np.maximum(rival, 0)]
                ahead = own_leads(told.choices, rival, theirs_there, policy.temperature)
                told.leads[name] = Leads(ahead, other, rival.astype(np.int32))
        return told

    def _under_alternative(
        self, name: str, told: _Told, states: Tensor, signs: Projections, policy: GenerationPolicy, head0: Tensor | None
    ) -> None:
        at = torch.as_tensor(told.row.positions, dtype=torch.long, device=states.device)
        z = _sketch_at(states, at + 1, signs)
        if not np.isfinite(z).all():
            return  # it cannot have proved this row
        told.z[name] = z
        if told.choices is None or head0 is None:
            return
        logits = self._scratch.logits(states.index_select(0, at)).cpu().numpy()
        rival, other = rivals(told.choices, logits, policy, policy.temperature)
        ids = torch.as_tensor(np.maximum(rival, 0), device=head0.device)
        theirs = (told.before * head0.index_select(0, ids)).sum(dim=1)
        if self._scratch.head_bias is not None:
            theirs += self._scratch.head_bias.float().index_select(0, ids)
        ahead = own_leads(told.choices, rival, theirs.cpu().numpy(), policy.temperature)
        told.leads[name] = Leads(ahead, other, rival.astype(np.int32))

    def _measured(self, rows: RolloutTokens, places: Sequence[int], signs: Projections) -> list[Sketches]:
        return measure_sketches(
            self._scratch,
            [rows.tokens[at] for at in places],
            [rows.prompt_lengths[at] for at in places],
            [rows.positions[at] for at in places],
            signs,
        )

    @torch.no_grad()
    def _become(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self._scratch.state().items():
            value.copy_(weights[name])
        self._scratch.weights_changed()


@dataclass
class _Told:
    """What has been measured of one row so far. `before`: the reference's states at its positions, [m, d]."""

    row: ProofRow
    z: dict[str, Sketches]
    leads: dict[str, Leads]
    noise: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    before: Tensor
    choices: Choices | None


def _sketch_at(states: Tensor, at: Tensor, signs: Projections) -> Sketches:
    try:
        return sketch(states.index_select(0, at), signs)
    except UnprovableError:
        return np.full((len(at), signs.shape[0]), np.nan, dtype=np.float32)


def eight_bit(model: PolicyModel, group: int | None = None) -> dict[str, Tensor]:
    """The model's weights as an 8-bit engine has them: the matrices of the blocks rounded, embeddings and head as they are.

    Args:
        group: input columns that share a scale; None: one scale per output channel.
    """
    return {
        name: round_to_nearest(value, 8, group) if value.dim() > 1 and ".layers." in name else value
        for name, value in model.state().items()
    }


def round_to_nearest(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Weights [..., in] → float32 values that symmetric `bits`-bit integers with absolute-maximum scales stand for.

    A width that is no multiple of `group` has one scale per output channel.
    """
    top = 2 ** (bits - 1) - 1
    width = weight.shape[-1] if group is None or weight.shape[-1] % group else group
    blocks = weight.float().reshape(-1, width)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / top
    rounded: Tensor = (blocks / scale).round().clamp(-top, top) * scale
    return rounded.reshape(weight.shape)
