"""`grail-miner`: mine, or check this machine before mining. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from grail_core.commands.options import common_options, run_cli, stop_on_signals
from grail_miner import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-miner")
def cli() -> None:
    """Produce proven rollouts for a GRAIL network.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-miner run --show-settings`). The least
    a miner needs: a registered hotkey (BT_WALLET_COLD, BT_WALLET_HOT), the network (BT_NETWORK, NETUID, GRAIL_NETWORK) and a
    bucket (R2_* or GRAIL_STORAGE_ROOT).
    """


@cli.command()
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows were mined (default: never).")
@click.option("--groups", type=click.IntRange(1, 1250), default=64, show_default=True, help="Most groups of 16 in a window.")
@click.option("--batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Groups generated at a time.")
@common_options
def run(settings: object, windows: int | None, groups: int, batch: int) -> None:
    """Mine window after window until stopped.

    Each window: wait for its seed, sync the checkpoint, generate the assigned problems with the assigned seeds, grade, prove,
    sign and upload before the deadline. Ctrl-C finishes cleanly; a restart continues with the running window.
    """
    from grail_miner.start import run_miner

    with stop_on_signals() as stop:
        run_miner(settings, stop, windows=windows, max_groups=groups, groups_per_batch=batch)  # type: ignore[arg-type]


def main() -> None:
    run_cli(cli)
