"""Thrift's compact protocol as trees that may say anything: what hostile footers and page headers are made of.

Unlike `grail_core.files.parquet_thrift`, which reads what a description allows, this reads whatever is there and writes
whatever it is told, so that one thing can be changed and the rest left as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grail_core.files.parquet_thrift import varint

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)


@dataclass
class Tree:
    """A value of wire type `kind`. A struct has `fields`, a list `items` of type `item_kind`, anything else `value`.

    `raw` is written in place of all that.
    """

    kind: int
    value: int | bytes = 0
    fields: list[tuple[int, Tree]] = field(default_factory=list)
    items: list[Tree] = field(default_factory=list)
    item_kind: int = STRUCT
    raw: bytes = b""

    def at(self, *path: int) -> Tree:
        """Below a struct by field id, below a list by index."""
        found = self
        for step in path:
            found = found.items[step] if found.kind == LIST else next(one for number, one in found.fields if number == step)
        return found

    def put(self, number: int, tree: Tree) -> Tree:
        """Set a field of a struct, in its place; returns the struct."""
        self.fields = sorted([(n, one) for n, one in self.fields if n != number] + [(number, tree)], key=lambda pair: pair[0])
        return self

    def drop(self, number: int) -> None:
        self.fields = [(n, one) for n, one in self.fields if n != number]

    def all(self) -> list[Tree]:
        """This tree and every one below it."""
        below = [one for _, one in self.fields] + self.items
        return [self, *(found for one in below for found in one.all())]


def integer(value: int, kind: int = I64) -> Tree:
    return Tree(kind, value)


def binary(value: bytes) -> Tree:
    return Tree(BINARY, value)


def struct(**fields: Tree) -> Tree:
    """Fields are written `_1=…`, `_2=…`."""
    return Tree(STRUCT, fields=[(int(name[1:]), one) for name, one in fields.items()])


def listing(*items: Tree, kind: int | None = None) -> Tree:
    return Tree(LIST, items=list(items), item_kind=kind or (items[0].kind if items else STRUCT))


def read_tree(raw: bytes, at: int = 0) -> tuple[Tree, int]:
    """The struct at `raw[at]`, and where it ends. For honest bytes: malformed ones raise whatever comes up."""
    return _read(raw, at, STRUCT)


def _read(raw: bytes, at: int, kind: int) -> tuple[Tree, int]:
    if kind == STRUCT:
        tree, last = Tree(STRUCT), 0
        while raw[at]:
            head = raw[at]
            last += head >> 4
            one, at = _read(raw, at + 1, head & 15)
            tree.fields.append((last, one))
        return tree, at + 1
    if kind == LIST:
        head, at = raw[at], at + 1
        count = head >> 4
        if count == 15:
            count, at = _number(raw, at)
        tree = Tree(LIST, item_kind=head & 15)
        for _ in range(count):
            one, at = _read(raw, at, head & 15)
            tree.items.append(one)
        return tree, at
    if kind in INTEGERS:
        number, at = _number(raw, at)
        return Tree(kind, (number >> 1) ^ -(number & 1)), at
    if kind == BINARY:
        length, at = _number(raw, at)
        return Tree(BINARY, raw[at : at + length]), at + length
    if kind in (TRUE, FALSE):
        return Tree(kind), at
    raise ValueError(f"no honest footer has wire type {kind}")


def _number(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (raw[at] & 127) << shift
        shift += 7
        at += 1
        if raw[at - 1] < 128:
            return number, at


def write_tree(tree: Tree) -> bytes:
    """The bytes of a tree, whatever it says: fields out of order and numbers of any size too."""
    if tree.raw:
        return tree.raw
    if tree.kind == STRUCT:
        output, last = bytearray(), 0
        for number, one in tree.fields:
            step = number - last
            output += bytes([step << 4 | one.kind]) if 0 < step < 16 else bytes([one.kind]) + varint(_zigzag(number))
            output += write_tree(one)
            last = number
        return bytes(output) + b"\0"
    if tree.kind == LIST:
        count = len(tree.items)
        head = bytes([count << 4 | tree.item_kind]) if count < 15 else bytes([0xF0 | tree.item_kind]) + varint(count)
        return head + b"".join(write_tree(one) for one in tree.items)
    if tree.kind in INTEGERS:
        return varint(_zigzag(int(tree.value) if isinstance(tree.value, int) else len(tree.value)))
    if tree.kind in (BINARY, SET, MAP):
        value = tree.value if isinstance(tree.value, bytes) else b""
        return varint(len(value)) + value
    if tree.kind == DOUBLE:
        return bytes(8)
    return bytes(1) if tree.kind == BYTE else b""


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1
