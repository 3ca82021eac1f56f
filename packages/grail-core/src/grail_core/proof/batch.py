"""One proof batch: what a miner proves of its rows, and what a validator measures of the same rows.

A validator holds its own pass and the miner's claims against a float32 reference, where it has one. All run
`PolicyModel.hidden_states` on at most PROOF_BATCH_SIZE rows in one pass; the head is applied only to the positions that are
needed, a few rows of logits at a time. A batch is one group in r order, or single rollouts in the order drawn. Sketches belong
to input positions prompt_length − 1 … last: completion index i has sketch i + 1 and the logits row before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

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

LOGITS_BYTES: Final = 32 * 2**20
"""Logits of one model in memory at one time: 55 rows at V = 151,936. Fewer would cast such a head more often than its products
cost."""


_NONE: Final = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class RolloutProof:
    """What goes into the window file beside the tokens."""

    sketches: bytes  # 8 · (completion_length + prompt positions that are sketched) bytes
    logprobs: npt.NDArray[np.float32]  # [completion_length], unwarped model; or none at all


@on_this_machine
def prove_rollouts(
    model: PolicyModel,
    rows: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    projections: Projections,
    *,
    prompt_positions: int = 1,
    logprobs: bool = True,
) -> list[RolloutProof]:
    """Sketches and log-probabilities of one batch.

    Args:
        rows: prompt + completion of each rollout, at most PROOF_BATCH_SIZE. prompt_lengths: of each row.
        prompt_positions: how many of a prompt's last positions are sketched, where it has so many.
        logprobs: without them the head is not run, and the proofs have none.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        UnprovableError: a hidden state that is zero or not finite; `where` names the row.
        MachineFaultError: as `on_this_machine`.
    """
    check_batch(rows, prompt_lengths)
    hidden = model.hidden_states(rows)
    proofs: list[RolloutProof] = []
    claimed = _claimed_logprobs(model, rows, prompt_lengths, hidden) if logprobs else [_NONE] * len(rows)
    for index, (states, length) in enumerate(zip(hidden, prompt_lengths, strict=True)):
        try:
            data = quantise(sketch(states[max(0, length - prompt_positions) :], projections))
        except UnprovableError as error:
            raise UnprovableError(error.what, where=f"row {index}", hint=error.hint) from error
        proofs.append(RolloutProof(data, claimed[index]))
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
    keep_reference: Callable[[int, Tensor], None] | None = None,
) -> list[RolloutMeasurement]:
    """Measure claimed rows at the challenged completion indices, in one forward pass, and in one more by a float32 reference.

    Args:
        positions: per row, ascending completion indices (0 = first sampled token), each below the completion's length.
        sampling_seeds: per row, as derived by the protocol (never as claimed).
        reference: the same weights in float32.
        keep: is given each row's index and its states from the one before its first completion token on, [completion + 1, d]
            in the model's dtype. keep_reference: the reference's.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        MachineFaultError: as `on_this_machine`.
    """
    check_batch(rows, prompt_lengths)
    sampler = SeededSampler(policy)
    hidden = model.hidden_states(rows)
    if keep is not None:
        for r, (states, length) in enumerate(zip(hidden, prompt_lengths, strict=True)):
            keep(r, states[length - 1 :])
    found = _unmeasured(positions, _challenged_sketches(hidden, prompt_lengths, positions, projections))
    wanted = [(r, at) for r, p in enumerate(positions) for at in range(len(p))]
    before = states_before(hidden, prompt_lengths, positions)
    del hidden
    beside = None
    if reference is not None:
        hidden = reference.hidden_states(rows)
        if keep_reference is not None:
            for r, (states, length) in enumerate(zip(hidden, prompt_lengths, strict=True)):
                keep_reference(r, states[length - 1 :])
        z = _challenged_sketches(hidden, prompt_lengths, positions, projections)
        found = [replace(one, reference=_unreferred(z0)) for one, z0 in zip(found, z, strict=True)]
        beside = reference, states_before(hidden, prompt_lengths, positions)
        del hidden
    for start, logits in logits_in_chunks(model, before):
        chunk = Chunk(
            rows, prompt_lengths, positions, wanted[start : start + len(logits)], sampling_seeds, sampler.needs_history
        )
        judge(sampler, logits, chunk, found)
        if beside is not None:
            states = torch.stack(beside[1][start : start + len(logits)])
            _refer(sampler, logits, beside[0].logits(states).cpu().numpy(), chunk, found)
    return found


def states_before(hidden: list[Tensor], prompt_lengths: Sequence[int], positions: Sequence[Sequence[int]]) -> list[Tensor]:
    """The state before every position of every row, one after the other; nothing else of the batch stays in memory."""
    found: list[Tensor] = []
    for states, length, indices in zip(hidden, prompt_lengths, positions, strict=True):
        at = torch.as_tensor([length + i - 1 for i in indices], dtype=torch.long, device=states.device)
        found += states.index_select(0, at)
    return found


def _unmeasured(positions: Sequence[Sequence[int]], z: Sequence[Sketches]) -> list[RolloutMeasurement]:
    """With room for what the head says."""
    return [
        RolloutMeasurement(tuple(p), one, np.empty(len(p), dtype=np.float32), np.empty(len(p), dtype=np.float64))
        for p, one in zip(positions, z, strict=True)
    ]


def _unreferred(z: Sketches) -> ReferenceMeasurement:
    return ReferenceMeasurement(z, *(np.full(len(z), np.nan, dtype=np.float32) for _ in range(5)))


class Chunk:
    """n positions whose logits are in memory: where their figures go, and what is judged there."""

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        places: Sequence[tuple[int, int]],
        seeds: Sequence[int],
        with_history: bool,
    ) -> None:
        self.places = places  # (row, which of its positions)
        self.inputs = [prompt_lengths[r] + positions[r][at] - 1 for r, at in places]  # index of the last input token
        self.seeds = [seeds[r] for r, _ in places]
        self.claims = [rows[r][where + 1] for (r, _), where in zip(places, self.inputs, strict=True)]
        self.histories: list[Sequence[int]] = [
            rows[r][: where + 1] if with_history else () for (r, _), where in zip(places, self.inputs, strict=True)
        ]

    def margin(self, sampler: SeededSampler, logits: Floats, i: int, token: int, top: int) -> float:
        """Of a token at the chunk's i-th position under logits [n, V]. `top`: that row's maximum."""
        return sampler.margin(logits[i], self.seeds[i], self.inputs[i], token, self.histories[i], top=top)


class Judged(Protocol):
    """Where `judge` enters: at the index of a position in its row."""

    @property
    def logprobs(self) -> npt.NDArray[np.float32]: ...

    @property
    def margins(self) -> npt.NDArray[np.float64]: ...


def judge(sampler: SeededSampler, logits: Floats, at: Chunk, found: Sequence[Judged]) -> None:
    """Enter what the model's own logits [n, V] say of a chunk's positions."""
    tops = logits.argmax(axis=1)
    logprobs = _logprobs_of(logits, tops, at.claims)
    for i, (r, k) in enumerate(at.places):
        found[r].logprobs[k] = logprobs[i]
        found[r].margins[k] = at.margin(sampler, logits, i, at.claims[i], int(tops[i]))


def _refer(sampler: SeededSampler, own: Floats, reference: Floats, at: Chunk, found: Sequence[RolloutMeasurement]) -> None:
    """Enter what the reference's logits [n, V] say of a chunk's positions beside the model's own [n, V]."""
    tops, count = reference.argmax(axis=1), len(reference)
    noise, spread = np.empty(count, dtype=np.float32), np.empty(count, dtype=np.float32)
    kernels.logit_noise(reference, own, tops, np.float32(sampler.policy.temperature), noise, spread)
    logprobs = _logprobs_of(reference, tops, at.claims)
    words = np.array([seed & (2**64 - 1) for seed in at.seeds], dtype=np.uint64)
    twins = sampler.sample(own, words, np.array(at.inputs, dtype=np.uint32), at.histories)
    for i, (r, k) in enumerate(at.places):
        claimed, twin = at.claims[i], int(twins[i])
        one = found[r].reference
        assert one is not None
        one.logprobs[k], one.noise[k], one.spread[k] = logprobs[i], noise[i], spread[i]
        one.margins[k] = at.margin(sampler, reference, i, claimed, int(tops[i]))
        one.twins[k] = one.margins[k] if twin == claimed else at.margin(sampler, reference, i, twin, int(tops[i]))


def check_batch(rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> None:
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
    for start, logits in logits_in_chunks(model, before):
        values[start : start + len(logits)] = _logprobs_of(logits, logits.argmax(axis=1), claims[start : start + len(logits)])
    ends = np.cumsum([len(row) - length for row, length in zip(rows, prompt_lengths, strict=True)])
    return np.split(values, ends[:-1])


def logits_in_chunks(model: PolicyModel, states: list[Tensor]) -> Iterator[tuple[int, Floats]]:
    """(start, float32 [n, V] in main memory) over single hidden states [d]."""
    step = max(1, LOGITS_BYTES // (4 * model.vocabulary_size))
    for start in range(0, len(states), step):
        yield start, model.logits(torch.stack(states[start : start + step])).cpu().numpy()


def _logprobs_of(logits: Floats, tops: npt.NDArray[np.intp], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """float32 [n]: log-probability of one token per row. `tops` are the rows' maxima."""
    normalisers = np.empty(len(logits), dtype=np.float32)
    kernels.log_sum_exp(logits, tops, normalisers)
    claimed: npt.NDArray[np.float32] = logits[np.arange(len(logits)), np.asarray(tokens)]
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, the worst value
        return claimed - normalisers
