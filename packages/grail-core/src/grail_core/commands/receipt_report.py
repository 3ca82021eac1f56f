"""A receipt's report for people and for programs. Everything in it that a node wrote is made fit to be printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from grail_core.inference.receipts import Receipt, checkpoint_json
from grail_core.keys import ss58
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.policy import policy_json
from grail_core.text import printable, printable_lines
from grail_core.verification.receipt import ReceiptReport

if TYPE_CHECKING:
    from grail_core.commands.receipts import Named

_FULL = 3
"""Reports up to so many are printed whole; of more there is a line each, and the reports of those that are not accepted."""

_SAYS = {
    Outcome.ACCEPT: "ACCEPTED",
    Outcome.REJECT: "REJECTED: not what was asked for, or altered since",
    Outcome.UNPROVEN: "UNPROVEN: it does not show what was ordered or required",
    Outcome.INCONCLUSIVE: "NOT FULLY CHECKED: something is missing here",
}
_OF_THE_READER = {
    "receipt": "REJECTED: not a receipt that can be checked so",
    "model": "REJECTED: not of the model that it was held against",
}
"""Where what was given to check it with may be what is wrong."""
_MARKS = {Outcome.ACCEPT: "ok", Outcome.REJECT: "REJECT", Outcome.UNPROVEN: "UNPROVEN", Outcome.INCONCLUSIVE: "?"}


def as_text(named: Sequence[Named]) -> str:
    """All of it; see _FULL."""
    if len(named) <= _FULL:
        return "\n\n".join(_whole(one) for one in named)
    lines = [_short(one) for one in named]
    accepted = sum(one.report.outcome is Outcome.ACCEPT for one in named)
    distinct = len({one.report.answer_digest for one in named if one.report.outcome is Outcome.ACCEPT})
    twice = f", {distinct} different answers" if distinct != accepted else ""
    said = dict.fromkeys(text for one in named for text in one.report.not_enforced)
    unsaid = ["", "Not enforced, of some or all:", *(f"  {text}" for text in said)] if said else []
    return "\n".join([*lines, *unsaid, "", f"{accepted} of {len(named)} receipts accepted{twice}"])


def _short(one: Named) -> str:
    receipt = one.report.receipt
    node = f"  {ss58(receipt.node)}" if receipt is not None else ""
    return f"{_MARKS[one.report.outcome]:9} {printable(one.name)}{node}{_because(one.report)}"


def verdict_of(report: ReceiptReport) -> str:
    """The outcome in one line."""
    return _headline(report) + _because(report)


def _headline(report: ReceiptReport) -> str:
    outcome, decisive = report.outcome, report.decisive
    if outcome is Outcome.ACCEPT and report.calibrated is False:
        return "ACCEPTED, by the coarse bounds alone"
    if outcome is Outcome.ACCEPT and report.judged_by is not None and report.judged_by.file is not None:
        return "ACCEPTED, by the bounds of your own table"
    if outcome is Outcome.REJECT and decisive is not None and decisive.check in _OF_THE_READER:
        return _OF_THE_READER[decisive.check]
    return _SAYS[outcome]


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
        "node_ss58": ss58(receipt.node) if receipt is not None else None,
        "network_id": report.network_id.hex() if report.network_id is not None else None,
        "asked": _asked(receipt),
        "nonce": receipt.order.nonce if receipt is not None else None,
        "policy": policy_json(receipt.policy) if receipt is not None else None,
        "calibrated": report.calibrated,
        "table": _table_json(report),
        "checkpoint": _checkpoint_json(report),
        "findings": [
            {name: value for name, value in finding.to_json().items() if name not in ("group", "rollout")}
            for finding in report.findings
        ],
        "not_enforced": list(report.not_enforced),
        "trust": list(report.trust),
        "texts": list(report.texts) if report.texts is not None else None,
        "ended_by": list(report.ended_by) if report.ended_by is not None else None,
    }


def _table_json(report: ReceiptReport) -> dict[str, Any] | None:
    """Whose finer bounds were enforced. `file`: the reader's own; null: the table that ships."""
    by = report.judged_by
    return None if by is None else {"version": by.version, "sha256": by.digest.hex(), "file": by.file}


