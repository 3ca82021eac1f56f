"""Check 2, `schema`: types, ranges, lengths, groups. All rows at once, as array operations over the columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grail_core.files.window_file import RowTable
from grail_core.protocol.constants import MAX_PROMPT_TOKENS, ROLLOUTS_PER_PROBLEM, SKETCH_BYTES_PER_POSITION
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "schema"


def check_schema(submission: Submission, context: CheckContext) -> list[Finding]:
    """Rejects of malformed rows; empty if all rows are well formed."""
    table = submission.table
    findings = _groups(table)
    if findings:
        return findings
    completion = table.tokens.lengths - table.prompt_length
    rules = {
        "the prompt length is out of range": (table.prompt_length < 1) | (table.prompt_length > MAX_PROMPT_TOKENS),
        "there is no completion": completion < 1,
        "log-probabilities are not one a completion token": table.logprobs.lengths != completion,
        "sketches are not one vector a position": table.sketches.lengths != SKETCH_BYTES_PER_POSITION * (completion + 1),
        "reward is not finite": ~np.isfinite(table.reward),
        "a token id is outside the vocabulary": _any_in_row(
            table.tokens.offsets, (table.tokens.values < 0) | (table.tokens.values >= context.vocabulary_size)
        ),
        "a log-probability is not finite or above 0": _any_in_row(
            table.logprobs.offsets, ~np.isfinite(table.logprobs.values) | (table.logprobs.values > 1e-3)
        ),
    }
    for detail, broken in rules.items():
        for index in np.flatnonzero(broken):
            findings.append(_at(table, int(index), detail))
    if findings:
        return shorten(findings)
    reserved = submission.table.sketches.values.view("<i2") == -32768
    sketch_rows = _any_in_row(table.sketches.offsets // 2, reserved)
    findings += [_at(table, int(index), "a sketch holds the reserved value") for index in np.flatnonzero(sketch_rows)]
    return shorten(findings + _prompts_equal(submission))


def _groups(table: RowTable) -> list[Finding]:
    """Rows sorted by (group, rollout), every group complete."""
    if len(table) % ROLLOUTS_PER_PROBLEM:
        return [reject(CHECK, value=len(table), threshold=ROLLOUTS_PER_PROBLEM, detail="rows are not whole groups")]
    groups = table.group.reshape(-1, ROLLOUTS_PER_PROBLEM)
    rollouts = table.rollout.reshape(-1, ROLLOUTS_PER_PROBLEM)
    complete = (groups == groups[:, :1]).all(axis=1) & (rollouts == np.arange(ROLLOUTS_PER_PROBLEM)).all(axis=1)
    if not complete.all():
        first = int(np.flatnonzero(~complete)[0])
        return [reject(CHECK, detail="a group is not the rollouts 0 to 15 in order", group=int(groups[first, 0]))]
    if groups[0, 0] < 0 or (np.diff(groups[:, 0].astype(np.int64)) <= 0).any():
        return [reject(CHECK, detail="groups are not in strictly increasing order")]
    return []


def _prompts_equal(submission: Submission) -> list[Finding]:
    table = submission.table
    findings = []
    for start in range(0, len(table), ROLLOUTS_PER_PROBLEM):
        length = int(table.prompt_length[start])
        prompt = table.tokens[start][:length]
        for index in range(start + 1, start + ROLLOUTS_PER_PROBLEM):
            if table.prompt_length[index] != length or not np.array_equal(table.tokens[index][:length], prompt):
                findings.append(_at(table, index, "the prompt differs within its group"))
    return findings


def _any_in_row(offsets: npt.NDArray[np.int64], marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """For each row, whether any of its values is marked (rows may be empty)."""
    total = np.concatenate(([0], np.cumsum(marked, dtype=np.int64)))
    return total[offsets[1:]] > total[offsets[:-1]]


def _at(table: RowTable, index: int, detail: str) -> Finding:
    return reject(CHECK, detail=detail, group=int(table.group[index]), rollout=int(table.rollout[index]))
