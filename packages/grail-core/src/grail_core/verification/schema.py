"""Check 2, `schema`: what the record of one rollout cannot know of itself: its group, the vocabulary, its neighbours' prompt.

Types, ranges, lengths and finite numbers are `RolloutRecord`'s own rules and were applied when the file was opened. All
rollouts at once, as array operations over the columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from grail_core.files.parquet_columns import BinaryColumn
from grail_core.files.window_file import RolloutColumns
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.row_rules import blocks
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
        "a token id is outside the vocabulary": _rows_above(columns.tokens, context.vocabulary_size - 1),
        "a log-probability is above 0": _rows_above(columns.logprobs, MAX_LOGPROB),
    }
    for detail, broken in rules.items():
        findings += [_at(columns, index, detail) for index in broken]
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
    prompts = submission.columns.prompt_bytes()
    return [
        _at(submission.columns, index, "the prompt differs within its group")
        for index, prompt in enumerate(prompts)
        if prompt != prompts[index - index % ROLLOUTS_PER_PROBLEM]
    ]


def _rows_above(column: BinaryColumn[Any], most: float) -> list[int]:
    """The rollouts of which a value is above `most`: none of a block, mostly, and then nothing else is made of it."""
    above = [start + np.flatnonzero(block > most) for start, block in blocks(column.values) if (block > most).any()]
    if not above:
        return []
    rows = np.searchsorted(column.offsets, np.concatenate(above), "right") - 1
    return [int(row) for row in np.unique(rows)]


def _at(columns: RolloutColumns, index: int, detail: str) -> Finding:
    return reject(CHECK, detail=detail, group=int(columns.group[index]), rollout=int(columns.rollout[index]))
