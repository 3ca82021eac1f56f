"""Documents that are one step from a well-formed one: what a strict reader refuses, or takes only for exactly what it says.

`mutated` draws bytes: one value of the document replaced by a hostile one, left out, doubled, or one byte changed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

from hypothesis import strategies as st

from grail_core.protocol.reading import Json

_HOSTILE: list[str] = [
    "NaN", "Infinity", "-Infinity", "1e999", "1.0", "-0.0", "-1", "0", "4294967295", "4294967296", "9007199254740991",
    "9007199254740992", "18446744073709551616", "1" * 400, "null", "true", "[]", "{}", '""', '"\\ud800"', '"\\u0000"', "[" * 40,
    json.dumps("f" * 64), json.dumps("F" * 64), json.dumps("a" * 5000), "[null,null]", "[[],[]]",
]  # fmt: skip
TAKEN = "taken"
_MARK = "a mark that nothing else has"


def _places(value: Json, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*at, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:3]):
            yield from _places(item, (*at, i))


def _holder(document: Any, place: tuple[str | int, ...]) -> Any:
    for key in place[:-1]:
        document = document[key]
    return document


@st.composite
def mutated(draw: st.DrawFn, document: Json) -> bytes:
    """Bytes one step from the canonical JSON of a document."""
    plain = json.loads(json.dumps(document))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    how = draw(st.sampled_from(["replace", "replace", "leave out", "add", "byte", "cut"]))
    if how == "byte":
        at = draw(st.integers(0, len(canonical) - 1))
        return canonical[:at] + bytes([draw(st.integers(0, 255))]) + canonical[at + 1 :]
    if how == "cut":
        return canonical[: draw(st.integers(0, len(canonical)))]
    changed = copy.deepcopy(plain)
    place = draw(st.sampled_from(list(_places(cast(Json, plain)))))
    holder, key = _holder(changed, place), place[-1]
    if how == "leave out":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(["", "surplus", "constructor", "ü"]))] = 0
    elif how == "add":
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = _MARK
    text = json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace(json.dumps(_MARK), draw(st.sampled_from(_HOSTILE))).encode()


def taken_or_refused(raw: bytes, again: Callable[[bytes], bytes]) -> str:
    """What a strict reader says to the bytes: its complaint, TAKEN if it read them and they are written the same again.

    Args:
        again: reads the bytes and writes what was read.
    """
    try:
        written = again(raw)
    except ValueError as error:
        return str(error)
    return TAKEN if written == raw else "what was read is written otherwise"
