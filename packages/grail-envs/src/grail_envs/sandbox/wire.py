"""How values cross between the process that runs an answer and the one that grades it: as plain data, and nothing else.

Objects of the answer's own classes stay in the answer's process; the grading side sees an opaque handle. A value of a
subclass of a plain type is sent as its plain content, read by the plain type's own methods, so an overridden `__eq__` or
`__iter__` never reaches the grader. Frames are JSON with a length in front, parsed with bounds on size and depth; there is
no pickle and no code in them. Standard library only: it runs on both sides of the border.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import os
import struct
import types
from collections.abc import Callable
from typing import Any

MAX_FRAME = 16 * 2**20
MAX_DEPTH = 200
MAX_ITERATED = 200_000
"""Items that are taken from an iterator that an answer returned."""


class WireError(Exception):
    """The other side said something that cannot be: too large, too deep, or no value."""


def send(descriptor: int, message: Any) -> None:
    """One frame.

    Raises:
        WireError: larger than `MAX_FRAME`.
        OSError: the other side is gone.
    """
    raw = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(raw) > MAX_FRAME:
        raise WireError("the value is too large")
    view = memoryview(struct.pack(">I", len(raw)) + raw)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> Any:
    """The next frame.

    Raises:
        EOFError: the other side is gone.
        WireError: not a frame.
    """
    (length,) = struct.unpack(">I", _exactly(descriptor, 4))
    if length > MAX_FRAME:
        raise WireError("the frame is too large")
    try:
        return json.loads(_exactly(descriptor, length))
    except (ValueError, RecursionError) as error:
        raise WireError(f"not a frame: {type(error).__name__}") from None


def _exactly(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple, set, frozenset, bytes, complex)
}
_VIEWS = {type({}.keys()): "keys", type({}.values()): "list", type({}.items()): "list"}
_MOMENTS: tuple[tuple[Any, str], ...] = ((datetime.datetime, "datetime"), (datetime.date, "date"), (datetime.time, "time"))
_ITERATORS: tuple[type, ...] = (
    types.GeneratorType, map, filter, zip, enumerate, reversed, type(reversed([])), type(iter([])), type(iter(())),
    type(iter({})), type(iter(set())), type(iter("")), type(iter(range(0))), type(iter({}.values())), type(iter({}.items())),
)  # fmt: skip


def encode(value: Any, keep: Callable[[Any], int], depth: int = 0) -> Any:
    """A value as JSON: plain data by content, anything else as the handle that `keep` gives it.

    Raises:
        WireError: deeper than `MAX_DEPTH`, or an iterator without a near end.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -(2**53) < value < 2**53 else ["I", format(value, "x")]
    if kind is float:
        return ["f", value.hex()]
    if depth > MAX_DEPTH:
        raise WireError("the value is nested too deeply")
    deeper = depth + 1
    if kind is list or kind is tuple:
        return ["l" if kind is list else "t", *[encode(item, keep, deeper) for item in value]]
    return _encode_other(kind, value, keep, deeper)


