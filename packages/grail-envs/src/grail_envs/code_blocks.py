"""The fenced code blocks of a text, by CommonMark's rules as markdown-it-py reads them; which of them is the answer.

One departure: HTML is text here, so a block within `<answer>` or `<details>` is a block. Only blocks are parsed, nothing
within a line, and only in texts of a bounded size: the parser takes some 20 microseconds for each quote or list item that a
line begins with or goes on in. A longer text has no block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from markdown_it import MarkdownIt

MAX_CHARACTERS: Final = 2**17
MAX_LINES: Final = 2**13
"""As many as the longest completion has tokens, of 16 characters each."""
MAX_NESTING: Final = 40
"""Quotes and lists within each other, a list counted twice. A line that goes deeper hides what follows it."""

_FENCES: Final = ("```", "~~~")
_PYTHON: Final = re.compile(r"[{. \t]*(?:python|py)[0-9.]*(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class CodeBlock:
    """`info`: what stands behind the opening mark; `content`: the lines between the marks, each with its LF."""

    info: str
    content: str
    closed: bool

    @property
    def is_python(self) -> bool:
        """Whether it says that it is Python: `python`, `py`, `Python 3`, `python3.11`, `{.python}`, `python:a.py`."""
        return _PYTHON.match(self.info) is not None


def code_blocks(text: str) -> list[CodeBlock]:
    """Every fenced block in order, those in quotes and lists without what marks them there; a block may end with the text."""
    if not any(fence in text for fence in _FENCES) or len(text) > MAX_CHARACTERS:
        return []
    if text.count("\n") + text.count("\r") > MAX_LINES:
        return []
    return [
        CodeBlock(token.info.strip(), token.content, closed=token.map[1] - token.map[0] - 1 > _lines(token.content))
        for token in _parser().parse(text.removeprefix("\ufeff"))
        if token.type == "fence" and token.map is not None
    ]


def last_of(blocks: Sequence[CodeBlock]) -> str | None:
    """The content of the last closed block; of the last one where none is closed; None where there is none."""
    closed = [block for block in blocks if block.closed]
    found = closed or blocks
    return found[-1].content if found else None


def _lines(content: str) -> int:
    return content.count("\n") + (not content.endswith("\n") and content != "")


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).disable(["html_block", "inline", "text_join"])
