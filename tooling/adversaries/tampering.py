"""Honest work changed after the fact: what a liar does to the tokens, sketches, log-probabilities and rows that he has.

A `Change` makes another row of a row, a `Tamper` other groups of a miner's groups; `map_rows` and `change_row` lift the one to
the other. None of them signs or packs: whoever is in the dock does that, so a file of tampered rows is well formed and bound.
The parts that also other lies are made of (`constant_sketches`, `token_replaced`, …) take plain values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from grail_core.protocol import RolloutRow
from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION
from grail_miner.mining import Group

Change = Callable[[RolloutRow], RolloutRow]
Tamper = Callable[[Sequence[Group]], list[Group]]
F32 = npt.NDArray[np.float32]

_CONTROLS = 9  # the least token that is no control token of any tiny model


def map_rows(change: Change) -> Tamper:
    """Every row through `change`."""
    return lambda groups: [Group(group.group, tuple(map(change, group.rows))) for group in groups]


def change_row(group: int, rollout: int, **fields: object) -> Tamper:
    """Other fields in one row of the group at index `group`."""

    def tamper(groups: Sequence[Group]) -> list[Group]:
        changed = list(groups)
        rows = list(groups[group].rows)
        rows[rollout] = dataclasses.replace(rows[rollout], **fields)  # type: ignore[arg-type]
        changed[group] = Group(groups[group].group, tuple(rows))
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


def zero_sketches(row: RolloutRow) -> RolloutRow:
    return _with_sketches(row, constant_sketches(_positions(row)))


FORGED_SKETCHES: dict[str, Change] = {
    "zero": zero_sketches,
    "constant": lambda row: _with_sketches(row, constant_sketches(_positions(row), 1024)),
    "largest value": lambda row: _with_sketches(row, constant_sketches(_positions(row), 32767)),
    "random normal": lambda row: _with_sketches(row, random_sketches(_positions(row), row.rollout)),
    "one honest position repeated": lambda row: _with_sketches(
        row, bytes(row.sketches[:SKETCH_BYTES_PER_POSITION]) * _positions(row)
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


def with_completion(row: RolloutRow, completion: Sequence[int]) -> RolloutRow:
    """The row with another completion of the same length, everything else as it was."""
    return dataclasses.replace(row, tokens=as_tokens((*row.tokens[: row.prompt_length].tolist(), *completion)))


def one_token_changed(vocabulary: int) -> Change:
    """The token in the middle is another."""

    def change(row: RolloutRow) -> RolloutRow:
        completion = row.completion.tolist()
        at = len(completion) // 2 if len(completion) > 1 else 0
        return with_completion(row, token_replaced(completion, at, another_token(completion[at], vocabulary)))

    return change


def last_token_changed(vocabulary: int, end: int) -> Change:
    """The last token is another; an end token stays, else `termination` would have its say before the proof."""

    def change(row: RolloutRow) -> RolloutRow:
        *others, last = row.completion.tolist()
        return row if last == end else with_completion(row, [*others, another_token(last, vocabulary)])

    return change


def order_changed(row: RolloutRow) -> RolloutRow:
    """The two tokens in the middle have changed places."""
    return with_completion(row, two_swapped(row.completion.tolist(), max(0, row.completion_length // 2 - 1)))


def tokens_changed(vocabulary: int) -> Change:
    """Every completion token but the last is another."""

    def change(row: RolloutRow) -> RolloutRow:
        *others, last = row.completion.tolist()
        return with_completion(row, [*(another_token(token, vocabulary) for token in others), last])

    return change


def prompt_changed(vocabulary: int) -> Change:
    """The prompt's first token is another."""

    def change(row: RolloutRow) -> RolloutRow:
        first, *others = row.tokens.tolist()
        return dataclasses.replace(row, tokens=as_tokens((another_token(first, vocabulary), *others)))

    return change


def end_put_first(end: int) -> Change:
    """The end token stands where the completion begins, and the completion goes on."""
    return lambda row: with_completion(row, token_replaced(row.completion.tolist(), 0, end))


def last_token_cut(row: RolloutRow) -> RolloutRow:
    """One token shorter with all that belongs to it, so that nothing ends it; rows of two tokens or fewer stay."""
    if row.completion_length < 3:
        return row
    tokens, logprobs, sketches = row.tokens[:-1].copy(), row.logprobs[:-1].copy(), row.sketches[:-SKETCH_BYTES_PER_POSITION]
    return dataclasses.replace(row, tokens=tokens, logprobs=logprobs, sketches=sketches)


def as_tokens(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(values, dtype=np.int32)


def _positions(row: RolloutRow) -> int:
    return len(row.sketches) // SKETCH_BYTES_PER_POSITION


def _with_sketches(row: RolloutRow, sketches: bytes) -> RolloutRow:
    return dataclasses.replace(row, sketches=sketches)
