"""Check 4, `prompt`: every group asks exactly the assigned problem, rendered as everybody renders it."""

from __future__ import annotations

import numpy as np

from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "prompt"


def assigned_prompt(context: CheckContext, group: int) -> tuple[int, ...]:
    """The prompt tokens of a group of this hotkey in this window."""
    problem = context.environment.problem(context.window.problem_seed(context.hotkey, group))
    return context.renderer.render(context.environment.messages(problem))


def check_prompts(submission: Submission, context: CheckContext) -> list[Finding]:
    findings = []
    columns = submission.columns
    for index in range(0, len(columns), ROLLOUTS_PER_PROBLEM):
        group = int(columns.group[index])
        claimed = columns.tokens[index][: columns.prompt_length[index]]
        expected = np.asarray(assigned_prompt(context, group), np.int32)
        if not np.array_equal(claimed, expected):
            findings.append(reject(CHECK, detail=_difference(claimed, expected), group=group))
    return shorten(findings)


def _difference(claimed: np.ndarray, expected: np.ndarray) -> str:
    if len(claimed) != len(expected):
        return f"the prompt has {len(claimed)} tokens, the assigned one {len(expected)}"
    first = int(np.flatnonzero(claimed != expected)[0])
    return f"the prompt differs from the assigned one at token {first}"
