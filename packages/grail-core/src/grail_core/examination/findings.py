"""What an examination found, one line each: it holds, it is worth a look, it does not hold, or it was not asked.

Sections are told in one order, from what a person set to what lies farthest away: who mends the first line may mend the others
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from grail_core.errors import GrailError

SETTINGS, NETWORK, WALLET, BUCKET, CHAIN, BEACON = "settings", "network", "wallet", "bucket", "chain", "beacon"
CHECKPOINT, MACHINE, ENGINE, SANDBOX, DISK, DATA = "checkpoint", "devices", "engine", "sandbox", "disk", "data sets"
ORDER = (SETTINGS, NETWORK, WALLET, BUCKET, CHAIN, BEACON, CHECKPOINT, MACHINE, ENGINE, SANDBOX, DISK, DATA)


class State(Enum):
    OK = "ok"
    WARNING = "warning"  # a role starts, and somebody should look
    BROKEN = "BROKEN"  # a role does not start, or what it makes is refused
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Finding:
    """`origin`: where a setting was given (`environment`, `.env, line 3`, …); "" for what is none."""

    section: str
    name: str
    state: State
    detail: str
    hint: str = ""
    error: GrailError | None = None  # of what is broken; its exit code is the command's
    origin: str = ""


def ok(section: str, name: str, detail: str, *, origin: str = "") -> Finding:
    return Finding(section, name, State.OK, detail, origin=origin)


def warning(section: str, name: str, detail: str, hint: str = "", *, origin: str = "") -> Finding:
    return Finding(section, name, State.WARNING, detail, hint, origin=origin)


def not_asked(section: str, name: str, why: str) -> Finding:
    return Finding(section, name, State.NOT_ASKED, why)


def broken(section: str, name: str, error: GrailError, *, origin: str = "") -> Finding:
    where = f" ({error.where})" if error.where else ""
    return Finding(section, name, State.BROKEN, error.what + where, error.hint, error, origin)


def tried(section: str, name: str, ask: Callable[[], object]) -> Iterator[Finding]:
    """What somebody else's check raises, as a finding; nothing where it holds."""
    try:
        ask()
    except GrailError as error:
        yield broken(section, name, error)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By section; within one as they were found."""
    return sorted(findings, key=lambda one: ORDER.index(one.section))


def broken_of(findings: Iterable[Finding]) -> list[Finding]:
    return [one for one in in_order(findings) if one.state is State.BROKEN]
