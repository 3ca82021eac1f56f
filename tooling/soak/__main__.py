"""`hatch run soak`: run it, say what it found, draw it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from grail_core.disk import write_atomically
from grail_core.errors import GrailError
from tooling.localnet.plan import Layout
from tooling.soak.report import leaks_looked_at, plot, problems, summary, table

FAILED = 1
EPILOG = """\b
Exit codes: 0 every window was done or has a reason on record, and no trend is a leak (fewer than 48 windows show no
            trend: leaks are not looked at then, and the table says so) · 1 something is not as it must be ·
            130 stopped by Ctrl-C · otherwise as `hatch run localnet`
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}, epilog=EPILOG)
@click.option("--windows", type=click.IntRange(3, 10_000), default=200, show_default=True, help="Windows of 30 blocks to run.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=81, show_default=True, help="Of the network and the faults.")
@click.option(
    "--window-seconds",
    type=click.FloatRange(3.0, 360.0),
    default=15.0,
    show_default=True,
    help="Real seconds a window: the clock runs so fast that its 30 blocks of 12 s take these.",
)
@click.option("--faults/--no-faults", default=True, show_default=True, help="Whether chain, stores and relays fail.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak-out"), show_default=True, help="Folder of the run.")
@click.option("--json", "as_json", is_flag=True, help="The summary on standard output, everything else on standard error.")
def cli(windows: int, seed: int, window_seconds: float, faults: bool, out: Path, as_json: bool) -> None:
    """Run a subnet for a long time while everything outside it fails in turn, and look whether anything leaks or is lost.

    Two validators, two miners and a trainer, each a process of its own, on the simulated Bittensor network and an S3 server
    behind a line that fails. One thing is wrong at a time: a node of the chain stands still, lags, is silent or refuses; the
    store throttles, breaks off, drips or is gone; the beacon's relay says nothing, for whole windows too. Memory, descriptors,
    threads and folders are looked at once a window; 48 windows or more show whether they leak. OUT/soak.json and OUT/soak.svg
    say what was seen. 200 windows take about 50 minutes of two processors.
    """
    from grail_core.telemetry.console import PlainConsole
    from tooling.localnet.view import open_view
    from tooling.soak.run import Soak, soak_plan

    console = PlainConsole(stderr=True, width=int(os.environ.get("COLUMNS", "140")))
    layout = Layout(out.absolute())
    try:
        with open_view(console) as view:
            soak = Soak(soak_plan(windows, seed, window_seconds, layout.root / "line.json"), layout, view, faulty=faults)
            soaked = soak.run()
    except GrailError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    told = summary(soaked)
    write_atomically(layout.root / "soak.json", json.dumps(told, indent=1).encode())
    write_atomically(layout.root / "soak.svg", plot(soaked).encode())
    if as_json:
        click.echo(json.dumps(told))
        click.echo(leaks_looked_at(soaked), err=True)
    else:
        click.echo("\n".join(table(soaked)))
    for one in problems(soaked):
        click.echo(f"problem: {one}", err=True)
    sys.exit(FAILED if told["problems"] else 0)


if __name__ == "__main__":
    cli.main()
