"""Findings in short: what a check says of a file, a group or a rollout."""

from __future__ import annotations

from functools import partial

from grail_core.protocol.findings import MAX_DETAIL, MAX_NUMBER_TEXT, Finding, Outcome, decimal
from grail_core.text import printable

MAX_OFFENDERS = 8
"""A check names so many offenders and then counts the rest: a verdict stays small whatever a miner sends."""


def say(
    outcome: Outcome,
    check: str,
    *,
    value: float | int | str | None = None,
    threshold: float | int | str | None = None,
    detail: str = "",
    group: int | None = None,
    rollout: int | None = None,
) -> Finding:
    """A finding whose texts are harmless and fit the verdict's limits whatever a miner wrote; floats become decimal text."""
    return Finding(check, outcome, _exact(value), _exact(threshold), printable(detail, MAX_DETAIL), group, rollout)


reject = partial(say, Outcome.REJECT)
accept = partial(say, Outcome.ACCEPT)


def shorten(findings: list[Finding]) -> list[Finding]:
    """The first offenders of a check; the last one kept says how many more there are."""
    if len(findings) <= MAX_OFFENDERS:
        return findings
    kept = findings[:MAX_OFFENDERS]
    last = kept[-1]
    more = f"{last.detail} (and {len(findings) - MAX_OFFENDERS} more like these)"[:MAX_DETAIL]
    kept[-1] = Finding(last.check, last.outcome, last.value, last.threshold, more, last.group, last.rollout)
    return kept


def in_short(finding: Finding) -> str:
    """One line of a finding, as the reason of a verdict says it."""
    text = finding.check
    if finding.value is not None:
        text += f" {finding.value}"
        if finding.threshold is not None:
            text += f" (threshold {finding.threshold})"
    return f"{text}: {finding.detail}" if finding.detail else text


def _exact(value: float | int | str | None) -> int | str | None:
    """Numbers as canonical JSON can hold them: integers as they are, floats as decimal text."""
    if isinstance(value, str):
        return printable(value, MAX_NUMBER_TEXT)  # it may be a miner's own text
    return decimal(value) if isinstance(value, float) else value
