"""One proof batch: what a miner proves of its rows, and what a validator measures of the same rows.

Both run `PolicyModel.hidden_states` on at most PROOF_BATCH_SIZE rows in one pass; the head is applied only to the positions
that are needed, a few rows of logits at a time. A batch is one group in r order, or single rollouts in the order drawn.
Sketches belong to input positions prompt_length − 1 … last: completion index i has sketch i + 1 and the logits row before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from grail_core.proof.work import ReferenceMeasurement, RolloutMeasurement
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
    *,
    reference: PolicyModel | None = None,
    keep: Callable[[int, Tensor], None] | None = None,
) -> list[RolloutMeasurement]:
    """Measure claimed rows at the challenged completion indices, in one forward pass, and in one more by a float32 reference.

    Args:
        positions: per row, ascending completion indices (0 = first sampled token), each below the completion's length.
        sampling_seeds: per row, as derived by the protocol (never as claimed).
        reference: the same weights in float32.
        keep: is given each row's index and its states before every completion token, [completion, d] in the model's dtype.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        MachineFaultError: as `on_this_machine`.
    """
    _check_batch(rows, prompt_lengths)
    sampler = SeededSampler(policy)
    hidden = model.hidden_states(rows)
    if keep is not None:
        for r, (states, length) in enumerate(zip(hidden, prompt_lengths, strict=True)):
            keep(r, states[length - 1 : -1])
    z = _challenged_sketches(hidden, prompt_lengths, positions, projections)
    logprobs = [np.empty(len(p), dtype=np.float32) for p in positions]
    margins = [np.empty(len(p), dtype=np.float64) for p in positions]
    hidden0 = None if reference is None else reference.hidden_states(rows)
    beside = (
        None if hidden0 is None else _empty_references(_challenged_sketches(hidden0, prompt_lengths, positions, projections))
    )
    wanted = [(r, at) for r, p in enumerate(positions) for at in range(len(p))]
    at_input = [prompt_lengths[r] + positions[r][at] - 1 for r, at in wanted]
    before = [hidden[r][where] for (r, _), where in zip(wanted, at_input, strict=True)]
    for start, logits in _logits_in_chunks(model, before):
        places = wanted[start : start + len(logits)]
        inputs = at_input[start : start + len(logits)]
        claims = [rows[r][where + 1] for (r, _), where in zip(places, inputs, strict=True)]
        tops = logits.argmax(axis=1)
        values = _logprobs_of(logits, tops, claims)
        histories = [
            rows[r][: where + 1] if sampler.needs_history else () for (r, _), where in zip(places, inputs, strict=True)
        ]
        for offset, ((r, at), where) in enumerate(zip(places, inputs, strict=True)):
            logprobs[r][at] = values[offset]
            margins[r][at] = sampler.margin(
                logits[offset], sampling_seeds[r], where, claims[offset], histories[offset], top=int(tops[offset])
            )
        if reference is not None and hidden0 is not None and beside is not None:
            states = torch.stack([hidden0[r][where] for (r, _), where in zip(places, inputs, strict=True)])
            judged = _Positions(places, inputs, [sampling_seeds[r] for r, _ in places], claims, histories)
            _refer(sampler, logits, reference.logits(states).cpu().numpy(), judged, beside)
    return [
        RolloutMeasurement(tuple(p), z[r], logprobs[r], margins[r], None if beside is None else beside[r])
        for r, p in enumerate(positions)
    ]


@dataclass(frozen=True)
class _Positions:
    """n positions of one chunk: where their figures go, the index of the last input token, and what is judged there."""

    places: Sequence[tuple[int, int]]  # (row, which of its positions)
    inputs: Sequence[int]
    seeds: Sequence[int]
    claims: Sequence[int]
    histories: Sequence[Sequence[int]]


def _empty_references(z: Sequence[Sketches]) -> list[ReferenceMeasurement]:
    return [ReferenceMeasurement(one, *(np.full(len(one), np.nan, dtype=np.float32) for _ in range(5))) for one in z]


def _refer(
    sampler: SeededSampler, own: Floats, reference: Floats, at: _Positions, beside: Sequence[ReferenceMeasurement]
) -> None:
    """Enter what the reference's logits [n, V] say of a chunk's positions beside the validator's own [n, V]."""
    tops = reference.argmax(axis=1)
    count = len(reference)
    noise, spread = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.float32)
    kernels.logit_noise(reference, own, tops, np.float32(sampler.policy.temperature), noise, spread)
    logprobs = _logprobs_of(reference, tops, at.claims)
    words = np.array([seed & (2**64 - 1) for seed in at.seeds], dtype=np.uint64)
    chosen = sampler.sample(own, words, np.array(at.inputs, dtype=np.uint32), at.histories)
    for i, (r, k) in enumerate(at.places):

        def margin(token: int, i: int = i) -> float:
            return sampler.margin(reference[i], at.seeds[i], at.inputs[i], token, at.histories[i], top=int(tops[i]))

        claimed = margin(at.claims[i])
        one = beside[r]
        one.logprobs[k], one.margins[k] = logprobs[i], claimed
        one.twins[k] = claimed if int(chosen[i]) == at.claims[i] else margin(int(chosen[i]))
        one.noise[k], one.spread[k] = noise[i], spread[i]


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
