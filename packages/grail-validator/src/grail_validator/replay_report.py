"""What judging a published verdict again gave: equal or what differs first, what cannot be, what was taken as said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Final, Protocol

from grail_core.keys import ss58
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Hotkey, Window
from grail_core.text import printable

_ABSENT: Final = "(nothing)"
_MAX_SHOWN: Final = 200


class Outcome(Enum):
    EQUAL = "equal"  # the same bytes, and nothing around them contradicts
    DIFFERENT = "different"  # other bytes, or a signature, digest, coin or piece of evidence that cannot be
    UNREADABLE = "unreadable"  # something that it rests on cannot be had any more


@dataclass(frozen=True)
class Difference:
    """Where two bodies differ first. A miner is named by its UID."""

    path: str
    theirs: Json
    ours: Json

    def __str__(self) -> str:
        return f"{self.path}: theirs {_shown(self.theirs)}, ours {_shown(self.ours)}"


@dataclass(frozen=True)
class Taken:
    """Something that was not made again, but taken from the verdict as it stands there, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class Replay:
    """One window. `reason`: why it is unreadable. `faults`: what cannot be, whatever the body's bytes are."""

    window: Window
    outcome: Outcome
    validator: Hotkey | None = None
    status: str = ""
    difference: Difference | None = None
    faults: tuple[str, ...] = ()
    taken: tuple[Taken, ...] = ()
    rejudged: int = 0  # miners whose files went through the checks again
    reason: str = ""

    def to_json(self) -> dict[str, Json]:
        one = self.difference
        return {
            "window": self.window,
            "outcome": self.outcome.value,
            "validator": None if self.validator is None else ss58(self.validator),
            "status": self.status,
            "difference": None if one is None else {"path": one.path, "theirs": one.theirs, "ours": one.ours},
            "faults": [printable(fault, 1000) for fault in self.faults],
            "taken": [{"what": taken.what, "why": printable(taken.why, 1000)} for taken in self.taken],
            "rejudged": self.rejudged,
            "reason": printable(self.reason, 1000),
        }


class Body(Protocol):
    """A verdict's body, of whatever kind of work."""

    def canonical(self) -> bytes: ...

    def to_json(self) -> dict[str, Json]: ...


def first_difference(theirs: Body, ours: Body) -> Difference | None:
    """None for equal bytes. Miners come before the scores and weights that follow from them."""
    if theirs.canonical() == ours.canonical():
        return None
    return next(_differences("", theirs.to_json(), ours.to_json()))


def _differences(path: str, theirs: Json, ours: Json) -> Iterator[Difference]:
    if theirs == ours:
        return
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in dict.fromkeys((*theirs, *ours)):
            where = f"{path}.{name}" if path else name
            yield from _differences(where, theirs.get(name, _ABSENT), ours.get(name, _ABSENT))
    elif isinstance(theirs, list) and isinstance(ours, list):
        for index, (one, other) in enumerate(zip_longest(theirs, ours, fillvalue=_ABSENT)):
            yield from _differences(f"{path}[{_name_of(one, other, index)}]", one, other)
    else:
        yield Difference(path, theirs, ours)


def _name_of(one: Json, other: Json, index: int) -> str:
    for entry in (one, other):
        if isinstance(entry, dict) and "uid" in entry:
            return f"uid {entry['uid']}"
    return str(index)


def _shown(value: Json) -> str:
    return printable(str(value), _MAX_SHOWN)
