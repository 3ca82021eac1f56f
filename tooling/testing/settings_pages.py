"""`python -m tooling.testing.settings_pages [--check]`: what is written of the settings, made from their declarations.

`.env.example` is written whole, the table in docs/operations.md between two marks. Names, defaults and meanings are those of
`grail_core.participant.settings`; change them there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from grail_core.participant.settings import Declaration, declarations
from grail_core.participant.settings_sources import ENVIRONMENT_ALONE
from tooling import REPOSITORY
from tooling.testing.made_files import Maker

COMMAND = "hatch run settings"
EXAMPLE = Path(".env.example")
PAGE = Path("docs/operations.md")
BEGIN = f"<!-- settings: made by `{COMMAND}` -->\n"
END = "<!-- end of settings -->\n"

_HEAD = f"""\
# The settings of GRAIL with their defaults, made by `{COMMAND}`.
# Copy this file to .env in the folder that a command runs in, and take the # away from what you set. One line is one setting:
# NAME=value, NAME='value' or NAME="value"; a path may begin with ~, nothing else is expanded. Flags and environment come first.
"""


def example() -> str:
    """The text of `.env.example`: a valid `.env` that sets nothing."""
    parts = [_HEAD]
    for section, members in groupby(declarations(), key=lambda one: one.section):
        parts.append(f"\n# --- {section} " + "-" * (100 - len(section)) + "\n")
        parts += [_example_of(one) for one in members]
    parts.append(f"\n# Read from the environment alone, and an error here: {', '.join(ENVIRONMENT_ALONE)}.\n")
    return "\n".join(parts)


def _example_of(one: Declaration) -> str:
    notes = [f"read by {one.read_by}"] + (["secret"] if one.secret else [])
    if one.in_words:
        notes.append(f"default: {one.in_words}")
    return f"# {one.meaning} ({'; '.join(notes)})\n#{one.name}={one.default}\n"


def table() -> str:
    """The table of docs/operations.md."""
    rows = [
        (f"`{one.name}`", one.in_words or (one.default and f"`{one.default}`"), one.read_by, _meaning(one))
        for one in declarations()
    ]
    rows += [
        (f"`{name}`", default, read_by, f"{meaning}; from the environment alone")
        for name, (default, read_by, meaning) in ENVIRONMENT_ALONE.items()
    ]
    head = ("name", "default", "read by", "meaning")
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (head, ("---",) * 4, *rows)) + "\n"


def _meaning(one: Declaration) -> str:
    return f"{one.meaning} (secret)" if one.secret else one.meaning


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """What is made and what its text should be.

    Raises:
        ValueError: the page has no place for the table.
    """
    yield EXAMPLE, example()
    page = (root / PAGE).read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for the table: {BEGIN.strip()} … {END.strip()}")
    yield PAGE, before + begin + "\n" + table() + "\n" + end + after


def main(arguments: list[str] | None = None, root: Path = REPOSITORY) -> int:
    maker = Maker("tooling.testing.settings_pages", __doc__ or "", files, "the settings' declarations", COMMAND)
    return maker.main(arguments, root)


if __name__ == "__main__":
    sys.exit(main())
