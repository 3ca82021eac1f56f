"""Reading `.env` and the TOML file: bytes to settings with the line each stands on, or an error that names file and line.

A settings file is a regular file of UTF-8 (a byte order mark is allowed) and of bounded size; whatever else lies there under
its name is an error at once, never a wait and never an empty file. No error repeats what a file holds.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from grail_core.errors import ConfigurationError
from grail_core.participant.dotenv import Assignment, Fault, parse

MAX_DOTENV_BYTES = 256 * 1024  # other programs' variables are in it too
MAX_TOML_BYTES = 16 * 1024  # tomllib takes the square of the length for some texts
MAX_PLACES_TRIED = 8
MAX_LINES_TRIED = 64
MAX_FAULTS_TOLD = 5

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_UTF8_HINT = "save it as UTF-8 (in PowerShell: Set-Content -Encoding utf8)"


@dataclass(frozen=True)
class TomlFile:
    """The top level of a TOML file: name → text, number, boolean, time, array or table."""

    path: Path
    values: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)

    def place(self, name: str) -> str:
        """File and line of a key. The line is left out where it cannot be told (a key with escapes in it)."""
        line = _line_of(name, self.text)
        return str(self.path) if line is None else f"{self.path}, line {line}"


def read_dotenv(path: Path) -> list[Assignment]:
    """The settings of a `.env` file, none if there is no such file.

    Raises:
        ConfigurationError: it cannot be read, or lines do not parse; all of them are named.
    """
    if os.path.isfile(path / "pyvenv.cfg"):
        return []  # a virtual environment that is called .env
    assignments, faults = parse(_read_text(path, MAX_DOTENV_BYTES) or "")
    if faults:
        raise faults_error(path, faults)
    return assignments


def read_toml(path: Path, *, most: int = MAX_TOML_BYTES) -> TomlFile:
    """A TOML file of at most `most` bytes, an empty one if there is none.

    Raises:
        ConfigurationError: it cannot be read or does not parse.
    """
    text = _read_text(path, most) or ""
    try:
        return TomlFile(path, tomllib.loads(text), text)
    except (ValueError, RecursionError) as error:
        raise _toml_error(path, error, text) from None


def faults_error(path: Path, faults: list[Fault]) -> ConfigurationError:
    """One error for all faulty lines of a file."""
    told = [f"line {fault.line}: {fault.what}" if len(faults) > 1 else fault.what for fault in faults[:MAX_FAULTS_TOLD]]
    if len(faults) > len(told):
        told.append(f"and {len(faults) - len(told)} more")
    lines = [str(fault.line) for fault in faults[:MAX_FAULTS_TOLD]]
    where = f"line {lines[0]}" if len(lines) == 1 else f"lines {', '.join(lines[:-1])} and {lines[-1]}"
    hints = dict.fromkeys(fault.hint for fault in faults[:MAX_FAULTS_TOLD])
    return ConfigurationError("; ".join(told), where=f"{path}, {where}", hint="; ".join(hints))


def _read_text(path: Path, most: int) -> str | None:
    data = _read_bytes(path, most)
    if data is None:
        return None
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise ConfigurationError(f"this settings file is {name}, not UTF-8", where=str(path), hint=_UTF8_HINT)
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        line = 1 + data[: data.index(b"\0")].count(b"\n")
        share = data.count(b"\0") / len(data)
        wide = "UTF-32" if share > 0.6 else "UTF-16" if share > 0.3 else ""
        guess = f"{wide} without its mark, not UTF-8" if wide else "no text: it has a NUL byte"
        raise ConfigurationError(f"this settings file is {guess}", where=f"{path}, line {line}", hint=_UTF8_HINT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        raise ConfigurationError(
            f"this settings file is not UTF-8: byte 0x{data[error.start]:02x}", where=f"{path}, line {line}", hint=_UTF8_HINT
        ) from None


def _read_bytes(path: Path, most: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
    except FileNotFoundError:
        if os.path.islink(path):
            raise ConfigurationError(
                "this settings file is a link to nothing", where=str(path), hint="mend the link, or remove it"
            ) from None
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
            raise ConfigurationError(
                f"this is {kind}, no settings file", where=str(path), hint="put a file there, or take it away"
            )
        data = b""
        while len(data) <= most and (part := os.read(descriptor, most + 1 - len(data))):
            data += part
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise ConfigurationError(
            f"this settings file has more than {most:,} bytes", where=str(path), hint="is it the right file?"
        )
    return data


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"this settings file cannot be read: {error.strerror}", where=str(path), hint="mend it, or take it away"
    )


def _toml_error(path: Path, error: Exception, text: str) -> ConfigurationError:
    """tomllib's own words are not repeated: some of them quote the file."""
    found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    if found:
        where, what = f"{path}, line {found[1]}", f"this is no TOML from column {found[2]} on"
    else:
        where, what = f"{path}, line {_last_statement(text)}", "what begins here is no TOML up to the end of the file"
    if isinstance(error, RecursionError):
        where, what = str(path), "this file is nested too deeply"
    elif "overwrite" in str(error) or "twice" in str(error):
        return ConfigurationError("a key stands here that is there already", where=where, hint="keep one of the two lines")
    elif found and (hidden := _hidden_at(text, int(found[1]), int(found[2]))):
        what, hint = (
            f"there is a character that cannot be seen ({hidden!a}) in column {found[2]}",
            "write the line again without it",
        )
        return ConfigurationError(what, where=where, hint=hint)
    return ConfigurationError(what, where=where, hint='write NAME = "text" or NAME = 7, one a line')


def _last_statement(text: str) -> int:
    """The line behind the last ones that are TOML by themselves: where something begins that is not ended."""
    lines = text.rstrip().split("\n")
    for count in range(len(lines) - 1, max(-1, len(lines) - 1 - MAX_LINES_TRIED), -1):
        if _is_toml("\n".join(lines[:count])):
            return count + 1
    return len(lines)


def _hidden_at(text: str, line: int, column: int) -> str:
    """The character at this place where it looks like nothing or like a blank and is no blank of TOML; else ""."""
    at = text.replace("\r\n", "\n").split("\n")[line - 1][column - 1 : column]
    return at if at and at not in " \t" and (at.isspace() or not at.isprintable()) else ""


def _line_of(name: str, text: str) -> int | None:
    """Where a key of the top level is first written: there the text before it is whole, and does not have the key."""
    written = re.compile(rf"""^[ \t]*\[{{0,2}}[ \t]*["']?{re.escape(name)}(?![A-Za-z0-9_-])""", re.MULTILINE)
    for found in islice(written.finditer(text), MAX_PLACES_TRIED):
        before = text[: found.start()]
        if _is_before(name, before):
            return 1 + before.count("\n")
    return None


def _is_before(name: str, text: str) -> bool:
    try:
        return name not in tomllib.loads(text)
    except (ValueError, RecursionError):
        return False  # within a text of several lines


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
