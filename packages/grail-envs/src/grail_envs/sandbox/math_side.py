r"""The process that compares two formulas: exact where numbers, words or bases stand, else parsed from LaTeX by math-verify.

It is forked confined for one comparison and then gone, so a power tower or a deep nest costs its limit and no more, and no
cache of an earlier comparison can change a verdict. Only LaTeX is parsed: the extraction of plain expressions, which
evaluates Python, is never used. Decimals become fractions first, so nothing is equal by rounding. It imports math-verify,
sympy and the standard library only.
"""

from __future__ import annotations

import logging
import re
import sys
from fractions import Fraction
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

_CONFIG = [LatexExtractionConfig()]
_DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)(?![\w.])")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_UNIT = re.compile(r"\\(?:text|mbox|mathrm|textrm)\{\s*([a-zA-Z][a-zA-Z .]*?)\s*\}(?:\^\{?[23]\}?)?\s*$")
_WORDS = re.compile(r"(?:\\(?:text|mbox|mathrm|textrm|textbf|mathbf)\{([^{}]*)\}|\(?([A-Za-z]{2,}|[A-J])\)?)")
_BASED = re.compile(r"([0-9A-Z]+)_\{?(\d{1,2})\}?")
_INTEGER = r"([+-]?\d{1,60})"
_PLAIN = re.compile(_INTEGER)
_QUOTIENT = re.compile(rf"{_INTEGER}/(\d{{1,60}})")
_FRACTION = re.compile(r"([+-]?)(\d{1,60})?\\frac\{([+-]?\d{1,60})\}\{(\d{1,60})\}")
_NAMED = re.compile(r"^\s*[a-zA-Z]\s*(?:=|\\in(?![a-z]))\s*")
_DROPPED = ("\\left", "\\right", "\\displaystyle", "\\!", "\\bigl", "\\bigr", "\\Bigl", "\\Bigr", "\\big", "\\Big")


def settle() -> None:
    """Make this process one that only compares: no library's log, and room for deep nests. Call it where nothing else runs."""
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(5000)


def grade(message: dict[str, Any]) -> dict[str, Any]:
    """Whether `answer` says the same as `gold`: `{"passed": bool, "stage": str, "detail": str}`; the stage names the rule."""
    gold, answer = tidy(message["gold"]), tidy(message["answer"])
    if not answer:
        return _verdict(False, "parse", "nothing is left of the answer")
    if gold.replace(" ", "") == answer.replace(" ", ""):
        return _verdict(True, "same text", "")
    for rule, read in (("words", words), ("base", based), ("numbers", number)):
        expected = read(gold)
        if expected is not None:
            found = read(answer)
            if rule == "numbers" and found is None:
                break  # a number may be written as an expression
            return _verdict(found == expected, rule, "" if found is not None else "not of the gold's kind")
    if based(answer) is not None:
        return _verdict(False, "base", "the gold names no base")
    expected_kind, expected_parts = parts_of(gold)
    kind, parts = parts_of(answer)
    if expected_kind or kind:
        return _compared_parts(expected_kind, expected_parts, kind, parts)
    return _compared(gold, answer)


def parts_of(text: str) -> tuple[str, list[str]]:
    r"""What a list of things is and its parts: `union`, `set` (braces or none), or the two brackets of a tuple or interval.

    `("", [])` where the text is one thing. `a \pm b` in a set counts for both.
    """
    text = _NAMED.sub("", text).strip()
    unions = _split(text, "\\cup")
    if len(unions) > 1:
        return "union", unions
    braces = text.startswith("\\lbrace") and text.endswith("\\rbrace")
    body = text[len("\\lbrace") : -len("\\rbrace")] if braces else text
    parts = _split(body, ",")
    if braces or len(parts) > 1:
        return "set", [way for part in parts for way in _both_signs(part)] if body.strip() else []
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and _encloses(text):
        inner = _split(text[1:-1], ",")
        if len(inner) > 1:
            return text[0] + text[-1], inner
    if "\\pm" in text:
        return "set", _both_signs(text)
    return "", []


