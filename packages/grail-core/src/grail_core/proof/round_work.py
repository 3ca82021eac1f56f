"""What a validator's passes over a file of gradient work give, in plain arrays: the sibling of `work`.

Sketches and gradients are float32 as measured, losses integers; nothing here is rounded or decided. Who has these numbers
judges without a model (`round_sketches.judge_sketches`, `replay.judge`, the rules of scores). torch is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Losses = npt.NDArray[np.int32]

PREVIOUS: Final = ("previous-1", "previous-2", "previous-3")
"""Names of the alternatives: the checkpoint before this one, the one before that, and so on."""

LOSS_SCALE: Final = 1 << 20
"""Units of a nat."""
LARGEST_LOSS: Final = 2**31 - 1
"""2,048 nats: what a loss is that is no number, or is larger. The difference of two losses stays within an int32."""


@dataclass(frozen=True, eq=False)
class MeasuredSketches:
    """What a validator's own passes say of the rows; each float32 [rows, L, 4], NaN for a row whose states are not finite.

    `reference`: of the same weights in float32; `previous`: of earlier checkpoints, in float32 too, by their names in PREVIOUS.
    Both are None or empty where no float32 copy was asked.
    """

    own: F32
    reference: F32 | None
    previous: Mapping[str, F32]


@dataclass(frozen=True, eq=False)
class MeasuredStep:
    """What the validator's own pass says of an opened step: all that `replay.judge` needs beside the opened chunks.

    `gradient`: its clipped gradient on the drawn chunks; None where it was not finite, or θ_j is not. `theta`: θ_j there.
    """

    theta: Sequence[F32]
    gradient: Sequence[F32] | None


@dataclass(frozen=True, eq=False)
class Scored:
    """Losses of a set of sequences, in 2⁻²⁰ nats, before and after an update; int32 [n] in drawn order."""

    before: Losses
    after: Losses

    @property
    def differences(self) -> list[int]:
        """before − after: what the update is worth on each."""
        return [int(one) for one in self.before.astype(np.int64) - self.after.astype(np.int64)]
