"""`grail-trainer upgrade`: what the next checkpoints say of a later version of the protocol. `upgrades` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options, verbose_option
from grail_core.telemetry.json_output import json_option, say

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings


@click.group()
@verbose_option
def upgrade() -> None:
    """A later version of the protocol: from which block on it holds, said by the checkpoints to everybody."""


@upgrade.command()
@click.option("--version", type=click.IntRange(min=2), required=True, help="Of the protocol; later than the running one.")
@click.option("--block", type=click.IntRange(min=1), required=True, help="First block of the first window under it.")
@json_option
@common_options
def announce(settings: Settings, version: int, block: int, as_json: bool) -> None:
    """Have the next checkpoints say that protocol VERSION holds from window BLOCK on; once more: another block.

    Roles of this version tell it in their logs from then on, and end before that window with the line that upgrades them. The
    trainer may run meanwhile: what it publishes next says it. At least 240 windows of notice.
    """
    from grail_trainer.upgrades import announce_upgrade

    said = announce_upgrade(settings, version=version, block=block)
    say(said, {"next": {"version": version, "block": block}}, as_json=as_json)


@upgrade.command()
@json_option
@common_options
def withdraw(settings: Settings, as_json: bool) -> None:
    """Have the next checkpoints say nothing of a later version any more, while it is not in force yet."""
    from grail_trainer.upgrades import withdraw_upgrade

    say(withdraw_upgrade(settings), {"next": None}, as_json=as_json)


@upgrade.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@common_options
def show_upgrade(settings: Settings, as_json: bool) -> None:
    """What the newest checkpoint announces, and, on the trainer's machine, what the next one will. Needs no wallet."""
    from grail_trainer.upgrades import show_command

    show_command(settings, as_json=as_json)
