"""What an examination found, for a terminal or as JSON, and how a command ends for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from grail_core.errors import GrailError
from grail_core.examination.findings import Finding, State, broken_of, in_order
from grail_core.participant.missing import Missing, SeveralMissingError
from grail_core.text import printable

_WIDTH = 22  # of the column of names, at least


def as_text(findings: Iterable[Finding], more: Iterable[str] = ()) -> str:
    """Findings by section, then `more` (what a role shows beside them), then how many there are of each kind."""
    ordered = in_order(findings)
    width = max([_WIDTH, *(len(one.name) for one in ordered)])
    lines: list[str] = []
    for section, members in groupby(ordered, key=lambda one: one.section):
        lines += [*([""] if lines else []), section.capitalize()]
        lines += [_line(one, width) for one in members]
    lines += [*more, "", _summary(ordered)]
    return "\n".join(lines)


def as_json(findings: Iterable[Finding], more: Mapping[str, Any] | None = None) -> str:
    """One object: `findings`, `broken` (how many), and the members of `more`."""
    ordered = in_order(findings)
    rows = [
        {
            "section": one.section,
            "name": one.name,
            "state": one.state.value.lower(),
            "detail": printable(one.detail),
            "hint": printable(one.hint),
            "origin": printable(one.origin),
            "exit_code": one.error.exit_code if one.error else 0,
        }
        for one in ordered
    ]
    return json.dumps({"findings": rows, **(more or {}), "broken": len(broken_of(ordered))}, indent=1)


def end(findings: Iterable[Finding], role: str) -> None:
    """Raises a GrailError of the first broken finding's kind, if there is one: its exit code is the command's."""
    found = broken_of(findings)
    if not found:
        return
    names = ", ".join(f"{one.section}: {one.name}" for one in found)
    raise _of_kind(found, f"{len(found)} of what a {role} needs do not hold: {names}", "doctor", "see the lines above")


def refuse(findings: Iterable[Finding]) -> None:
    """Raises what keeps a role from starting: the error itself where there is one, else all of them in one."""
    missing = [Missing(one.section, one.error) for one in broken_of(findings) if one.error is not None]
    if len(missing) == 1:
        raise missing[0].error
    if missing:
        raise SeveralMissingError(missing)


def _of_kind(found: list[Finding], what: str, where: str, hint: str) -> GrailError:
    """An error with the exit code of the first of them. A class whose errors are made otherwise has a base that is not."""
    first = next((one.error for one in found if one.error is not None), None)
    kinds = [] if first is None else [kind for kind in type(first).__mro__ if issubclass(kind, GrailError)]
    kind = next((one for one in kinds if one.__init__ is GrailError.__init__), GrailError)
    return kind(what, where=where, hint=hint)


def _line(one: Finding, width: int) -> str:
    text = f"  {one.state.value:9}  {one.name:{width}}  {one.detail}" + (f"  ({one.origin})" if one.origin else "")
    if one.hint and one.state is not State.OK:
        text += f"\n{'':13}{'':{width}}  → {one.hint}"
    return "\n".join(printable(line) for line in text.splitlines())


def _summary(findings: list[Finding]) -> str:
    counted = {state: sum(one.state is state for one in findings) for state in State}
    return ", ".join(f"{counted[state]} {state.value.lower()}" for state in State if counted[state])
