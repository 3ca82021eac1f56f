"""What the doctor found, one line each: it holds, it is worth a look, it does not hold, or it was not asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from grail_core.errors import GrailError


class State(Enum):
    OK = "ok"
    WARNING = "warning"  # a miner starts, and somebody should look
    BROKEN = "BROKEN"  # a miner does not start, or what it makes is refused
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Finding:
    section: str
    name: str
    state: State
    detail: str
    hint: str = ""
    error: GrailError | None = None  # of what is broken; its exit code is the command's


def ok(section: str, name: str, detail: str) -> Finding:
    return Finding(section, name, State.OK, detail)


def warning(section: str, name: str, detail: str, hint: str = "") -> Finding:
    return Finding(section, name, State.WARNING, detail, hint)


def not_asked(section: str, name: str, why: str) -> Finding:
    return Finding(section, name, State.NOT_ASKED, why)


def broken(section: str, name: str, error: GrailError) -> Finding:
    where = f" ({error.where})" if error.where else ""
    return Finding(section, name, State.BROKEN, error.what + where, error.hint, error)
