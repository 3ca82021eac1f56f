"""`hatch run attacks`: every executable adversary, one row each.

    hatch run attacks                        all, as a table
    hatch run attacks --family A,B --json    two families, as {"rows": [...]}
    hatch run attacks --ids E1,E10 --seed 3
    hatch run attacks --quick                the same ids in a few minutes
    hatch run attacks --family A,B --size 12x512
                                             the proof's families on a larger model of the study

A row has id, status (built | not built), unit, tries, accepted, caught_by, honest_tries, honest_false_rejects, and `power`
where the required outcome is a published power. The exit code is 1 if anything was accepted or an honest twin rejected.
Rows of families A and B say the `size` of their model. A quick run says so (`quick`), holds nothing against a published power,
and puts what its size does not decide under `not_decided` of the row, with the files tried and the files that passed.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import sys
import time
from collections.abc import Callable
from typing import Any

import tooling.adversaries
from tooling.adversaries import quick

KNOWN = {"A": 11, "B": 8, "C": 11, "D": 17, "E": 13, "I": 19, "X": 13}
"""Families of the threat model and how many ids each has."""

SIZED = ("A", "B")
"""Families whose rows are of a model of some size."""

SIZES = ("4x128", "6x256", "12x512")
"""The trained models of the power study, the smallest first."""

Attack = Callable[..., dict[str, Any]]
_WIDTH_OF_A_PIPE = 200  # columns: no heading is cut where no terminal says how wide it is


def registry() -> dict[str, Attack]:
    """Every attack of every `family_*` module, by id.

    Raises:
        ValueError: two modules claim one id.
    """
    found: dict[str, Attack] = {}
    for module in sorted(pkgutil.iter_modules(tooling.adversaries.__path__), key=lambda one: one.name):
        if module.name.startswith("family_"):
            for id_, attack in getattr(importlib.import_module(f"tooling.adversaries.{module.name}"), "ATTACKS", {}).items():
                if id_ in found:
                    raise ValueError(f"two modules have an attack {id_}")
                found[id_] = attack
    return found


def wanted_ids(family: str, ids: str) -> list[str]:
    """The ids asked for, in the order of the threat model; all without a choice."""
    every = [f"{letter}{number}" for letter, count in KNOWN.items() for number in range(1, count + 1)]
    families = {part.strip().upper() for part in family.split(",") if part.strip()}
    chosen = {part.strip().upper() for part in ids.split(",") if part.strip()}
    unknown = (families - set(KNOWN)) | (chosen - set(every))
    if unknown:
        raise SystemExit(
            f"error: no such attack: {', '.join(sorted(unknown))} (families {', '.join(KNOWN)}, ids such as A1 or E10)"
        )
    return [id_ for id_ in every if (not families and not chosen) or id_[0] in families or id_ in chosen]


def row_of(id_: str, attacks: dict[str, Attack], options: dict[str, Any]) -> dict[str, Any]:
    """Run one attack, or say that it is not built."""
    if id_ not in attacks:
        return {
            "id": id_,
            "status": "not built",
            "unit": "",
            "tries": 0,
            "accepted": 0,
            "caught_by": "",
            "honest_tries": 0,
            "honest_false_rejects": 0,
        }
    takes = inspect.signature(attacks[id_]).parameters
    started = time.monotonic()
    row = attacks[id_](**{name: value for name, value in options.items() if name in takes and value is not None})
    row["status"] = "not built" if row.get("status") == "not built" else "built"
    row["seconds"] = round(time.monotonic() - started, 1)
    return row


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 0 if nothing was accepted and no honest twin rejected."""
    parser = argparse.ArgumentParser(
        prog="hatch run attacks",
        description="Run the adversaries of the threat model.",
        epilog=quick.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", default="", help="letters, for example A,B")
    parser.add_argument("--ids", default="", help="ids, for example E1,E10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=None, help="attempts of the attacks that take a number")
    parser.add_argument(
        "--size", choices=SIZES, help=f"of the model of families A and B, layers x width; {SIZES[0]} unless given"
    )
    parser.add_argument("--quick", action="store_true", help="smaller models and fewer tries, see below")
    parser.add_argument("--details", action="store_true", help="with --json: every single try too")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    ids = wanted_ids(options.family, options.ids)
    if options.size and options.quick:
        parser.error("--size and --quick: a quick run has a model of its own, give one of them")
    if options.size and not any(id_[0] in SIZED for id_ in ids):
        parser.error(f"--size is of families {' and '.join(SIZED)}, and none of their ids is asked for")
    attacks = registry()
    rows = []
    for id_ in ids:
        print(f"{id_} …", file=sys.stderr, flush=True)
        rows.append(row_of(id_, attacks, {name: getattr(options, name) for name in ("seed", "tries", "quick", "size")}))
    if options.as_json:
        kept = rows if options.details else [{key: value for key, value in row.items() if key != "details"} for row in rows]
        said = {"quick": True, "note": quick.NOTE} if options.quick else {}
        print(json.dumps({"rows": kept} | said))
    else:
        print_table(rows, quick.NOTE if options.quick else "")
    return int(any(row["accepted"] or row["honest_false_rejects"] for row in rows))


def print_table(rows: list[dict[str, Any]], note: str) -> None:
    """For a person: a line an id, and below it what the run does not say."""
    from rich.table import Table

    from grail_core.telemetry.console import PlainConsole

    columns = ("id", "status", "unit", "tries", "accepted", "caught_by", "honest_tries", "honest_false_rejects")
    table = Table(*columns)
    for row in rows:
        bad = row["accepted"] or row["honest_false_rejects"]
        table.add_row(
            *(str(row.get(name, "")) for name in columns), style="red" if bad else "dim" if row["status"] != "built" else ""
        )
    console = PlainConsole(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)
    console.print(table)
    if note:
        console.print(note)
    for row in rows:
        for name, counted in row.get("not_decided", {}).items():
            line = f"{row['id']}: not decided at this size: {name}: {counted['passed']} of {counted['tries']} files passed"
            console.print(line)


if __name__ == "__main__":
    sys.exit(main())
