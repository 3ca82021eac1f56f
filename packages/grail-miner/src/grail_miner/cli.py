"""`grail-miner`: mine, or check this machine before mining. Heavy imports wait until a command runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from grail_core.commands.knob_options import knob_options
from grail_core.commands.options import common_options, run_cli, stop_on_signals, verbose_option
from grail_miner import __version__
from grail_miner.limits import MiningLimits

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-miner")
@verbose_option
def cli() -> None:
    """Produce proven rollouts for a GRAIL network.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-miner run --show-settings`). The least
    a miner needs: a registered hotkey (BT_WALLET_COLD, BT_WALLET_HOT), the network (BT_NETWORK, NETUID, GRAIL_NETWORK) and a
    bucket (R2_* or GRAIL_STORAGE_ROOT).
    """


@cli.command()
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows were mined (default: never).")
@knob_options(MiningLimits, "limits")
@common_options
def run(settings: Settings, windows: int | None, limits: MiningLimits) -> None:
    """Mine window after window until stopped.

    Each window: wait for its seed, sync the checkpoint, generate the assigned problems with the assigned seeds, grade, prove,
    sign and upload before the deadline. Ctrl-C finishes cleanly; a restart continues with the running window.
    """
    from grail_miner.start import run_miner

    run_miner(settings, stop_on_signals, windows=windows, limits=limits)


def main() -> None:
    run_cli(cli)
