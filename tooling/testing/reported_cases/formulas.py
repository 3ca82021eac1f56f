"""`math_pairs.json`: gold and answer, compared as the environment `math` compares them; `right` null leaves it open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grail_core.environment import GradeOutcome
from grail_envs.math_env import grade_formula
from tooling.testing.reported_cases.outcome import Outcome, Verdict, outcome


def outcomes(file: str, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
    """One outcome for each pair."""
    for number, row in enumerate(rows, start=1):
        name = f"{number}, {row['gold']} and {row['answer']}: {row.get('why', '')}"
        grade = grade_formula(row["gold"], row["answer"])
        found = f"{'equal' if grade.success else 'not equal'} ({grade.detail})"
        if row["right"] is None:
            yield Outcome(file, name, Verdict.OPEN, found)
        else:
            yield outcome(
                file,
                name,
                grade.outcome is GradeOutcome.GRADED and grade.success == row["right"],
                f"{grade.outcome.value}, {found}",
            )
