"""`hatch run bench NAME`: measure here, beside what there is to compare with.

hatch run bench                the list
hatch run bench env --json     one flat JSON object on stdout, nothing else
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys

ELSEWHERE = {"power": "tooling.studies.power.__main__"}
"""Benchmarks that live beside what they measure."""

NAMES = ("proof", "power", "file", "simulate", "env", "sandbox", "delta", "grpo", "localnet", "cli")


def module_of(name: str) -> str:
    """The module that has the benchmark's `measure`."""
    return ELSEWHERE.get(name, f"tooling.studies.benchmarks.{name}")


def built() -> list[str]:
    """The benchmarks that are there."""
    return [name for name in NAMES if importlib.util.find_spec(module_of(name)) is not None]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="hatch run bench", description="Measure on this machine.")
    parser.add_argument("name", nargs="?", choices=NAMES)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    names = built()
    if options.name is None:
        print(json.dumps(names) if options.as_json else "benchmarks: " + " ".join(names))
        return 0
    if options.name not in names:
        print(f"error: the benchmark {options.name} is not built; there are: {', '.join(names)}", file=sys.stderr)
        return 1
    with contextlib.redirect_stdout(sys.stderr):  # stdout carries the figures and nothing else
        figures: dict[str, float] = importlib.import_module(module_of(options.name)).measure()
    if options.as_json:
        print(json.dumps(figures))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "value")
    for key, value in figures.items():
        table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
