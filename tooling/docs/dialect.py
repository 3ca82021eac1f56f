"""Pages as this repository shows them, made into what the site's Markdown reads alike.

The pages are written for CommonMark, as code hosts read it; Python-Markdown wants a blank line before a list, and four columns
for what belongs to a numbered item and for a list in a list. Only that is changed here, and never inside a fenced block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_FENCE: Final = re.compile(r"^ *(```+|~~~+)")
_ITEM: Final = re.compile(r"^ *(?:[*-]|\d+\.) ")
_NUMBERED: Final = re.compile(r"^\d+\. ")
_NESTED: Final = re.compile(r"^ {2,3}(?=[*-] )")
_INSIDE: Final = re.compile(r"^ {3}(?! )")
_BLANK_OR_LIST: Final = re.compile(r"^\s*$|^ *(?:[*-]|\d+\.) |^ |^#|^<!--")


def python_markdown(text: str) -> str:
    """The page with lists that Python-Markdown sees: nothing else of it differs."""
    return "\n".join(_lines(text.split("\n")))


def _lines(lines: list[str]) -> Iterator[str]:
    fence, numbered, loose, before = "", False, False, ""  # loose: an item has more than one paragraph
    for line in lines:
        marked = _FENCE.match(line)
        if marked:
            fence = marked[1] if not fence else "" if marked[1].startswith(fence) else fence
        if numbered and (fence or marked) and line.startswith("   "):
            yield f" {line}"  # a block of a numbered item, fence and all
        elif fence or marked:
            yield line
        else:
            item = bool(_ITEM.match(line))
            numbered = bool(_NUMBERED.match(line)) or (numbered and (not line.strip() or line.startswith("   ")))
            if item and before.strip() and (loose or not _BLANK_OR_LIST.match(before)):
                yield ""
            loose = not item and (loose or not line.strip())
            yield _NESTED.sub("    ", line) if _NESTED.match(line) else f" {line}" if numbered and _INSIDE.match(line) else line
        before = line
