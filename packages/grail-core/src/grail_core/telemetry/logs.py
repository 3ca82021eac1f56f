"""Events on top of the standard library's logging.

`get_logger(__name__).event("window_mined", window=60, groups=12)` writes one JSON object a line to the log file and one short
line to the terminal. Values are plain JSON; names that look like secrets are masked wherever they come from.

Much of what is logged are strangers' words. Both forms are harmless on a terminal, and who logs need not think of it: JSON
lines are ASCII, so that all of a value is there and none of it acts; short lines are made fit by `grail_core.text`. Texts are
cut at MAX_LINES characters.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from grail_core.errors import ConfigurationError
from grail_core.telemetry.sentences import sentence, with_fields
from grail_core.text import MAX_LINES, printable, printable_lines

Value = str | int | float | bool | None | list[Any] | dict[str, Any]

_SPEAKERS = (
    "websockets",
    "bittensor",
    "httpx",
    "httpcore",
    "urllib3",
    "requests",
    "botocore",
    "boto3",
    "s3transfer",
    "huggingface_hub",
    "uvicorn",
)
"""Libraries that speak with others: below a warning they log what goes over the line, which may be keys (in URLs, headers)."""
_SECRET_WORDS = ("secret", "password", "mnemonic", "api_key", "token_key", "private")
_FIELDS = "grail_event_fields"


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger with `event`. Everything else is the standard logger's."""

    def event(self, name: str, /, *, level: int = logging.INFO, **fields: Value) -> None:
        """Record a decision. `name` is snake_case and stable: reports and dashboards read it."""
        if self.logger.isEnabledFor(level):
            masked = {key: "***" if _is_secret(key) else value for key, value in fields.items()}
            self.logger.log(level, name, extra={_FIELDS: masked})


def get_logger(name: str) -> EventLogger:
    return EventLogger(logging.getLogger(name), {})


LogFormat = Literal["sentences", "fields", "json"]
"""What the terminal gets of an event."""


def configure(
    role: str,
    *,
    verbosity: int = 0,
    log_file: Path | None = None,
    json_to_terminal: bool = False,
    log_format: LogFormat = "sentences",
) -> None:
    """Set up logging of a command. Call once, before anything logs.

    Args:
        role: who is speaking (`miner`, `validator`, …); a field of every event.
        verbosity: 0 events and warnings of this project, 1 its debug messages, 2 other libraries' too, but for those that speak
            with others.
        log_file: JSON lines are appended here.
        json_to_terminal: the terminal (stderr) gets JSON lines too, whatever `log_format` says.
        log_format: of the terminal: a sentence for each event that has one, all fields of every event, or JSON lines.

    Raises:
        ConfigurationError: the log file cannot be written, or is none.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    terminal = _Terminal(sys.stderr)
    short = _ShortLines(sys.stderr, all_fields=log_format == "fields" or verbosity >= 1)
    terminal.setFormatter(_JsonLines(role) if json_to_terminal or log_format == "json" else short)
    root.addHandler(terminal)
    if log_file is not None:
        odd = no_log_file(log_file)
        if odd:
            raise ConfigurationError(odd, where=str(log_file), hint="check GRAIL_LOG_FILE or --log-file: name a file")
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            lines = _LogFile(log_file)
        except OSError as error:
            raise ConfigurationError(
                f"the log file cannot be written: {error.strerror}",
                where=str(log_file),
                hint="check GRAIL_LOG_FILE or --log-file",
            ) from error
        lines.setFormatter(_JsonLines(role))
        root.addHandler(lines)
    root.setLevel(logging.DEBUG if verbosity >= 2 else logging.WARNING)
    for library in _SPEAKERS:
        logging.getLogger(library).setLevel(logging.WARNING)
    for package in ("grail_core", "grail_envs", "grail_miner", "grail_validator", "grail_trainer", "tooling"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbosity >= 1 else logging.INFO)


def no_log_file(path: Path) -> str:
    """Why this path can be no log file: opening a pipe waits for a reader, for ever. Empty: it is one, or is not there."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # the opening says what is wrong, if anything is
    ours = str(path) in ("/dev/stdout", "/dev/stderr") or str(path).startswith(("/dev/fd/", "/proc/self/fd/"))  # open already
    if stat.S_ISREG(mode) or stat.S_ISCHR(mode) or (ours and stat.S_ISFIFO(mode)):
        return ""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk"))
    return f"the log file is {next((name for is_kind, name in kinds if is_kind(mode)), 'no file')}"


