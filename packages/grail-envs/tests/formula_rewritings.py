r"""Mechanical rewritings of a formula: `same` says the same in other words, `different` says something else.

Used by the tests of the `math` environment on every gold answer of MATH-500 and on own examples.
"""

from __future__ import annotations

import re
from fractions import Fraction

_INTEGER = re.compile(r"-?\d+")
_FRACTION = re.compile(r"(-?)\\d?frac\s*\{?(\d+?)\}?\s*\{?(\d+)\}?")


def value_of(gold: str) -> Fraction | None:
    """The rational number that a gold answer is, read without the grader's own reader."""
    bare = gold.replace("\\!", "").replace("\\$", "").replace("^\\circ", "").replace(" ", "")
    bare = re.sub(r"(?<=\d),(?=\d{3})", "", bare)
    if re.fullmatch(r"-?\d*\.?\d+", bare):
        return Fraction(bare)
    match = re.fullmatch(r"(-?)\\d?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d+))", bare)
    if match:
        return Fraction(int(match[1] + (match[2] or match[3])), int(match[4] or match[5]))
    return None


def same(gold: str) -> list[str]:
    """At least nine ways to write the gold, the gold itself first."""
    ways = [
        gold,
        f"  {gold} ",
        f"${gold}$",
        f"\\({gold}\\)",
        f"\\[ {gold} \\]",
        f"\\boxed{{{gold}}}",
        f"{gold}.",
        f"{{{gold}}}",
    ]
    ways += [
        f"\\displaystyle {gold}",
        f"$${gold}$$",
        f"\\,{gold}\\,",
        gold.replace(",", " , ") if not re.search(r"\d,", gold) else gold,
    ]
    ways += [gold.replace("\\frac", "\\dfrac"), gold.replace("\\frac", "\\tfrac"), gold.replace("\\dfrac", "\\frac")]
    ways.append(gold.replace("\\left", "").replace("\\right", ""))
    ways.append(gold.replace("\\left", "").replace("\\right", "").replace("(", "\\left(").replace(")", "\\right)"))
    ways += [re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", gold), gold.replace("^\\circ", "^{\\circ}"), gold.replace("^\\circ", "°")]
    ways += [gold.replace("^\\circ", "\\text{ degrees}"), gold.replace("^\\circ", "")]
    if gold.startswith("\\text{"):
        ways += [gold[6:-1], gold[6:-1].upper(), gold.replace("\\text", "\\mathrm")]
    value = value_of(gold)
    if value is not None:
        ways += [f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}", f"x = {gold}"]
        ways.append(f"\\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}")
        ways.append(f"{value.numerator * 2}/{value.denominator * 2}")
        if value.denominator == 1:
            ways += [
                f"{value.numerator}.0",
                f"{value.numerator:,}",
                f"{value.numerator:,}".replace(",", "{,}"),
                f"{value} \\text{{ {'degrees' if 'circ' in gold else 'cm'}}}",
            ]
        elif not 10**6 % value.denominator:
            ways += [f"{float(value)!r}" if float(value) > 1e-4 else gold, f"{float(value):.8f}"]
    parts = gold.strip("\\{}").split(",")
    if (
        len(parts) > 1
        and (gold.startswith("\\{") or re.fullmatch(r"[\d\s,-]+", gold))
        and not re.fullmatch(r"\d{1,3}(,\d{3})+", gold)
    ):
        ways.append(("\\{%s\\}" if gold.startswith("\\{") else "%s") % ", ".join(parts[::-1]))
    return list(dict.fromkeys(ways))


def different(gold: str) -> list[str]:
    """Texts that say something else than the gold."""
    value = value_of(gold)
    if value is not None:
        near = [
            value + 1,
            -value if value else Fraction(7),
            value + Fraction(1, 10**6),
            3 * value + Fraction(1, 3),
            value + Fraction(1, 7),
        ]
        return [f"\\frac{{{one.numerator}}}{{{one.denominator}}}" for one in near] + [
            "\\text{none}",
            "x",
            "\\{1, 2, 3, 4\\}",
            "(1, 2)",
        ]
    ways = ["12345", "\\text{zebra}", "\\frac{7}{1234}", "(7, 8, 9, 10)"]
    if gold.startswith("\\text{"):
        return ways
    if match := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        return [*ways, match[1], f"{match[1]}_{int(match[2]) + 1}", f"{int(match[1]) + 1}_{match[2]}"]
    ways.append(_INTEGER.sub(lambda found: str(int(found[0]) + 1), gold, count=1) if _INTEGER.search(gold) else f"{gold} + 1")
    bare = gold.replace("\\left", "").replace("\\right", "").strip()
    if bare[0] in "([" and bare[-1] in ")]" and "\\cup" not in bare and bare.count(",") == 1:
        left, right = bare[1:-1].split(",")
        ways.append(f"{bare[0]}{right},{left}{bare[-1]}")
        ways.append(f"{'[' if bare[0] == '(' else '('}{bare[1:]}")
        ways.append(f"\\{{{left},{right}\\}}")
    if (
        "(" not in gold
        and "=" not in gold
        and "matrix" not in gold
        and "\\{" not in gold
        and "," not in gold
        and "text" not in gold
    ):
        ways += [f"{gold} + 1", f"-({gold}) + 3", f"2({gold})"] if "\\pm" not in gold and "\\in" not in gold else []
    return ways
