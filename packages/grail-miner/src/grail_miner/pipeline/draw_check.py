"""The miner's own look at what its engine draws, before anything of it counts: a sample, measured as a validator measures it.

An engine can lie without knowing it: an update that was torn and says that it was not, a label without its weights, a sampler
that is not loaded, a GPU that computes other numbers, another row's tokens. Its rows are then proved with the right weights,
validators reject the window, and its past counts for less. So the proof model measures

    of each group that begins before the window's first has passed    FIRST_ROLLOUTS rollouts at up to FIRST_POSITIONS positions
    of every other group                                              ROLLOUTS rollout at up to POSITIONS positions

which costs the forward pass of so many rows more (a quarter, and a sixteenth, of a group's proof), once more in float32 where
memory holds such a copy (`proving.references`), and the head at so many positions. It runs where groups are proved, beside
generation. Everything that was measured in the window is judged together after each group: by a validator's own bounds, with
its calibration where there is one for these classes, and by LOST_SHARE, which needs none. Without the copy only the coarse
bounds and LOST_SHARE are left: what is found then is another draw, and no fine difference.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.generation.base import Completion
from grail_core.proof.batch import RolloutProof
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.comparison import Comparison, compare, lost_margins
from grail_core.proof.sketches import parse_sketches
from grail_core.proof.statistics import own_statistics
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.constants import CHALLENGE_K, COARSE_MARGIN, COARSE_MARGIN_SHARE, ROLLOUTS_PER_PROBLEM

FIRST_ROLLOUTS: Final = 8
FIRST_POSITIONS: Final = 512
"""Of each: whatever is wrong with all rows shows in some hundred positions. They cost what a fourth of the group's own
log-probabilities do."""
ROLLOUTS: Final = 1
"""One of each group is at least what a validator samples (46 of a window) in a file of 46 groups or more, and no group of a
file is without one."""
POSITIONS: Final = CHALLENGE_K

LOST_BY: Final = 0.3
LOST_LEAST: Final = 8
LOST_SHARE: Final = 0.03
"""More than this share of all positions lose their draw by more than LOST_BY, and so many do: another rule drew the tokens.
Of tiny models in bf16, measured by bf16, no position did; drawn in float32 up to 0.3 % did, where the model was sharper than
any that was trained; with half of the weights of another checkpoint 6 % and more, with other seeds 80 % and more (8 % would be
those of a model so sure that it has 0.3 nats a token). Figures: docs/miner.md."""


@dataclass(frozen=True)
class SampledRollout:
    """`positions`: ascending completion indices."""

    rollout: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Otherwise:
    """Why the engine is not believed. `why`: the bound that is broken; `cause`: the likeliest fault, `told` in words."""

    why: str
    cause: str
    told: str
    rollouts: int
    positions: int
    lost: int  # positions that do not win their draw
    clearly_lost: int  # by more than LOST_BY
    largest: float
    logprob_mean: float  # nats, of the measured tokens under the window's checkpoint


_PROOF: Final = ("proof", "the proof model measures other numbers than it proved: look at its device, and not at the engine")


FALSE_ALARM_RATE: Final = 1e-2
"""Of an honest engine and window at most, by a bound that is far from tight. A validator's rate is for samples of 64 rollouts;
of the few that are looked at here it would leave the bounds where no value lies, and a false alarm costs one's own window."""