def fields_of(record: logging.LogRecord) -> Mapping[str, Value] | None:
    """An event's fields, None where the record is an ordinary message. `record.getMessage()` is the event's name."""
    fields: Mapping[str, Value] | None = getattr(record, _FIELDS, None)
    return fields


def take_terminal(instead: logging.Handler) -> Callable[[], None] | None:
    """Send what would go to the terminal to `instead`, which formats it as the terminal's short lines without colour.

    Returns:
        What gives the terminal back, to be called as often as one likes; None where the terminal gets JSON lines, or nothing:
        then nothing was taken. The log file has every line all the same.
    """
    root = logging.getLogger()
    taken = [handler for handler in root.handlers if isinstance(handler, _Terminal)]
    if not taken or any(isinstance(handler.formatter, _JsonLines) for handler in taken):
        return None
    instead.setFormatter(_ShortLines(io.StringIO()))
    root.addHandler(instead)
    for handler in taken:
        root.removeHandler(handler)

    def give_back() -> None:
        if instead in root.handlers:
            for handler in taken:
                root.addHandler(handler)
            root.removeHandler(instead)

    return give_back


def record_traceback(error: BaseException, *, only_to_log: bool = False) -> str:
    """Put an error's traceback into the log file, or, where none can be written, into a file that only this user can read.

    Returns:
        Where it is now.
    """
    raised = (type(error), error, error.__traceback__)
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, "program_failed", (), raised)
    setattr(record, _FIELDS, {"error": type(error).__name__})
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile) and handler.write(record):
            return str(handler.path)
    if only_to_log:
        return "nowhere"
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="grail-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError:
        return "no file, since none can be written"
    return name


class _LogFile(logging.Handler):
    """JSON lines appended to a file. While it cannot be written the role goes on: the terminal says so once, lines are lost,
    and the first that fits again begins on a line of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lost, self._torn = 0, False

    def emit(self, record: logging.LogRecord) -> None:
        self.write(record)

    def write(self, record: logging.LogRecord) -> bool:
        """Whether the line is in the file now."""
        try:
            line = self.format(record).encode("utf-8", errors="backslashreplace") + b"\n"
            data = (b"\n" if self._torn else b"") + line
            written = 0
            with self.lock or contextlib.nullcontext():
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
                    self._torn = written < len(data)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _say(f"warning: log lines are lost: {self.path}: {error.strerror}")
            return False
        except Exception as error:  # noqa: BLE001 - a value whose text raises is no reason to end
            _say(f"warning: a log line is lost: {type(error).__name__}")
            return False
        if self._lost:
            _say(f"warning: {self._lost} log lines were lost; {self.path} is written again")
            self._lost = 0
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        super().close()


class _Terminal(logging.StreamHandler[TextIO]):
    """A terminal that is gone, or a full disk behind it, is no reason for a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


class _JsonLines(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, None)
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "role": self._role,
            "pid": os.getpid(),
            "level": record.levelname.lower(),
            "event": record.getMessage() if fields is not None else "message",
        }
        line.update(fields if fields is not None else {"text": record.getMessage(), "logger": record.name})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(_cut(line), default=str)


class _ShortLines(logging.Formatter):
    """`12:34:56 window_skipped window 60: skipped: no valid checkpoint`, coloured on a terminal unless NO_COLOR is set.

    Behind the event's name comes its sentence (`sentences`), or, where it has none or `all_fields` is asked for, its fields.
    """

    def __init__(self, stream: TextIO, *, all_fields: bool = False) -> None:
        super().__init__()
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._all_fields = all_fields

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, None)
        text = printable_lines(record.getMessage())
        said = "" if fields is None or self._all_fields else printable(sentence(record.getMessage(), fields))
        if self._colour:
            text = f"\033[{'33' if record.levelno >= logging.WARNING else '36'}m{text}\033[0m"
        elif record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created)), text, said or with_fields(fields or {})]
        line = " ".join(filter(None, parts))
        return line + ("\n" + printable_lines(self.formatException(record.exc_info)) if record.exc_info else "")


def _cut(value: object) -> object:
    """The value with every text of it at most MAX_LINES long."""
    if isinstance(value, str):
        return value if len(value) <= MAX_LINES else value[: MAX_LINES - 1] + "…"
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(inner) for inner in value]
    return value


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(word in lowered for word in _SECRET_WORDS)