def _checkpoint_json(report: ReceiptReport) -> dict[str, Any] | None:
    """The checkpoint that the receipt names; `checked`: the trainer signed that it is the network's."""
    named = report.receipt.checkpoint if report.receipt is not None else None
    if named is None:
        return None
    return {**checkpoint_json(named), "checked": report.checkpoint_checked}


def _asked(receipt: Receipt | None) -> Any:
    """The question as its JSON, or as text where it is none."""
    if receipt is None:
        return None
    try:
        return json.loads(receipt.features)
    except ValueError:
        return receipt.features.decode("utf-8", "replace")


def _because(report: ReceiptReport) -> str:
    decisive = report.decisive
    return "" if decisive is None else f" ({decisive.check}: {printable(decisive.detail, 300)})"


def _whole(one: Named) -> str:
    report = one.report
    lines = [f"{printable(one.name)}: {_headline(report)}", *_facts(report), ""]
    lines += [_line(finding) for finding in report.findings]
    if report.trust:
        lines += ["", "It rests on:", *(f"  {text}" for text in report.trust)]
    if report.not_enforced:
        lines += ["", "Not enforced:", *(f"  {text}" for text in report.not_enforced)]
    if report.receipt is not None:
        lines += ["", "Asked:", *_question(report.receipt)]
    for index, (text, by) in enumerate(zip(report.texts or (), report.ended_by or (), strict=True)):
        ended = " (a stop text ended it, which is not shown)" if by == "stop text" else ""
        lines += ["", f"Choice {index}{ended}:", _indented(text)]
    return "\n".join(lines)


def _question(receipt: Receipt) -> Iterator[str]:
    asked = _asked(receipt)
    if isinstance(asked, dict) and isinstance(asked.get("messages"), list):
        for message in asked["messages"]:
            yield _indented(f"{message.get('role')}: {message.get('content')}" if isinstance(message, dict) else str(message))
    else:
        yield _indented(str(asked.get("prompt")) if isinstance(asked, dict) else str(asked))
    seed = asked.get("seed") if isinstance(asked, dict) else None
    stop = asked.get("stop") if isinstance(asked, dict) else None
    stops = f", stop texts {json.dumps(stop)[:600]}" if stop is not None else ""
    yield printable(f"  (seed {seed if seed is not None else 'none'}, nonce {receipt.order.nonce}{stops})", 1_000)


def _indented(text: str) -> str:
    """Strangers' lines apart from ours, whatever they say."""
    return "\n".join(f"  {line}" for line in printable_lines(text).split("\n"))


def _facts(report: ReceiptReport) -> Iterator[str]:
    receipt = report.receipt
    if receipt is None:
        return
    tokens = ", ".join(map(str, receipt.answer.lengths))
    yield f"  node     {ss58(receipt.node)} ({receipt.node.hex()})"
    yield f"  model    {printable(receipt.model.architecture)}, weights {receipt.model.weights_root.hex()[:16]}…"
    yield f"  classes  proof {printable(receipt.answer.proof_class)}, generation {printable(receipt.answer.generation_class)}"
    yield f"  tokens   {len(receipt.answer.prompt)} of prompt, {tokens} of completion"
    policy = receipt.policy
    top_k = policy.top_k if policy.top_k > 0 else "off"
    yield (
        f"  policy   temperature {policy.temperature:g}, top-p {policy.top_p:g}, top-k {top_k}, "
        f"repetition penalty {policy.repetition_penalty:g}"
    )
    if report.judged_by is not None:
        by = report.judged_by
        whose = f"your own, {by.file}" if by.file is not None else "of this release"
        yield printable(f"  bounds   {by.version} ({whose}), SHA-256 {by.digest.hex()[:16]}…", 600)
    if report.answer_digest is not None:
        yield f"  digest   {report.answer_digest.hex()}"
    if report.network_id is not None:
        yield f"  network  {printable(receipt.network)}, id {report.network_id.hex()}"


def _line(finding: Finding) -> str:
    numbers = ""
    if finding.value is not None and finding.threshold is not None:
        numbers = f" {finding.value} (bound {finding.threshold})"
    elif finding.value is not None:
        numbers = f" {finding.value}"
    return printable(f"  {_MARKS[finding.outcome]:9} {finding.check:12}{numbers}  {finding.detail}", 600)
