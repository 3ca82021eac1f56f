"""`python -m tooling.adversaries.cheating_gradient_miner`: the production miner of gradient work, which lies in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options, run_cli, stop_on_signals
from grail_miner.limits import MiningLimits
from tooling.adversaries import GRADIENT_STRATEGIES

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cheat", type=click.Choice(GRADIENT_STRATEGIES), required=True, help="What to lie about.")
@click.option("--batch-sequences", type=click.IntRange(min=1), required=True, help="Sequences of an inner step.")
@common_options
def cli(settings: Settings, cheat: str, batch_sequences: int) -> None:
    """Train a local network dishonestly, to see what becomes of it."""
    from grail_miner.start import run_miner
    from tooling.adversaries.gradient_miners import CHEATS

    run_miner(
        settings,
        stop_on_signals,
        windows=None,
        limits=MiningLimits(),
        batch_sequences=batch_sequences,
        round_miner_of=CHEATS[cheat].miner,
    )


if __name__ == "__main__":
    run_cli(cli)
