"""A receipt's report for people and for programs. Everything in it that a node wrote is made fit to be printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grail_core.keys import ss58
from grail_core.protocol.findings import Finding, Outcome
from grail_core.text import printable, printable_lines
from grail_core.verification.receipt import ReceiptReport

if TYPE_CHECKING:
    from grail_core.commands.receipts import Named

_FULL = 3
"""Reports up to so many are printed whole; of more there is a line each, and the reports of those that are not accepted."""

_SAYS = {
    Outcome.ACCEPT: "ACCEPTED",
    Outcome.REJECT: "REJECTED: not what the node was asked to run, or altered since",
    Outcome.UNPROVEN: "UNPROVEN: it does not show what was ordered or required",
    Outcome.INCONCLUSIVE: "NOT FULLY CHECKED: something is missing here",
}
_MARKS = {Outcome.ACCEPT: "ok", Outcome.REJECT: "REJECT", Outcome.UNPROVEN: "UNPROVEN", Outcome.INCONCLUSIVE: "?"}


def as_text(named: Sequence[Named]) -> str:
    """All of it; see _FULL."""
    if len(named) <= _FULL:
        return "\n\n".join(_whole(one) for one in named)
    lines = [f"{_MARKS[one.report.outcome]:9} {printable(one.name)}{_because(one.report)}" for one in named]
    accepted = sum(one.report.outcome is Outcome.ACCEPT for one in named)
    return "\n".join([*lines, "", f"{accepted} of {len(named)} receipts accepted"])


def verdict_of(report: ReceiptReport) -> str:
    """The outcome in one line."""
    return _SAYS[report.outcome] + _because(report)


def json_of(named: Sequence[Named]) -> str:
    worst = next(
        (o for o in (Outcome.REJECT, Outcome.UNPROVEN, Outcome.INCONCLUSIVE) if any(n.report.outcome is o for n in named)),
        Outcome.ACCEPT,
    )
    return json.dumps({"outcome": worst.value, "receipts": [report_json(one) for one in named]}, indent=1)


def report_json(one: Named) -> dict[str, Any]:
    report = one.report
    receipt = report.receipt
    return {
        "file": one.name,
        "outcome": report.outcome.value,
        "answer_digest": report.answer_digest.hex() if report.answer_digest is not None else None,
        "node": receipt.node.hex() if receipt is not None else None,
        "findings": [
            {name: value for name, value in finding.to_json().items() if name not in ("group", "rollout")}
            for finding in report.findings
        ],
        "not_enforced": list(report.not_enforced),
        "trust": list(report.trust),
        "texts": list(report.texts) if report.texts is not None else None,
    }


def _because(report: ReceiptReport) -> str:
    decisive = report.decisive
    return "" if decisive is None else f"  {decisive.check}: {printable(decisive.detail, 200)}"


def _whole(one: Named) -> str:
    report = one.report
    lines = [f"{printable(one.name)}: {_SAYS[report.outcome]}", *_facts(report), ""]
    lines += [_line(finding) for finding in report.findings]
    if report.trust:
        lines += ["", "It rests on:", *(f"  {text}" for text in report.trust)]
    if report.not_enforced:
        lines += ["", "Not enforced:", *(f"  {text}" for text in report.not_enforced)]
    for index, text in enumerate(report.texts or ()):
        lines += ["", f"Choice {index}:", printable_lines(text)]
    return "\n".join(lines)


def _facts(report: ReceiptReport) -> Iterator[str]:
    receipt = report.receipt
    if receipt is None:
        return
    tokens = ", ".join(map(str, receipt.answer.lengths))
    yield f"  node     {ss58(receipt.node)}"
    yield f"  model    {printable(receipt.model.architecture)}, weights {receipt.model.weights_root.hex()[:16]}…"
    yield f"  tokens   {len(receipt.answer.prompt)} of prompt, {tokens} of completion"
    policy = receipt.policy
    yield (
        f"  policy   temperature {policy.temperature:g}, top-p {policy.top_p:g}, top-k {policy.top_k}, "
        f"repetition penalty {policy.repetition_penalty:g}"
    )
    if report.answer_digest is not None:
        yield f"  digest   {report.answer_digest.hex()}"


def _line(finding: Finding) -> str:
    numbers = ""
    if finding.value is not None and finding.threshold is not None:
        numbers = f" {finding.value} (bound {finding.threshold})"
    elif finding.value is not None:
        numbers = f" {finding.value}"
    return printable(f"  {_MARKS[finding.outcome]:9} {finding.check:12}{numbers}  {finding.detail}", 600)
