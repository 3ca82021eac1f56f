"""`hatch run crashes`: a localnet of two validators, one of which SIGKILLs itself in every other window.

    hatch run crashes                      twenty windows, seed 81
    hatch run crashes --seed 7 --json      another draw; the summary on standard output

The run is that of `hatch run localnet`; the validator that dies is the shipped one under `tooling.localnet.doomed`, and what is
looked at afterwards is what anybody can read (`tooling.localnet.agreement`): equal verdict bodies in every window that both
judged, windows that were missed named and filled in, every weight recomputed from published verdicts. The seed fixes the
network and after which share of which window's work it dies; which line that is follows from the threads' interleaving too, and
is in the summary. Exit codes are localnet's; 1: something is not as it must be.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from grail_core.errors import GrailError
from grail_core.protocol import weights_now
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Block
from tooling.localnet.agreement import Agreement, Verdicts, compare, verdicts_of
from tooling.localnet.doomed import Death, deaths_in
from tooling.localnet.plan import BLOCK_SECONDS, Layout, Plan
from tooling.localnet.run import Localnet
from tooling.localnet.setup import Network, make_network
from tooling.localnet.view import open_view

FORMAT = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--windows", type=click.IntRange(2, 1000), default=20, show_default=True, help="Windows of 30 blocks to run.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=81, show_default=True, help="Of the network and the deaths.")
@click.option("--groups", type=click.IntRange(1, 375), default=4, show_default=True, help="Most groups per miner and window.")
@click.option("--miners", type=click.IntRange(1, 16), default=2, show_default=True, help="Honest miners, beside one that lies.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("crashes-out"), show_default=True, help="Folder of the run."
)
@click.option("--json", "as_json", is_flag=True, help="The summary on standard output, everything else on standard error.")
def cli(windows: int, seed: int, groups: int, miners: int, out: Path, as_json: bool) -> None:
    """Kill a validator at a drawn line of every other window, and compare what it says with one that lives."""
    from grail_core.telemetry.console import PlainConsole

    plan = Plan(
        windows=windows,
        env_id="sat",
        seed=seed,
        quick=True,
        miners=miners,
        cheats=("zero-sketch",),
        validators=2,
        block_time_ms=round(1000 * BLOCK_SECONDS),
        groups=groups,
        evaluation_problems=16,
        dying=True,
    )
    layout, started = Layout(out.absolute()), time.monotonic()
    console = PlainConsole(stderr=True, width=int(os.environ.get("COLUMNS", "140")))
    try:
        with open_view(console) as view:
            ended = Localnet(plan, layout, view, "hatch run crashes").run()
        network = make_network(plan, layout)
        summary = summarise(plan, layout, network)
    except GrailError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if not ended.finished:
        summary["problems"].append(f"the run did not end: {ended.why_unfinished}")
    summary["seconds"] = round(time.monotonic() - started, 1)
    click.echo(json.dumps(summary, indent=None if as_json else 1))
    sys.exit(1 if summary["problems"] else 0)


def summarise(plan: Plan, layout: Layout, network: Network) -> dict[str, Any]:
    """A finished run as one object; `problems` is empty where all is as it must be."""
    head = network.chain.current_block()
    published = {name: verdicts_of(layout, network, name, range(0, head, WINDOW_LENGTH)) for name in plan.validator_names()}
    windows = _windows(plan, layout, network)
    hotkeys = {name: network.signers[name].hotkey for name in published}
    found = compare(published, network.params, hotkeys, windows)
    deaths = [death for death in deaths_in(layout.deaths) if death.window in windows]
    expected = sum(window // WINDOW_LENGTH % 2 for window in windows)
    if len(deaths) < expected - 1:  # the last one may be drawn behind the end of the run
        found.problems.append(f"{plan.doomed} died {len(deaths)} times in {len(windows)} windows, not {expected}")
    sets = {name: _sets(network, name, verdicts, found) for name, verdicts in published.items()}
    return {
        "format": FORMAT,
        "seed": plan.seed,
        "windows": len(windows),
        "first_window": windows.start,
        "equal": len(found.equal),
        "missed": found.missed,
        "filled_in": found.filled_in,
        "weights_recomputed": found.weights_recomputed,
        "weights_set": sets,
        "deaths": [_told(death) for death in deaths],
        "problems": found.problems,
    }


def _windows(plan: Plan, layout: Layout, network: Network) -> range:
    from tooling.localnet.checkpoints import published_manifests

    first = min(manifest.valid_from for manifest in published_manifests(network, layout) if manifest.sequence == 0)
    return range(first, first + plan.windows * WINDOW_LENGTH, WINDOW_LENGTH)


def _sets(network: Network, name: str, verdicts: Verdicts, found: Agreement) -> int:
    """How often the chain heard its weights; each time they have to be those of a window that it published."""
    registered = {neuron.hotkey: neuron.uid for neuron in network.chain.metagraph().neurons}
    said = [weights_now(v.body.weights, v.body.hotkeys, registered, network.params.burn_uid) for v in verdicts.values()]
    heard = _heard(network, name)
    found.problems += [f"{name} set weights that none of its verdicts gives: {one}" for one in heard if one not in said]
    return len(heard)


def _heard(network: Network, name: str) -> list[Mapping[int, int]]:
    hotkey = network.signers[name].hotkey
    heard: list[Mapping[int, int]] = []
    for block in range(network.chain.finalised_block() + 1):
        row = network.chain.weights(Block(block)).get(hotkey)
        if row is not None and (not heard or heard[-1] != row):
            heard.append(row)
    return heard


def _told(death: Death) -> dict[str, Any]:
    return {"window": death.window, "line": death.line, "of": death.of, "at": death.at, "away": death.away}


if __name__ == "__main__":
    cli.main()
