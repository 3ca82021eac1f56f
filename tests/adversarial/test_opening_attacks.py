"""Threats X1 and X2: whatever a stranger's file is, opening it ends in one of two ways, soon, and nothing else ends with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.errors import ProtocolViolationError
from grail_core.files.evidence import COLUMNS as EVIDENCE_COLUMNS
from grail_core.files.evidence import read_evidence
from grail_core.files.parquet_footer import FILE
from grail_core.files.parquet_reader import PAGE_HEADER
from grail_core.files.parquet_thrift import RefusedParquetError, read_struct, write_struct
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.files.window_file import WindowFileError, read_window_file, write_window_file
from grail_core.protocol.types import Signature
from tooling.adversaries.family_x_files import run_x1, run_x2
from tooling.adversaries.hostile_containers import containers
from tooling.adversaries.hostile_corpus import MAX_BYTES, Corpus, Outcomes, open_corpus
from tooling.adversaries.hostile_parquet import bombs, draft_of, footers_that_end_a_process, taken_apart
from tooling.adversaries.parquet_mutants import mutant, mutant_of_any
from tooling.adversaries.thrift_trees import write_tree
from tooling.testing.window_files import made_header, made_rows

HONEST = write_window_file(made_header(2), Signature(b"\x08" * 64), made_rows(0, 2, 40))
CONTAINERS = containers(HONEST)


@pytest.mark.parametrize("run", [run_x1, run_x2])
def test_every_hostile_file_is_refused_by_one_child_and_honest_extremes_are_opened(run) -> None:  # type: ignore[no-untyped-def]
    row = run(quick=True)
    assert [one for one in row["details"] if one["accepted"]] == []
    assert row["honest_false_rejects"] == 0
    assert row["tries"] >= 35


def test_the_hostile_files_are_honest_ones_but_for_their_lie() -> None:
    """Else a file would be refused for a mistake of whoever made it."""
    assert draft_of(HONEST).write() == HONEST
    pages, footer = taken_apart(HONEST)
    assert pages + write_tree(footer) + HONEST[-8:] == HONEST


def test_no_two_hostile_files_are_the_same() -> None:
    files = footers_that_end_a_process(HONEST) | bombs(HONEST) | CONTAINERS
    assert len({*files.values(), HONEST}) == len(files) + 1


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_in_another_dress_of_parquet_is_refused(name: str) -> None:
    with pytest.raises(WindowFileError):
        read_window_file(CONTAINERS[name])


def test_a_mutant_is_refused_or_read_in_this_process_too() -> None:
    ends = {"refused": 0, "opened": 0}
    for number in range(600):
        try:
            file = read_window_file(mutant(HONEST, 1, number))
        except WindowFileError:
            ends["refused"] += 1
            continue
        assert len(file.table) == 32
        ends["opened"] += 1
    assert ends["refused"] > 400
    assert ends["opened"] > 5


def test_mutants_are_a_function_of_seed_and_number() -> None:
    assert [mutant(HONEST, 3, number) for number in range(50)] == [mutant(HONEST, 3, number) for number in range(50)]


def test_a_mutant_of_a_file_that_lies_already_is_refused_or_read() -> None:
    for number, data in enumerate(data for data in [*CONTAINERS.values()][::3] if len(data) < 1 << 16):
        try:
            file = read_window_file(mutant_of_any(data, 5, number))
        except WindowFileError:
            continue
        assert len(file.table) == 32


def test_hostile_files_opened_confined_end_typed_and_leave_nothing_behind() -> None:
    corpus = Corpus(seed=2)
    named = len(corpus.named)
    for numbers in (range(0, named, 36), range(named, named + 12)):
        found = open_corpus(corpus, numbers)
        assert found.faults == []
        assert found.child_bytes < MAX_BYTES / 4


@pytest.mark.parametrize(
    "found",
    [
        Outcomes(1, faults=["mutant 1: died"]),
        Outcomes(1, slow=["mutant 1: 0.21 s a try"]),
        Outcomes(1, child_bytes=MAX_BYTES // 2, parent_bytes=1, children=2),
    ],
    ids=["an end that is not typed", "a slow try", "memory"],
)
def test_a_corpus_run_fails_on_one_bad_file(found: Outcomes) -> None:
    assert found.bad
    assert not Outcomes(1, child_bytes=1, parent_bytes=1).bad


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_minute_of_hostile_files_opened_confined_ends_typed() -> None:
    corpus = Corpus(seed=3)
    assert open_corpus(corpus, range(1500), children=2).faults == []


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_no_bytes_are_a_footer_or_page_header_by_accident_of_a_fault(raw: bytes) -> None:
    for description in (FILE, PAGE_HEADER):
        try:
            values, end = read_struct(description, raw)
        except RefusedParquetError:
            continue
        assert write_struct(description, values) == raw[:end]  # one value, one spelling


def test_evidence_of_other_columns_or_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(ProtocolViolationError, match="columns"):
        read_evidence(HONEST)
    zeros: dict[str, Values] = {column.name: [bytes(column.most)] for column in EVIDENCE_COLUMNS if column.most}
    numbers = {column.name: np.zeros(1) for column in EVIDENCE_COLUMNS if not column.most}
    with pytest.raises(ProtocolViolationError, match="not evidence"):
        read_evidence(write_parquet(EVIDENCE_COLUMNS, zeros | numbers, {}))
