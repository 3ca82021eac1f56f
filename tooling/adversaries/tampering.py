"""Honest work changed after the fact: what a liar does to the tokens, sketches, log-probabilities and rollouts that he has.

A `Change` makes another rollout of a rollout, a `Tamper` other groups of a miner's groups; `map_rollouts` and
`change_rollout` lift the one to the other. None of them signs or packs: whoever is in the dock does that, so a file of
tampered rollouts is well formed and bound.
The parts that also other lies are made of (`constant_sketches`, `token_replaced`, …) take plain values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from grail_core.protocol import RolloutRecord
from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION
from grail_miner.groups import Group

Change = Callable[[RolloutRecord], RolloutRecord]
Tamper = Callable[[Sequence[Group]], list[Group]]
F32 = npt.NDArray[np.float32]

_CONTROLS = 9  # the least token that is no control token of any tiny model


def map_rollouts(change: Change) -> Tamper:
    """Every rollout through `change`."""
    return lambda groups: [Group(group.group, tuple(map(change, group.rollouts))) for group in groups]


def change_rollout(group: int, rollout: int, **fields: object) -> Tamper:
    """Other fields in one rollout of the group at index `group`."""

    def tamper(groups: Sequence[Group]) -> list[Group]:
        changed = list(groups)
        records = list(groups[group].rollouts)
        records[rollout] = dataclasses.replace(records[rollout], **fields)  # type: ignore[arg-type]
        changed[group] = Group(groups[group].group, tuple(records))
        return changed

    return tamper


# Sketches that no model computed


def constant_sketches(positions: int, word: int = 0) -> bytes:
    """The same int16 `word` in every dimension of so many positions."""
    return np.full(positions * SKETCH_BYTES_PER_POSITION // 2, word, "<i2").tobytes()


def random_sketches(positions: int, seed: int) -> bytes:
    """Words distributed as the real ones are: N(0, 1) in units of 1/4096."""
    z = np.random.default_rng(seed).standard_normal(4 * positions)
    return np.clip(np.rint(z * 4096), -32767, 32767).astype("<i2").tobytes()


def zero_sketches(record: RolloutRecord) -> RolloutRecord:
    return _with_sketches(record, constant_sketches(_positions(record)))


FORGED_SKETCHES: dict[str, Change] = {
    "zero": zero_sketches,
    "constant": lambda record: _with_sketches(record, constant_sketches(_positions(record), 1024)),
    "largest value": lambda record: _with_sketches(record, constant_sketches(_positions(record), 32767)),
    "random normal": lambda record: _with_sketches(record, random_sketches(_positions(record), record.rollout)),
    "one honest position repeated": lambda record: _with_sketches(
        record, bytes(record.sketches[:SKETCH_BYTES_PER_POSITION]) * _positions(record)
    ),
}
"""Every way to fill the column without running a model."""


def false_logprobs() -> dict[str, Callable[[F32], F32]]:
    """Log-probabilities [completion] that are not the model's. Made anew each time: one of them draws."""
    half = np.random.default_rng(8)
    return {
        "zeros": np.zeros_like,
        "shifted by −0.1": lambda values: values - np.float32(0.1),
        "half of them right": lambda values: np.where(half.random(len(values)) < 0.5, values, np.float32(-1.0)).astype(
            np.float32
        ),
    }


# Other tokens than those that were sampled


def token_replaced(completion: Sequence[int], at: int, token: int) -> list[int]:
    return [*completion[:at], token, *completion[at + 1 :]]


def two_swapped(completion: Sequence[int], at: int) -> list[int]:
    """The tokens at `at` and after it in the other order; the same where there is no such pair."""
    return [*completion[:at], *completion[at : at + 2][::-1], *completion[at + 2 :]]


def another_token(token: int, vocabulary: int) -> int:
    """An ordinary token that is not this one, below `vocabulary`."""
    return max(_CONTROLS, (token + 17) % vocabulary)


def with_completion(record: RolloutRecord, completion: Sequence[int]) -> RolloutRecord:
    """The rollout with another completion of the same length, everything else as it was."""
    return dataclasses.replace(record, tokens=as_tokens((*record.tokens[: record.prompt_length].tolist(), *completion)))


def one_token_changed(vocabulary: int) -> Change:
    """The token in the middle is another."""

    def change(record: RolloutRecord) -> RolloutRecord:
        completion = record.completion.tolist()
        at = len(completion) // 2 if len(completion) > 1 else 0
        return with_completion(record, token_replaced(completion, at, another_token(completion[at], vocabulary)))

    return change


def last_token_changed(vocabulary: int, end: int) -> Change:
    """The last token is another; an end token stays, else `termination` would have its say before the proof."""

    def change(record: RolloutRecord) -> RolloutRecord:
        *others, last = record.completion.tolist()
        return record if last == end else with_completion(record, [*others, another_token(last, vocabulary)])

    return change


def order_changed(record: RolloutRecord) -> RolloutRecord:
    """The two tokens in the middle have changed places."""
    return with_completion(record, two_swapped(record.completion.tolist(), max(0, record.completion_length // 2 - 1)))


def tokens_changed(vocabulary: int) -> Change:
    """Every completion token but the last is another."""

    def change(record: RolloutRecord) -> RolloutRecord:
        *others, last = record.completion.tolist()
        return with_completion(record, [*(another_token(token, vocabulary) for token in others), last])

    return change


def prompt_changed(vocabulary: int) -> Change:
    """The prompt's first token is another."""

    def change(record: RolloutRecord) -> RolloutRecord:
        first, *others = record.tokens.tolist()
        return dataclasses.replace(record, tokens=as_tokens((another_token(first, vocabulary), *others)))

    return change


def end_put_first(end: int) -> Change:
    """The end token stands where the completion begins, and the completion goes on."""
    return lambda record: with_completion(record, token_replaced(record.completion.tolist(), 0, end))


def last_token_cut(record: RolloutRecord) -> RolloutRecord:
    """One token shorter with all that belongs to it, so that nothing ends it; rollouts of two tokens or fewer stay."""
    if record.completion_length < 3:
        return record
    tokens, logprobs, sketches = (
        record.tokens[:-1].copy(),
        record.logprobs[:-1].copy(),
        record.sketches[:-SKETCH_BYTES_PER_POSITION],
    )
    return dataclasses.replace(record, tokens=tokens, logprobs=logprobs, sketches=sketches)


def as_tokens(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, dtype=np.int32)


def _positions(record: RolloutRecord) -> int:
    return len(record.sketches) // SKETCH_BYTES_PER_POSITION


def _with_sketches(record: RolloutRecord, sketches: bytes) -> RolloutRecord:
    return dataclasses.replace(record, sketches=sketches)
