"""Whoever types what the pages say, with the wheels and nothing of this tree, gets what the pages promise."""

from __future__ import annotations

import os
import re
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.testing.documents import Block, blocks
from tooling.testing.terminals import LineFailedError, Terminal
from tooling.testing.wheels import build

LINE_S, START_S, END_S = 900.0, 900.0, 120.0  # a limit against hanging, no measurement: the first line installs torch
INHERITED = ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "LANG", "TMPDIR")  # where packages come from, and words
PAGES = ("README.md", "docs/install.md", "docs/quickstart.md", "docs/operations.md", "docs/debugging.md")


class Desk:
    """The terminals of one reader, who has an empty environment of Python and a folder with the wheels in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._terminals = dict[str, Terminal]()
        build(folder / "dist")
        venv.create(folder / "venv", with_pip=True)
        kept = {
            name: value for name, value in os.environ.items() if name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "LANG", "TMPDIR")
        }
        self._environment = kept | {
            "HOME": str(folder),
            "PATH": f"{folder / 'venv/bin'}:{os.environ['PATH']}",
        }

    def terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(name, self._folder, self._environment)
        return self._terminals[name]

    def do(self, block: Block) -> None:
        assert block.mark is not None
        if block.mark.file is not None:
            (self._folder / block.mark.file).write_text(block.text)
            return
        assert block.mark.terminal is not None
        terminal = self.terminal(block.mark.terminal)
        if block.mark.alone:
            for other in self._terminals.values():
                other.interrupt(END_S)
        if block.mark.other is not None and block.mark.said is not None:
            self.terminal(block.mark.other).wait_for(block.mark.said, START_S)
        *ended, last = block.lines
        for line in ended:
            terminal.type(line, LINE_S)
        if block.mark.until is None:
            terminal.type(last, LINE_S)
        else:
            terminal.start(last, block.mark.until, START_S)

    def leave(self) -> None:
        for terminal in self._terminals.values():
            terminal.close()
        # What `up --detach` began is in no terminal.
        ended = [str(self._folder / "venv/bin/grail"), "devnet", "down"]
        if (self._folder / "devnet").is_dir():
            subprocess.run(ended, cwd=self._folder, env=self._environment, check=False, timeout=END_S)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    at_work = Desk(tmp_path)
    try:
        yield at_work
    finally:
        at_work.leave()


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_command_of_the_pages_ends_as_they_say(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """One reader, page after page: what quickstart.md made is there when operations.md is read."""
    begun = time.monotonic()
    for page in PAGES:
        tried = 0
        for block in blocks(REPOSITORY / page):
            assert block.mark is not None, f"{block}: no mark"
            if block.mark.why is None:
                desk.do(block)
                tried += len(block.lines)
                with capsys.disabled():
                    print(f"{block}: {time.monotonic() - begun:.0f} s")
        assert tried, f"nothing of {page} is typed"


def test_a_line_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    terminal = Terminal("here", tmp_path, {"PATH": os.environ["PATH"]})
    terminal.type("export KEPT=kept; cd /", 10)
    terminal.type('[ "$KEPT" = kept ] && [ "$PWD" = / ]  # both last', 10)
    with pytest.raises(LineFailedError, match=r"(?s)ended with 3; its last words:.*why it did") as caught:
        terminal.type("echo why it did; (exit 3)", 10)
    assert re.search("^here: echo", str(caught.value))
    terminal.start("""bash -c 'trap "exit 5" INT; echo it is ready; sleep 1000'""", "it is ready", 10)
    with pytest.raises(LineFailedError, match="ended with 5 on Ctrl-C"):
        terminal.interrupt(10)
    terminal.type("true", 10)  # the shell goes on
    terminal.close()
    with pytest.raises(LineFailedError, match="shell is gone"):
        terminal.wait_for("never said", 10)


def test_a_line_that_ends_before_it_says_so_is_told(tmp_path: Path) -> None:
    terminal = Terminal("here", tmp_path, {"PATH": os.environ["PATH"]})
    with pytest.raises(LineFailedError, match="ended before 'ready'"):
        terminal.start("true", "ready", 10)
    terminal.close()
