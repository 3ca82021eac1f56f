"""`grail-validator`: judge windows, and say why. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from grail_core.cli_support import common_options, run_cli
from grail_validator import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grail-validator")
def cli() -> None:
    """Check proofs and rewards of a GRAIL network, score miners, set weights.

    Everything is set by environment variables, a .env file or a TOML file (see `grail-validator run --show-settings`). The
    least a validator needs: a registered hotkey with a permit, the network, and a bucket to publish its verdicts in.
    """


@cli.command()
@click.option("--windows", type=click.IntRange(min=1), help="Stop after so many windows were scored (default: never).")
@click.option(
    "--alternatives",
    type=click.IntRange(0, 3),
    default=3,
    show_default=True,
    help="How many earlier checkpoints every proof is compared with.",
)
@click.option(
    "--eight-bit/--no-eight-bit",
    default=True,
    show_default=True,
    help="Compare with 8-bit copies of the checkpoint, two schemes.",
)
@click.option(
    "--alternatives-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of a miner's sampled rollouts that these comparisons are made on; each costs a float32 pass.",
)
@common_options
def run(settings: object, windows: int | None, alternatives: int, eight_bit: bool, alternatives_share: float) -> None:
    """Judge window after window until stopped.

    Each window: record what lies in every miner's bucket at the deadline, wait for the challenge, select, check, publish the
    signed verdict with its evidence, and set weights when they are due. Ctrl-C finishes cleanly; a restart continues with
    the step it was in.
    """
    from grail_validator.service import Compared
    from grail_validator.start import run_validator

    compared = Compared(alternatives, eight_bit, alternatives_share)
    run_validator(settings, windows=windows, compared=compared)  # type: ignore[arg-type]


@cli.command()
@click.argument("window", type=int)
@click.option("--hotkey", help="Only this miner (SS58 or hex).")
@click.option("--json", "as_json", is_flag=True, help="The verdict's body as JSON.")
@common_options
def explain(settings: object, window: int, hotkey: str | None, as_json: bool) -> None:
    """Say why each miner of WINDOW got its verdict, with check, value and threshold."""
    from grail_validator.explain import explain_window

    explain_window(settings, window, hotkey=hotkey, as_json=as_json)  # type: ignore[arg-type]


def main() -> None:
    run_cli(cli)
