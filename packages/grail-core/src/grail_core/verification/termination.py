"""Check 5, `termination`: a completion ends at an end token or at the limit, and nowhere else."""

from __future__ import annotations

import numpy as np

from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "termination"


def check_termination(submission: Submission, context: CheckContext) -> list[Finding]:
    ends = np.fromiter(context.end_tokens, np.int32)
    findings = []
    for record in submission.rollouts:
        length, limit = record.completion_length, context.length_limit(record.prompt_length)
        is_end = np.isin(record.completion, ends)
        if length > limit:
            detail = f"the completion has {length} tokens, the limit is {limit}"
        elif is_end[:-1].any():
            detail = f"an end token stands at completion token {int(np.flatnonzero(is_end)[0])}, before the last"
        elif not is_end[-1] and length != limit:
            detail = f"the completion stops after {length} tokens, neither at an end token nor at the limit {limit}"
        else:
            continue
        findings.append(reject(CHECK, value=length, threshold=limit, detail=detail, group=record.group, rollout=record.rollout))
    return shorten(findings)
