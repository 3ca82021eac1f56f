"""What the page of symptoms names is there: every word of the log, exit code, message and setting that it sends a reader to."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from grail_core import errors
from grail_core.participant.settings import declarations
from tooling import REPOSITORY
from tooling.testing.pages import prose

PAGE = REPOSITORY / "docs/troubleshooting.md"
OTHERS = {"CUDA_VISIBLE_DEVICES"}  # settings of somebody else's
_CODE = re.compile(r"`([^`]+)`")
_QUOTED = re.compile(r"“([^”]+)”")
_WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+")
_ROW = re.compile(r"^\| (\d+) \|")


@cache
def said() -> str:
    """Every text that the packages' code holds, parts of one joined as they are printed."""
    texts = []
    for path in sorted(REPOSITORY.glob("packages/*/src/**/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if id(node) in silent:
                continue
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def page(path: Path = PAGE) -> str:
    return "\n".join(line for _, line in prose(path.read_text(encoding="utf-8")))


def exit_codes() -> set[int]:
    """Of every error of ours, wherever it is declared, and of wrong usage."""
    found = {2}
    for path in REPOSITORY.glob("packages/*/src/**/*.py"):
        found |= {int(number) for number in re.findall(r"^ +exit_code(?:: ClassVar\[int\])? = (\d+)$", path.read_text(), re.M)}
    return found


def test_the_rows_of_exit_codes_are_those_of_the_errors_there_are() -> None:
    rows = {int(found[1]) for line in page().splitlines() if (found := _ROW.match(line))}
    assert errors.GrailError.exit_code in exit_codes()
    assert rows == exit_codes()


@pytest.mark.parametrize("word", sorted(filter(_WORD.fullmatch, set(_CODE.findall(page())))))
def test_a_word_of_the_log_or_of_a_check_is_one_that_code_says(word: str) -> None:
    assert re.search(rf"(?<![\w]){word}(?![\w])", said())


@pytest.mark.parametrize("text", sorted(set(_QUOTED.findall(page()))))
def test_a_message_that_is_quoted_is_one_of_ours(text: str) -> None:
    assert text in said()


def test_a_setting_that_is_named_is_one_of_ours() -> None:
    known = {one.name for one in declarations()} | OTHERS
    named = {found[0] for word in _CODE.findall(page()) if (found := re.match(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+", word))}
    assert named
    assert named <= known, named - known
