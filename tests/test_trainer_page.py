"""What docs/trainer.md says of alarms and metrics is made from their declarations, and is true."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grail_trainer.learning.alarms import RULES
from tooling import REPOSITORY
from tooling.testing.trainer_page import PAGE, alarm_rows, main


def test_the_page_is_the_one_that_the_declarations_make() -> None:
    assert main(["--check"]) == 0, "run: hatch run settings"


def test_a_page_that_tells_another_meaning_is_found_and_made_again(tmp_path: Path) -> None:
    (tmp_path / PAGE).parent.mkdir()
    shutil.copy(REPOSITORY / PAGE, tmp_path / PAGE)
    text = (tmp_path / PAGE).read_text()
    (tmp_path / PAGE).write_text(text.replace("| `entropy` | nats a token |", "| `entropy` | bits a token |"))
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert (tmp_path / PAGE).read_text() == text
    (tmp_path / PAGE).write_text(text.replace("<!-- end of metrics -->", ""))
    with pytest.raises(ValueError, match="no place"):
        main([], tmp_path)


def test_every_alarm_has_its_row_with_a_bound() -> None:
    rows = list(alarm_rows())
    assert [row[0].strip("`") for row in rows] == list(RULES)
    assert all(row[2] for row in rows)
