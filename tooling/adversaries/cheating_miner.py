"""`python -m tooling.adversaries.cheating_miner`: the production miner with one step replaced by a lie."""

from __future__ import annotations

import click

from grail_core.commands.options import common_options, run_cli, stop_on_signals
from tooling.adversaries import STRATEGIES

COPY_CALLS = 1200  # the copying miner looks again with every batch, so its batches must last until the deadline


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cheat", type=click.Choice(STRATEGIES), required=True, help="What to lie about.")
@click.option("--groups", type=click.IntRange(1, 1250), default=64, show_default=True, help="Most groups of 16 in a window.")
@click.option("--batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Groups generated at a time.")
@common_options
def cli(settings: object, cheat: str, groups: int, batch: int) -> None:
    """Mine a local network dishonestly, to see what becomes of it."""
    from grail_miner.start import run_miner
    from tooling.adversaries.miners import mining_factory

    with stop_on_signals() as stop:
        run_miner(
            settings,  # type: ignore[arg-type]
            stop,
            windows=None,
            max_groups=COPY_CALLS if cheat == "copy" else groups,
            groups_per_batch=batch,
            mining_of=mining_factory(cheat),
        )


if __name__ == "__main__":
    run_cli(cli)
