"""Every command line that a page tells a reader to type has options that exist, with values that they take."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from grail_core.commands.grail import cli as grail
from grail_envs.cli import main as environments
from grail_miner.cli import cli as miner
from grail_trainer.cli import cli as trainer
from grail_validator.cli import cli as validator
from tooling import REPOSITORY
from tooling.localnet.cli import cli as localnet
from tooling.testing.documents import blocks, commands

ROOTS: dict[str, click.Command] = {
    "grail": grail,
    "grail-envs": environments,
    "grail-miner": miner,
    "grail-trainer": trainer,
    "grail-validator": validator,
}
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
_TOP = ("install", "quickstart", "operations", "debugging", "troubleshooting", "faq")
_START = ("README", "miner", "validator", "trainer", "researcher", "checker")
NEWCOMERS = ("README.md", *(f"docs/{name}.md" for name in _TOP), *(f"docs/start/{name}.md" for name in _START))


def typed() -> list[tuple[str, tuple[str, ...]]]:
    found = []
    for page in PAGES:
        for block in blocks(page):
            for line in block.lines:
                found += [(str(block), words) for words in commands(line)]
    return found


def parsed(command: click.Command, words: tuple[str, ...], name: str, parent: click.Context | None = None) -> None:
    """Options and arguments as the program itself reads them, its subcommands too; nothing is run."""
    if isinstance(command, click.Group) and words:
        context = command.make_context(name, list(words), parent=parent)
        # Where the group keeps its subcommand's words has another name from click 8.2 on.
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        sub, subcommand, rest = command.resolve_command(context, rest)
        assert subcommand is not None
        assert sub is not None
        parsed(subcommand, tuple(rest), sub, context)
    else:
        known = command.make_parser(click.Context(command, parent=parent))
        known.parse_args(list(words))


@pytest.mark.parametrize(
    ("where", "words"), typed(), ids=lambda value: value if isinstance(value, str) else "-".join(value[:3])
)
def test_a_command_line_of_a_page_is_one_that_the_program_takes(where: str, words: tuple[str, ...]) -> None:
    if words[:3] == ("hatch", "run", "localnet"):
        parsed(localnet, words[3:], "localnet")
    elif words[0] in ROOTS:
        parsed(ROOTS[words[0]], words[1:], words[0])
    elif words[:2] == ("hatch", "run"):
        scripts = (REPOSITORY / "hatch.toml").read_text()
        script = words[2].split(":")[-1]
        assert re.search(rf"^{re.escape(script)} = ", scripts, re.MULTILINE) or script == "python", (
            f"{where}: no script {script}"
        )


@pytest.mark.parametrize("page", NEWCOMERS)
def test_what_a_newcomer_reads_is_tried_or_says_why_not(page: str) -> None:
    unmarked = [str(block) for block in blocks(REPOSITORY / page) if block.mark is None]
    assert not unmarked, f"blocks of commands without a mark: {', '.join(unmarked)}"


def test_a_line_with_a_wrong_option_is_found(tmp_path: Path) -> None:
    (words,) = commands("GRAIL_DEVICE=cpu grail-miner run --no-such-option  # a comment")
    assert words == ("grail-miner", "run", "--no-such-option")
    with pytest.raises(click.NoSuchOption):
        parsed(miner, words[1:], "grail-miner")
    page = tmp_path / "page.md"
    page.write_text("<!-- run in here until it is ready -->\n```\ngrail x \\\n  --json\n```\n\n```\nhatch run test\n```\n")
    first, second = blocks(page)
    assert first.mark is not None
    assert (first.mark.terminal, first.mark.until) == ("here", "it is ready")
    assert [line.split() for line in first.lines] == [["grail", "x", "--json"]]
    assert second.mark is None
    assert second.lines == ("hatch run test",)


def test_a_file_that_a_page_has_its_reader_save_is_kept_as_it_stands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- saved as x.py -->\n```python\nif 1:\n    # said\n    say()\n```\n\n```python\nnot_saved()\n```\n")
    (block,) = blocks(page)
    assert block.mark is not None
    assert (block.mark.file, block.mark.terminal, block.lines) == ("x.py", None, ())
    assert block.text == "if 1:\n    # said\n    say()\n"
