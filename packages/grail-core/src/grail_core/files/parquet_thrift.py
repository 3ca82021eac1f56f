"""The part of Thrift's compact protocol that Parquet footers and page headers are written in, read by a closed description.

Whoever reads says which fields a struct has, of which type and within which bounds; everything else is refused: an unknown
field, a field twice or out of order, another type, a longer list, a larger number, a number written with needless bytes.
Nothing is skipped, so no byte stands in the file that nobody looked at, and nothing recurses further than the description does.
A length is compared with its bound and with what is left of the bytes before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grail_core.errors import ProtocolViolationError

_BINARY, _LIST, _STRUCT = 8, 9, 12
I32, I64 = 5, 6
"""Wire types of integers; both are zigzag varints and differ by their declared type alone."""

_WIRE_NAMES = {
    1: "true",
    2: "false",
    3: "byte",
    4: "i16",
    5: "i32",
    6: "i64",
    7: "double",
    8: "binary",
    9: "list",
    10: "set",
    11: "map",
    12: "struct",
}


class RefusedParquetError(ProtocolViolationError):
    """The bytes are not a Parquet file of the closed form that our writers make, or exceed a limit."""


@dataclass(frozen=True)
class Integer:
    """A number of `least` … `most`."""

    wire: int
    least: int
    most: int


@dataclass(frozen=True)
class Binary:
    """Bytes, at most `most` of them."""

    most: int


@dataclass(frozen=True)
class ListOf:
    """A list of at most `most` items."""

    item: Integer | Binary | Struct
    most: int


@dataclass(frozen=True)
class Field:
    name: str
    type: Integer | Binary | ListOf | Struct
    required: bool = True


@dataclass(frozen=True)
class Struct:
    """The fields by their id. `denied` says of further ids what they are for, so that the refusal can."""

    name: str
    fields: Mapping[int, Field]
    denied: Mapping[int, str] = field(default_factory=dict)


def read_struct(description: Struct, raw: bytes, at: int = 0) -> tuple[dict[str, Any], int]:
    """The values of the struct that starts at `raw[at]`, by field name, and where it ends. Absent optional fields are None.

    Raises:
        RefusedParquetError: anything that the description does not allow.
    """
    return _Reader(raw).struct(description, at)


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def struct(self, description: Struct, at: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {one.name: None for one in description.fields.values()}
        last = 0
        while True:
            head, at = self._byte(at, description.name)
            if head == 0:
                break
            step, wire = head >> 4, head & 15
            if step == 0:
                raise RefusedParquetError(f"{description.name}: a field out of order, or one that our writers do not write")
            last += step
            known = description.fields.get(last)
            if known is None:
                what = description.denied.get(last, f"field {last}")
                raise RefusedParquetError(f"{description.name}: {what}, which our files do not have")
            values[known.name], at = self._value(known.type, wire, at, f"{description.name}.{known.name}")
        for one in description.fields.values():
            if one.required and values[one.name] is None:
                raise RefusedParquetError(f"{description.name}: no {one.name}")
        return values, at

    def _value(self, expected: Integer | Binary | ListOf | Struct, wire: int, at: int, where: str) -> tuple[Any, int]:
        wanted = _wire_of(expected)
        if wire != wanted:
            found = _WIRE_NAMES.get(wire, str(wire))
            raise RefusedParquetError(f"{where}: of type {found}, it must be of type {_WIRE_NAMES[wanted]}")
        if isinstance(expected, Struct):
            return self.struct(expected, at)
        if isinstance(expected, ListOf):
            return self._list(expected, at, where)
        if isinstance(expected, Binary):
            return self._binary(expected, at, where)
        number, at = self._varint(at, where)
        value = (number >> 1) ^ -(number & 1)
        if not expected.least <= value <= expected.most:
            raise RefusedParquetError(f"{where}: {value} is outside {expected.least} … {expected.most}")
        return value, at

    def _list(self, expected: ListOf, at: int, where: str) -> tuple[list[Any], int]:
        head, at = self._byte(at, where)
        count = head >> 4
        if count == 15:
            count, at = self._varint(at, where)
            if count < 15:
                raise RefusedParquetError(f"{where}: a length with needless bytes")
        if count > expected.most:
            raise RefusedParquetError(f"{where}: {count} items, at most {expected.most} are allowed")
        items = []
        for _ in range(count):
            item, at = self._value(expected.item, head & 15, at, where)
            items.append(item)
        if not count and head & 15 != _wire_of(expected.item):
            raise RefusedParquetError(f"{where}: a list of another type")
        return items, at

    def _binary(self, expected: Binary, at: int, where: str) -> tuple[bytes, int]:
        length, at = self._varint(at, where)
        if length > expected.most:
            raise RefusedParquetError(f"{where}: {length} bytes, at most {expected.most} are allowed")
        if length > len(self._raw) - at:
            raise RefusedParquetError(f"{where}: {length} bytes, {len(self._raw) - at} are left")
        return self._raw[at : at + length], at + length

    def _byte(self, at: int, where: str) -> tuple[int, int]:
        if at >= len(self._raw):
            raise RefusedParquetError(f"{where}: the bytes end in the middle")
        return self._raw[at], at + 1

    def _varint(self, at: int, where: str) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, in as few bytes as it takes."""
        number = shift = 0
        while True:
            byte, at = self._byte(at, where)
            number |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise RefusedParquetError(f"{where}: a number of more than 64 bits")
        if number >= 2**64 or (shift and byte == 0):
            raise RefusedParquetError(f"{where}: a number of more than 64 bits or with needless bytes")
        return number, at


def _wire_of(expected: Integer | Binary | ListOf | Struct) -> int:
    if isinstance(expected, Integer):
        return expected.wire
    return {Binary: _BINARY, ListOf: _LIST, Struct: _STRUCT}[type(expected)]


def write_struct(description: Struct, values: Mapping[str, Any]) -> bytes:
    """The bytes that `read_struct` reads back. Fields whose value is None or missing are left out."""
    output = bytearray()
    last = 0
    for number, one in sorted(description.fields.items()):
        value = values.get(one.name)
        if value is not None:
            output.append((number - last) << 4 | _wire_of(one.type))
            output += _written(one.type, value)
            last = number
    return bytes(output) + b"\0"


def _written(expected: Integer | Binary | ListOf | Struct, value: Any) -> bytes:
    if isinstance(expected, Struct):
        return write_struct(expected, value)
    if isinstance(expected, Integer):
        return varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if isinstance(expected, Binary):
        return varint(len(value)) + bytes(value)
    wire = _wire_of(expected.item)
    head = bytes([len(value) << 4 | wire]) if len(value) < 15 else bytes([0xF0 | wire]) + varint(len(value))
    return head + b"".join(_written(expected.item, item) for item in value)


def varint(number: int) -> bytes:
    """An unsigned number, seven bits a byte, low ones first."""
    output = bytearray()
    while number > 127:
        output.append(number & 127 | 128)
        number >>= 7
    return bytes(output) + bytes([number])