class DrawCheck:
    """One window's. Entered from every thread that proves.

    Args:
        generation_class, proof_class: numerics classes, as the header will name them. shape: of the model. table: that its
            checkpoint pins.
    """

    def __init__(self, generation_class: str, proof_class: str, shape: Shape, table: CalibrationTable) -> None:
        self._drawn = table.lookup(generation_class, proof_class)
        self._proved = table.lookup(proof_class, proof_class)
        self._shape = shape
        self._lock = threading.Lock()
        self._measured: list[Comparison] = []
        self._logprobs: list[float] = []
        self._passed = False

    @property
    def passed(self) -> bool:
        """Whether a group was looked at closely, and believed."""
        return self._passed

    def sample(self, group: int, completions: Sequence[Completion]) -> list[SampledRollout]:
        """What is to be measured of a group: never the same place in a batch, evenly over each completion."""
        rollouts, positions = (ROLLOUTS, POSITIONS) if self._passed else (FIRST_ROLLOUTS, FIRST_POSITIONS)
        first, step = (5 * group) % ROLLOUTS_PER_PROBLEM, ROLLOUTS_PER_PROBLEM // rollouts
        chosen = sorted((first + step * number) % ROLLOUTS_PER_PROBLEM for number in range(rollouts))
        return [SampledRollout(one, _spread(len(completions[one].tokens), positions)) for one in chosen]

    def judge(
        self,
        group: int,
        completions: Sequence[Completion],
        proofs: Sequence[RolloutProof],
        sampled: Sequence[SampledRollout],
        measured: Sequence[RolloutMeasurement],
    ) -> Otherwise | None:
        """What is wrong with all that was measured in this window, these of one group among it; None where nothing is."""
        here = [_compared(group, one, proofs[one.rollout], found) for one, found in zip(sampled, measured, strict=True)]
        with self._lock:
            self._measured += here
            self._logprobs += [float(value) for found in measured for value in found.logprobs]
            broken = self._broken()
            if broken is None:
                self._passed = True
                return None
            return self._otherwise(*broken, completions, here)

    def _broken(self) -> tuple[str, str] | None:
        """Check of section 9, and bound."""
        lost = _losses(self._measured)
        clearly = int((lost > LOST_BY).sum())
        if clearly >= LOST_LEAST and clearly > LOST_SHARE * len(lost):
            return "sampling", "lost_share"
        statistics = own_statistics(
            self._measured, self._proved, margins=self._drawn, shape=self._shape, alpha=FALSE_ALARM_RATE
        )
        return next(((one.check, one.name) for one in statistics if one.rejects), None)

    def _otherwise(self, broken: str, why: str, completions: Sequence[Completion], here: Sequence[Comparison]) -> Otherwise:
        lost = _losses(self._measured)
        cause, told = _likely(completions, here) if broken == "sampling" else _PROOF
        return Otherwise(
            why,
            cause,
            told,
            rollouts=len(self._measured),
            positions=len(lost),
            lost=int((lost > 0).sum()),
            clearly_lost=int((lost > LOST_BY).sum()),
            largest=float(lost.max()),
            logprob_mean=float(np.mean(self._logprobs)),
        )


def _losses(measured: Sequence[Comparison]) -> npt.NDArray[np.float64]:
    """By how much each position loses its draw."""
    return lost_margins(np.concatenate([one.margins for one in measured]))


def _spread(length: int, most: int) -> tuple[int, ...]:
    if length <= most:
        return tuple(range(length))
    return tuple(np.linspace(0, length - 1, most).astype(int).tolist())


def _compared(group: int, one: SampledRollout, proof: RolloutProof, found: RolloutMeasurement) -> Comparison:
    at = np.asarray(one.positions)
    return compare(
        group,
        one.rollout,
        claimed_sketches=parse_sketches(proof.sketches, len(proof.logprobs) + 1)[at + 1],
        claimed_logprobs=proof.logprobs[at],
        z=found.z,
        logprobs=found.logprobs,
        margins=found.margins,
        reference=found.reference,
    )


def _likely(completions: Sequence[Completion], here: Sequence[Comparison]) -> tuple[str, str]:
    """The likeliest fault of the group that was measured last: a name, and words. `grail-miner conformance` asks more."""
    if len({one.tokens for one in completions}) == 1:
        return "clones", "all rollouts of a group are the same: their seeds do not reach the draw"
    lost = _losses(here)
    if lost.max(initial=0.0) <= LOST_BY:
        return (
            "numerics",
            "every loss is narrow: the engine or the proof model computes other numbers than its class does",
        )
    wrong = [bool((_losses([one]) > COARSE_MARGIN).mean() > COARSE_MARGIN_SHARE) for one in here]
    if any(wrong) and sum(wrong) <= len(wrong) / 2:
        return "single_rows", "single rows have tokens that their seed does not give: of another request, perhaps"
    return "other_draws", "the tokens follow from other weights than it was told to load, or from other noise than its seeds'"
