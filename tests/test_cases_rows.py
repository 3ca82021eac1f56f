"""A new case is one line, and a line that no test would run as it is meant is told with file, row and what to write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cases.rows import FIELDS, CaseError, checked, rows

GOOD = {"gold": "1", "answer": "2", "right": False, "why": "another number"}


def test_every_file_of_data_has_its_fields_written_down_and_rows_that_have_them() -> None:
    assert sorted(path.name for path in (Path(__file__).parent / "cases").glob("*.json")) == sorted(FIELDS)
    assert all(len(rows(name)) > 10 for name in FIELDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{", "math_pairs.json is not JSON"),
        (r'[{"gold": "\sqrt{2}"}]'.replace("\\\\", "\\"), "a backslash is written twice"),
        (json.dumps([GOOD, {**GOOD, "answers": "2"}]), "row 1: .* it has answers; fields: gold answer right why"),
        (json.dumps([{"gold": "1", "right": True, "why": "x"}]), "row 0: .* it lacks answer"),
        (json.dumps([{**GOOD, "why": " "}]), "say in a few words"),
        (json.dumps([GOOD, {**GOOD, "why": "again"}]), "row 1: .* it is there already"),
        (json.dumps([{**GOOD, "gold": "\frac{1}{2}"}]), "is read as one character by JSON"),
    ],
)
def test_a_row_that_is_not_meant_so_is_told(text: str, says: str) -> None:
    with pytest.raises(CaseError, match=says):
        checked("math_pairs.json", text)
