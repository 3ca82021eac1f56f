"""`grail`: one name for the roles that are installed, and what needs no role.

The roles are found by their entry points and never imported by name: this package comes before them.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING

import click

from grail_core.commands.ask import ask
from grail_core.commands.beacon import beacon
from grail_core.commands.calibrate_receipts import receipts
from grail_core.commands.checkpoint import checkpoint
from grail_core.commands.devnet import devnet
from grail_core.commands.explain import explain
from grail_core.commands.network import network
from grail_core.commands.options import common_options, run_cli, verbose_option, verbosity
from grail_core.commands.receipts import verify
from grail_core.commands.rollouts import rollouts
from grail_core.commands.rotate_key import rotate_key
from grail_core.commands.scores import scores
from grail_core.commands.status import status
from grail_core.errors import ConfigurationError, StorageError
from grail_core.text import printable

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def _version() -> str:
    try:
        return version("grail-core")
    except PackageNotFoundError:
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="grail")
@verbose_option
def cli() -> None:
    """Verifiable post-training: mine, validate and train, whichever of them is installed here."""


def _from_where(package: str) -> str:
    return f"pip install {package}; while no index has it, from wheels (README, Packages)"


def _role(command: str, package: str, summary: str) -> None:
    @cli.command(command, context_settings=_PASS_ON, help=summary, short_help=summary)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        found = list(entry_points(group="console_scripts", name=package))
        if not found:
            raise ConfigurationError(
                f"{package} is not installed here",
                where=sys.prefix,
                hint=f"pip install {package}; while no index has it, from wheels (README, Packages)",
            )
        sys.argv = [package, "run", *(["-v"] * verbosity()), *arguments]
        found[0].load()()


_role("mine", "grail-miner", "The same as `grail-miner run`.")
_role("validate", "grail-validator", "The same as `grail-validator run`.")
_role("train", "grail-trainer", "The same as `grail-trainer run`.")


cli.add_command(beacon)
cli.add_command(checkpoint)
cli.add_command(devnet)
cli.add_command(network)
cli.add_command(scores)
cli.add_command(verify)
cli.add_command(ask)
cli.add_command(explain)
cli.add_command(status)
cli.add_command(receipts)
cli.add_command(rollouts)


@cli.group()
@verbose_option
def storage() -> None:
    """Look after this participant's bucket."""


storage.add_command(rotate_key)


@storage.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@common_options
def doctor(settings: Settings, as_json: bool) -> None:
    """Try the bucket the way the protocol uses it, and show what it holds.

    Ends with exit code 5 if something the protocol needs does not hold.
    """
    from grail_core.examination.bucket import Usage, committed, examine, held
    from grail_core.participant.deployment import network_parameters, open_chain, open_directory

    chain, params = open_chain(settings), network_parameters(settings)
    directory = open_directory(settings, params, chain)
    findings = examine(directory, chain.now_ms)
    kept: list[Usage] = []
    if not any(finding.name == "bucket" for finding in findings):
        kept, listed = held(directory.own())
        findings.append(listed)
    findings.append(committed(settings, chain, directory, params))
    broken = [finding for finding in findings if not finding.ok]
    if as_json:
        value = {"checks": [vars(finding) for finding in findings], "usage": [vars(row) for row in kept]}
        click.echo(json.dumps(value, indent=1))
    else:
        for finding in findings:
            click.echo(printable(f"{finding.word:6}  {finding.name:18}  {finding.detail}"))
        for row in kept:
            click.echo(f"{printable(row.prefix):26}  {row.objects:8d} objects  {row.bytes / 2**20:12.1f} MiB")
    if broken:
        raise StorageError(
            f"the bucket does not do what the protocol needs: {', '.join(finding.name for finding in broken)}",
            where="storage",
            hint="see the lines above",
        )


def main() -> None:
    run_cli(cli)


if __name__ == "__main__":
    main()
