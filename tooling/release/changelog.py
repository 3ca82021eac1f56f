"""A package's changelog, read strictly: `# Changelog of NAME`, then versions from the newest on, each with its lines.

    ## 0.2.0 (unreleased)
    ## 0.1.0 (2026-11-30)

Only the newest version may be unreleased, and every version has at least one line, `- …` (more of it is indented). What has
another form is refused with its line: what a release says of itself is read by programs too.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from packaging.version import Version

from tooling.release.faults import ReleaseRefusedError

UNRELEASED = "unreleased"
MAX_CHARACTERS = 2_000_000
_HEADING = re.compile(r"^## (?P<version>[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}) \((?P<date>unreleased|\d{4}-\d{2}-\d{2})\)$")
_BREAKING = re.compile(r"^- (?:\*\*)?breaking\b", re.IGNORECASE)


@dataclass(frozen=True)
class Section:
    """What changed in one version. `date` is `None` where it is not released; entries are the list's items, lines joined."""

    version: str
    date: datetime.date | None
    entries: tuple[str, ...]
    line: int

    @property
    def breaking(self) -> tuple[str, ...]:
        """Entries that begin with the word, or have it in bold."""
        return tuple(entry for entry in self.entries if _BREAKING.match(entry) or "**Breaking**" in entry)


@dataclass(frozen=True)
class Changelog:
    """All versions of a package, the newest first. There is at least one."""

    package: str
    sections: tuple[Section, ...]

    @property
    def newest(self) -> Section:
        return self.sections[0]

    def section(self, version: str) -> Section | None:
        return next((section for section in self.sections if section.version == version), None)


def read_changelog(text: str, package: str, where: str) -> Changelog:
    """The changelog of `package`; `where` is what errors name.

    Raises:
        ReleaseRefusedError: it is not of the form above; with the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ReleaseRefusedError(f"the changelog has more than {MAX_CHARACTERS:,} characters", where=where)
    lines = text.splitlines()
    if not lines or lines[0] != f"# Changelog of {package}":
        raise ReleaseRefusedError(f"a changelog begins with '# Changelog of {package}'", where=f"{where}, line 1")
    sections: list[Section] = []
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("#"):
            sections.append(_opened(line, number, where, sections))
        elif line.startswith("- ") and sections:
            sections[-1] = _with(sections[-1], (*sections[-1].entries, line))
        elif line.startswith("  ") and line.strip() and sections and sections[-1].entries:
            *before, last = sections[-1].entries
            sections[-1] = _with(sections[-1], (*before, f"{last} {line.strip()}"))
        elif line.strip():
            raise ReleaseRefusedError("a line of a changelog is '- …' below a version", where=f"{where}, line {number}")
    if not sections:
        raise ReleaseRefusedError("the changelog has no version", where=where, hint="## 0.1.0 (unreleased)")
    for section in sections:
        if not section.entries:
            raise ReleaseRefusedError(
                f"the changelog says nothing of {section.version}",
                where=f"{where}, line {section.line}",
                hint="a line '- …' below it",
            )
    return Changelog(package, tuple(sections))


def _opened(line: str, number: int, where: str, sections: list[Section]) -> Section:
    place = f"{where}, line {number}"
    found = _HEADING.match(line)
    if found is None:
        raise ReleaseRefusedError(
            "a heading of a changelog is a version and its date",
            where=place,
            hint="## 0.1.0 (unreleased), or ## 0.1.0 (2026-11-30)",
        )
    try:
        date = None if found["date"] == UNRELEASED else datetime.date.fromisoformat(found["date"])
    except ValueError as error:
        raise ReleaseRefusedError(f"no such day: {error}", where=place) from error
    if sections and date is None:
        raise ReleaseRefusedError("only the newest version can be unreleased", where=place)
    if sections and Version(found["version"]) >= Version(sections[-1].version):
        raise ReleaseRefusedError("versions go from the newest to the oldest", where=place)
    return Section(found["version"], date, (), number)


def _with(section: Section, entries: tuple[str, ...]) -> Section:
    return Section(section.version, section.date, entries, section.line)


def dated(text: str, section: Section, version: str, date: datetime.date) -> str:
    """The text with the heading of its newest section replaced by `version` and `date`."""
    lines = text.splitlines(keepends=True)
    lines[section.line - 1] = f"## {version} ({date.isoformat()})\n"
    return "".join(lines)


def with_entry(text: str, log: Changelog, version: str, entry: str) -> str:
    """The text with an entry more on top of the unreleased version, which is begun as `version` where there is none."""
    lines = text.splitlines(keepends=True)
    if log.newest.date is None:
        place = log.newest.line  # the lines below the heading; a blank one stays between
        while place < len(lines) and not lines[place].strip():
            place += 1
        lines.insert(place, f"- {entry}\n")
    else:
        lines[log.newest.line - 1 : log.newest.line - 1] = [f"## {version} (unreleased)\n", "\n", f"- {entry}\n", "\n"]
    return "".join(lines)
