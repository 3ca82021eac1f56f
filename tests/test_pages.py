"""Links in the documents lead somewhere and files stay small: what `tooling.testing.pages` finds, and what it lets pass."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.testing import pages


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository in which nothing is wrong."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "# Read me\n\n[a page](docs/page.md), [its part](docs/page.md#what-it-is--isnt), [here](#read-me), [docs](docs/)\n"
        "[second](docs/page.md#again-1), ![a picture](docs/a.svg), [elsewhere](https://nowhere.invalid/x.md)\n"
        "`[code](nothing.md)`\n\n```\n[code](nothing.md)\n# no heading\n```\n\n[ref]: docs/page.md\n"
    )
    (tmp_path / "docs/page.md").write_text(
        "# A page\n\n## What it is & isn't\n\n## Again\n\n## `Again`\n\n[up](../README.md)\n"
    )
    (tmp_path / "docs/a.svg").write_text("<svg/>")
    (tmp_path / "a.py").write_text("x = 1\n" * pages.MAX_PYTHON_LINES)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_links_that_lead_somewhere_and_small_files_pass(tree: Path) -> None:
    assert pages.main(tree) == 0


@pytest.mark.parametrize(
    "link",
    [
        "[gone](docs/gone.md)",
        "[text that goes\non](docs/gone.md)",
        "[![picture](docs/a.svg)](docs/gone.md)",
        "![gone](docs/b.svg)",
        "[out](../other.md)",
        "[case](docs/Page.md)",
        "\n[r]: docs/gone.md",
    ],
)
def test_a_dead_link_is_named_with_its_line(tree: Path, link: str, capsys: pytest.CaptureFixture[str]) -> None:
    append(tree / "README.md", f"\n{link}\n")
    assert pages.main(tree) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("README.md:1")
    assert line.endswith("leads to nothing that git tracks")


@pytest.mark.parametrize("target", ["docs/page.md#what-it-was", "#no-heading", "docs/page.md#again-2"])
def test_a_dead_anchor_is_named(tree: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    append(tree / "README.md", f"\n[part]({target})\n")
    assert pages.main(tree) == 1
    assert f"{target} names no heading of" in capsys.readouterr().err


def test_a_file_that_is_there_but_not_tracked_is_no_target(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "docs/new.md").write_text("# New\n")
    append(tree / "README.md", "\n[new](docs/new.md)\n")
    assert pages.main(tree) == 1
    subprocess.run(["git", "add", "docs/new.md"], cwd=tree, check=True)
    assert pages.main(tree) == 0


def test_a_large_file_and_a_long_module_are_named_unless_excused(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "docs/a.svg").write_bytes(bytes(pages.MAX_BYTES + 1))
    append(tree / "a.py", "y = 2\n")
    assert pages.main(tree) == 1
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"a.py: {pages.MAX_PYTHON_LINES + 1} lines",
        f"docs/a.svg: {pages.MAX_BYTES + 1} bytes",
    ]
    monkeypatch.setattr(pages, "LARGER", {"a.py": "a reason", "docs/a.svg": "a reason"})
    assert pages.main(tree) == 0


def test_every_excuse_is_for_a_file_that_is_tracked() -> None:
    assert set(pages.LARGER) <= set(pages.tracked(REPOSITORY))
