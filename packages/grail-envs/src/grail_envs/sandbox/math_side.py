r"""The process that compares two answers: words, bases, lists, intervals, equations and formulas, each by a written rule.

It is forked confined for one comparison and then gone. Nothing is evaluated as a program, nothing is compared by rounding:
`formula_text` takes the dress off, `answer_shape` says what kind of thing stands there, `formula_parser` reads a formula,
`formula_equality` decides. All of it has one budget of work, so that the longest answer ends by itself; what is not decided by
then is not taken. It imports python-flint and the standard library only, and changes nothing in the process that it runs in.
"""

from __future__ import annotations

import re
from typing import Any

from grail_envs.sandbox.answer_shape import Shape, shape_of
from grail_envs.sandbox.answer_words import without_bare_words, words_in
from grail_envs.sandbox.formula_equality import Formulas
from grail_envs.sandbox.formula_parser import parsed
from grail_envs.sandbox.formula_text import Unit, half_day, tidy, unworded, without_letters, without_unit
from grail_envs.sandbox.formula_tree import Node, NotAFormulaError, Product, difference, names

BUDGET = 600_000.0
"""Units of work of one comparison, about a microsecond each."""

MAX_PARTS = 24
MAX_SHAPES = 12
"""Lists within lists."""

_MARKS = r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit|mathit|textnormal)"
_MARKED_WORD = re.compile(rf"[(\[]?\s*{_MARKS}\s*\{{([^{{}}]*)\}}\s*[)\]]?")
_BARE_WORD = re.compile(r"[(\[]?\s*([A-Za-z]{2,}(?:[ ',-]+[A-Za-z0-9]+)*|[A-Za-z])\s*[)\]]?\.?")
_LETTERS = re.compile(r"[a-z]{1,3}")
_CLOCK = re.compile(r"\d{1,2}(?: ?: ?[0-5]\d)+")
_WORD = re.compile(r"[a-z][a-z0-9 ',:-]*")
_BASES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_BASE_WORDS = {word: number for number, word in enumerate(_BASES.split(), start=2)}
_BASE_WORDS |= {"binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hexadecimal": 16}
_BASE = rf"(?:{_MARKS}\s*)?\{{?\s*(?:{_MARKS}\s*\{{)?\s*\(?\s*(?:base\s*\}}?\s*)?(\d{{1,2}}|[a-z]+)\s*\)?\s*\}}*"
_SUBSCRIPTED = re.compile(rf"\(?([0-9A-Z]+)\)?\s*_\s*{_BASE}")
_DIGITS_BEFORE = re.compile(r"^\(?[0-9a-zA-Z]+")
_BASE_AFTER = re.compile(
    rf"([0-9A-Z]+)\s*(?:{_MARKS}\s*\{{)?\s*\(?\s*(?:in\s+)?base[ -]*\}}?\s*(?:{_MARKS}\s*)?\{{?(\d{{1,2}}|[a-z]+)\s*\)?\s*\}}*"
)


def grade(message: dict[str, Any]) -> dict[str, Any]:
    """Whether `answer` says the same as `gold`: `{"passed": bool, "stage": str, "detail": str}`; the stage names the rule.

    The stage is `parse` where the answer is nothing that is read here.
    """
    try:
        return _graded(tidy(message["gold"]), tidy(message["answer"]))
    except (ArithmeticError, RecursionError, ValueError, MemoryError, KeyError, IndexError, TypeError, AttributeError) as error:
        return _verdict(False, "formula", type(error).__name__)


def _graded(gold: str, answer: str) -> dict[str, Any]:
    if not answer:
        return _verdict(False, "parse", "nothing is left of the answer")
    if _folded_blanks(gold) == _folded_blanks(answer):
        return _verdict(True, "same text", "")
    found = _words(gold, answer) or _bases(gold, answer)
    return found or _Answers(words_in(gold)).compared(gold, answer)


def _folded_blanks(text: str) -> str:
    """The text without the blanks that part nothing."""
    return re.sub(r"(?<![\w.])\s+|\s+(?![\w.])", "", text)


def word_of(text: str) -> tuple[str, bool] | None:
    r"""The word, name or letter of a choice that a text is, in lower case, and whether `\text{}` marks it; else None."""
    match = _MARKED_WORD.fullmatch(text.strip())
    marked = match is not None
    match = match or _BARE_WORD.fullmatch(text.strip())
    found = match[1].strip().strip("().:[]").strip().casefold() if match else ""
    return (re.sub(r"\s+", " ", found), marked) if _WORD.fullmatch(found) else None


