"""Mutants of an honest window file, and what becomes of each where it is opened: every end has to be a typed one, soon.

    hatch run mutants --count 20000 --json

Each mutant is a function of the seed and its number. Most change the footer or a page header as a tree (a type, a number, a
length, an item or field dropped, repeated, swapped or nested), so that what lies deep is reached; others change bytes: of a
page's values, of the frame around them, anywhere. The exit code is 1 if one ended otherwise than typed, took over two seconds
of processor time, or more memory than pages of a few kilobytes need.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from grail_core.errors import GrailError
from grail_core.files.confined.opening import Confined, ConfinementError, Spent
from grail_core.files.window_file import WindowFileError, write_window_file
from grail_core.protocol.types import Signature
from tooling.adversaries.hostile_parquet import Draft, closed, draft_of, taken_apart
from tooling.adversaries.thrift_trees import BINARY, BYTE, INTEGERS, LIST, STRUCT, Tree, write_tree
from tooling.testing.window_files import made_header, made_rows

MAX_SECONDS = 2.0
MAX_PEAK_BYTES = 64 << 20
"""Of a child that opens a mutant of a file of some kilobytes; an interpreter takes 15 MiB."""
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


def mutants(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    return (mutant(data, seed, number) for number in range(count))


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


@dataclass
class Outcomes:
    """What became of all mutants. `untyped` and `machine` have to be empty."""

    count: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def bad(self) -> bool:
        others = self.ends.keys() - {"opened", "refused"}
        return bool(others or self.untyped) or self.slowest_seconds > MAX_SECONDS or self.peak_bytes > MAX_PEAK_BYTES


def open_mutants(seed: int, count: int, children: int = 1) -> Outcomes:
    """Open `count` mutants of a small honest file, each confined."""
    data = write_window_file(made_header(1), Signature(b"\x08" * 64), made_rows(seed, 1, 40))
    outcomes = Outcomes(count)

    def observe(spent: Spent) -> None:
        outcomes.slowest_seconds = max(outcomes.slowest_seconds, spent.processor_seconds)
        outcomes.peak_bytes = max(outcomes.peak_bytes, spent.peak_bytes)
        if spent.outcome not in ("done", "refused"):
            outcomes.untyped.append(spent.outcome)

    def one(number: int) -> tuple[str, str]:
        try:
            confined.open_window_file(mutant(data, seed, number), rows=16)
        except WindowFileError as error:
            return "refused", " ".join(error.what.split()[:4])
        except ConfinementError as error:
            return "machine", error.what
        except GrailError as error:
            return f"another error: {type(error).__name__}", error.what
        return "opened", ""

    with Confined(children=children, observe=observe) as confined, ThreadPoolExecutor(children) as pool:
        for end, reason in pool.map(one, range(count)):
            outcomes.ends[end] += 1
            outcomes.reasons[reason] += bool(reason)
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hatch run mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=2, help="opened at a time")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    found = open_mutants(options.seed, options.count, options.children)
    value = {
        "count": found.count,
        "seed": options.seed,
        "ends": dict(found.ends.most_common()),
        "reasons": len(found.reasons),
        "untyped": found.untyped[:100],
        "slowest_seconds": round(found.slowest_seconds, 3),
        "peak_mib": round(found.peak_bytes / 2**20, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(value) if options.as_json else "\n".join(f"{name}: {one}" for name, one in value.items()))
    return int(found.bad)


if __name__ == "__main__":
    sys.exit(main())
