"""Gradient work, section 8: sketches of a round's first sequences show that a miner held the checkpoint and its own data.

One proof batch of the first rows of step 0, through the bf16 cast of the checkpoint, sketched at every position with the
round's seed. They are judged by what rollouts are judged by: the coarse bounds, always; where a calibration covers the pair of
classes the pooled energy against the float32 reference; and the named alternatives, which here are earlier checkpoints. A
sequence counts as a rollout that nobody drew: what is said of tokens, margins and log-probabilities there is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.alternatives import COPIES_BYTES, Alternatives, Weights
from grail_core.proof.calibration import PairCalibration, Shape
from grail_core.proof.comparison import Comparison, NamedComparison, ReferenceComparison, Statistic
from grail_core.proof.errors import UnprovableError
from grail_core.proof.round_work import F32, PREVIOUS, MeasuredSketches
from grail_core.proof.sketches import Projections, differences, parse_sketches, projections, quantise, sketch
from grail_core.proof.statistics import evaluate
from grail_core.proof.trained_model import I32
from grail_core.protocol.constants import PROOF_BATCH_SIZE, SKETCH_DIMENSIONS
from grail_core.protocol.randomness import Randomness

CHECK: Final = "proof"


def sketched_rows(batch: int) -> int:
    """Sequences of a batch of step 0 that are sketched: the first so many."""
    return min(PROOF_BATCH_SIZE, batch)


@on_this_machine
def round_sketches(model: PolicyModel, tokens: I32, window_seed: bytes, randomness: Randomness) -> bytes:
    """What stands in an update file: 8 · L · rows bytes, row by row.

    Args:
        model: the checkpoint in bf16. tokens: int32 [rows, L], `sketched_rows` of step 0. window_seed: the round's.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        UnprovableError: a hidden state that is zero or not finite; `where` names the row.
        MachineFaultError: as `on_this_machine`.
    """
    signs = projections(randomness, window_seed, model.hidden_size)
    found = []
    for row, states in enumerate(model.hidden_states(_rows(tokens))):
        try:
            found.append(quantise(sketch(states, signs)))
        except UnprovableError as error:
            raise UnprovableError(error.what, where=f"row {row}", hint=error.hint) from error
    return b"".join(found)


@on_this_machine
def measure_sketches(
    model: PolicyModel,
    tokens: I32,
    window_seed: bytes,
    randomness: Randomness,
    *,
    alternatives: Alternatives | None = None,
) -> MeasuredSketches:
    """The validator's own pass over the same rows, and those of its float32 copy.

    Args:
        alternatives: of this model, with the weights of `previous_checkpoints`; None: the own pass alone.

    Raises:
        OutOfVocabularyError, OverlongSequenceError, MachineFaultError: as `round_sketches`.
    """
    signs = projections(randomness, window_seed, model.hidden_size)
    own = _sketches(model, tokens, signs)
    if alternatives is None:
        return MeasuredSketches(own, None, {})
    with alternatives.reference.lock:
        reference = _sketches(alternatives.reference.model(), tokens, signs)
        previous = {
            name: _sketches(alternatives.reference.under(weights()), tokens, signs)
            for name, weights in alternatives.weights.items()
            if name in PREVIOUS
        }
    return MeasuredSketches(own, reference, previous)


def previous_checkpoints(
    model: PolicyModel, earlier: Mapping[str, Mapping[str, F32]], *, most_bytes: int = COPIES_BYTES
) -> dict[str, Weights]:
    """Earlier checkpoints as alternatives: rounded to the model's type, since that is what a miner of one would have run.

    Args:
        earlier: float32 weights by their names in PREVIOUS; they may be mapped from files. most_bytes: of memory for rounded
            tensors, all together; what is beyond it is rounded anew for every pass, one tensor at a time.
    """
    left = most_bytes
    found: dict[str, Weights] = {}
    for name, weights in earlier.items():
        rounded = _Rounded(weights, model.dtype)
        if rounded.nbytes <= left:
            left -= rounded.nbytes
            kept = dict(rounded)
            found[name] = partial(_same, kept)
        else:
            found[name] = partial(_same, rounded)
    return found


class _Rounded(Mapping[str, Tensor]):
    """Float32 arrays as tensors of another type, each made when it is asked for."""

    def __init__(self, arrays: Mapping[str, F32], dtype: torch.dtype) -> None:
        self._arrays, self._dtype = arrays, dtype

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._arrays[name])).to(self._dtype)  # a copy: what is mapped cannot be written to

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def nbytes(self) -> int:
        return sum(array.size for array in self._arrays.values()) * self._dtype.itemsize


def _same(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return weights


def judge_sketches(
    claimed: bytes, measured: MeasuredSketches, *, pair: PairCalibration | None = None, shape: Shape | None = None
) -> list[Statistic]:
    """The statistics of check `proof`; one that `rejects` fails the round.

    Args:
        claimed: as `round_sketches` gives them. pair: calibration of (the miner's proof class, the class measured in); without
            one the coarse bounds alone are enforced. shape: the model's.

    Raises:
        MalformedSketchError: another length, or the reserved value.
    """
    count, length, _ = measured.own.shape
    words = parse_sketches(claimed, count * length).reshape(count, length, SKETCH_DIMENSIONS)
    sample = [_compared(row, words[row], measured) for row in range(count)]
    return [one for one in evaluate(sample, pair, margins=None, shape=shape) if one.check == CHECK]


def _compared(row: int, words: npt.NDArray[np.int16], measured: MeasuredSketches) -> Comparison:
    """A sequence as a rollout of which only sketches are known: all else is zero, as if it agreed."""
    nothing = np.zeros(len(words), np.float32)
    own, reference, named = measured.own[row], None, None
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number leaves the row unusable
        if measured.reference is not None:
            plain = measured.reference[row]
            drift = own - plain
            reference = ReferenceComparison(
                errors=differences(words, plain),
                drift=drift,
                logprob_errors=nothing,
                logprob_drift=nothing,
                informative=nothing,
                margins=nothing,
                twins=nothing,
                noise=nothing,
                spread=nothing,
            )
            named = NamedComparison(
                errors=differences(words, own),
                deltas={name: z[row] - plain for name, z in measured.previous.items()},
                drift=drift,
                tokens=np.zeros(len(words), np.int32),
                leads={},
                noise=nothing,
                spread=nothing,
            )
    return Comparison(0, row, differences(words, own), nothing, nothing, nothing.astype(np.float64), reference, named)


def _sketches(model: PolicyModel, tokens: I32, signs: Projections) -> F32:
    return np.stack([_sketch_or_none(states, signs) for states in model.hidden_states(_rows(tokens))])


def _sketch_or_none(states: Tensor, signs: Projections) -> F32:
    try:
        return sketch(states, signs)
    except UnprovableError:
        return np.full((len(states), SKETCH_DIMENSIONS), np.nan, np.float32)


def _rows(tokens: I32) -> list[list[int]]:
    if tokens.ndim != 2 or not 1 <= len(tokens) <= PROOF_BATCH_SIZE:
        raise ValueError(f"1 to {PROOF_BATCH_SIZE} rows of one length are sketched together, not an array of {tokens.shape}")
    rows: list[list[int]] = tokens.tolist()
    return rows
