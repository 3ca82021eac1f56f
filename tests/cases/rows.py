"""The rows of a file of cases, each held against the fields that its kind has before a test runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIELDS: dict[str, tuple[str, str]] = {
    "completions.json": ("on completion right why", "opened"),
    "data_rows.json": ("set why", "change without line loads says where"),
    "generation_defaults.json": ("file fields right says why", ""),
    "math_pairs.json": ("gold answer right why", ""),
    "numbers.json": ("text value percent why", ""),
    "prompt_templates.json": ("name template right why", "says"),
    "settings.json": ("file text why", "encoding reads tells where says hint"),
}
"""File → the fields that every row of it has, and those that one may have (README.md says what they mean)."""

_IN_TEX = ("math_pairs.json", "numbers.json")
_EATEN = {"\b": "b", "\f": "f", "\r": "r", "\t": "t"}
"""What JSON makes of a command that begins with one backslash, as in `\\frac`."""


class CaseError(ValueError):
    """A row that no test can run as it is meant: file, row, and what to write."""


def rows(name: str) -> list[dict[str, Any]]:
    """The cases of a file in this folder.

    Raises:
        CaseError: it is not JSON, or a row lacks a field, has an unknown one, has no reason, or is there twice.
    """
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return checked(name, text)


def checked(name: str, text: str) -> list[dict[str, Any]]:
    """As `rows`, of a text."""
    try:
        found: list[dict[str, Any]] = json.loads(text)
    except ValueError as error:
        raise CaseError(f"{name} is not JSON: {error}; a backslash is written twice") from error
    required, optional = (set(fields.split()) for fields in FIELDS[name])
    seen: set[str] = set()
    for number, row in enumerate(found):
        where = f"{name}, row {number}: {json.dumps(row, ensure_ascii=False)[:160]}"
        lacking, unknown = sorted(required - row.keys()), sorted(row.keys() - required - optional)
        if lacking or unknown:
            wrong = [f"it lacks {', '.join(lacking)}"] * bool(lacking) + [f"it has {', '.join(unknown)}"] * bool(unknown)
            raise CaseError(f"{where}: {' and '.join(wrong)}; fields: {' '.join(FIELDS[name]).strip()}")
        if not str(row["why"]).strip():
            raise CaseError(f"{where}: `why` is empty; say in a few words why this is right")
        said = json.dumps({key: value for key, value in row.items() if key != "why"}, sort_keys=True)
        if said in seen:
            raise CaseError(f"{where}: it is there already")
        seen.add(said)
        texts = [field for field in row.values() if isinstance(field, str)] if name in _IN_TEX else []
        eaten = [mark for text_ in texts for mark in _EATEN if mark in text_]
        if eaten:
            raise CaseError(f"{where}: \\{_EATEN[eaten[0]]} is read as one character by JSON; write \\\\{_EATEN[eaten[0]]}")
    return found
