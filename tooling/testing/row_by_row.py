"""Checks 1, 2, 3 and 5 row by row, as plainly as their rules read: what the checks over columns are held against."""

from __future__ import annotations

import numpy as np

from grail_core.files.window_file import WindowFile
from grail_core.protocol import RolloutRecord, count_groups, merkle_root, rollout_digests
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.types import Digest
from grail_core.protocol.verdicts import Finding
from grail_core.verification.context import CheckContext
from grail_core.verification.schema import MAX_LOGPROB
from grail_core.verification.uniqueness import rollout_identity
from grail_core.verification.wording import reject, shorten


def bound_rows(file: WindowFile, network_id: Digest) -> list[RolloutRecord] | list[Finding]:
    """The file's rows as records, or what rejects them; its signature is not looked at."""
    records = []
    for index in range(len(file.table)):
        try:
            records.append(file.table.record(index))
        except ValueError as error:
            return [reject("schema", detail=f"row {index} breaks the record's rules: {error}")]
    root = merkle_root(rollout_digests(network_id, records))
    wanted = file.header.merkle_root
    if root != wanted:
        return [reject("file", value=root.hex(), threshold=wanted.hex(), detail="rows do not give the Merkle root")]
    groups = sorted({record.group for record in records})
    try:
        count_groups(groups)
    except ValueError as error:
        return [reject("schema", value=len(groups), detail=str(error))]
    return records


def schema(records: list[RolloutRecord], context: CheckContext) -> list[Finding]:
    """Check 2 of rows whose groups are whole and in order."""
    findings = [
        _at("schema", one, "a token id is outside the vocabulary")
        for one in records
        if any(token >= context.vocabulary_size for token in one.tokens)
    ]
    findings += [
        _at("schema", one, "a log-probability is above 0")
        for one in records
        if any(value > MAX_LOGPROB for value in one.logprobs)
    ]
    if not findings:
        for index, record in enumerate(records):
            first = records[index - index % ROLLOUTS_PER_PROBLEM]
            if record.prompt.tolist() != first.prompt.tolist():
                findings.append(_at("schema", record, "the prompt differs within its group"))
    return shorten(findings)


def distinct(records: list[RolloutRecord], history: frozenset[Digest]) -> list[Digest]:
    """Check 3."""
    found: list[Digest] = []
    for record in records:
        identity = rollout_identity(record.prompt, record.completion)
        if identity not in history and identity not in found:
            found.append(identity)
    return found


def termination(records: list[RolloutRecord], context: CheckContext) -> list[Finding]:
    """Check 5."""
    findings = []
    for record in records:
        length, limit = record.completion_length, context.length_limit(record.prompt_length)
        is_end = np.isin(record.completion, np.fromiter(context.end_tokens, np.int32))
        if length > limit:
            detail = f"the completion has {length} tokens, the limit is {limit}"
        elif is_end[:-1].any():
            detail = f"an end token stands at completion token {int(np.flatnonzero(is_end)[0])}, before the last"
        elif not is_end[-1] and length != limit:
            detail = f"the completion stops after {length} tokens, neither at an end token nor at the limit {limit}"
        else:
            continue
        findings.append(_at("termination", record, detail, value=length, threshold=limit))
    return shorten(findings)


def _at(check: str, record: RolloutRecord, detail: str, *, value: int | None = None, threshold: int | None = None) -> Finding:
    return reject(check, value=value, threshold=threshold, detail=detail, group=record.group, rollout=record.rollout)
