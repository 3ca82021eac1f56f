"""`cli`: how long a person waits for `--help`, of each command line and of what each role runs.

    hatch run bench cli          a table
    hatch run bench cli --json   one flat object

`import_s` is the worst of the medians of nine starts, `import_s.COMMAND` each one's; a subcommand follows after a dot.
`import_s.python` is an interpreter that does nothing, which no command line can beat. The load is in the figures too.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

Figures = dict[str, float]
COMMANDS = {
    "grail": "grail_core.commands.grail",
    "grail-envs": "grail_envs.cli",
    "grail-miner": "grail_miner.cli",
    "grail-validator": "grail_validator.cli",
    "grail-trainer": "grail_trainer.cli",
    "localnet": "tooling.localnet.cli",
}
"""Every command line and the module that has its `main`."""
ROLES = ("grail-miner", "grail-validator", "grail-trainer")
STARTS = 9


def measure() -> Figures:
    """Every figure of the benchmark, by its key."""
    asked = {name: _start(module) for name, module in COMMANDS.items()}
    asked |= {f"{name}.run": _start(COMMANDS[name], "run") for name in ROLES}
    figures = {f"import_s.{name}": _median_s([*argv, "--help"]) for name, argv in asked.items()}
    worst = max(figures.values())
    bare = _median_s([sys.executable, "-c", "pass"])
    return {"import_s": worst, **figures, "import_s.python": bare, "load_average": os.getloadavg()[0]}


def _start(module: str, *arguments: str) -> list[str]:
    """What an installed script does."""
    return [sys.executable, "-c", f"from {module} import main; main()", *arguments]


def _median_s(argv: list[str]) -> float:
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
