"""Strict reading of JSON that somebody else wrote.

Bytes become a `Node`: a value together with its path, so that every complaint says where. Size, depth and number of tokens are
checked before decoding (31 MiB of empty arrays would cost 15 seconds and 800 MiB); floats, NaN, repeated keys, unknown or
missing members, and text that has no UTF-8 are refused. Everything raised here is a `ValueError` whose message starts with the
path. Which members an object has is said by the types that read it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any, Never, TypeVar

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]
"""What canonical JSON can hold: no floats."""

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

MAX_JSON_INTEGER = 2**53 - 1
"""The largest integer of canonical JSON; wider ones (coins, seeds) are written as hex text."""

MAX_DEPTH = 32
"""Arrays and objects inside one another; the deepest message of the protocol has seven."""

MAX_TOKENS = 2**20
"""Texts, brackets and commas of one document. A verdict on 256 miners with eight findings of every check has half of it."""

# A text that does not end is one token to the end of the document: the scan goes over each byte once.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


@dataclass(frozen=True)
class Node:
    """A parsed JSON value and where it stood."""

    value: object
    path: str = "$"

    def refuse(self, what: str) -> Never:
        """Raise `ValueError` with the path in front."""
        raise ValueError(f"{self.path}: {what}")

    def members(self, *names: str) -> dict[str, Node]:
        """The members of an object that has exactly these names."""
        value = self.value
        if not isinstance(value, Mapping):
            self.refuse(f"an object is expected, not {_kind(value)}")
        missing = [name for name in names if name not in value]
        if missing:
            self.refuse(f"no member {missing[0]!r}")
        if len(value) != len(names):
            unknown = sorted(repr(key) for key in value if key not in names)
            self.refuse(f"unknown member {unknown[0][:80]}")
        return {name: Node(value[name], f"{self.path}.{name}") for name in names}

    def entries(self, most: int, *, key_length: int = 128) -> dict[str, Node]:
        """The members of an object with free names, at most `most` of them."""
        value = self.value
        if not isinstance(value, Mapping):
            self.refuse(f"an object is expected, not {_kind(value)}")
        if len(value) > most:
            self.refuse(f"{len(value)} members, at most {most} are allowed")
        for key in value:
            Node(key, f"{self.path}.(key)").text(key_length)
        return {key: Node(item, f"{self.path}.{key}") for key, item in value.items()}

    def items(self, most: int) -> list[Node]:
        """The items of an array of at most `most`."""
        value = self.value
        if not isinstance(value, list | tuple):
            self.refuse(f"an array is expected, not {_kind(value)}")
        if len(value) > most:
            self.refuse(f"{len(value)} items, at most {most} are allowed")
        return [Node(item, f"{self.path}[{i}]") for i, item in enumerate(value)]

    def integer(self, least: int = 0, most: int = MAX_JSON_INTEGER) -> int:
        value = self.value
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(f"an integer is expected, not {_kind(value)}")
        if not least <= value <= most:
            self.refuse(f"{value if abs(value) < 2**64 else 'a huge integer'} is outside {least} … {most}")
        return value

    def flag(self) -> bool:
        value = self.value
        if not isinstance(value, bool):
            self.refuse(f"true or false is expected, not {_kind(value)}")
        return value

    def text(self, most: int) -> str:
        """Text of at most `most` characters that UTF-8 can hold."""
        value = self.value
        if not isinstance(value, str):
            self.refuse(f"text is expected, not {_kind(value)}")
        if len(value) > most:
            self.refuse(f"{len(value)} characters, at most {most} are allowed")
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                self.refuse("text with a lone surrogate has no UTF-8")
        return value

    def raw(self, size: int) -> bytes:
        """`size` bytes written as lower-case hex."""
        value = self.text(2 * size)
        if len(value) != 2 * size or value.strip("0123456789abcdef"):
            self.refuse(f"{2 * size} lower-case hex digits are expected")
        return bytes.fromhex(value)

    def base64(self, most: int) -> bytes:
        """At most `most` bytes written as base64 (RFC 4648, section 4, with padding). Of one value's many spellings (unused
        bits, line breaks, letters that decoders skip) the one that encoders write is taken."""
        value = self.text(4 * -(-most // 3))
        try:
            raw = base64.b64decode(value, validate=True)
        except ValueError:
            self.refuse("not in base64")
        if base64.b64encode(raw).decode() != value:
            self.refuse("not in canonical base64: unused bits are set")
        if len(raw) > most:
            self.refuse(f"{len(raw)} bytes, at most {most} are allowed")
        return raw

    def choice(self, among: type[E]) -> E:
        """The member of an enum of text values."""
        value = self.text(64)
        try:
            return among(value)
        except ValueError:
            self.refuse(f"{value!r} is none of {', '.join(str(member.value) for member in among)}")

    def optional(self, read: Callable[[Node], T]) -> T | None:
        """None for null, else what `read` makes of it."""
        return None if self.value is None else read(self)

    def build(self, make: Callable[[], T]) -> T:
        """Construct a value type; its own complaint gets this path."""
        try:
            return make()
        except (ValueError, OverflowError) as error:
            text = str(error)
            if text.startswith("$"):
                raise
            raise ValueError(f"{self.path}: {text}") from error


def parse_json(raw: bytes, *, most: int, path: str = "$", tokens: int = MAX_TOKENS, floats: bool = False) -> Node:
    """Decode at most `most` bytes of JSON.

    Args:
        floats: numbers with a fraction are allowed, NaN and infinities never: for what is no message of the protocol.
        tokens: texts, brackets and commas that are allowed. What a document costs to decode follows from them: a million are at
            most 3 s and 100 MiB.

    Raises:
        ValueError: too large, no UTF-8, no JSON, too many tokens, too deeply nested, a float, or a key given twice.
    """
    root = Node(None, path)
    if len(raw) > most:
        root.refuse(f"{len(raw)} bytes, at most {most} are allowed")
    _check_shape(raw, root, tokens)
    try:
        value = json.loads(
            raw.decode("utf-8"),
            parse_float=_finite if floats else _no_float,
            parse_constant=_no_float,
            object_pairs_hook=distinct_members,
        )
    except RecursionError:
        root.refuse("nested too deeply")
    except ValueError as error:
        root.refuse(f"no valid JSON: {error}")
    return Node(value, path)


def _check_shape(raw: bytes, root: Node, tokens: int) -> None:
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(raw), start=1):
        if count > tokens:
            root.refuse(f"more than {tokens} texts, brackets and commas")
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                root.refuse(f"nested too deeply: more than {MAX_DEPTH} arrays and objects inside one another")
        elif first in b"]}":
            depth -= 1


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"a number beyond all floats: {text[:40]}")
    return value


def _no_float(text: str) -> Never:
    raise ValueError(f"a number that is no integer: {text[:40]}")


def distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json`'s `object_pairs_hook`: of two members of one name, one reader takes the first and another the last."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a truth value", int: "an integer", float: "a number with a fraction", str: "text", list: "an array"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
