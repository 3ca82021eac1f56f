"""Changelogs are read strictly, every one of ours can be, and what is written into one is read back."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tooling import REPOSITORY
from tooling.release.changelog import dated, read_changelog, with_entry
from tooling.release.faults import ReleaseRefusedError
from tooling.testing.wheels import PACKAGES

TWO = """# Changelog of grail-core

## 0.2.0 (unreleased)

- **Breaking**: new
  and longer
- more

## 0.1.0 (2026-11-30)

- first
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_changelog_of_ours_can_be_read_whole(package: str) -> None:
    text = (REPOSITORY / "packages" / package / "CHANGELOG.md").read_text("utf-8")
    log = read_changelog(text, package, package)
    assert sum(len(section.entries) for section in log.sections) == sum(line.startswith("- ") for line in text.splitlines())


def test_versions_dates_entries_and_what_breaks_are_told_apart() -> None:
    log = read_changelog(TWO, "grail-core", "CHANGELOG.md")
    assert [(one.version, one.date) for one in log.sections] == [("0.2.0", None), ("0.1.0", datetime.date(2026, 11, 30))]
    assert log.newest.entries == ("- **Breaking**: new and longer", "- more")
    assert log.newest.breaking == ("- **Breaking**: new and longer",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1"),
        ("# Changelog of grail-envs\n", "Changelog of grail-core"),
        ("# Changelog of grail-core\n", "no version"),
        ("# Changelog of grail-core\n## 0.1.0\n- a\n", "line 2"),
        ("# Changelog of grail-core\n## 0.1 (unreleased)\n- a\n", "line 2"),
        ("# Changelog of grail-core\n## 0.1.0 (2026-02-30)\n- a\n", "no such day"),
        ("# Changelog of grail-core\n## 0.1.0 (unreleased)\n", "says nothing of 0.1.0"),
        ("# Changelog of grail-core\n- a\n## 0.1.0 (unreleased)\n- a\n", "line 2"),
        ("# Changelog of grail-core\n## 0.1.0 (unreleased)\nprose\n", "line 3"),
        ("# Changelog of grail-core\n## 0.2.0 (2026-01-01)\n- a\n## 0.1.0 (unreleased)\n- a\n", "only the newest"),
        ("# Changelog of grail-core\n## 0.1.0 (2026-01-01)\n- a\n## 0.1.0 (2026-01-01)\n- a\n", "newest to the oldest"),
    ],
)
def test_a_changelog_of_another_form_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ReleaseRefusedError) as caught:
        read_changelog(text, "grail-core", "CHANGELOG.md")
    assert told in str(caught.value)


@given(st.text(alphabet="#- ()0123456789.abunrelsd\n", max_size=200))
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    try:
        log = read_changelog("# Changelog of grail-core\n" + text, "grail-core", "CHANGELOG.md")
    except ReleaseRefusedError:
        return
    assert all(section.entries for section in log.sections)


def test_a_date_and_a_line_that_are_written_are_read_back() -> None:
    log = read_changelog(TWO, "grail-core", "x")
    day = datetime.date(2026, 12, 1)
    released = dated(TWO, log.newest, "0.2.1", day)
    again = read_changelog(released, "grail-core", "x")
    assert (again.newest.version, again.newest.date, again.newest.entries) == ("0.2.1", day, log.newest.entries)
    begun = read_changelog(with_entry(released, again, "0.3.0", "Needs `x`."), "grail-core", "x")
    assert (begun.newest.version, begun.newest.entries) == ("0.3.0", ("- Needs `x`.",))
    assert [one.version for one in begun.sections] == [
        "0.3.0",
        "0.2.1",
        "0.1.0",
    ]
    on_top = read_changelog(with_entry(TWO, log, "9.9.9", "Needs `x`."), "grail-core", "x")
    assert on_top.newest.entries == ("- Needs `x`.", *log.newest.entries)
