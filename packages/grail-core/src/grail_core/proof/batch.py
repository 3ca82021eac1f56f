"""One proof batch: what a miner proves of its rows, and what a validator measures of the same rows.

Both run `PolicyModel.hidden_states` on at most PROOF_BATCH_SIZE rows in one pass; the head is applied only to the positions
that are needed, a few rows of logits at a time. A batch is one group in r order, or single rollouts in the order drawn.
Sketches belong to input positions prompt_length − 1 … last: completion index i has sketch i + 1 and the logits row before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model import kernels
from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import Floats, SeededSampler
from grail_core.proof.errors import UnprovableError
from grail_core.proof.sketches import Projections, Sketches, quantise, sketch
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy

# Logits in memory at one time: 55 rows at V = 151,936. Fewer would cast such a head more often than its products cost.
_LOGITS_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RolloutProof:
    """What goes into the window file beside the tokens."""

    sketches: bytes  # 8 · (completion_length + 1) bytes
    logprobs: npt.NDArray[np.float32]  # [completion_length], unwarped model


@on_this_machine
def prove_rollouts(
    model: PolicyModel, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
) -> list[RolloutProof]:
    """Sketches and log-probabilities of one batch.

    Args:
        rows: prompt + completion of each rollout, at most PROOF_BATCH_SIZE. prompt_lengths: of each row.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        UnprovableError: a hidden state that is zero or not finite; `where` names the row.
        MachineFaultError: as `on_this_machine`.
    """
    _check_batch(rows, prompt_lengths)
    hidden = model.hidden_states(rows)
    proofs: list[RolloutProof] = []
    logprobs = _claimed_logprobs(model, rows, prompt_lengths, hidden)
    for index, (states, length) in enumerate(zip(hidden, prompt_lengths, strict=True)):
        try:
            data = quantise(sketch(states[length - 1 :], projections))
        except UnprovableError as error:
            raise UnprovableError(error.what, where=f"row {index}", hint=error.hint) from error
        proofs.append(RolloutProof(data, logprobs[index]))
    return proofs


@on_this_machine
def measure_rollouts(
    model: PolicyModel,
    rows: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    positions: Sequence[Sequence[int]],
    projections: Projections,
    policy: GenerationPolicy,
    sampling_seeds: Sequence[int],
) -> list[RolloutMeasurement]:
    """Measure claimed rows at the challenged completion indices, in one forward pass.

    Args:
        positions: per row, ascending completion indices (0 = first sampled token), each below the completion's length.
        sampling_seeds: per row, as derived by the protocol (never as claimed).

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        MachineFaultError: as `on_this_machine`.
    """
    _check_batch(rows, prompt_lengths)
    sampler = SeededSampler(policy)
    hidden = model.hidden_states(rows)
    z = _challenged_sketches(hidden, prompt_lengths, positions, projections)
    logprobs = [np.empty(len(p), dtype=np.float32) for p in positions]
    margins = [np.empty(len(p), dtype=np.float64) for p in positions]
    wanted = [(r, at) for r, p in enumerate(positions) for at in range(len(p))]
    before = [hidden[r][prompt_lengths[r] + positions[r][at] - 1] for r, at in wanted]
    for start, logits in _logits_in_chunks(model, before):
        claims = [rows[r][prompt_lengths[r] + positions[r][at]] for r, at in wanted[start : start + len(logits)]]
        tops = logits.argmax(axis=1)
        values = _logprobs_of(logits, tops, claims)
        for offset, (r, at) in enumerate(wanted[start : start + len(logits)]):
            here = prompt_lengths[r] + positions[r][at]
            history = rows[r][:here] if sampler.needs_history else ()
            logprobs[r][at] = values[offset]
            margins[r][at] = sampler.margin(
                logits[offset], sampling_seeds[r], here - 1, rows[r][here], history, top=int(tops[offset])
            )
    return [RolloutMeasurement(tuple(p), z[r], logprobs[r], margins[r]) for r, p in enumerate(positions)]


@on_this_machine
def measure_sketches(
    model: PolicyModel,
    rows: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    positions: Sequence[Sequence[int]],
    projections: Projections,
) -> list[Sketches]:
    """z alone, as in `measure_rollouts`: for named alternatives (an earlier checkpoint), whose head is of no interest."""
    _check_batch(rows, prompt_lengths)
    return _challenged_sketches(model.hidden_states(rows), prompt_lengths, positions, projections)


def _check_batch(rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> None:
    if not 0 < len(rows) <= PROOF_BATCH_SIZE or len(rows) != len(prompt_lengths):
        raise ValueError(f"a proof batch has 1 to {PROOF_BATCH_SIZE} rows, each with its prompt length, not {len(rows)}")
    for index, (row, length) in enumerate(zip(rows, prompt_lengths, strict=True)):
        if not 1 <= length < len(row):
            raise ValueError(f"row {index}: {len(row)} tokens with a prompt of {length} hold no prompt or no completion")


def _challenged_sketches(
    hidden: list[Tensor], prompt_lengths: Sequence[int], positions: Sequence[Sequence[int]], projections: Projections
) -> list[Sketches]:
    result = []
    for states, length, indices in zip(hidden, prompt_lengths, positions, strict=True):
        at = torch.as_tensor([length + i for i in indices], dtype=torch.long, device=states.device)
        try:
            result.append(sketch(states.index_select(0, at), projections))
        except UnprovableError:
            result.append(np.full((len(indices), projections.shape[0]), np.nan, dtype=np.float32))
    return result


def _claimed_logprobs(
    model: PolicyModel, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], hidden: list[Tensor]
) -> list[npt.NDArray[np.float32]]:
    before = [state for states, length in zip(hidden, prompt_lengths, strict=True) for state in states[length - 1 : -1]]
    claims = [token for row, length in zip(rows, prompt_lengths, strict=True) for token in row[length:]]
    values = np.empty(len(claims), dtype=np.float32)
    for start, logits in _logits_in_chunks(model, before):
        values[start : start + len(logits)] = _logprobs_of(logits, logits.argmax(axis=1), claims[start : start + len(logits)])
    ends = np.cumsum([len(row) - length for row, length in zip(rows, prompt_lengths, strict=True)])
    return np.split(values, ends[:-1])


def _logits_in_chunks(model: PolicyModel, states: list[Tensor]) -> Iterator[tuple[int, Floats]]:
    """(start, float32 [n, V] in main memory) over single hidden states [d]."""
    step = max(1, _LOGITS_BYTES // (4 * model.vocabulary_size))
    for start in range(0, len(states), step):
        yield start, model.logits(torch.stack(states[start : start + step])).cpu().numpy()


def _logprobs_of(logits: Floats, tops: npt.NDArray[np.intp], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """float32 [n]: log-probability of one token per row. `tops` are the rows' maxima."""
    normalisers = np.empty(len(logits), dtype=np.float32)
    kernels.log_sum_exp(logits, tops, normalisers)
    claimed: npt.NDArray[np.float32] = logits[np.arange(len(logits)), np.asarray(tokens)]
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, the worst value
        return claimed - normalisers
