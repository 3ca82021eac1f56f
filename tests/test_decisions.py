"""Every decision record has a number, a status and a date in one form, and stands in the index with them."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from tooling import REPOSITORY

FOLDER = REPOSITORY / "docs/decisions"
RECORDS = sorted(path for path in FOLDER.glob("*.md") if path.name not in {"README.md", "template.md"})
HEADER = re.compile(
    r"# (?P<number>[1-9]\d*)\. (?P<title>\S.*)\n\nStatus: (?P<status>.+)\nDate: (?P<date>.+)\n\n\*\*Context\.\*\* "
)
STATUS = re.compile(r"proposed|accepted|withdrawn|superseded by (\d{4})")


def header(path: Path) -> re.Match[str]:
    found = HEADER.match(path.read_text(encoding="utf-8"))
    assert found, f"{path.name} does not begin as template.md says"
    return found


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_its_number_a_status_a_date_and_a_decision(path: Path) -> None:
    head = header(path)
    assert re.fullmatch(rf"{int(head['number']):04d}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)
    status = STATUS.fullmatch(head["status"])
    assert status, head["status"]
    assert status[1] is None or any(other.name.startswith(status[1]) for other in RECORDS), "superseded by which?"
    assert datetime.date.fromisoformat(head["date"]).isoformat() == head["date"]
    assert path.read_text(encoding="utf-8").count("\n**Decision.** ") == 1


def test_numbers_have_no_gap_and_no_second() -> None:
    assert [int(header(path)["number"]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


def test_the_index_has_every_record_as_it_stands() -> None:
    rows = [line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    heads = [(path.name, header(path)) for path in RECORDS]
    assert rows == [f"| {h['number']} | [{h['title']}]({name}) | {h['status']} | {h['date']} |" for name, h in heads]


def test_the_template_has_the_form() -> None:
    text = (FOLDER / "template.md").read_text(encoding="utf-8")
    filled = text.replace("# N.", "# 1.", 1).replace("YYYY-MM-DD", "2026-01-01")
    assert HEADER.match(filled)
    assert "\n**Decision.** " in filled
