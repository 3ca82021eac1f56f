"""Section 6: models that a miner may have run instead, run by the validator itself.

An alternative A is other weights for the same architecture: an earlier checkpoint, an 8-bit copy. Its sketches and the
current model's are both computed in float32, so that their difference is the weights' alone: in bf16 both ends carry kernel
noise, which is larger than what one step of training changes, and which stands in the miner's difference too. What is decided
from these numbers is `projection`'s.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from grail_core.model.memory import in_parts, on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternative_test import REFERENCE
from grail_core.proof.batch import measure_sketches
from grail_core.proof.sketches import Projections, Sketches
from grail_core.proof.work import RolloutTokens, share_of
from grail_core.protocol.constants import PROOF_BATCH_SIZE

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
        self._scratch = PolicyModel(copy.deepcopy(current.module).float())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._weights if name != REFERENCE)

    @property
    def hidden_size(self) -> int:
        return self._scratch.hidden_size

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
