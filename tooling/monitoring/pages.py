"""The tables of docs/monitoring.md, between their marks: metrics and alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grail_core.telemetry.alerts import ALERTS
from grail_core.telemetry.metrics.metric import Label, Metric
from tooling.monitoring.tables import PARTS

PAGE: Final = Path("docs/monitoring.md")
COMMAND: Final = "hatch run monitoring"
_MANY: Final = 12  # values of a label that are listed


def page(text: str) -> str:
    """The page with its tables as they are now.

    Raises:
        ValueError: it has no place for one of them.
    """
    for name, made in (("metrics", metrics()), ("alerts", alerts())):
        begin, end = f"<!-- {name}: made by `{COMMAND}` -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(begin)
        _, also, after = rest.partition(end)
        if not found or not also:
            raise ValueError(f"{PAGE} has no place for its table of {name}: {begin.strip()} … {end.strip()}")
        text = f"{before}{begin}\n{made}\n{end}{after}"
    return text


def metrics() -> str:
    parts = []
    for title, table in PARTS.items():
        rows = [f"| `{metric.name}` | {metric.kind} | {metric.unit} | {_about(metric)} |" for metric in table]
        parts.append("\n".join([f"### {title}", "", "| name | kind | unit | what it is |", "| --- | --- | --- | --- |", *rows]))
    return "\n\n".join(parts).replace("|  |", "| |") + "\n"


def alerts() -> str:
    head = ["| alert | severity | roles | what it means | what to do |", "| --- | --- | --- | --- | --- |"]
    rows = [(f"`{one.name}`", one.severity, ", ".join(one.roles), _cell(one.means), _cell(one.action)) for one in ALERTS]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _about(metric: Metric) -> str:
    labels = "; ".join(f"by `{label.name}`: {_values(label)}" for label in metric.labels)
    return _cell(metric.about + (f" ({labels})" if labels else ""))


def _values(label: Label) -> str:
    return label.said or ", ".join(label.values[:_MANY]) + (", …" if len(label.values) > _MANY else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
