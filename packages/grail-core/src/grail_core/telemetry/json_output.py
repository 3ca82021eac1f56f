"""What a command prints: a sentence for a person, or with `--json` one JSON value for a program; errors alike.

With `--json`, standard output carries the value and nothing else, and an error is one JSON object on standard error, whose exit
code is the error's own. Wrong usage is told in the same form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from grail_core.errors import GrailError

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


def say(sentence: str, value: Mapping[str, Any], *, as_json: bool, err: bool = False) -> None:
    """The sentence (`err`: on standard error, where it goes beside a result), or the value."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        click.echo(sentence, err=err)


def print_error(error: GrailError) -> None:
    if _asked_for():
        _print_json(type(error).__name__, error.what, error.where, error.hint)
    else:
        click.echo(f"error: {error}", err=True)


def print_wrong_usage(error: click.ClickException) -> None:
    if _asked_for():
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else ""
        hint = f"{command} --help" if command else ""
        _print_json(type(error).__name__, error.format_message(), command, hint)
    else:
        error.show()


def _asked_for() -> bool:
    """An error may come before the options are parsed."""
    return "--json" in sys.argv


def _print_json(kind: str, what: str, where: str, hint: str) -> None:
    click.echo(json.dumps({"error": kind, "what": what, "where": where, "hint": hint}), err=True)
