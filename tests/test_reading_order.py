"""The twelve files that a newcomer is told to read exist, each once, in the numbered order."""

from __future__ import annotations

import re

from tooling import REPOSITORY


def test_the_twelve_files_of_the_reading_order_exist() -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    section = page[page.index("## Twelve files to read, in order") :].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| \S", section, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    assert len({path for _, path in rows}) == 12
    for _, path in rows:
        package = path.split("/")[0].replace("_", "-")
        assert (REPOSITORY / "packages" / package / "src" / path).is_file(), path
