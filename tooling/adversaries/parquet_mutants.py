"""Mutants of window files: of an honest one, and of those that lie already. `hostile_corpus` opens them.

Each mutant is a function of the file, the seed and its number. Most change the footer or a page header as a tree (a type, a
number, a length, an item or field dropped, repeated, swapped or nested), so that what lies deep is reached; others change
bytes: of a page's values, of the frame around them, anywhere.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

from tooling.adversaries.hostile_parquet import Draft, closed, draft_of, taken_apart
from tooling.adversaries.thrift_trees import BINARY, BYTE, INTEGERS, LIST, STRUCT, Tree, write_tree

_EDGES = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**64)


def mutant(data: bytes, seed: int, number: int) -> bytes:
    """`data` is an honest file of one row group; the same seed and number give the same bytes."""
    rng = random.Random(f"{seed}/{number}")
    kinds: tuple[tuple[int, Callable[[bytes, random.Random], bytes]], ...] = (
        (8, _footer_changed),
        (3, _footer_and_bytes_changed),
        (5, _page_header_changed),
        (2, _payload_changed),
        (2, _bytes_changed),
    )
    change = rng.choices([one for _, one in kinds], [weight for weight, _ in kinds])[0]
    return change(data, rng)


def mutant_of_any(data: bytes, seed: int, number: int) -> bytes:
    """`data` is whatever file, honest or not: its footer is changed where it has one that can be read, else its bytes."""
    rng = random.Random(f"{seed}/any/{number}")
    try:
        pages, footer = taken_apart(data)
    except (ValueError, IndexError, RecursionError):
        return _some_bytes(data, rng)
    if rng.random() < 0.2:
        return _some_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change_tree(footer, rng)
    return closed(pages, footer)


def _footer_changed(data: bytes, rng: random.Random) -> bytes:
    pages, footer = taken_apart(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_tree(footer, rng)
    return closed(pages, footer)


def _footer_and_bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bytes of the footer alone: needless bytes of numbers, half structs, other ids."""
    pages, footer = taken_apart(data)
    raw = _some_bytes(write_tree(footer), rng)
    return pages + raw + len(raw).to_bytes(4, "little") + b"PAR1"


def _page_header_changed(data: bytes, rng: random.Random) -> bytes:
    """The footer is made to fit, so that the lie of the header is what is met."""
    draft: Draft = draft_of(data)
    page = rng.choice(rng.choice(draft.pages))
    for _ in range(rng.choice((1, 1, 2))):
        _change_tree(page.header, rng)
    try:
        return draft.write()
    except (StopIteration, TypeError, IndexError, ValueError):  # no size left that the footer could be made to fit
        return closed(taken_apart(data)[0][: rng.randrange(4, 64)], draft.footer)


def _payload_changed(data: bytes, rng: random.Random) -> bytes:
    draft = draft_of(data)
    page = rng.choice(rng.choice(draft.pages))
    page.payload = _some_bytes(page.payload, rng)
    page.header.put(3, Tree(INTEGERS[1], len(page.payload)))
    return draft.write()


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    return _some_bytes(data, rng)


def _some_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, set, cut out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 64))
        how = rng.randrange(5)
        if how == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del changed[at : at + length]
        elif how == 3:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at:at] = rng.randbytes(length)
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def _change_tree(tree: Tree, rng: random.Random) -> None:
    """One change at a random place of a tree."""
    place = rng.choice(tree.all())
    kind = rng.randrange(8)
    if kind == 0:
        place.kind = rng.randrange(16) if rng.random() < 0.3 else rng.choice((*INTEGERS, BINARY, LIST, STRUCT, BYTE))
    elif place.kind in INTEGERS and isinstance(place.value, int):
        edge = rng.choice(_EDGES)
        place.value = rng.choice((edge, -edge, place.value + rng.choice((-1, 1)), place.value * 2, place.value ^ edge))
    elif place.kind == BINARY and isinstance(place.value, bytes):
        place.value = rng.choice((b"", place.value * 2, place.value[:-1], rng.randbytes(rng.choice((1, 64, 1000)))))
    elif place.kind == LIST:
        _change_items(place, rng, kind)
    elif place.kind == STRUCT:
        _change_fields(place, rng, kind)


def _change_items(place: Tree, rng: random.Random, kind: int) -> None:
    items = place.items
    if not items or kind == 1:
        items.append(rng.choice((Tree(place.item_kind, 1), Tree(STRUCT), Tree(LIST))))
    elif kind in (2, 3):
        items.pop(rng.randrange(len(items)))
    elif kind == 4:
        items.extend([copy.deepcopy(rng.choice(items))] * rng.choice((1, 2, 100)))
    elif kind == 5:
        rng.shuffle(items)
    else:
        place.item_kind = rng.choice((*INTEGERS, BINARY, LIST, STRUCT))


def _change_fields(place: Tree, rng: random.Random, kind: int) -> None:
    fields = place.fields
    if not fields or kind == 1:
        place.put(rng.randrange(1, 20), rng.choice((Tree(INTEGERS[1], 1), Tree(STRUCT), Tree(LIST), Tree(BINARY, b"x"))))
    elif kind in (2, 3):
        fields.pop(rng.randrange(len(fields)))
    elif kind == 4:
        fields.insert(rng.randrange(len(fields)), copy.deepcopy(rng.choice(fields)))
    elif kind == 5:
        first, second = rng.randrange(len(fields)), rng.randrange(len(fields))
        fields[first], fields[second] = (fields[first][0], fields[second][1]), (fields[second][0], fields[first][1])
    elif kind == 6:
        number, one = fields[rng.randrange(len(fields))]
        fields[:] = [(n, copy.deepcopy(place) if n == number else other) for n, other in fields]
    else:
        number, one = fields.pop(rng.randrange(len(fields)))
        fields.append((max(-(2**15), min(2**15, number + rng.choice((-3, -1, 1, 5, 300)))), one))
