"""A child's error as its parent raises it: what it was, where, what to try; never more than a few lines of it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import TypeAlias

from grail_core.errors import GrailError, MachineFaultError, is_out_of_memory
from grail_core.telemetry import get_logger
from grail_core.text import printable

log = get_logger(__name__)

ErrorNames: TypeAlias = Mapping[str, type[GrailError]]
"""What each kind of error is called between the two, the first that fits; every other one is the machine's."""


def fault_of(error: Exception, names: ErrorNames) -> dict[str, str]:
    """What the parent is told of an error: its kind, what, where and hint; of one that nobody foresaw its traceback."""
    if isinstance(error, GrailError):
        kind = next((name for name, base in names.items() if isinstance(error, base)), "machine")
        return {"fault": kind, "what": error.what[:2_000], "where": error.where[:2_000], "hint": error.hint[:2_000]}
    if is_out_of_memory(error):
        return {"fault": "machine", "what": f"out of memory: {str(error)[:500]}", "where": "", "hint": ""}
    told = "".join(traceback.format_exception(error))
    return {"fault": "unforeseen", "what": type(error).__name__, "where": "", "hint": ascii(told[-8_000:])}


def error_of(told: Mapping[str, object], names: ErrorNames, *, process: str) -> GrailError:
    """The error to raise. `process` is what the child is called; an unforeseen one's traceback goes to the log."""
    kind, what = str(told.get("fault")), str(told.get("what"))
    if kind == "unforeseen":
        log.error("unforeseen in the %s: %s", process, printable(str(told.get("hint")), 8_000))
        what = f"unforeseen in the {process}: {what}"
    hint = "" if kind == "unforeseen" else str(told.get("hint", ""))
    return names.get(kind, MachineFaultError)(what, where=str(told.get("where", "")), hint=hint)
