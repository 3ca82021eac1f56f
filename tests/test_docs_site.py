"""The docs site is the pages of this repository: its menu has every one, and it changes of them how lists are read, no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.docs.command_pages import FOLDER, main, pages
from tooling.docs.dialect import python_markdown
from tooling.docs.site import OUTSIDE, linked, resources_from_elsewhere
from tooling.testing.pages import tracked

MENU = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")


def test_every_page_is_in_the_menu_and_the_menu_names_no_other() -> None:
    named = re.findall(r"^ +- (?:[^:\n]+: )?([\w/.-]+\.md)$", MENU, re.MULTILINE)
    there = {path.removeprefix("docs/") for path in tracked(REPOSITORY) if path.startswith("docs/") and path.endswith(".md")}
    decisions = {path for path in there if path.startswith("decisions/") and path != "decisions/README.md"}
    assert len(named) == len(set(named))
    assert set(named) == (there - decisions) | set(OUTSIDE.values())


def test_every_page_of_elsewhere_is_there() -> None:
    assert [path for path in OUTSIDE if not (REPOSITORY / path).is_file()] == []


def test_the_reference_of_commands_is_what_the_programs_say() -> None:
    assert main(["--check"]) == 0, "run: hatch run settings"
    assert {path.name for path in (REPOSITORY / FOLDER).glob("*.md")} == set(pages())


def test_a_reference_that_says_something_else_is_found_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], tmp_path) == 0
    page = tmp_path / FOLDER / "grail-miner.md"
    text = page.read_text(encoding="utf-8")
    assert "## grail-miner check\n" in text
    assert "--show-settings  " not in text  # what all commands share stands once, elsewhere
    page.write_text(text.replace("--online", "--offline"), encoding="utf-8")
    assert main(["--check"], tmp_path) == 1
    assert "grail-miner.md differs from what the commands say" in capsys.readouterr().err
    assert main([], tmp_path) == 0
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("page", "link", "becomes"),
    [
        ("miner.md", "[x](operations.md#keys)", "[x](operations.md#keys)"),
        ("start/miner.md", "[x](../miner.md)", "[x](../miner.md)"),
        ("operations.md", "[x](../README.md#packages)", "[x](index.md#packages)"),
        ("index.md", "![p](docs/pictures/localnet.png)", "![p](pictures/localnet.png)"),
        ("index.md", "[x](docs/miner.md) and [y](SECURITY.md)", "[x](miner.md) and [y](reporting.md)"),
        ("changes/grail-core.md", "[x](../../README.md)", "[x](../index.md)"),
        ("miner.md", "[needs](../compute.min.yaml)", "needs (`compute.min.yaml`)"),
        ("miner.md", "[`compute`](../compute.min.yaml)", "`compute`"),
        ("miner.md", "[two\nlines](../compute.min.yaml)", "two\nlines (`compute.min.yaml`)"),
        ("miner.md", "[x](https://example.org/) [y](#here)", "[x](https://example.org/) [y](#here)"),
        ("miner.md", "`[x](../compute.min.yaml)`", "`[x](../compute.min.yaml)`"),
        ("miner.md", "```\n[x](../compute.min.yaml)\n```", "```\n[x](../compute.min.yaml)\n```"),
    ],
)
def test_a_link_leads_to_the_site_or_is_text(page: str, link: str, becomes: str) -> None:
    assert linked(link, page, repository="") == becomes


def test_links_into_the_repository_lead_there_where_its_address_is_known() -> None:
    found = linked("[needs](../compute.min.yaml) [x](operations.md)", "miner.md", "https://example.org/blob")
    assert found == "[needs](https://example.org/blob/compute.min.yaml) [x](operations.md)"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("said:\n* one\n* two", "said:\n\n* one\n* two"),
        ("1. one\n\n   more\n2. two", "1. one\n\n    more\n\n2. two"),
        ("1. one:\n\n   ```\n   code\n     more\n   ```\n\nend", "1. one:\n\n    ```\n    code\n      more\n    ```\n\nend"),
        ("* one:\n  * in it\n  * too\n* two", "* one:\n    * in it\n    * too\n* two"),
        ("* one\n  goes on\n* two", "* one\n  goes on\n* two"),
        ("```\nsaid:\n* no list\n   x\n```", "```\nsaid:\n* no list\n   x\n```"),
        ("| a |\n| - |\n| 1 |", "| a |\n| - |\n| 1 |"),
    ],
)
def test_lists_are_read_as_the_repository_shows_them_and_nothing_else_changes(text: str, becomes: str) -> None:
    assert python_markdown(text) == becomes


def test_only_lines_of_lists_differ_on_any_page_of_ours() -> None:
    for path in sorted((REPOSITORY / "docs").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        kept = [line.strip() for line in python_markdown(text).split("\n") if line.strip()]
        assert kept == [line.strip() for line in text.split("\n") if line.strip()], path


@pytest.mark.parametrize(
    ("html", "asked"),
    [
        ('<script src="https://cdn.example.org/x.js">', ["https://cdn.example.org/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', ["//fonts.example.org/css"]),
        ("<style>body { background: url(http://example.org/a.png) }</style>", ["http://example.org/a.png"]),
        ('<img alt="x" src="pictures/localnet.png"><script src="assets/x.js"></script>', []),
        ('<a href="https://example.org/">elsewhere</a>', []),
    ],
)
def test_a_page_that_would_fetch_of_elsewhere_is_told(html: str, asked: list[str]) -> None:
    assert resources_from_elsewhere(html) == asked


def test_the_site_is_built_without_a_warning_where_its_tools_are(tmp_path: Path) -> None:
    """`hatch run docs:build` and .ci/run do it in an environment of its own; here where somebody has them beside the rest."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (built.returncode, built.stderr) == (0, "")
    api = (tmp_path / "reference/api.html").read_text(encoding="utf-8")
    assert "verify_window_file" in api
    assert "::: " not in api
