"""What a PromQL expression asks for: its series, the labels it matches and groups by; read by a real parser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser as promql

from tooling.monitoring.tables import labels_of


def faults_of(expression: str) -> list[str]:
    """Why an expression asks for what is not there: an unknown series, or a label that it does not have. Empty: it does not."""
    try:
        parsed = promql.parse(expression)
    except ValueError as error:
        return [f"no PromQL: {error}"]
    faults = []
    for selector, grouped in selectors(parsed, ()):
        known = labels_of(str(selector.name))
        if known is None:
            faults.append(f"there is no series {selector.name}")
            continue
        asked = {matcher.name for matcher in selector.matchers.matchers} | set(grouped)
        faults += [f"{selector.name} has no label {name}" for name in sorted(asked - set(known))]
    return faults


def selectors(node: Any, grouped: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Every series that is selected, with the labels that some aggregation around it keeps."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        yield node, grouped
    elif kind in ("MatrixSelector",):
        yield node.vector_selector, grouped
    elif kind == "AggregateExpr":
        modifier = node.modifier
        kept = tuple(modifier.labels) if modifier is not None and str(modifier.type).endswith("By") else ()
        yield from selectors(node.expr, (*grouped, *kept))
    elif kind == "BinaryExpr":
        yield from selectors(node.lhs, grouped)
        yield from selectors(node.rhs, grouped)
    elif kind == "Call":
        for argument in node.args:
            yield from selectors(argument, grouped)
    elif kind in ("ParenExpr", "UnaryExpr", "SubqueryExpr"):
        yield from selectors(node.expr, grouped)
    elif kind not in ("NumberLiteral", "StringLiteral"):
        raise TypeError(f"a node of PromQL that is not known here: {kind}")
