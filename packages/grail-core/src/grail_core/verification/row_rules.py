"""The rules of a rollout's record, asked of all rows of a file at once: which row is the first to break one.

`RolloutRecord` states the rules and says which is broken, row by row; this finds the row. A row is found here exactly where its
record could not be made; a test holds the two against each other. Lengths first, since they say where a row's values lie;
then each column's values up to there, in blocks that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from grail_core.files.window_file import RolloutColumns
from grail_core.protocol.constants import (
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    ROLLOUTS_PER_PROBLEM,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.rollouts.records import RESERVED_SKETCH_VALUE

BLOCK = 1 << 16
"""Values looked at in one go."""

Values = npt.NDArray[Any]
Marks = npt.NDArray[np.bool_]


def first_malformed(columns: RolloutColumns) -> int | None:
    """The first row of which no `RolloutRecord` can be made; None where every row is well formed."""
    end = _first(_misfits(columns), len(columns))
    tokens, logprobs = columns.tokens, columns.logprobs
    sketch_values = columns.sketches.values[: columns.sketches.offsets[end]].view("<i2")
    found = (
        _row_of(tokens.offsets, _first_value(tokens.values[: tokens.offsets[end]], _negative)),
        _row_of(logprobs.offsets, _first_value(logprobs.values[: logprobs.offsets[end]].view(np.uint32), _no_number)),
        _row_of(columns.sketches.offsets // 2, _first_value(sketch_values, _reserved)),
    )
    first = min((row for row in found if row is not None), default=end)
    return first if first < len(columns) else None


def _misfits(columns: RolloutColumns) -> Marks:
    """Rows with a number outside its range, or a length that is not its completion's."""
    prompts = columns.prompt_length.astype(np.int64)
    lengths = columns.tokens.lengths - prompts
    fit = (columns.group >= 0) & (columns.rollout >= 0) & (columns.rollout < ROLLOUTS_PER_PROBLEM)
    fit &= (prompts >= 1) & (prompts <= MAX_PROMPT_TOKENS)
    fit &= (lengths >= 1) & (lengths <= MAX_NEW_TOKENS_PROTOCOL_CAP)
    fit &= columns.logprobs.lengths == lengths
    fit &= columns.sketches.lengths == SKETCH_BYTES_PER_POSITION * (lengths + 1)
    fit &= np.isfinite(columns.reward) & ~((columns.reward == 0) & np.signbit(columns.reward))
    return ~fit


def _negative(block: Values) -> Marks:
    found: Marks = block < 0
    return found


def _no_number(block: Values) -> Marks:
    """NaN, infinity or −0.0, from the bits."""
    found: Marks = ((block & 0x7F800000) == 0x7F800000) | (block == 0x80000000)
    return found


def _reserved(block: Values) -> Marks:
    found: Marks = block == RESERVED_SKETCH_VALUE
    return found


def blocks(values: Values) -> Iterator[tuple[int, Values]]:
    """The values in blocks, each with the index of its first."""
    return ((start, values[start : start + BLOCK]) for start in range(0, len(values), BLOCK))


def _first_value(values: Values, broken: Callable[[Values], Marks]) -> int | None:
    for start, block in blocks(values):
        marked = broken(block)
        if marked.any():
            return start + int(marked.argmax())
    return None


def _row_of(offsets: npt.NDArray[np.int64], value: int | None) -> int | None:
    """The row that a value of a column belongs to; rows without values have none."""
    return None if value is None else int(np.searchsorted(offsets, value, "right")) - 1


def _first(marked: Marks, otherwise: int) -> int:
    return int(marked.argmax()) if marked.any() else otherwise
