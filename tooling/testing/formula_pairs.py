r"""Pairs of answers that are equal, or unequal, by how they are made; the same for the same number on every machine.

Nothing of the grader is used: a pair is made from whole numbers and rational numbers of Python, and written in two ways. An
unequal pair differs in one thing that the kind names (a digit, a sign, a bracket, a row mark, a unit, a name), and where values
are compared the values are computed first and differ.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final


@dataclass(frozen=True)
class FormulaPair:
    """`right`: whether the two say the same."""

    kind: str
    gold: str
    answer: str
    right: bool


Made = tuple[str, str, bool]
_BLANKS: Final = (" ", "\u00a0", "\u2009", "\u202f", "\u2007", "\\,", "{,}")
_MINUSES: Final = ("-", "\u2212", "\ufe63", "\uff0d", "\u2013")


def formula_pair(number: int) -> FormulaPair:
    """The pair of a number; kinds take turns."""
    draws = random.Random(f"formula pair {number}")
    names = sorted(KINDS)
    kind = names[number % len(names)]
    return FormulaPair(kind, *KINDS[kind](draws, bool(draws.getrandbits(1))))


def written(value: Fraction, draws: random.Random) -> str:
    """One of the ways in which people write a rational number."""
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    ways = [f"{sign}\\frac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}", f"{sign}\\dfrac{{{3 * top}}}{{{3 * bottom}}}"]
    if bottom == 1:
        ways += [f"{sign}{top}"] * 3 + [f"{sign}{top}.0", f"{{{sign}{top}}}"]
    elif top > bottom:
        ways.append(f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}")
    if not 10**6 % bottom:
        digits = f"{sign}{top * 10**6 // bottom / 10**6:.6f}"
        ways.append(digits.rstrip("0").rstrip("."))
    return draws.choice(ways)


def _rational(draws: random.Random) -> Fraction:
    return Fraction(draws.randint(-40, 40), draws.choice((1, 1, 1, 2, 3, 4, 5, 7, 8)))


def _other(value: Fraction, draws: random.Random) -> Fraction:
    return draws.choice((value + 1, value - 1, value + Fraction(1, 7), -value if value else Fraction(2), value * 10 + 1))


def _factorials(draws: random.Random, right: bool) -> Made:
    top, drop = draws.randint(20, 2500), draws.randint(1, 4)
    value = math.perm(top, drop)
    if draws.getrandbits(1):
        return f"\\frac{{{top}!}}{{{top - drop}!}}", str(value if right else value + draws.choice((1, -1, top))), right
    below = top if right else top + draws.choice((1, 2, -1))
    return f"\\frac{{1}}{{{top}!}}", f"\\frac{{{below}}}{{{below}\\cdot {below}!}}", right


def _powers(draws: random.Random, right: bool) -> Made:
    base, exponent, part = draws.randint(2, 12), draws.randint(60, 4000), draws.randint(1, 50)
    other = exponent if right else exponent + draws.choice((1, -1))
    sign = draws.choice(("", "-"))
    gold = draws.choice((f"{base}^{{{sign}{exponent}}}", f"{base}^{{{sign}{exponent}}}+{base}^{{-{2 * exponent}}}"))
    split = f"{base}^{{{sign}{other - part}}} \\cdot {base}^{{{sign}{part}}}"
    if "+" in gold:
        split += f"+\\frac{{1}}{{{base**2}^{{{exponent}}}}}"
        if not right and draws.getrandbits(1):
            split = f"{base}^{{{sign}{exponent}}}+{base}^{{-{2 * exponent + 1}}}"
    return gold, split, right


def _towers(draws: random.Random, right: bool) -> Made:
    base, zeros, times = draws.choice((2, 3, 5, 7)), draws.randint(8, 40), draws.randint(2, 6)
    other = 0 if right else draws.choice((1, -1))
    return f"{base**times}^{{10^{{{zeros}}}}}", f"{base}^{{{times} \\cdot 10^{{{zeros}}}+{other}}}".replace("+-", "-"), right


def _surds(draws: random.Random, right: bool) -> Made:
    a, b, k = draws.randint(2, 30), draws.choice((2, 3, 5, 6, 7, 10, 11, 13)), draws.randint(2, 9)
    off = 0 if right else draws.choice((1, -1))
    ways = (
        (f"{a}\\sqrt{{{b * k * k}}}", f"{a * k + off}\\sqrt{{{b}}}"),
        (f"\\frac{{{a}}}{{\\sqrt{{{b}}}}}", f"\\frac{{{a + off}\\sqrt{{{b}}}}}{{{b}}}"),
        (f"(\\sqrt{{{a}}}+\\sqrt{{{b}}})^2", f"{a + b + off}+2\\sqrt{{{a * b}}}"),
        (f"\\frac{{1}}{{{a}-\\sqrt{{{b}}}}}", f"\\frac{{{a + off}+\\sqrt{{{b}}}}}{{{a * a - b}}}"),
        (f"\\sqrt{{{a + b}+2\\sqrt{{{a * b}}}}}", f"\\sqrt{{{b}}}+\\sqrt{{{a + off}}}"),
        (f"\\sqrt[3]{{{b * k**3}}}", f"{k + off}\\sqrt[3]{{{b}}}"),
        (f"\\sqrt{{{b}}}", f"\\sqrt{{{b}}}+10^{{-{a * 60}}}" if off else f"\\frac{{{b}}}{{\\sqrt{{{b}}}}}"),
    )
    gold, answer = draws.choice([way for way in ways if a * a != b])
    return gold, answer, right


def _logarithms(draws: random.Random, right: bool) -> Made:
    p, q = draws.sample((2, 3, 5, 7, 11), 2)
    m, n = draws.randint(1, 9), draws.randint(2, 9)
    off = 0 if right else draws.choice((1, 2))
    ways = (
        (f"\\ln({p}^{{{m}}} \\cdot {q})", f"{m + off}\\ln {p}+\\ln {q}"),
        (f"\\log_{{{p}}} {p**n}", str(n + off)),
        (f"\\log_{p}({p**2 * q})", f"{2 + off}+\\log_{p} {q}"),
        (f"\\log_{p} {q}", f"\\frac{{\\ln {q + off}}}{{\\ln {p}}}"),
        (f"\\ln(2+\\sqrt{{3}})+{n}", f"{n + off}-\\ln(2-\\sqrt{{3}})"),
        (f"e^{{{m}+\\ln {q}}}", f"{q + off}e^{{{m}}}"),
        (f"{m}\\pi", f"{m}\\pi+\\frac{{{off}}}{{{q}^{{{300 * n}}}}}"),
    )
    return *draws.choice(ways), right


def _angles(draws: random.Random, right: bool) -> Made:
    n = draws.choice((5, 7, 8, 9, 12, 15, 17, 18, 24))
    k = draws.choice([k for k in range(1, n) if 2 * k != n])
    off = 0 if right else draws.choice((1, 2))
    degrees = draws.choice([degrees for degrees in range(1, 89) if degrees != 44])
    ways = (
        (f"\\sin\\frac{{{k}\\pi}}{{{n}}}", f"\\sin\\frac{{{n - k + 2 * n * off}\\pi}}{{{n}}}" + ("+10^{-90}" if off else "")),
        (f"\\cos^2\\frac{{{k}\\pi}}{{{n}}}", f"\\frac{{1+\\cos\\frac{{{2 * k}\\pi}}{{{n}}}}}{{{2 + off}}}"),
        (f"\\sin {degrees}^\\circ", f"\\cos({90 - degrees - off}°)"),
        (f"\\tan {degrees}^\\circ", f"\\frac{{\\sin {degrees}^\\circ}}{{\\cos {degrees + off}^\\circ}}"),
        ("\\cos 36^\\circ", f"\\frac{{{1 + off}+\\sqrt{{5}}}}{{4}}"),
        (f"\\arctan\\frac{{1}}{{{n}}}", f"\\frac{{\\pi}}{{2}}-\\arctan {n + off}"),
    )
    return *draws.choice(ways), right


def _tuples(draws: random.Random, right: bool) -> Made:
    values = [_rational(draws) for _ in range(draws.randint(2, 4))]
    mine = list(values)
    if not right:
        place = draws.randrange(len(values))
        mine[place] = _other(values[place], draws)
        if draws.random() < 0.3:
            mine = [*values, Fraction(1)]
    blank = draws.choice((",", ", ", " , ", ",\\ "))
    return _tuple(values, ",", draws), _tuple(mine, blank, draws), right


def _tuple(values: list[Fraction], comma: str, draws: random.Random) -> str:
    opening, closing = draws.choice((("(", ")"), ("\\left(", "\\right)")))
    return opening + comma.join(written(value, draws) for value in values) + closing


def _intervals(draws: random.Random, right: bool) -> Made:
    low = _rational(draws)
    high = low + abs(_rational(draws)) + 1
    left, end = draws.choice("(["), draws.choice(")]")
    ends = written(low, draws), written(high, draws)
    gold = f"{left}{ends[0]},{ends[1]}{end}"
    if not right:
        change = draws.randrange(3)
        left = {"(": "[", "[": "("}[left] if change == 0 else left
        low, high = (low - 1, high) if change == 1 else (low, high + Fraction(1, 3)) if change == 2 else (low, high)
    lower, upper = written(low, draws), written(high, draws)
    if draws.getrandbits(1):
        signs = {"(": "<", "[": "\\le"}[left], {")": "<", "]": "\\leq"}[end]
        return gold, f"{lower} {signs[0]} x {signs[1]} {upper}", right
    return gold, f"\\left{left} {lower} , {upper} \\right{end}", right


def _sets(draws: random.Random, right: bool) -> Made:
    values = list({_rational(draws) for _ in range(draws.randint(2, 5))})
    if len(values) < 2:
        values = [Fraction(1), Fraction(2)]
    mine = draws.sample(values, len(values))
    if not right:
        new = draws.choice([value for value in (Fraction(n) for n in range(41, 60)) if value not in values])
        mine = draws.choice(([*mine, new], mine[:-1], [*mine[:-1], new]))
    texts = [written(value, draws) for value in mine]
    forms = ["\\{" + ", ".join(texts) + "\\}", "\\lbrace " + ",".join(texts) + "\\rbrace"]
    if len(texts) > 1:
        forms += [", ".join(texts[:-1]) + draws.choice((" and ", " \\text{ or } ", ", and ")) + texts[-1], ", ".join(texts)]
    whole = [str(value.numerator) if value.denominator == 1 else written(value, draws) for value in values]
    return "\\{" + ",".join(whole) + "\\}", draws.choice(forms), right


def _matrices(draws: random.Random, right: bool) -> Made:
    height, width = draws.randint(1, 3), draws.randint(1, 3)
    rows = [[_rational(draws) for _ in range(width)] for _ in range(height)]
    mine = [list(row) for row in rows]
    if not right and height != width and draws.random() < 0.4:
        mine = [list(column) for column in zip(*rows, strict=True)]
    elif not right:
        row, column = draws.randrange(height), draws.randrange(width)
        mine[row][column] = _other(mine[row][column], draws)
    return _matrix(rows, draws), _matrix(mine, draws), right


def _matrix(rows: list[list[Fraction]], draws: random.Random) -> str:
    kind = draws.choice(("pmatrix", "bmatrix"))
    mark = draws.choice(("\\\\", " \\\\ ", "\\\\ ", " \\\\\n", "\\\\[2pt]"))
    cell = draws.choice(("&", " & ", " &"))
    body = mark.join(cell.join(written(value, draws) for value in row) for row in rows)
    blank = draws.choice(("", " ", "\n"))
    return f"\\begin{{{kind}}}{blank}{body}{draws.choice(('', mark))}{blank}\\end{{{kind}}}"


def _equations(draws: random.Random, right: bool) -> Made:
    a, b, c, k = draws.randint(2, 9), draws.randint(2, 9), draws.randint(1, 30), draws.choice((2, 3, -1, -2))
    off = 0 if right else draws.choice((1, 2))
    ways = (
        (f"{a}x+{b}y={c}", f"{k * a}x+{k * b}y={k * (c + off)}".replace("+-", "-")),
        (f"y={a}x+{b}", f"{a}x-y+{b + off}=0"),
        (f"y={a}x+{b}", f"{b + off}+{a}x"),
        (f"x={a}", str(a + off)),
        (f"x={a}", f"{'y' if off else 'x'}={a}"),
        (f"x^2+y^2={c}", f"{c + off}-x^2=y^2"),
        (f"{a}x+{b}y={c}", str(c) if off else f"{c}={b}y+{a}x"),
        (f"f(x)={a}x^2-{b}", f"{a}x^2-{b + off}"),
        (f"x>{c}", f"{a}x>{a * (c + off)}"),
        (f"{a}x<{c}", f"-{a}x{'<' if off else '>'}-{c}"),
    )
    return *draws.choice(ways), right


def _units(draws: random.Random, right: bool) -> Made:
    value = draws.randint(1, 999)
    words = draws.choice((("cm", "centimeters"), ("kg", "kilograms"), ("hours", "hr"), ("feet", "ft"), ("miles", "mile")))
    power = draws.choice(("", "^2", "^3"))
    other = draws.choice((" minutes", " inches", " grams", " seconds", " yards"))
    gold = f"{value}\\text{{ {words[0]}}}{power}"
    ways = [f"{value}\\text{{ {words[1]}}}{power}", str(value), f"{value} \\mathrm{{{words[0]}}}{power}", f"{value}.0"]
    wrong = [f"{value}\\text{{{other}}}{power}", f"{value + 1}\\text{{ {words[0]}}}{power}", f"{value}\\text{{ {words[0]}}}^4"]
    if draws.random() < 0.3:
        hour, half = draws.randint(1, 12), draws.choice(("a", "p"))
        gold = f"{hour}\\text{{ {half}.m.}}"
        ways = [f"{hour} {half}m", f"{hour}:00 \\text{{ {half.upper()}M}}", f"{hour}\\text{{ {half}m}}"]
        wrong = [f"{hour} {'p' if half == 'a' else 'a'}m", f"{hour % 12 + 1} {half}.m."]
    if not right and wrong[-1].endswith("^4"):
        wrong.pop()
    return gold, draws.choice(ways if right else wrong), right


def _mixed_numbers(draws: random.Random, right: bool) -> Made:
    whole, bottom = draws.randint(1, 30), draws.randint(2, 12)
    top = draws.choice([top for top in range(1, bottom) if math.gcd(top, bottom) == 1])
    sign = draws.choice(("", "-"))
    gold = f"{sign}\\frac{{{whole * bottom + top}}}{{{bottom}}}"
    if not right:
        gold = f"{sign}\\frac{{{whole}{top}}}{{{bottom}}}"
        if Fraction(int(f"{whole}{top}"), bottom) == whole + Fraction(top, bottom):
            gold += "+1"
    space = draws.choice((" ", "\u00a0", "  "))
    ways = (f"{whole}{space}{top}/{bottom}", f"{whole}\\frac{{{top}}}{{{bottom}}}", f"{whole} \\tfrac{{{top}}}{{{bottom}}}")
    return gold, sign + draws.choice(ways), right


def _groups(draws: random.Random, right: bool) -> Made:
    value = draws.randint(1000, 10**9)
    grouped = f"{value:,}"
    minus = draws.choice(_MINUSES)
    if right:
        answer = grouped.replace(",", draws.choice(_BLANKS))
        return f"-{grouped}", minus + answer + draws.choice(("", " €", "\u202f€", "\u2009%", ".0")), True
    digits = str(value)
    place = draws.choice([place for place in range(1, len(digits)) if len(digits) - place != 3])
    wrong = (
        digits[:place] + draws.choice((" ", "\u200b", "\\,", "^\\circ ")) + digits[place:],
        "0," + digits[-3:],
        f"[{grouped}]",
    )
    return digits, draws.choice(wrong), False


def _polynomials(draws: random.Random, right: bool) -> Made:
    a, b, c = (draws.randint(1, 12) for _ in range(3))
    off = 0 if right else draws.choice((1, -1))
    ways = (
        (f"(x+{a})(x-{b})", f"x^2+{a - b}x-{a * b + off}".replace("+-", "-")),
        (f"(x+{a})^3", f"x^3+{3 * a}x^2+{3 * a * a + off}x+{a**3}"),
        (f"\\frac{{x+{a}}}{{x+{b}}}", f"1+\\frac{{{a - b + off}}}{{x+{b}}}"),
        (f"{a}\\sin 2x", f"{2 * a + off}\\sin x\\cos x"),
        (f"\\cos 2x+{c}", f"{c + 1 + off}-2\\sin^2 x"),
        (f"{a}\\cdot 2^{{n+{b}}}", f"{a * 2**b + off}\\cdot 2^n"),
        (f"\\sqrt{{{b * b}x^2}}", f"{b}|x|" if right else f"{b}x"),
        (f"{c}r^2", f"{c}R^2" if off else f"{c}r\\cdot r"),
    )
    return *draws.choice(ways), right


def _notations(draws: random.Random, right: bool) -> Made:
    digits = draws.choice(("3", "6", "27", "142857", "09", "12"))
    value = Fraction(int(digits), 10 ** len(digits) - 1)
    base, number = draws.randint(2, 9), draws.randint(3, 500)
    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
    off = 0 if right else 1
    number_text = _in_base(number, base)
    ways = (
        (f"\\frac{{{value.numerator}}}{{{value.denominator}}}", "0." + (digits * 4 if off else f"\\overline{{{digits}}}")),
        (f"{number_text}_{{{base}}}", f"{_in_base(number + off, base)}_{{\\text{{{words[base - 2]}}}}}"),
        (f"{number_text}_{base}", number_text if off else f"{number_text} \\text{{ base }}{base}"),
        (f"{number}", f"**{number + off}**"),
        (f"-{base}, {number}", f"a={number + off} \\text{{ or }} a=-{base}"),
        (f"\\text{{({'PQRSTUVW'[base - 2]})}}", "PQRSTUVWX"[base - 2 + off]),
        ("\\emptyset", "\\{0\\}" if off else draws.choice(("\\varnothing", "\\{\\}", "\\{ \\}"))),
        (f"{base}e^{{{number}}}", f"{base + off}\\mathrm{{e}}^{{{number}}}"),
    )
    return *draws.choice(ways), right


def _in_base(number: int, base: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = str(digit) + digits
    return digits


KINDS: Final[dict[str, Callable[[random.Random, bool], Made]]] = {
    "angles": _angles,
    "equations": _equations,
    "factorials": _factorials,
    "groups of digits": _groups,
    "intervals": _intervals,
    "logarithms": _logarithms,
    "matrices": _matrices,
    "mixed numbers": _mixed_numbers,
    "notations": _notations,
    "polynomials": _polynomials,
    "powers": _powers,
    "sets": _sets,
    "surds": _surds,
    "towers": _towers,
    "tuples": _tuples,
    "units": _units,
}
"""What a pair is about; each makes (gold, answer, whether they are the same) from draws and whether they shall be."""