def _words(gold: str, answer: str) -> dict[str, Any] | None:
    """The verdict on words; None where a formula is meant."""
    expected, found = word_of(gold), word_of(answer)
    if expected is None:
        return None
    if found is not None and (expected[1] or found[1] or min(len(expected[0]), len(found[0])) > 1):
        if expected[0] == found[0]:
            return _verdict(True, "words", "")
        if expected[1] and len(expected[0]) > 1:
            return _verdict(False, "words", "")
    elif expected[1] and len(expected[0]) > 1:
        return _verdict(False, "words", "not of the gold's kind")
    if _LETTERS.fullmatch(gold.strip()) and _LETTERS.fullmatch(answer.strip()):
        return None  # products of variables
    both_bare = found is not None and not expected[1] and not found[1]
    return _verdict(False, "words", "") if both_bare and max(len(expected[0]), len(found[0] if found else "")) > 1 else None


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of a number with its base after it, in digits or words."""
    match = _SUBSCRIPTED.fullmatch(text.strip()) or _BASE_AFTER.fullmatch(text.strip())
    if match is None:
        return None
    base = int(match[2]) if match[2].isdigit() else _BASE_WORDS.get(match[2], 0)
    digits = match[1].lstrip("0") or "0"
    if not 2 <= base <= 36 or not any(digit.isdigit() for digit in match[1]):
        return None
    return (digits, base) if all(int(digit, 36) < base for digit in digits) else None


def _bases(gold: str, answer: str) -> dict[str, Any] | None:
    (expected_name, gold), (name, answer) = _name_and_value(gold), _name_and_value(answer)
    expected, found = based(gold), based(answer)
    if expected is not None and found is None:
        found = based(_DIGITS_BEFORE.sub(lambda match: match[0].upper(), answer.strip()))
    if expected is None and found is None:
        return None
    if name and expected_name and name != expected_name:
        return _verdict(False, "base", "another name")
    if expected is None or found is None:
        plain = [((text.lstrip("0") or "0"), 10) for text in (gold.strip(), answer.strip()) if text.strip().isdecimal()]
        if plain and 10 in (expected or found or ("", 0)):
            return _verdict((expected or plain[0]) == (found or plain[0]), "base", "")
        return _verdict(False, "base", "only one of the two names a base")
    return _verdict(expected == found, "base", "")


def _name_and_value(text: str) -> tuple[str, str]:
    """The name that stands before a value, and the value."""
    shape = shape_of(text) if "=" in text else None
    return (shape.name, shape.parts[0]) if shape and shape.kind == "" and shape.name and not shape.also else ("", text)


class _Answers:
    """Two answers and what is known of their parts."""

    def __init__(self, gold_words: frozenset[str]) -> None:
        self._gold_words = gold_words
        self._formulas = Formulas(BUDGET)
        self._read: dict[str, Node | None] = {}

    def compared(self, gold: str, answer: str) -> dict[str, Any]:
        if not self.readable(answer, 0):
            return _verdict(False, "parse", "not a formula")
        same = self.same(gold, answer, 0)
        return _verdict(same, "formula" if shape_of(gold).kind == shape_of(answer).kind == "" else "parts", "")

    def readable(self, text: str, depth: int) -> bool:
        """Whether a text is something that is read here: a formula, a word, or a list of such."""
        if depth > MAX_SHAPES:
            return False
        if word_of(text) or based(text):
            return True
        shape = shape_of(half_day(without_unit(unworded(text), self._gold_words)[0])[0])
        if not all(self.readable(part, depth + 1) for part in shape.also):
            return False
        if shape.kind == "":
            return self._formula(without_unit(shape.parts[0], self._gold_words)[0]) is not None
        return len(shape.parts) <= MAX_PARTS and all(self.readable(part, depth + 1) for part in shape.parts if part != text)

    def same(self, gold: str, answer: str, depth: int) -> bool:
        """Whether two texts say the same thing."""
        if depth > MAX_SHAPES:
            return False
        if depth:
            found = _words(gold, answer) or _bases(gold, answer)
            if found is not None:
                return bool(found["passed"])
        (gold, expected_half), (answer, half) = half_day(unworded(gold)), half_day(unworded(answer))
        if expected_half or half:
            return (expected_half == half or "" in (expected_half, half)) and _clock(gold) == _clock(answer)
        (gold, expected_unit), (answer, unit) = (
            without_unit(unworded(gold), self._gold_words),
            without_unit(unworded(answer), self._gold_words),
        )
        gold, expected_unit = _letters_dropped(gold, expected_unit, unit)
        answer, unit = _letters_dropped(answer, unit, expected_unit)
        if expected_unit.contradicts(unit):
            return False
        if _CLOCK.fullmatch(gold.strip()) and _CLOCK.fullmatch(answer.strip()):
            return _clock(gold) == _clock(answer)
        return self._same_shape(shape_of(gold), shape_of(answer), depth)

    def _same_shape(self, gold: Shape, answer: Shape, depth: int) -> bool:
        if "relation" in (gold.kind, answer.kind):
            return self._same_relation(gold, answer, depth)
        if "equation" in (gold.kind, answer.kind) or (gold.name and answer.name and gold.name != answer.name):
            return self._same_equation(gold, answer)
        if gold.kind == "()" and answer.kind == "list":
            return self._same_tuple(gold, answer, depth)
        if gold.kind != answer.kind or len(gold.parts) != len(answer.parts) or len(answer.parts) > MAX_PARTS:
            return False
        if not self._consistent(answer, depth):
            return False
        if gold.kind == "":
            return self._same_value(gold.parts[0], answer.parts[0])
        if gold.kind == "ratio":
            return self._same_ratio(gold.parts, answer.parts)
        if gold.kind in ("list", "union") and not self._in_order(gold, answer):
            return self._same_in_any_order(gold.parts, answer.parts, depth)
        return all(self.same(one, other, depth + 1) for one, other in zip(gold.parts, answer.parts, strict=True))

    def _same_tuple(self, gold: Shape, answer: Shape, depth: int) -> bool:
        """Whether a list gives each part of a tuple its name, in the order of the tuple's own names or else of the alphabet."""
        parts = [shape_of(part) for part in answer.parts]
        its_names = [part.name for part in parts]
        if answer.either or len(parts) != len(gold.parts) or len(parts) > MAX_PARTS:
            return False
        if not all(part.kind == "" and part.name for part in parts) or len(set(its_names)) < len(parts):
            return False
        if its_names != sorted(its_names) if not gold.name else gold.name != f"({','.join(its_names)})":
            return False
        return all(self.same(one, other, depth + 1) for one, other in zip(gold.parts, answer.parts, strict=True))

    def _same_in_any_order(self, gold: tuple[str, ...], answer: tuple[str, ...], depth: int) -> bool:
        left = list(answer)
        for one in gold:
            match = next((place for place, other in enumerate(left) if self.same(one, other, depth + 1)), None)
            if match is None:
                return False
            left.pop(match)
        return True

    def _in_order(self, gold: Shape, answer: Shape) -> bool:
        """Whether only the order says which value is whose: one list gives all its values names, all different."""
        for named, bare in ((gold, answer), (answer, gold)):
            its_names = [shape_of(part).name for part in named.parts]
            several = all(its_names) and 1 < len(its_names) == len(set(its_names))
            if several and not any(shape_of(part).name for part in bare.parts):
                return True
        return False

    def _same_value(self, gold: str, answer: str) -> bool:
        (gold, expected_unit), (answer, unit) = without_unit(gold, self._gold_words), without_unit(answer, self._gold_words)
        gold, expected_unit = _letters_dropped(gold, expected_unit, unit)
        answer, unit = _letters_dropped(answer, unit, expected_unit)
        if expected_unit.contradicts(unit):
            return False
        return self._same_formula(gold, answer) or self._same_counted(gold, answer)

    def _same_formula(self, gold: str, answer: str) -> bool:
        expected, found = self._formula(gold), self._formula(answer)
        return expected is not None and found is not None and self._formulas.same(expected, found)

    def _same_counted(self, gold: str, answer: str) -> bool:
        """Whether two numbers are the same, without the plain words that stand behind them."""
        bare = [without_bare_words(text, self._gold_words) for text in (gold, answer)]
        read = [self._formula(text) for text in bare]
        counted = bare != [gold, answer] and all(node is not None and not names(node) for node in read)
        return counted and self._same_formula(*bare)

    def _same_ratio(self, gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
        """Whether the parts of one are the parts of the other, times a number."""
        expected, found = [self._formula(part) for part in gold], [self._formula(part) for part in answer]
        if None in expected or None in found:
            return False
        pairs = [(Product((one, found[0])), Product((other, expected[0]))) for one, other in zip(expected, found, strict=True)]  # type: ignore[arg-type]
        return all(self._formulas.same(one, other) for one, other in pairs)

    def _consistent(self, answer: Shape, depth: int) -> bool:
        """Whether all values of a chain such as x = 4/2 = 2 are one."""
        return all(self.same(answer.also[-1], other, depth + 1) for other in answer.also[:-1])

    def _same_equation(self, gold: Shape, answer: Shape) -> bool:
        value = self._identity(answer)
        if value is not None and gold.kind == "":
            return self._same_value(gold.parts[0], value)
        sides = [_equation_sides(shape) for shape in (gold, answer)]
        if sides[0] is None or sides[1] is None:
            return False
        read = [[self._formula(side) for side in one] for one in sides if one is not None]
        (first, second), (third, fourth) = read
        if first is None or second is None or third is None or fourth is None:
            return False
        left, right = difference(first, second), difference(third, fourth)
        if not names(left) or not names(right):
            return False
        return self._formulas.proportional(left, right) != 0

    def _identity(self, shape: Shape) -> str | None:
        """The value of a chain of equal numbers such as 2 + 3 = 5."""
        if shape.kind != "equation":
            return None
        nodes = [self._formula(part) for part in shape.parts]
        if any(node is None or names(node) for node in nodes):
            return None
        return shape.parts[-1] if all(self._same_value(shape.parts[-1], part) for part in shape.parts[:-1]) else None

    def _same_relation(self, gold: Shape, answer: Shape, depth: int) -> bool:
        first, second = gold.interval, answer.interval
        if gold.kind != "relation" or answer.kind != "relation":
            interval, other = (first, answer) if gold.kind == "relation" else (second, gold)
            if interval is None or (interval.name and other.name and interval.name != other.name):
                return False
            pair = (interval, other) if gold.kind == "relation" else (other, interval)
            return self._same_shape(pair[0], pair[1], depth)
        if first is not None and second is not None:
            return first.name == second.name and self._same_shape(first, second, depth)
        return self._proportional_relations(gold, answer)

    def _proportional_relations(self, gold: Shape, answer: Shape) -> bool:
        if len(gold.signs) != 1 or len(answer.signs) != 1:
            pairs = list(zip(gold.parts, answer.parts, strict=False))
            return gold.signs == answer.signs and all(self._same_value(one, other) for one, other in pairs)
        read = [self._formula(part) for part in (*gold.parts, *answer.parts)]
        if any(node is None for node in read):
            return False
        left, right = difference(read[0], read[1]), difference(read[2], read[3])  # type: ignore[arg-type]
        sign = self._formulas.proportional(left, right)
        flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
        expected = gold.signs[0] if sign > 0 else flipped.get(gold.signs[0], gold.signs[0])
        return sign != 0 and expected == answer.signs[0]

    def _formula(self, text: str) -> Node | None:
        if text not in self._read:
            try:
                self._read[text] = parsed(text)
            except (NotAFormulaError, ArithmeticError, ValueError):
                self._read[text] = None
        return self._read[text]


def _equation_sides(shape: Shape) -> tuple[str, str] | None:
    if shape.kind == "equation" and len(shape.parts) == 2 and shape.signs == ("=",):
        return shape.parts[0], shape.parts[1]
    if shape.kind == "" and shape.name and not shape.also:
        return shape.name, shape.parts[0]
    return None


def _letters_dropped(text: str, unit: Unit, other: Unit) -> tuple[str, Unit]:
    """A text without a unit in letters (`5 m`) where the other side has that unit in words."""
    bare = text if unit.name else without_letters(text, other)
    return bare, unit if bare == text else other


def _clock(text: str) -> str:
    """A time of day in one way of writing it: 6, 6:00 and 06:00 are one."""
    hours, _, minutes = text.replace(" ", "").partition(":")
    return f"{hours.lstrip('0')}:{minutes or '00'}"


def _verdict(passed: bool, stage: str, detail: str) -> dict[str, Any]:
    return {"passed": passed, "stage": stage, "detail": detail}
