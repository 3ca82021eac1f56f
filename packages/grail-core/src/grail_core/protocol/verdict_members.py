"""Members that verdict bodies of every kind of work are written with, and their strict readers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

from grail_core.protocol.reading import Node
from grail_core.protocol.scores import WEIGHT_TOTAL
from grail_core.protocol.types import Digest, Hotkey

MAX_UID = 65_535

T = TypeVar("T")


def hex_or_none(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def read_digest(node: Node) -> Digest:
    return Digest(node.raw(32))


def read_fraction(node: Node) -> Fraction:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a fraction is [numerator, denominator]")
    fraction = Fraction(pair[0].integer(), pair[1].integer(1))
    if fraction.denominator != pair[1].value:
        node.refuse("a fraction is written in lowest terms")
    return fraction


def read_weight(node: Node) -> tuple[int, int]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("a weight is [uid, weight]")
    return pair[0].integer(0, MAX_UID), pair[1].integer(0, WEIGHT_TOTAL)


def read_hotkey(node: Node) -> tuple[int, Hotkey]:
    pair = node.items(2)
    if len(pair) != 2:
        node.refuse("an entry is [uid, hotkey]")
    return pair[0].integer(0, MAX_UID), Hotkey(pair[1].raw(32))


def by_uid(node: Node, pairs: list[tuple[int, T]]) -> dict[int, T]:
    if any(a >= b for (a, _), (b, _) in pairwise(pairs)):
        node.refuse("in order of UID, each once")
    return dict(pairs)
