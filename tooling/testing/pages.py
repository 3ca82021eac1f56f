"""`python -m tooling.testing.pages`: dead links in tracked Markdown, and tracked files that have grown too large.

A link is dead where the file, folder or heading it leads to is not in the repository; anchors are GitHub's. Addresses of other
sites are not tried, so that the answer depends on the repository alone. What git does not track does not exist for this check.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath

from tooling import REPOSITORY

MAX_BYTES = 512 * 1024
"""Of a tracked file: what is cloned by everybody and never leaves the history."""
MAX_PYTHON_LINES = 500
"""Of a Python file: beyond it, it has a second subject."""
LARGER: dict[str, str] = {}
"""Path → why this file may be larger than either."""

_LINK = re.compile(r"\]\(\s*<?([^\s<>()]+)>?(?:\s+\"[^\"]*\")?\s*\)")  # its text may have begun on the line before
_DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
_NAMED = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
_FENCE = re.compile(r"^\s*(```+|~~~+)")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


def tracked(root: Path) -> list[str]:
    """What git tracks and what is there: a file that was just deleted is gone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    return [path for path in listed.split("\0") if path and (root / path).is_file()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a page without its code blocks."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        marked = _FENCE.match(line)
        if marked and not fence:
            fence = marked[1]
        elif marked and marked[1].startswith(fence):
            fence = ""
        elif not fence:
            yield number, line


def anchors(text: str) -> set[str]:
    """The anchors GitHub gives a page's headings: lower case, punctuation dropped, spaces to hyphens, repeated ones counted."""
    found: set[str] = set()
    for _, line in prose(text):
        found.update(_NAMED.findall(line))
        if heading := _HEADING.match(line):
            shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            repeated = [f"{slug}-{n}" for n in range(1, len(found) + 1)]
            found.add(next(name for name in (slug, *repeated) if name not in found))
    return found


def links(text: str) -> Iterator[tuple[int, str]]:
    """Line and target of every link and image that leads into the repository."""
    for number, line in prose(text):
        shown = re.sub(r"(`+).*?\1", "`", line)
        targets = _LINK.findall(shown) + _DEFINITION.findall(shown)
        yield from ((number, target) for target in targets if not _SCHEME.match(target))


def dead_links(root: Path, files: Collection[str]) -> list[str]:
    """One line for each link of a Markdown file in `files` that leads to none of them."""
    there = {*files, *(str(folder) for path in files for folder in PurePosixPath(path).parents)}
    pages = {path: (root / path).read_text(encoding="utf-8") for path in files if path.endswith(".md")}
    anchors_of = {path: anchors(text) for path, text in pages.items()}
    found = []
    for page, text in pages.items():
        for number, target in links(text):
            place, _, anchor = target.partition("#")
            path = normpath(PurePosixPath(page).parent / place) if place else page
            if path not in there:
                found.append(f"{page}:{number}: {target} leads to nothing that git tracks")
            elif anchor and path in anchors_of and anchor not in anchors_of[path]:
                found.append(f"{page}:{number}: {target} names no heading of {path}")
    return found


def too_large(root: Path, files: Collection[str]) -> list[str]:
    """One line for each file over a limit that `LARGER` does not excuse."""
    found = []
    for path in files:
        data = (root / path).read_bytes()
        if path in LARGER:
            continue
        if len(data) > MAX_BYTES:
            found.append(
                f"{path}: {len(data)} bytes, more than {MAX_BYTES}; make it smaller, or say why in tooling.testing.pages.LARGER"
            )
        if path.endswith(".py") and (lines := data.count(b"\n")) > MAX_PYTHON_LINES:
            found.append(f"{path}: {lines} lines, more than {MAX_PYTHON_LINES}; part it by subject")
    return found


def main(root: Path = REPOSITORY) -> int:
    files = tracked(root)
    found = [*dead_links(root, files), *too_large(root, files)]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
