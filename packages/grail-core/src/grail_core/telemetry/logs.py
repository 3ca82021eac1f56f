"""Events on top of the standard library's logging.

`get_logger(__name__).event("window_mined", window=60, groups=12)` writes one JSON object a line to the log file and one short
line to the terminal. Values are plain JSON; names that look like secrets are masked wherever they come from.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from grail_core.errors import ConfigurationError

Value = str | int | float | bool | None | list[Any] | dict[str, Any]

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


def configure(role: str, *, verbosity: int = 0, log_file: Path | None = None, json_to_terminal: bool = False) -> None:
    """Set up logging of a command. Call once, before anything logs.

    Args:
        role: who is speaking (`miner`, `validator`, …); a field of every event.
        verbosity: 0 events and warnings of this project, 1 its debug messages, 2 other libraries' too.
        log_file: JSON lines are appended here.
        json_to_terminal: the terminal (stderr) gets JSON lines too.

    Raises:
        ConfigurationError: the log file cannot be written.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(_JsonLines(role) if json_to_terminal else _ShortLines(sys.stderr))
    root.addHandler(terminal)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            lines = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"the log file cannot be written: {error.strerror}",
                where=str(log_file),
                hint="check GRAIL_LOG_FILE or --log-file",
            ) from error
        lines.setFormatter(_JsonLines(role))
        root.addHandler(lines)
    root.setLevel(logging.DEBUG if verbosity >= 2 else logging.WARNING)
    for package in ("grail_core", "grail_envs", "grail_miner", "grail_validator", "grail_trainer", "tooling"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbosity >= 1 else logging.INFO)


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
        return json.dumps(line, ensure_ascii=False, default=str)


class _ShortLines(logging.Formatter):
    """`12:34:56 window_mined window=60 groups=12`, coloured on a terminal unless NO_COLOR is set."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, None) or {}
        text = record.getMessage()
        if self._colour:
            text = f"\033[{'33' if record.levelno >= logging.WARNING else '36'}m{text}\033[0m"
        elif record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created)), text]
        parts += [f"{key}={_short(value)}" for key, value in fields.items() if value not in ("", None)]
        line = " ".join(parts)
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str)
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(word in lowered for word in _SECRET_WORDS)
