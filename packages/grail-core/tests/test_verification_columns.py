"""Checks 1, 2, 3 and 5 look at all rows of a file at once, and say to the last word what they would say row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.files.window_file import COLUMNS, HEADER_KEY, SIGNATURE_KEY, WindowFile, header_of, read_window_file
from grail_core.protocol import header_digest, merkle_root, rollout_digests
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.rollouts.records import RolloutRecord, column_digests
from grail_core.protocol.types import Digest
from grail_core.verification import row_rules
from grail_core.verification.schema import check_schema
from grail_core.verification.termination import check_termination
from grail_core.verification.uniqueness import distinct_rollouts, rollout_identity
from grail_core.verification.window_file import Submission, bind_rows
from tooling.testing import plain_window as plain
from tooling.testing import row_by_row

CONTEXT = plain.window_context()
MINER = plain.MINERS[0]
CHECKS = plain.check_context(CONTEXT, MINER.hotkey)
DIGEST = Digest(b"f" * 32)


@dataclass
class Row:
    """What a row of a file may hold, whether or not a record can be made of it."""

    group: int
    rollout: int
    tokens: npt.NDArray[np.int32]
    prompt_length: int
    logprobs: npt.NDArray[np.float32]
    sketches: bytes
    reward: float
    success: bool


def rows_of(groups: int) -> list[Row]:
    records = plain.rollouts(CONTEXT, MINER, range(groups))
    return [
        Row(
            one.group,
            one.rollout,
            one.tokens.copy(),
            one.prompt_length,
            one.logprobs.copy(),
            bytes(one.sketches),
            one.reward,
            one.success,
        )
        for one in records
    ]


def put(row: Row, field: str, index: int, value: float) -> None:
    getattr(row, field)[index % max(1, len(getattr(row, field)))] = value


def grown(row: Row, tokens: int) -> None:
    """So many completion tokens more, none of them an end token; sketches and log-probabilities fit."""
    row.tokens = np.concatenate((row.tokens[:-1], np.full(tokens, 30, np.int32), row.tokens[-1:]))
    row.logprobs = np.concatenate((row.logprobs, np.full(tokens, -1, np.float32)))
    row.sketches += bytes(8 * tokens)


def emptied(row: Row) -> None:
    row.tokens, row.logprobs, row.sketches = row.tokens[:0], row.logprobs[:0], b""


def with_sketch(row: Row, index: int, word: int) -> None:
    words = np.frombuffer(row.sketches, "<i2").copy()
    words[index % len(words)] = word
    row.sketches = words.tobytes()


CHANGES: tuple[Callable[[Row, int], object], ...] = (
    lambda row, n: put(row, "tokens", n, -1 - n),
    lambda row, n: put(row, "tokens", n, plain.VOCABULARY + n),
    lambda row, n: put(row, "tokens", n, plain.END),
    lambda row, n: put(row, "tokens", -1, 30),
    lambda row, n: put(row, "tokens", 1, 11 + n % 40),
    lambda row, n: put(row, "tokens", -2, 20 + n % 3),
    lambda row, n: put(row, "logprobs", n, float("nan")),
    lambda row, n: put(row, "logprobs", n, float("-inf")),
    lambda row, n: put(row, "logprobs", n, -0.0),
    lambda row, n: put(row, "logprobs", n, 1e-3),
    lambda row, n: put(row, "logprobs", n, 0.5),
    lambda row, n: with_sketch(row, n, -32768),
    lambda row, n: setattr(row, "sketches", row.sketches[: -1 - n % 9]),
    lambda row, n: setattr(row, "sketches", row.sketches + bytes(8)),
    lambda row, n: setattr(row, "sketches", b""),
    lambda row, n: setattr(row, "logprobs", row.logprobs[1:]),
    lambda row, n: setattr(row, "logprobs", row.logprobs[:0]),
    lambda row, n: setattr(row, "tokens", row.tokens[:1]),
    lambda row, n: emptied(row),
    lambda row, n: grown(row, n),
    lambda row, n: grown(row, 8 - len(row.tokens) + row.prompt_length),
    lambda row, n: setattr(row, "tokens", np.resize(row.tokens, MAX_NEW_TOKENS_PROTOCOL_CAP + 9)),
    lambda row, n: setattr(row, "prompt_length", n % 4),
    lambda row, n: setattr(row, "prompt_length", len(row.tokens)),
    lambda row, n: setattr(row, "prompt_length", MAX_PROMPT_TOKENS + 1),
    lambda row, n: setattr(row, "prompt_length", -(2**31)),
    lambda row, n: setattr(row, "group", row.group + 1 + n % 3),
    lambda row, n: setattr(row, "group", -1),
    lambda row, n: setattr(row, "rollout", 16),
    lambda row, n: setattr(row, "rollout", -1),
    lambda row, n: setattr(row, "reward", float("nan")),
    lambda row, n: setattr(row, "reward", -0.0),
)


def file_of(rows: list[Row]) -> WindowFile:
    """A file of these rows, whatever they are, under a header that MINER signed; its root is theirs where they have one."""
    header = header_of(plain.window_file(CONTEXT, MINER, plain.rollouts(CONTEXT, MINER, range(1))))
    with contextlib.suppress(ValueError):  # no record can be made of one: there is no root either
        header = replace(header, merkle_root=merkle_root(rollout_digests(CONTEXT.network_id, map(record_of, rows))))
    values: dict[str, Values] = {
        "g": np.array([row.group for row in rows], np.int32),
        "r": np.array([row.rollout for row in rows], np.int32),
        "tokens": [row.tokens.astype("<i4").tobytes() for row in rows],
        "prompt_length": np.array([row.prompt_length for row in rows], np.int32),
        "logprobs": [row.logprobs.astype("<f4").tobytes() for row in rows],
        "sketches": [row.sketches for row in rows],
        "reward": np.array([row.reward for row in rows], np.float64),
        "success": np.array([row.success for row in rows], np.bool_),
    }
    signature = MINER.sign(header_digest(CONTEXT.network_id, header))
    return read_window_file(write_parquet(COLUMNS, values, {HEADER_KEY: header.canonical(), SIGNATURE_KEY: bytes(signature)}))


def record_of(row: Row) -> RolloutRecord:
    return RolloutRecord(**vars(row))


changes = st.lists(st.tuples(st.integers(0, 47), st.integers(0, len(CHANGES) - 1), st.integers(0, 20)), max_size=4)


@given(groups=st.integers(1, 3), changes=changes, block=st.sampled_from((1, 7, 64, 1 << 16)))
@settings(max_examples=150, deadline=None)
def test_every_check_over_columns_says_what_it_says_row_by_row(
    groups: int, changes: list[tuple[int, int, int]], block: int
) -> None:
    rows = rows_of(groups)
    for at, which, number in changes:
        CHANGES[which](rows[at % len(rows)], number)
    file = file_of(rows)
    before, row_rules.BLOCK = row_rules.BLOCK, block
    try:
        compare(file)
    finally:
        row_rules.BLOCK = before


def compare(file: WindowFile) -> None:
    wanted = row_by_row.bound_rows(file, CONTEXT.network_id)
    bound = bind_rows(file, DIGEST, CONTEXT.network_id)
    if not all(isinstance(one, RolloutRecord) for one in wanted):
        assert bound == wanted
        return
    records = [one for one in wanted if isinstance(one, RolloutRecord)]
    if not isinstance(bound, Submission):  # rows and header differ in what they count, which no row shows
        assert [finding.check for finding in bound] == ["file"]
        assert "the header's" in bound[0].detail
        bound = Submission(file.header.hotkey, DIGEST, file, tuple(column_digests(CONTEXT.network_id, file.table.raw)))
    assert list(bound.digests) == rollout_digests(CONTEXT.network_id, records)
    assert [vars_of(one) for one in bound.rollouts] == [vars_of(one) for one in records]
    assert bound.groups == tuple(dict.fromkeys(one.group for one in records))
    history = frozenset(rollout_identity(one.prompt, one.completion) for one in records[::5])
    assert distinct_rollouts(bound, history) == row_by_row.distinct(records, history)
    assert distinct_rollouts(bound, frozenset()) == row_by_row.distinct(records, frozenset())
    assert check_termination(bound, CHECKS) == row_by_row.termination(records, CHECKS)
    places = [(one.group, one.rollout) for one in records]
    if places == [(group, rollout) for group in sorted({g for g, _ in places}) for rollout in range(ROLLOUTS_PER_PROBLEM)]:
        assert check_schema(bound, CHECKS) == row_by_row.schema(records, CHECKS)
    else:
        assert [finding.check for finding in check_schema(bound, CHECKS)] == ["schema"]


def vars_of(record: RolloutRecord) -> tuple[object, ...]:
    return (
        record.group,
        record.rollout,
        record.prompt.tolist(),
        record.completion.tolist(),
        record.logprobs.tolist(),
        bytes(record.sketches),
        record.reward,
        record.success,
    )


def test_each_change_alone_is_found_where_its_record_cannot_be_made() -> None:
    """So that no rule is held against itself only where chance leads."""
    refused = 0
    for change in CHANGES:
        rows = rows_of(1)
        change(rows[3], 5)
        found = row_rules.first_malformed(file_of(rows).table)
        try:
            record_of(rows[3])
        except ValueError:
            assert found == 3
            refused += 1
        else:
            assert found is None
    assert refused == 22


def test_of_several_malformed_rows_the_first_is_named_whatever_is_wrong_with_it() -> None:
    for first, second in ((6, 12), (12, 6), (0, 11), (11, 0), (13, 8)):
        rows = rows_of(2)
        CHANGES[first](rows[9], 2)
        CHANGES[second](rows[4], 2)
        assert row_rules.first_malformed(file_of(rows).table) == 4
