"""`hatch run bench NAME`: measure here, beside what there is to compare with.

hatch run bench                the list
hatch run bench env --json     one flat JSON object on stdout, nothing else
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys

MODULES = {
    "proof": "tooling.studies.benchmarks.proof",
    "power": "tooling.studies.power_sizes.__main__",  # beside what it measures
    "env": "tooling.studies.benchmarks.env",
    "simulate": "tooling.studies.benchmarks.simulate",
    "sandbox": "tooling.studies.benchmarks.sandbox",
    "file": "tooling.studies.benchmarks.file",
    "delta": "tooling.studies.benchmarks.delta",
    "gradient": "tooling.studies.benchmarks.gradient",
    "localnet": "tooling.studies.benchmarks.localnet",
    "miner": "tooling.studies.benchmarks.miner",
    "cli": "tooling.studies.benchmarks.cli",
    "grpo": "tooling.studies.benchmarks.grpo",
    "inference": "tooling.studies.benchmarks.inference",
    "workers": "tooling.studies.benchmarks.proof_workers",
    "page": "tooling.studies.benchmarks.page",
    "deterrence": "tooling.studies.deterrence",
}
"""Every benchmark and the module that has its `measure`."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="hatch run bench", description="Measure on this machine.")
    parser.add_argument("name", nargs="?", choices=list(MODULES))
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--sizes", action="store_true", help="of `power`: every size of model, not the smallest alone")
    parser.add_argument("--quick", action="store_true", help="of `gradient`: few seeds, rounds and repeats: a look, no figures")
    options = parser.parse_args(arguments)
    if options.sizes and options.name != "power":
        parser.error("--sizes belongs to power")
    if options.quick and options.name != "gradient":
        parser.error("--quick belongs to gradient")
    if options.name is None:
        print(json.dumps(list(MODULES)) if options.as_json else "benchmarks: " + " ".join(MODULES))
        return 0
    with contextlib.redirect_stdout(sys.stderr):  # stdout carries the figures and nothing else
        module = importlib.import_module(MODULES[options.name])
        asked = {name: True for name in ("sizes", "quick") if getattr(options, name)}
        figures: dict[str, float | str] = module.measure(**asked)
    if options.as_json:
        print(json.dumps(figures))
        return 0
    from rich.table import Table

    from grail_core.telemetry.console import PlainConsole

    table = Table("key", "value")
    for key, value in figures.items():
        table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    PlainConsole().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
