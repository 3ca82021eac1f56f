"""Rows that no answer could be graded by are refused when their set is loaded; each case has its reason beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import EnvironmentUnavailableError
from grail_envs.registry import load
from tests.cases.rows import rows
from tooling.testing.reported_cases.problems import ROWS

CASES = rows("data_rows.json")
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "humaneval": ("humaneval/HumanEval.jsonl", {}),
    "mbpp": ("mbpp/mbpp.jsonl", {"split": "train"}),
    "affine_trace": ("mbpp/mbpp.jsonl", {"source": "mbpp", "split": "train"}),
    "gsm8k": ("gsm8k/test.jsonl", {"split": "test"}),
    "math": ("math/math500.jsonl", {"split": "math500"}),
}
LONG = {"{minuses}": "-" * 100_000, "{brackets}": "[" * 200_000}


def second_line(case: dict[str, Any], good: dict[str, Any]) -> str:
    row = {**good, **({"task_id": 602} if case["set"] in ("mbpp", "affine_trace") else {}), **case.get("change", {})}
    row.pop(case.get("without", ""), None)
    line: str = case.get("line") or json.dumps(row)
    for name, text in LONG.items():
        line = line.replace(name, text)
    return line


@pytest.mark.parametrize("case", CASES, ids=[f"{case['set']}: {case['why']}" for case in CASES])
def test_a_row_is_loaded_or_refused_by_its_number(case: dict[str, Any], tmp_path: Path) -> None:
    file, parameters = SETS[case["set"]]
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(f"{json.dumps(ROWS[file])}\n{second_line(case, ROWS[file])}\n")
    if case.get("loads"):
        environment = load(case["set"], data_dir=str(tmp_path), **parameters)
        assert all(environment.messages(environment.problem(seed)) for seed in range(2))
        return
    with pytest.raises(EnvironmentUnavailableError) as caught:
        load(case["set"], data_dir=str(tmp_path), **parameters)
    assert case["says"] in caught.value.what
    assert "row 1 " in caught.value.what or "where" in case
    assert str(caught.value.where).startswith(str(path))
    assert case.get("where", "") in str(caught.value.where)
    assert caught.value.hint
