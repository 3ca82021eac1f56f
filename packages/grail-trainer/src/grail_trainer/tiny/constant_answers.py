"""The best constant answer: what one fixed text, given to every problem, would score.

A policy that only learned to repeat itself cannot beat it, so an evaluation says it beside its own figure. The text is chosen
with hindsight on the very problems that are counted, which flatters it. An environment that offers `best_constant` says it
exactly; elsewhere the candidates are the answers that the model itself gave most often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from grail_core.capabilities import best_constant_of
from grail_core.environment import Environment, Problem

MAX_CANDIDATES = 32


def constant_baseline(environment: Environment, problems: Sequence[Problem], given: Iterable[str] = ()) -> float:
    """Share of `problems` that the best constant answer solves; `given` are completions to take candidates from."""
    if not problems:
        return 0.0
    exact = best_constant_of(environment, problems)
    if exact is not None:
        return exact
    best = 0
    for text, _ in Counter(given).most_common(MAX_CANDIDATES):
        best = max(best, sum(environment.grade(problem, text).success for problem in problems))
    return best / len(problems)
