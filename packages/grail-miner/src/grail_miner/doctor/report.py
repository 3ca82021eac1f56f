"""What the doctor found, for a terminal or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from typing import Any

from grail_core.errors import GrailError
from grail_core.text import printable
from grail_miner.doctor.examination import Examination
from grail_miner.doctor.findings import Finding, State
from grail_miner.layout_picture import picture

_WIDTH = 22  # of the column of names, at least
_ORDER = ("machine", "engine", "network")


def as_text(done: Examination) -> str:
    """Findings by section, then the picture of the layout, then what to do."""
    ordered = sorted(done.findings, key=lambda one: _ORDER.index(one.section))
    width = max([_WIDTH, *(len(one.name) for one in ordered)])
    lines: list[str] = []
    for section, members in groupby(ordered, key=lambda one: one.section):
        lines += [*([""] if lines else []), section.capitalize()]
        lines += [_line(one, width) for one in members]
    if done.layout is not None:
        lines += ["", "Layout", picture(done.layout)]
    lines += ["", _summary(done)]
    return "\n".join(lines)


def as_json(done: Examination) -> str:
    """One object: `findings`, `layout` (null where there is none), `broken` (how many)."""
    findings = [
        {
            "section": one.section,
            "name": one.name,
            "state": one.state.value.lower(),
            "detail": printable(one.detail),
            "hint": printable(one.hint),
            "exit_code": one.error.exit_code if one.error else 0,
        }
        for one in done.findings
    ]
    layout: dict[str, Any] | None = None
    if done.layout is not None:
        layout = {**asdict(done.layout), "picture": picture(done.layout)}
    return json.dumps({"findings": findings, "layout": layout, "broken": len(done.broken)}, indent=1)


def end(done: Examination) -> None:
    """Raises a GrailError of the first broken finding's kind, if there is one: its exit code is the command's."""
    if not done.broken:
        return
    names = ", ".join(f"{one.section}: {one.name}" for one in done.broken)
    kind = next((type(one.error) for one in done.broken if one.error is not None), GrailError)
    raise kind(f"{len(done.broken)} of what a miner needs do not hold: {names}", where="doctor", hint="see the lines above")


def _line(one: Finding, width: int) -> str:
    text = f"  {one.state.value:9}  {one.name:{width}}  {one.detail}"
    if one.hint and one.state is not State.OK:
        text += f"\n{'':13}{'':{width}}  → {one.hint}"
    return "\n".join(printable(line) for line in text.splitlines())


def _summary(done: Examination) -> str:
    counted = {state: sum(one.state is state for one in done.findings) for state in State}
    parts = [f"{counted[state]} {state.value.lower()}" for state in State if counted[state]]
    return ", ".join(parts)
