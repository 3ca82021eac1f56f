"""What a page tells its reader to type: the command lines of its fenced blocks, and whether a test types them.

A block without a language whose lines are commands carries a mark, a comment that no reader of the rendered page sees, on the
line before it; a block of commands without one is a mistake of the page. Lines that end with a backslash are one.

    <!-- run in TERMINAL -->                              every line ends with 0
    <!-- run in TERMINAL until TEXT -->                   its last line goes on; what comes next waits for TEXT in its output
    <!-- run in TERMINAL once OTHER says TEXT -->         another terminal
    <!-- run in TERMINAL when all others have ended -->   by Ctrl-C, with 0
    <!-- saved as FILE -->                                a file that the reader writes: whatever the language, as it stands
    <!-- not run: WHY -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAMS: Final = ("grail", "grail-envs", "grail-miner", "grail-trainer", "grail-validator", "hatch", "pip", "python")
_FENCE: Final = re.compile(r"^ *```(\w*) *$")
_MARK: Final = re.compile(
    r"^ *<!-- (?:run in (?P<terminal>[\w-]+)(?P<alone> when all others have ended)?"
    r"(?: once (?P<other>[\w-]+) says (?P<said>.+?))?(?: until (?P<until>.+?))?"
    r"|saved as (?P<file>[\w.-]+)"
    r"|not run: (?P<why>.+?)) -->$"
)
_COMMAND: Final = re.compile(rf"(?:^|&& *)(?:{'|'.join(PROGRAMS)}) ")


@dataclass(frozen=True)
class Mark:
    """How a block is tried: in a terminal, until a text, after a text in another one's or the end of all; or not, and why; or
    into which file of the reader's folder it is written.
    """

    terminal: str | None
    until: str | None
    why: str | None
    alone: bool
    other: str | None
    said: str | None
    file: str | None = None


@dataclass(frozen=True)
class Block:
    """A fenced block of a page that holds commands.

    Attributes:
        page: its file's name.
        line: the number of the fence that opens it.
        mark: what the line before the fence says; `None` where it says nothing.
        lines: what is typed, one shell line each; none of a block that is saved.
        text: of a block that is saved, as it stands.
    """

    page: str
    line: int
    mark: Mark | None
    lines: tuple[str, ...]
    text: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of commands of a page, in its order: those without a language of which a line begins with a program of ours,
    or that carry a mark. Raises ValueError for a fence that is not closed.
    """
    before, opened, inside, raw = "", 0, list[str](), list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened == 0 and fence is not None:
            opened, inside, raw, language = number, [], [], fence[1]
            found = _MARK.match(before)
            mark = _mark(found) if found else None
        elif opened and fence is not None:
            if mark is not None and mark.file is not None:
                yield Block(page.name, opened, mark, (), "".join(f"{text}\n" for text in raw))
            elif language == "" and (mark is not None or any(_COMMAND.search(text) for text in inside)):
                yield Block(page.name, opened, mark, _joined(inside))
            opened = 0
        elif opened:
            inside.append(line.strip())
            raw.append(line)
        if line.strip():
            before = line
    if opened:
        raise ValueError(f"{page.name}:{opened}: a fence that nothing closes")


def _mark(found: re.Match[str]) -> Mark:
    alone = found["alone"] is not None
    return Mark(found["terminal"], found["until"], found["why"], alone, found["other"], found["said"], found["file"])


def _joined(lines: list[str]) -> tuple[str, ...]:
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    return tuple(text.replace("\\\n", " ").splitlines())


def commands(line: str) -> Iterator[tuple[str, ...]]:
    """The words of each command of a shell line that calls one of `PROGRAMS`, without comment, assignments and redirections.

    `hatch run grail-miner …` is the command that it runs; other scripts of `hatch` stay as they are.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list[str]()
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            yield from _ours(words)
            words = []
        else:
            words.append(word)


def _ours(words: list[str]) -> Iterator[tuple[str, ...]]:
    while words and (re.match(r"^\w+=", words[0]) or words[0] == "env"):
        words = words[1:]
    if words[:2] == ["hatch", "run"] and len(words) > 2 and words[2] in PROGRAMS:
        words = words[2:]
    if words and words[0] in PROGRAMS:
        yield tuple(words)
