"""What every command of the project shares: settings flags, errors a person can act on, clean shutdown, exit codes."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from grail_core.errors import GrailError

INTERRUPTED = 130


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -v, --log-file, --json-logs and --show-settings; the command gets the resolved `settings` as its first argument."""

    @click.option("-v", "--verbose", count=True, help="More log lines; -vv for other libraries' too.")
    @click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Append JSON log lines here.")
    @click.option("--json-logs", is_flag=True, help="Log JSON lines to the terminal.")
    @click.option("--show-settings", is_flag=True, help="Print every setting, its value and where it comes from, and exit.")
    @functools.wraps(command)
    def wrapped(verbose: int, log_file: Path | None, json_logs: bool, show_settings: bool, **rest: Any) -> Any:
        from grail_core.participant.settings import describe, load_settings, unknown_names
        from grail_core.telemetry import configure

        flags = {"log_file": log_file}
        settings = load_settings(**flags)
        if show_settings:
            _print_settings(describe(settings, flags))
            return None
        role = click.get_current_context().command_path.split()[0].removeprefix("grail-")
        configure(role, verbosity=verbose, log_file=settings.log_file, json_to_terminal=json_logs)
        for name, nearest in unknown_names(os.environ):
            click.echo(f"warning: no setting is called {name}" + (f"; did you mean {nearest}?" if nearest else ""), err=True)
        return command(settings, **rest)

    return wrapped


def run_cli(cli: click.Command) -> None:
    """Run a command and end the process: 0, the error's own exit code, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        cli.main(standalone_mode=False)
    except GrailError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is wrong here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            sys.exit(INTERRUPTED)
        click.echo("stopping after the current step (once more to stop at once)", err=True)
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_error(error: GrailError) -> None:
    if "--json" in sys.argv:
        value = {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
        click.echo(json.dumps(value), err=True)
    else:
        click.echo(f"error: {error}", err=True)


def _print_settings(rows: list[tuple[str, str, str]]) -> None:
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        click.echo(f"{name:{width}}  {value or '-':40}  {origin}")
