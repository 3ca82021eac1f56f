"""What every command of the project shares: settings flags, errors a person can act on, clean shutdown, exit codes."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from grail_core.commands.last_resort import as_error, error_of_a_thread, reader_is_gone, was_said, watch_threads
from grail_core.errors import GrailError
from grail_core.telemetry.json_output import print_error, print_wrong_usage
from grail_core.telemetry.logs import LogFormat
from grail_core.text import printable

INTERRUPTED = 130
_VERBOSITY = "grail_core.verbosity"


def _count_verbosity(context: click.Context, _: click.Parameter, count: int) -> None:
    context.meta[_VERBOSITY] = verbosity() + count  # one mapping for a command and all groups above it


def verbosity() -> int:
    """How many -v stand on the command line, before and after a command's name."""
    return int(click.get_current_context().meta.get(_VERBOSITY, 0))


verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_count_verbosity,
    help="More log lines; -vv for other libraries' too.",
)
"""For a command and every group above it: `grail -vv mine` is `grail mine -vv`."""


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -v, --log-file, --log-format, --json-logs, --show-settings; the command gets the resolved `settings` first."""

    @verbose_option
    @click.option("--log-file", type=click.Path(path_type=Path, dir_okay=False), help="Append JSON log lines here.")
    @click.option(
        "--log-format",
        type=click.Choice(["sentences", "fields", "json"]),
        default="sentences",
        show_default=True,
        help="On the terminal: a sentence an event, all of its fields (also with -v), or JSON lines.",
    )
    @click.option("--json-logs", is_flag=True, help="The same as --log-format json.")
    @click.option("--show-settings", is_flag=True, help="Print every setting, its value and where it comes from, and exit.")
    @functools.wraps(command)
    def wrapped(log_file: Path | None, log_format: LogFormat, json_logs: bool, show_settings: bool, **rest: Any) -> Any:
        from grail_core.participant.settings import resolve
        from grail_core.telemetry import configure

        found = resolve(log_file=log_file)
        for name in found.unknown:
            click.echo(f"warning: {printable(name)}", err=True)
        if show_settings:
            _print_settings(found.rows())
            return None
        role = click.get_current_context().command_path.split()[0].removeprefix("grail-")
        configure(
            role,
            verbosity=verbosity(),
            log_file=found.settings.log_file,
            json_to_terminal=json_logs,
            log_format=log_format,
        )
        return command(found.settings, **rest)

    return wrapped


def examined_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `common_options` for a doctor, which tells what is wrong with settings instead of ending for it: the command gets the
    `Resolution` and the errors of what could not be read. It writes no log file: whether that can be written is asked, too."""

    @verbose_option
    @click.option("--log-file", type=click.Path(path_type=Path), help="The log file to look at (default: GRAIL_LOG_FILE).")
    @click.option("--show-settings", is_flag=True, help="Print every setting, its value and where it comes from, and exit.")
    @functools.wraps(command)
    def wrapped(log_file: Path | None, show_settings: bool, **rest: Any) -> Any:
        from grail_core.participant.settings import resolve_what_can_be
        from grail_core.telemetry import configure

        found, faults = resolve_what_can_be(log_file=log_file)
        if show_settings:
            _print_settings(found.rows())
            return None
        configure(click.get_current_context().command_path.split()[0].removeprefix("grail-"), verbosity=verbosity())
        return command(found, faults, **rest)

    return wrapped


def beacon_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --use-drand/--no-drand to a role's `run`; under `common_options`, whose settings it holds against the network."""

    @click.option(
        "--use-drand/--no-drand",
        default=True,
        show_default=True,
        help="Seeds from the network's beacon; without: from block hashes alone, where the network's parameters say so.",
    )
    @functools.wraps(command)
    def wrapped(settings: Any, use_drand: bool, **rest: Any) -> Any:
        from grail_core.participant.deployment import parameters_named, require_beacon_choice

        try:
            parameters_named(settings.network)
        except GrailError:
            return command(settings, **rest)  # its start tells it, with all else that is wrong
        require_beacon_choice(settings, use_drand=use_drand)
        return command(settings, **rest)

    return wrapped


def run_cli(cli: click.Command) -> None:
    """Run a command and end the process: 0, the error's own exit code, 2 for wrong usage, 130 after Ctrl-C.

    No traceback is shown, whatever happens (`last_resort`).
    """
    watch_threads()
    fit_streams()
    leave(_code_of(cli))


def _code_of(cli: click.Command) -> int:
    try:
        with _own_pipes(cli):
            cli.main(standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            print_wrong_usage(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return INTERRUPTED
    except _BrokenPipe as broken:
        # The reader of our output may have gone (`| head`): nothing is wrong here then.
        return 0 if reader_is_gone() else _told(as_error(broken.error))
    except Exception as error:  # noqa: BLE001 - whatever it is, a person gets one message
        return _told(error_of_a_thread(as_error(error)))
    return 0


def fit_streams() -> None:
    """A terminal or pipe of another alphabet (ASCII, Latin-1) gets what it has no letter for as `\\u2192`, and not an error;
    one that is closed swallows what is printed.

    Whatever prints here, log, table or message, prints to these two.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave(code: int) -> NoReturn:
    """End the process once what it printed is out. A full disk behind a stream would else change the code, with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                code = code or _told(as_error(error))
            with suppress(OSError, ValueError):  # Python flushes once more when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


class _BrokenPipe(Exception):
    def __init__(self, error: BrokenPipeError) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _own_pipes(cli: click.Command) -> Iterator[None]:
    """click takes every broken pipe for its reader's and ends with code 1 and no word; one to a worker is something else."""
    invoke = cli.invoke

    def keeping(context: click.Context) -> Any:
        try:
            return invoke(context)
        except BrokenPipeError as error:
            raise _BrokenPipe(error) from error

    cli.invoke = keeping  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        cli.invoke = invoke  # type: ignore[method-assign]


def _told(error: GrailError) -> int:
    """Its exit code, once it was said."""
    if not was_said(error):
        with suppress(OSError):  # where nothing can be said any more, the code still is
            print_error(error)
    return error.exit_code


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(text, err=True)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            sys.exit(INTERRUPTED)
        stop.set()  # first of all: what is said may fail, or be cut short by a second signal
        with suppress(OSError, ValueError):  # not through Python's buffers: the signal may have come in the middle of a write
            os.write(sys.stderr.fileno(), b"stopping after the current step (once more to stop at once)\n")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_settings(rows: list[tuple[str, str, str]]) -> None:
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        click.echo(printable(f"{name:{width}}  {value or '-':40}  {origin}"))
