"""What a miner's doctor shows beside its findings: the layout, as a picture and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grail_core.examination import report
from grail_miner.doctor.examination import Examination
from grail_miner.layout_picture import picture


def as_text(done: Examination) -> str:
    """Findings by section, then the picture of the layout."""
    return report.as_text(done.findings, () if done.layout is None else ("", "Layout", picture(done.layout)))


def as_json(done: Examination) -> str:
    """One object: `findings`, `layout` (null where there is none), `broken` (how many)."""
    layout: dict[str, Any] | None = None
    if done.layout is not None:
        layout = {**asdict(done.layout), "picture": picture(done.layout)}
    return report.as_json(done.findings, {"layout": layout})
