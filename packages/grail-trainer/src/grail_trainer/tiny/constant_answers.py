"""The best constant answer: what one fixed text, given to every problem, would score.

A policy that only learned to repeat itself cannot beat it, so an evaluation says it beside its own figure. The text is chosen
with hindsight on the very problems that are counted, which flatters it. For `sat` the search is exact (every assignment of
every size); elsewhere the candidates are the answers that the model itself gave most often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from grail_core.environment import Environment, Problem

MOST_CANDIDATES = 32


def constant_baseline(environment: Environment, problems: Sequence[Problem], given: Iterable[str] = ()) -> float:
    """Share of `problems` that the best constant answer solves; `given` are completions to take candidates from."""
    if not problems:
        return 0.0
    if environment.spec.env_id == "sat" and int(environment.spec.parameters["max_variables"]) <= 16:
        return _best_assignment(problems)
    best = 0
    for text, _ in Counter(given).most_common(MOST_CANDIDATES):
        best = max(best, sum(environment.judge(problem, text).success for problem in problems))
    return best / len(problems)


def _best_assignment(problems: Sequence[Problem]) -> float:
    """An answer fits problems of one size only, so the best one is found size by size over all truth tables."""
    solved: dict[int, np.ndarray] = {}
    for problem in problems:
        variables = problem.payload.variables
        every = np.arange(2**variables)
        holds = np.ones(2**variables, dtype=bool)
        for clause in problem.payload.clauses:
            holds &= np.any([(every >> (abs(literal) - 1) & 1) == (literal > 0) for literal in clause], axis=0)
        solved.setdefault(variables, np.zeros(2**variables, dtype=np.int64))
        solved[variables] += holds
    return max(int(counts.max()) for counts in solved.values()) / len(problems)
