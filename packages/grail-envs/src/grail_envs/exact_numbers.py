r"""Numbers as people write them, read as exact rationals: `1,080`, `1080.0`, `$1,080`, `1/2`, `\frac{1}{2}`, `1.5e3`, `50%`.

One text is one number or none: words, two numbers, expressions and malformed grouping (`1,08`) are not numbers, so nothing
is guessed and nothing evaluated. A comma or a blank (any blank of Unicode) joins groups of exactly three digits after a first
group of one to three that does not begin with 0; a decimal comma is not read, so `0,111` is no number. Text over 64 characters
is refused before any pattern runs, and every pattern is applied to that bounded text only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from grail_envs.sandbox.written_marks import CURRENCIES, plain_marks

MAX_NUMBER_CHARACTERS: Final = 64
_MAX_EXPONENT: Final = 30

_DECIMAL: Final = r"(?:[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)|\d+)(?:\.\d*)?|\.\d+"
_PLAIN: Final = re.compile(rf"([+-]?)({_DECIMAL})(?:[eE]([+-]?\d{{1,3}}))?", re.ASCII)
_QUOTIENT: Final = re.compile(rf"([+-]?)({_DECIMAL})/({_DECIMAL})", re.ASCII)
_MIXED: Final = re.compile(r"([+-]?)(\d+)[ +](\d+)/(\d+)", re.ASCII)
_FRACTION_COMMAND: Final = re.compile(rf"([+-]?)(\d*)\\[dt]?frac\{{([+-]?)({_DECIMAL})\}}\{{({_DECIMAL})\}}", re.ASCII)
_SHORT_FRACTION: Final = re.compile(r"(\\[dt]?frac)(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))", re.ASCII)

_TEX_BLANK: Final = re.compile(r"\\[,!;: ]")


@dataclass(frozen=True)
class WrittenNumber:
    """A value and whether a per-cent sign stood after it; the sign is not applied to the value."""

    value: Fraction
    percent: bool

    def equals(self, gold: WrittenNumber) -> bool:
        """Equal as the gold means it: a `%` counts only where the gold has one, and there a bare number is the ratio itself."""
        if not gold.percent:
            return self.value == gold.value
        mine = self.value / 100 if self.percent else self.value
        return mine == gold.value / 100


def read_number(text: str) -> WrittenNumber | None:
    """The number that a text is, or None. Linear in the length of the text; at most 64 characters are looked into."""
    text = text.strip()
    if not text or len(text) > MAX_NUMBER_CHARACTERS:
        return None
    digits = text[1:] if text[0] in "+-" else text
    if digits.isascii() and digits.isdigit():
        return WrittenNumber(Fraction(int(text)), percent=False)
    text = _without_dress(plain_marks(text).strip())
    percent = text.endswith("%")
    if percent:
        text = text[:-1].rstrip()
        if text.endswith("\\"):
            text = text[:-1].rstrip()
    value = _value(_without_currency(text))
    return None if value is None else WrittenNumber(value, percent)


def _without_dress(text: str) -> str:
    r"""The text without math delimiters, `\boxed{}`, `\text{}`, bold marks, thin spaces and the full stop of a sentence."""
    text = text.replace("{,}", ",")
    if "\\" in text:
        text = text.replace(",\\!", ",").replace("\\$", "$").replace("\\%", "%")
        text = _TEX_BLANK.sub(" ", text)
    while True:
        before = text
        text = text.strip()
        if not text.startswith(".") and not text.endswith(".."):
            text = text.removesuffix(".")
        for opening, closing in (
            ("\\boxed{", "}"),
            ("\\text{", "}"),
            ("\\(", "\\)"),
            ("\\[", "\\]"),
            ("**", "**"),
            ("$$", "$$"),
        ):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                text = text[len(opening) : -len(closing)]
        if len(text) > 2 and text[0] == "$" == text[-1]:
            text = text[1:-1]
        if text == before:
            return text


def _without_currency(text: str) -> str:
    sign = text[:1] if text[:1] in ("+", "-") else ""
    rest = text[len(sign) :].strip()
    if rest[:1] and rest[0] in CURRENCIES:
        rest = rest[1:].lstrip()
        if not sign and rest[:1] in ("+", "-"):
            return rest
    elif rest[-1:] and rest[-1] in CURRENCIES:
        rest = rest[:-1].rstrip()
    return sign + rest


def _value(text: str) -> Fraction | None:
    if match := _PLAIN.fullmatch(text):
        exponent = int(match[3] or 0)
        if abs(exponent) > _MAX_EXPONENT:
            return None
        value = _decimal(match[2])
        return _signed(match[1], value * Fraction(10) ** exponent if exponent else value)
    spaced = re.sub(r" */ *", "/", text)
    quotient, mixed = _QUOTIENT.fullmatch(spaced), _MIXED.fullmatch(spaced)
    if quotient and mixed:
        return None  # 1 200/300 may be four, or one and two thirds
    if match := quotient:
        return _divided(match[1], _decimal(match[2]), _decimal(match[3]))
    if match := mixed:
        part = _divided("", Fraction(match[3]), Fraction(match[4]))
        return None if part is None else _signed(match[1], int(match[2]) + part)
    whole_parts = _SHORT_FRACTION.sub(lambda match: f"{match[1]}{{{match[2] or match[3]}}}{{{match[4] or match[5]}}}", text)
    if match := _FRACTION_COMMAND.fullmatch(whole_parts):
        part = _divided(match[3], _decimal(match[4]), _decimal(match[5]))
        if part is None or (match[2] and match[3]):
            return None
        return _signed(match[1], int(match[2] or 0) + part)
    return None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _divided(sign: str, numerator: Fraction, denominator: Fraction) -> Fraction | None:
    return None if denominator == 0 else _signed(sign, numerator / denominator)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
