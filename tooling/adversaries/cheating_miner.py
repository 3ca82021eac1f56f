"""`python -m tooling.adversaries.cheating_miner`: the production miner with one step replaced by a lie."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from grail_core.commands.knob_options import knob_options
from grail_core.commands.options import common_options, run_cli, stop_on_signals
from grail_miner.limits import MiningLimits
from tooling.adversaries import STRATEGIES

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cheat", type=click.Choice(STRATEGIES), required=True, help="What to lie about.")
@knob_options(MiningLimits, "limits")
@common_options
def cli(settings: Settings, cheat: str, limits: MiningLimits) -> None:
    """Mine a local network dishonestly, to see what becomes of it."""
    from grail_miner.start import run_miner
    from tooling.adversaries.miners import mining_factory

    if cheat == "copy":
        limits = dataclasses.replace(limits, max_groups=1, groups_per_batch=1)  # what it does not steal is not worth a model
    run_miner(settings, stop_on_signals, windows=None, limits=limits, mining_of=mining_factory(cheat))


if __name__ == "__main__":
    run_cli(cli)