def _encode_other(kind: type, value: Any, keep: Callable[[Any], int], depth: int) -> Any:
    def items(found: Any) -> list[Any]:
        return [encode(item, keep, depth) for item in found]

    mro = type.__dict__["__mro__"].__get__(kind)
    if dict in mro:
        pairs = [encode(part, keep, depth) for pair in dict.items(value) for part in pair]
        flavour = "C" if collections.Counter in mro else "O" if collections.OrderedDict in mro else "d"
        return [flavour, *pairs]
    for base, tag in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "S"), (collections.deque, "q")):
        if base in mro:
            return [tag, *items(base.__iter__(value))]
    if str in mro:
        return str.__str__(value) if kind is str else str.__add__("", value)
    if int in mro:
        return encode(int.__add__(value, 0), keep, depth)
    if float in mro:
        return ["f", float.hex(value)]
    if complex in mro:
        return ["c", complex.__add__(value, 0j).real.hex(), complex.__add__(value, 0j).imag.hex()]
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "B", value.hex()]
    if kind is range:
        return ["r", format(value.start, "x"), format(value.stop, "x"), format(value.step, "x")]
    if kind is fractions.Fraction:
        return ["F", encode(int(value.numerator), keep, depth), encode(int(value.denominator), keep, depth)]
    if kind is decimal.Decimal:
        return ["D", str(value)]
    for moment, name in _MOMENTS:
        if moment in mro:
            return ["T", name, moment.isoformat(value)]
    if kind is datetime.timedelta:
        return ["T", "timedelta", value.days, value.seconds, value.microseconds]
    if kind in _VIEWS:
        return ["k" if _VIEWS[kind] == "keys" else "l", *items(value)]
    if kind in _ITERATORS:
        found = []
        for item in value:
            found.append(encode(item, keep, depth))
            if len(found) > MAX_ITERATED:
                raise WireError("the iterator has no near end")
        return ["i", *found]
    if value is Ellipsis or value is NotImplemented:
        return ["e", "..." if value is Ellipsis else "NotImplemented"]
    if kind is type and value in _TYPES.values():
        return ["n", type.__dict__["__name__"].__get__(value)]
    return ["h", keep(value)]


def decode(message: Any, handle: Callable[[int], Any], depth: int = 0) -> Any:
    """The value that a message says; `handle` gives what stands for an object of the other side.

    Raises:
        WireError: the message says no value, whatever it holds.
    """
    if message is None or isinstance(message, str | bool):
        return message
    if isinstance(message, int):
        return message
    if not isinstance(message, list) or not message or not isinstance(message[0], str) or depth > MAX_DEPTH + 8:
        raise WireError("not a value")
    try:
        return _decode_tagged(message[0], message[1:], handle, depth + 1)
    except WireError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise WireError(f"not a value: {type(error).__name__}") from None


def _decode_tagged(tag: str, rest: list[Any], handle: Callable[[int], Any], depth: int) -> Any:
    if tag == "I":
        return int(_text(rest[0]), 16)
    if tag == "f":
        return float.fromhex(_text(rest[0]))
    if tag == "c":
        return complex(float.fromhex(_text(rest[0])), float.fromhex(_text(rest[1])))
    if tag == "b" or tag == "B":
        raw = bytes.fromhex(_text(rest[0]))
        return raw if tag == "b" else bytearray(raw)
    if tag == "r":
        return range(*[int(_text(part), 16) for part in rest])
    if tag == "D":
        return decimal.Decimal(_text(rest[0])[:10_000])
    if tag == "T":
        return _moment(rest)
    if tag == "e":
        return Ellipsis if rest[0] == "..." else NotImplemented
    if tag == "n":
        return _TYPES[_text(rest[0])]
    if tag == "h":
        if type(rest[0]) is not int:
            raise WireError("not a handle")
        return handle(rest[0])
    values = [decode(item, handle, depth) for item in rest]
    if tag == "l":
        return values
    if tag == "t":
        return tuple(values)
    if tag == "s":
        return set(values)
    if tag == "S":
        return frozenset(values)
    if tag == "q":
        return collections.deque(values)
    if tag == "i":
        return iter(values)
    if tag == "k":
        return dict.fromkeys(values).keys()
    if tag == "F":
        return fractions.Fraction(values[0], values[1])
    if tag in ("d", "C", "O"):
        pairs = dict(zip(values[::2], values[1::2], strict=True))
        return pairs if tag == "d" else collections.Counter(pairs) if tag == "C" else collections.OrderedDict(pairs)
    raise WireError("an unknown kind of value")


def _moment(rest: list[Any]) -> Any:
    if rest[0] == "timedelta":
        return datetime.timedelta(*rest[1:4])
    makers: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}
    return makers[_text(rest[0])].fromisoformat(_text(rest[1]))


def _text(part: Any) -> str:
    if not isinstance(part, str):
        raise WireError("not a text")
    return part
