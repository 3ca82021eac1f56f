"""Check 2, `schema`: what the record of one rollout cannot know of itself: its group, the vocabulary, its neighbours' prompt.

Types, ranges, lengths and finite numbers are `RolloutRecord`'s own rules and were applied when the file was opened. All
rollouts at once, as array operations over the columns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grail_core.files.window_file import RolloutColumns
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "schema"
MAX_LOGPROB = 1e-3
"""A log-probability is at most 0; rounding may leave this much."""


def check_schema(submission: Submission, context: CheckContext) -> list[Finding]:
    """Rejects of malformed groups and rollouts; empty if all are well formed."""
    columns = submission.columns
    findings = _groups(columns)
    if findings:
        return findings
    rules = {
        "a token id is outside the vocabulary": _any_in_row(
            columns.tokens.offsets, columns.tokens.values >= context.vocabulary_size
        ),
        "a log-probability is above 0": _any_in_row(columns.logprobs.offsets, columns.logprobs.values > MAX_LOGPROB),
    }
    for detail, broken in rules.items():
        findings += [_at(columns, int(index), detail) for index in np.flatnonzero(broken)]
    return shorten(findings or _prompts_equal(submission))


def _groups(columns: RolloutColumns) -> list[Finding]:
    """Rollouts sorted by (group, rollout), every group complete."""
    if len(columns) % ROLLOUTS_PER_PROBLEM:
        return [reject(CHECK, value=len(columns), threshold=ROLLOUTS_PER_PROBLEM, detail="rows are not whole groups")]
    groups = columns.group.reshape(-1, ROLLOUTS_PER_PROBLEM)
    rollouts = columns.rollout.reshape(-1, ROLLOUTS_PER_PROBLEM)
    complete = (groups == groups[:, :1]).all(axis=1) & (rollouts == np.arange(ROLLOUTS_PER_PROBLEM)).all(axis=1)
    if not complete.all():
        first = int(np.flatnonzero(~complete)[0])
        return [reject(CHECK, detail="a group is not the rollouts 0 to 15 in order", group=int(groups[first, 0]))]
    if (np.diff(groups[:, 0].astype(np.int64)) <= 0).any():
        return [reject(CHECK, detail="groups are not in strictly increasing order")]
    return []


def _prompts_equal(submission: Submission) -> list[Finding]:
    findings = []
    for start in range(0, len(submission.rollouts), ROLLOUTS_PER_PROBLEM):
        first, *others = submission.rollouts[start : start + ROLLOUTS_PER_PROBLEM]
        for record in others:
            if not np.array_equal(record.prompt, first.prompt):
                findings.append(
                    reject(CHECK, detail="the prompt differs within its group", group=record.group, rollout=record.rollout)
                )
    return findings


def _any_in_row(offsets: npt.NDArray[np.int64], marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """For each rollout, whether any of its values is marked (rollouts may be empty)."""
    total = np.concatenate(([0], np.cumsum(marked, dtype=np.int64)))
    return total[offsets[1:]] > total[offsets[:-1]]


def _at(columns: RolloutColumns, index: int, detail: str) -> Finding:
    return reject(CHECK, detail=detail, group=int(columns.group[index]), rollout=int(columns.rollout[index]))