def _both_signs(part: str) -> list[str]:
    if part.count("\\pm") != 1:
        return [part]
    return [part.replace("\\pm", "+").strip().removeprefix("+"), part.replace("\\pm", "-")]


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand inside no bracket."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "([{" or text.startswith("\\lbrace", place):
            depth += 1
        elif text[place] in ")]}" or text.startswith("\\rbrace", place):
            depth -= 1
        elif depth == 0 and text.startswith(separator, place):
            parts.append(text[start:place])
            start = place + len(separator)
        place += 1
    return [*parts, text[start:]]


def _encloses(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _compared_parts(expected_kind: str, expected: list[str], kind: str, found: list[str]) -> dict[str, Any]:
    if expected_kind != kind or len(expected) != len(found) or len(found) > 24:
        return _verdict(False, "parts", "another kind of list, or another number of things")
    if kind not in ("set", "union"):
        return _verdict(all(_same(one, other) for one, other in zip(expected, found, strict=True)), "parts", "")
    left = list(found)
    for one in expected:
        match = next((place for place, other in enumerate(left) if _same(one, other)), None)
        if match is None:
            return _verdict(False, "parts", "a thing of the gold is missing")
        left.pop(match)
    return _verdict(True, "parts", "")


def _same(gold: str, answer: str) -> bool:
    return bool(grade({"gold": gold, "answer": answer})["passed"])


def tidy(text: str) -> str:
    """A formula without dress: delimiters, sizes, thin spaces, units, degree signs, currency, grouping of digits."""
    text = (
        text.strip()
        .replace("−", "-")
        .replace("\u00a0", " ")
        .replace("°", "^\\circ")
        .replace("π", "\\pi ")
        .replace("∞", "\\infty ")
    )
    while True:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith("\\."):
            text = text[:-1]
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                text = text[len(opening) : -len(closing)]
        for opening in ("\\boxed{", "{"):
            if text.startswith(opening) and _closes_at_end(text, len(opening)):
                text = text[len(opening) : -1]
        if text == before:
            break
    text = re.sub(r"(?<=\d),\s*\\!\s*(?=\d{3})", ",", text)
    for dropped in _DROPPED:
        text = re.sub(re.escape(dropped) + r"(?![a-zA-Z])", "", text)
    text = text.replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = text.replace("{,}", ",").replace("\\$", "").replace("\\%", "").replace("%", "")
    text = re.sub(r"(?<=\d),\s*\\,\s*(?=\d)|(?<=\d)\\,(?=\d{3})", ",", text)
    text = re.sub(r"\\[,;:> ]|~|\\quad|\\qquad", " ", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", "", text)
    if words(text) is None:
        text = _UNIT.sub("", text.strip())
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?:\D|$))(?=.*,\s)", ", ", text)
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = re.sub(r"\\(frac|sqrt)\s*(\d)", r"\\\1{\2}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}", text)
    text = _DECIMAL.sub(_as_fraction, text)
    return re.sub(r"\s+", " ", text).strip()


def words(text: str) -> str | None:
    """The word, name or letter of a choice that the whole text is, in lower case; None for a formula."""
    match = _WORDS.fullmatch(text.strip())
    if match is None:
        return None
    found = (match[1] if match[1] is not None else match[2]).strip().strip("().").casefold()
    return found if re.fullmatch(r"[a-z][a-z '-]*", found) else None


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of a number with its base as subscript."""
    match = _BASED.fullmatch(text.replace(" ", ""))
    return None if match is None else (match[1].lstrip("0") or "0", int(match[2]))


def number(text: str) -> Fraction | None:
    """The rational number that the whole text is, mixed numbers included."""
    text = _NAMED.sub("", text).replace(" ", "")
    if match := _PLAIN.fullmatch(text):
        return Fraction(int(match[1]))
    if match := _QUOTIENT.fullmatch(text):
        return Fraction(int(match[1]), int(match[2])) if int(match[2]) else None
    if (match := _FRACTION.fullmatch(text)) and int(match[4]):
        part = Fraction(int(match[3]), int(match[4])) + int(match[2] or 0)
        return -part if match[1] == "-" else part
    return None


def _as_fraction(match: re.Match[str]) -> str:
    whole, places = match[1] or "0", match[2].rstrip("0")
    if not places:
        return whole
    value = Fraction(int(whole + places), 10 ** len(places))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value.numerator)


def _closes_at_end(text: str, start: int) -> bool:
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place == len(text) - 1
    return False


def _compared(gold: str, answer: str) -> dict[str, Any]:
    try:
        expected, found = _parsed(gold), _parsed(answer)
        if expected is None or found is None:
            return _verdict(False, "parse", "not a formula")
        same = verify(expected, found, float_rounding=12, numeric_precision=30, strict=True, timeout_seconds=None)
        return _verdict(bool(same), "formula", "")
    except Exception as error:  # noqa: BLE001 - a formula that the parsers cannot digest is no answer
        return _verdict(False, "formula", type(error).__name__)


def _parsed(text: str) -> Any:
    found = parse(f"${text}$", extraction_config=_CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
    found = [item for item in found if not isinstance(item, str)]
    return found[0] if found else None


def _verdict(passed: bool, stage: str, detail: str) -> dict[str, Any]:
    return {"passed": passed, "stage": stage, "detail": detail}


# What is parsed here is in the caches of every fork, so each comparison starts from the same state.
for _text in (r"\frac{\sqrt{2}}{3}", r"-\infty", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"x^2 - 3x + 1", r"y = 2x", r"2i"):
    _compared(_text, _text + "+0")
