"""Check 5, `termination`: a completion ends at an end token or at the limit, and nowhere else."""

from __future__ import annotations

import numpy as np

from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import reject, shorten

CHECK = "termination"


def check_termination(submission: Submission, context: CheckContext) -> list[Finding]:
    table = submission.table
    ends = np.fromiter(context.end_tokens, np.int32)
    findings = []
    for index in range(len(table)):
        prompt_length = int(table.prompt_length[index])
        completion = table.tokens[index][prompt_length:]
        limit = context.length_limit(prompt_length)
        is_end = np.isin(completion, ends)
        if len(completion) > limit:
            detail = f"the completion has {len(completion)} tokens, the limit is {limit}"
        elif is_end[:-1].any():
            detail = f"an end token stands at completion token {int(np.flatnonzero(is_end)[0])}, before the last"
        elif not is_end[-1] and len(completion) != limit:
            detail = f"the completion stops after {len(completion)} tokens, neither at an end token nor at the limit {limit}"
        else:
            continue
        group, rollout = int(table.group[index]), int(table.rollout[index])
        findings.append(reject(CHECK, value=len(completion), threshold=limit, detail=detail, group=group, rollout=rollout))
    return shorten(findings)
