"""`dotenv_cases.json`: a settings file, or the environment, and whether reading it is an error, a warning or a value.

`bytes` is a text with its encoding in words, `text` the text itself. `right` is read for what it asks: `error` (and the lines
it names), `told`, `stripped`, or else for the values that are read.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grail_core.errors import ConfigurationError
from grail_core.participant.settings import Settings, resolve
from tooling.testing.reported_cases.outcome import Outcome, outcome

_ENCODED = re.compile(r"(?P<text>.*?) in (?P<encoding>[A-Za-z]+-?\d+\S*)", re.DOTALL)
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\t": "\t"}


def outcomes(file: str, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
    """One outcome for each row. The working folder and the environment are as before when it is over."""
    for number, row in enumerate(rows, start=1):
        text = str(row.get("text", row.get("bytes", "")))
        place, environ = Path.cwd(), dict(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            try:
                os.chdir(folder)
                for name in [*(str(field.alias) for field in Settings.model_fields.values()), "GRAIL_CONFIG"]:
                    os.environ.pop(name, None)
                _put(str(row["file"]), text, encoded="bytes" in row)
                right, said = _judged(str(row["file"]), str(row["right"]))
            finally:
                os.chdir(place)
                os.environ.clear()
                os.environ.update(environ)
        yield outcome(file, f"{number}, {row['file']}: {text[:60]!r}", right, said)


def _put(file: str, text: str, *, encoded: bool) -> None:
    if file == "environment":
        name, _, value = text.partition("=")
        os.environ[name] = _unescaped(value.partition(" (")[0])
        return
    match = _ENCODED.match(text) if encoded else None
    Path(file).write_bytes(_unescaped(match["text"]).encode(match["encoding"]) if match else text.encode())


def _unescaped(text: str) -> str:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _judged(file: str, right: str) -> tuple[bool, str]:
    """Whether what reading gives is what `right` asks for, and what it gives."""
    try:
        found = resolve()
    except ConfigurationError as error:
        lines = re.findall(r"line (\d+)", right)
        named = error.where.startswith(file) and all(re.search(rf"\b{line}\b", error.where) for line in lines)
        return named and bool(error.hint) and re.search("error|told", right) is not None, f"{error.what} ({error.where})"
    told = "; ".join(map(str, found.unknown))
    if right.startswith("told"):
        return "did you mean" in told, told or "nothing is told"
    values = found.settings.model_dump(by_alias=True)
    if right.startswith("stripped"):
        got = [values[name] for name in found.origins]
        return bool(got) and all(str(value) == str(value).strip() for value in got), f"{got}"
    if _asks_for(right, {name: str(values[name]) for name in found.origins}):
        return True, ""
    return False, f"it is read: {sorted(found.origins)}" + (f", told: {told}" if told else "")


def _asks_for(right: str, read: dict[str, str]) -> bool:
    """Whether exactly this is read: `NETUID=7, BT_NETWORK is test`, or the values alone, `7 and test`."""
    named = dict(re.findall(r"\b([A-Z][A-Z0-9_]+)(?: is |\s*[=:]\s*)['\"]?([^\s,;'\"]+)", right))
    if named:
        return named == read
    return sorted(part.strip("'\" ") for part in re.split(r",| and ", right)) == sorted(read.values())
