"""Check 5, `termination`: a completion ends at an end token or at the limit, and nowhere else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from grail_core.files.window_file import RolloutColumns
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.row_rules import blocks
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "termination"


def check_termination(submission: Submission, context: CheckContext) -> list[Finding]:
    columns = submission.columns
    starts = columns.tokens.offsets[:-1] + columns.prompt_length  # of the completions
    ends = columns.tokens.offsets[1:]
    lengths = ends - starts
    limits = _limits(columns, context)
    first_end = _first_end(columns, starts, context)
    early = first_end < ends - 1
    unfinished = (first_end > ends - 1) & (lengths != limits)
    findings = []
    for index in np.flatnonzero((lengths > limits) | early | unfinished):
        length, limit = int(lengths[index]), int(limits[index])
        if length > limit:
            detail = f"the completion has {length} tokens, the limit is {limit}"
        elif early[index]:
            at = int(first_end[index] - starts[index])
            detail = f"an end token stands at completion token {at}, before the last"
        else:
            detail = f"the completion stops after {length} tokens, neither at an end token nor at the limit {limit}"
        group, rollout = int(columns.group[index]), int(columns.rollout[index])
        findings.append(reject(CHECK, value=length, threshold=limit, detail=detail, group=group, rollout=rollout))
    return shorten(findings)


def _limits(columns: RolloutColumns, context: CheckContext) -> npt.NDArray[np.int64]:
    """L of every row; it depends on the prompt's length alone."""
    found, which = np.unique(columns.prompt_length, return_inverse=True)
    return np.array([context.length_limit(int(length)) for length in found], np.int64)[which]


def _first_end(columns: RolloutColumns, starts: npt.NDArray[np.int64], context: CheckContext) -> npt.NDArray[np.int64]:
    """Where in the column each row's first end token at or behind `starts` stands; behind the row where it has none."""
    end_tokens = np.fromiter(context.end_tokens, np.int32)
    places = [start + np.flatnonzero(np.isin(block, end_tokens)) for start, block in blocks(columns.tokens.values)]
    known = np.append(np.concatenate(places), len(columns.tokens.values))
    return known[np.searchsorted(known, starts)]
