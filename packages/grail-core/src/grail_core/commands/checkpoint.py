"""`grail checkpoint`: look at a network's checkpoints and take a checkpoint out of it. Needs no key and no role."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.commands.options import common_options, verbose_option
from grail_core.telemetry.json_output import json_option, say
from grail_core.text import printable_lines

if TYPE_CHECKING:
    from grail_core.participant.settings import Settings


@click.group()
@verbose_option
def checkpoint() -> None:
    """The network's checkpoints: show the sequence, export one as a Transformers folder."""


@checkpoint.command()
@click.argument("window", metavar="WINDOW")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@json_option
@common_options
def export(settings: Settings, window: str, folder: Path, as_json: bool) -> None:
    """Write the checkpoint that is valid in WINDOW (its first block, or `latest`) to DIR, an ordinary Transformers folder.

    The manifest that the trainer signed goes with it as grail-manifest.json: `grail verify --model DIR` says by it whether a
    receipt is of the network's own checkpoint.
    """
    from grail_core.checkpoints.transfer import export_checkpoint
    from grail_core.participant.deployment import open_checkpoints
    from grail_core.protocol import window_of
    from grail_core.protocol.types import Block

    network = open_checkpoints(settings)
    if window == "latest":
        block = network.chain.current_block()
    elif window.isdecimal():
        block = Block(int(window))
    else:
        raise click.BadParameter(f"{window!r} is no block number, and not `latest`", param_hint="WINDOW")
    manifest = network.checkpoints.valid_at(window_of(block))
    export_checkpoint(network.checkpoints.materialise(manifest), folder)
    value = {
        "sequence": manifest.sequence,
        "digest": manifest.digest.hex(),
        "valid_from": manifest.valid_from,
        "window": window_of(block),
        "folder": str(folder),
    }
    said = f"checkpoint {manifest.sequence} ({manifest.digest.hex()[:16]}…) of window {window_of(block)} → {folder}"
    say(said, value, as_json=as_json)


@checkpoint.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--objects", is_flag=True, help="Also ask the store for every object's size.")
@common_options
def show(settings: Settings, as_json: bool, objects: bool) -> None:
    """The sequence: sizes, ratios, roots, and what a late reader would fetch."""
    from grail_core.participant.deployment import open_checkpoints

    report = open_checkpoints(settings).checkpoints.inspect(check_objects=objects)
    click.echo(json.dumps(report.to_json()) if as_json else printable_lines("\n".join(report.lines())))
    if any(row.missing for row in report.rows):
        sys.exit(6)
