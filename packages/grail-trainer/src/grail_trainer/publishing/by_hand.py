"""`grail-trainer publish`: what a person is told, and asked, before weights of their own go to a network.

A network that has a checkpoint has people who work from it: nothing goes there without a yes, on the terminal or as `--yes`.
With `--dry-run` everything is checked as for a publication, and nothing is written anywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from grail_core.errors import ConfigurationError
from grail_core.generation.defaults import sampling_defaults
from grail_core.participant.participant import Participant
from grail_core.participant.settings import Settings
from grail_core.telemetry.json_output import say
from grail_core.text import printable
from grail_trainer.publishing.publication import TableChoice
from grail_trainer.start import Prepared, environment_for, prepare_publication, require_folder, require_trainer


def publish_command(
    settings: Settings,
    *,
    model: Path,
    env_id: str | None,
    choice: TableChoice,
    turn: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Errors: as `prepare_publication`; ConfigurationError where a running network is meant and nobody can be asked."""
    for note in sampling_defaults(model).notes:
        click.echo(f"{model}: {printable(note)}", err=True)
    participant = Participant.from_settings(settings, package="grail-trainer")
    require_trainer(participant)
    head = participant.own_checkpoints.sequence().head
    environment = environment_for(env_id, head, settings, turn=turn)
    if dry_run:
        prepared = prepare_publication(participant, require_folder(model), environment, choice=choice, turn=turn)
        say(f"would be published: {sentence(prepared)}; nothing was written", told(prepared), as_json=as_json)
        return
    with participant.state.held():
        prepared = prepare_publication(participant, require_folder(model), environment, choice=choice, turn=turn)
        if prepared.after is not None and not yes:
            ask(prepared)
        participant.join(settings)
        manifest = prepared.publish()
    value = told(prepared) | {
        "sequence": manifest.sequence,
        "digest": manifest.digest.hex(),
        "valid_from": manifest.valid_from,
        "dry_run": False,
    }
    said = f"checkpoint {manifest.sequence} ({manifest.digest.hex()[:16]}…), in force from window {manifest.valid_from}"
    say(said, value, as_json=as_json)


def ask(prepared: Prepared) -> None:
    """Raises click.Abort for a no; ConfigurationError where there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"this goes to a network that runs, and nobody said that it may: {sentence(prepared)}",
            where="--yes",
            hint="look at it with --dry-run, then add --yes",
        )
    click.confirm(f"Publish {sentence(prepared)}?", abort=True, err=True)


def sentence(prepared: Prepared) -> str:
    """What would happen, to whom."""
    after = prepared.after
    what = f"{prepared.model} as checkpoint {prepared.sequence} of network {prepared.network}, environment {prepared.env_id}"
    if after is None:
        return f"{what}, its first"
    said = f"{what}, after checkpoint {after.sequence} in force from window {after.valid_from}, for everybody"
    if prepared.turn:
        said += f"; the network turns to it from {after.environment.env_id}"
    if prepared.forgets:
        said += "; what the trainer has on this machine of its optimiser's moments is forgotten"
    return said


def told(prepared: Prepared) -> dict[str, Any]:
    """The same for a program."""
    return {
        "network": prepared.network,
        "model": str(prepared.model),
        "sequence": prepared.sequence,
        "environment": prepared.env_id,
        "after": prepared.after.sequence if prepared.after is not None else None,
        "turn": prepared.turn,
        "forgets_state": prepared.forgets,
        "dry_run": True,
    }
