r"""An answer's text without dress: delimiters, sizes, bold marks, blanks of TeX and Unicode, units, currency, grouped digits.

Everything here keeps apart what was said apart: blanks and degree signs stay between digits, row marks of matrices stay row
marks, and only groups of exactly three digits join (`1 000`, `1{,}000`; with plain commas only outside of brackets).
Standard library only; linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from grail_envs.sandbox.answer_words import plain
from grail_envs.sandbox.written_marks import CURRENCIES, plain_marks

_SYMBOLS = {
    "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "\\div ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "∪": "\\cup ", "∅": "\\emptyset ", "∈": "\\in ", "±": "\\pm ", "≈": "\\approx ",
    "°": "^\\circ ", "º": "^\\circ ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "λ": "\\lambda ", "ℝ": "\\mathbb{R}",
    "′": "'", "’": "'", "∕": "/", "⁄": "/", "∠": "\\angle ", "ω": "\\omega ", "φ": "\\phi ",
    "½": " \\frac{1}{2}", "⅓": " \\frac{1}{3}", "⅔": " \\frac{2}{3}", "¼": " \\frac{1}{4}", "¾": " \\frac{3}{4}",
    "⅕": " \\frac{1}{5}", "⅖": " \\frac{2}{5}", "⅗": " \\frac{3}{5}", "⅘": " \\frac{4}{5}", "⅙": " \\frac{1}{6}",
    "⅚": " \\frac{5}{6}", "⅛": " \\frac{1}{8}", "⅜": " \\frac{3}{8}", "⅝": " \\frac{5}{8}", "⅞": " \\frac{7}{8}",
}  # fmt: skip
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_ROOT_OF_DIGITS = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|)", re.ASCII)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_MIRRORED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"))
_OUTER_BLANKS = re.compile(r"^(?:\s|\\[,;:!> ]|~)+|(?<!\\)(?:\s|\\[,;:!> ]|~)+$")
_BOLD = ("\\mathbf{", "\\boldsymbol{", "\\bm{")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|limits|hline|nolimits)"
    r"(?![a-zA-Z])\.?"
)
_ESCAPED = re.compile(
    r"\\\\(?:\[-?[\d.]+(?:pt|em|ex|mm|cm)\])?|\\[,;:> {}!$%&#]|~|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])"
)
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_GROUPED_OPENLY = re.compile(r"(?<![\w.,}\\^])([1-9]\d{0,2}(?:(?:\{,\}|,\s*\\!\s*|\s*(?:\\[,!;: ]|~)\s*| )\d{3})+)(?!\d| */)")
_THIN_COMMA = re.compile(r"(?<=\d),\s*\\,\s*(?=\d{3}(?!\d))")
_GROUPED_MARK = re.compile(r"\{,\}|,|\\[,!;: ]|~|\s")
_GROUPED = re.compile(r"(?<![\w.,])(?<!\d )[1-9]\d{0,2}(?:,\d{3})+(?!\d|(?:\.\d*)?,\S)")
_MIXED = re.compile(r"(?<![\w.,}^/_\\])(\d{1,60}) +(\d{1,60}) */ *(\d{1,60})(?![\w!^(]|[.,]\d| *[\d(/\\^])")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))|\\(?:degree|deg)(?![a-zA-Z])")
_SCIENTIFIC = re.compile(r"(?<![\w.,])(\d+\.\d+[eE][+-]?|\d+[eE])(\d{1,3})(?![\w.!^])")
_DOTTED = re.compile(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?")
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]+\}")
_NO_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*\}")
_ALL_REALS = re.compile(
    r"(?:\\(?:text|mbox|mathrm|textrm)\s*\{)?\s*(?:(?:all|any) (?:the )?|the (?:set of )?(?:all )?)?real(?: numbers?|s)"
    r"\.?\s*\}?",
    re.IGNORECASE,
)
MAX_TEX_FRACTIONS = 20
_FRACTIONS_OF_TEX = re.compile(r"\\(over|choose)(?![a-zA-Z])")
_UNIT = re.compile(
    r"\s*(?:\\(?:text|mbox|mathrm|textrm|textit|textnormal)\s*\{\s*([a-zA-Z](?:[a-zA-Z ./]|\^\{?[23]\}?)*?)\s*\}"
    r"|(?<![a-zA-Z\\])([a-z]{2,}\.?(?: [a-z]+){0,3}|USD|EUR|GBP|mL))"
    r"\s*(?:\^\s*(?:\{\s*([23])\s*\}|([23])))?\s*$"
)
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit|textnormal|emph)\s*\{([^{}]*)\}")
_HALF_DAY = re.compile(
    r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*([ap])\.?\s*m\.?\s*\}|(?<![a-zA-Z])([ap])\.?\s?m\.?(?![a-zA-Z])", re.I
)
_CURRENCY = {"\\$": "dollar", "\\pounds": "sterling", **{sign: sign for sign in CURRENCIES}}
_CURRENCY |= {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen", "¢": "cent"}
_MONEY = frozenset((*_CURRENCY.values(), "cent"))
_ANGLES = frozenset(("degree", "radian"))
_LETTERS_OF_A_UNIT = re.compile(r"(.*[\d})])\s*([a-zA-Z]+(?: ?/ ?[a-zA-Z]+)?(?:\^\{?[23]\}?)?)", re.DOTALL)
_TIMES = {
    "dozen": "12",
    "hundred": "10^{2}",
    "thousand": "10^{3}",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
}
_OTHER_VALUES = re.compile(
    r"\b(?:or (?:more|less|fewer|greater|above|below|higher|lower|over|under)|not|etc|below zero|and (?:a|one))\b"
    r"|^(?:squared|cubed|factorial|half|halves|thirds?|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)ths?)$"
)
"""Words after a number that make it another number, which is not read."""
_UNITS = {
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "L": "l liter liters litre litres",
    "mL": "ml milliliter milliliters millilitre millilitres",
    "dollar": "dollar dollars usd",
    "cent": "cent cents",
    "euro": "euro euros eur",
    "degree": "degree degrees deg",
    "radian": "radian radians rad",
    "percent": "percent pct",
    "unit": "unit units",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_NO_UNITS = frozenset(
    [
        "and",
        "or",
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "inf",
        "infinity",
        "infty",
        "max",
        "min",
        "gcd",
        "lcm",
    ]
)


def tidy(text: str) -> str:
    """A formula without dress; units and currency stay (see `without_unit`)."""
    text = plain_marks(text)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", text)
    text = _ROOT_OF_DIGITS.sub(lambda match: _ROOTS[match[1]] + (f"{{{match[2]}}}" if match[2] else " "), text)
    text = undressed(_COLOUR.sub(" ", _NO_TEXT.sub(" ", text.translate(_SYMBOL_TABLE))))
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    inside = _bracketed(text)
    text = _THIN_COMMA.sub(lambda match: match[0] if inside[match.start()] else ",", text)
    text = _GROUPED_OPENLY.sub(lambda match: _GROUPED_MARK.sub("", match[1]), text)
    text = _ESCAPED.sub(_plain_escape, text)
    text = _DROPPED.sub(" ", text)
    text = re.sub(r"\\(?:[dtcs]|nice)frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\[dt]binom(?![a-zA-Z])", r"\\binom", text)
    text = _fractions_of_tex(_DOTTED.sub(r"\\overline{\1\2\3}", text))
    text = re.sub(r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset", text)
    text = text.replace("{,}", ",")
    text = re.sub(r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le", text)
    text = re.sub(r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge", text)
    text = re.sub(r"\\neq(?![a-zA-Z])", r"\\ne", text)
    text = re.sub(r"\\(?:ldots|cdots|dotsc|dots)(?![a-zA-Z])", r"\\dots", text)
    text = _DEGREE.sub(r"\\degree ", text)
    text = _ungrouped(text)
    text = _MIXED.sub(_as_mixed, text)
    text = _SCIENTIFIC.sub(
        lambda match: f"({match[1].rstrip('eE+-')}\\cdot 10^{{{match[1][-1].strip('eE+')}{match[2]}}})", text
    )
    text = undressed(re.sub(r"\s+", " ", text).strip())
    text = re.sub(r"^= ?(?![=<>])", "", text)
    return "\\mathbb{R}" if _ALL_REALS.fullmatch(text) else text


def undressed(text: str) -> str:
    """Without what stands around the whole: delimiters, boxes, braces, bold marks, a full stop."""
    while True:
        before = text
        text = _OUTER_BLANKS.sub("", text).strip()
        if text.endswith((".", "。")) and not text.endswith(("\\.", "\\right.", "..")):
            text = text[:-1]
        for opening, closing in _MIRRORED:
            inner = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
                bare = inner.replace("\\$", "")
                if opening not in bare and closing not in bare and not inner.endswith("\\"):
                    text = inner
        for opening in ("\\boxed{", "\\fbox{", "\\underline{", *_BOLD, "{"):
            if text.startswith(opening) and _closes_at_end(text, len(opening)):
                inner = text[len(opening) : -1]
                vector = opening in (*_BOLD, "\\underline{") and len(inner) == 1 and inner.isalpha()
                text = text if vector else inner
        if text == before:
            return text


@dataclass(frozen=True)
class Unit:
    """What was said after a number: its one name (`""`: none that is known), and whether by a sign (`$`, `%`, `°`)."""

    name: str = ""
    sign: bool = False

    def contradicts(self, other: Unit) -> bool:
        """Whether two units cannot both be meant. `$` and `%` contradict only their own kind, `°` every unit but degrees."""
        if not self.name or not other.name or self.name == other.name:
            return False
        if "degree" in (self.name, other.name):
            return True
        return not (self.sign or other.sign) or any({self.name, other.name} <= kind for kind in (_MONEY, _ANGLES))


def without_unit(text: str, gold_words: frozenset[str] = frozenset()) -> tuple[str, Unit]:
    r"""The text without the unit or currency of the whole, and that unit. Plain words in `\text{}` are dropped."""
    text = text.strip()
    found = Unit()
    for sign, currency in _CURRENCY.items():
        unsigned = text.lstrip("-+ ")
        if unsigned.startswith(sign) or text.endswith(sign):
            start = len(text) - len(unsigned) if unsigned.startswith(sign) else len(text) - len(sign)
            text, found = (text[:start] + text[start + len(sign) :]).strip(), Unit(currency, sign=True)
            break
    if text.endswith("%"):
        return text[:-1].removesuffix("\\").strip(), Unit("percent", sign=True)
    if text.endswith("\\degree"):
        return text, Unit("degree", sign=True)  # the sign itself means something in a function
    match = _UNIT.search(text)
    before = text[: match.start()].strip() if match else ""
    if match is None or not before:
        return text, found
    said = (match[1] or match[2]).lower().replace(".", "")
    words = said.split()
    if words[0] in _TIMES and (len(words) == 1 or match[1] or _named(" ".join(words[1:]))):
        rest = " ".join(words[1:])
        return without_unit(f"({before})\\cdot {_TIMES[words[0]]}" + (f"\\text{{ {rest}}}" if rest else ""), gold_words)
    known = _named(said, match[3] or match[4] or "")
    if not known and (_OTHER_VALUES.search(said) or not plain(match[1] or said, gold_words)):
        return text, found
    if not known and (match[3] or match[4]) and not gold_words.issuperset(words):
        return text, found  # a power of what is no unit
    if match[2] is not None and (words[0] in _NO_UNITS or not known or not re.search(r"[\d})]$", before)):
        return text, found
    return before, Unit(known) if known else found


def without_letters(text: str, unit: Unit) -> str:
    """The text without letters at its end that are this unit, as in `5 m`, which alone may be a variable."""
    match = _LETTERS_OF_A_UNIT.fullmatch(text.strip())
    return match[1] if match and unit.name and _named(match[2].lower()) == unit.name else text


def _named(said: str, power: str = "") -> str:
    """The one name of a unit, with its power, or of one unit a piece of another; `""` for words that are no unit."""
    said = re.sub(r"^per cent$", "percent", said)
    said = re.sub(r"\bmph\b", "mi/h", re.sub(r"\bk(?:m/?h|ph)\b", "km/h", said))
    above, *below = re.split(r" ?/ ?| per ", said)
    if below:
        pair = _named(above), _named(below[0], power)
        return "/".join(pair) if len(below) == 1 and all(pair) else ""
    powers = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
    plain = re.fullmatch(r"([a-z ]*)\^\{?([23])\}?", above)
    words = (plain[1] if plain else above).split()
    power = plain[2] if plain else power
    for word in words:
        power = powers.get(word, power)
    rest = [word for word in words if word not in powers]
    name = _UNIT_OF.get(rest[0], "") if len(rest) == 1 else ""
    return f"{name}^{power}" if name and power else name


def half_day(text: str) -> tuple[str, str]:
    """The text without a.m. or p.m. at its end, and which it was."""
    match = next(iter(reversed(list(_HALF_DAY.finditer(text)))), None)
    if match is None or text[match.end() :].strip() or not re.fullmatch(r"[\d: ]+", text[: match.start()].strip()):
        return text, ""
    return text[: match.start()].strip(), (match[1] or match[2]).lower()


def unworded(text: str) -> str:
    r"""The text of `\\text{…}` where the whole is one."""
    match = _TEXT.fullmatch(text.strip())
    return match[1].strip() if match else text


def _plain_escape(match: re.Match[str]) -> str:
    found = match[0]
    if found.startswith("\\\\"):
        return "\\\\ "
    special = {"\\{": "\\lbrace ", "\\}": "\\rbrace ", "\\$": "\\$", "\\%": "%", "\\&": "\\&", "\\#": "\\#"}
    return special.get(found, " ")


def _fractions_of_tex(text: str) -> str:
    r"""`{a \\over b}` and `{a \\choose b}` as commands with two arguments, where nothing parts the group but that mark."""
    for _ in range(MAX_TEX_FRACTIONS):
        match = _FRACTIONS_OF_TEX.search(text)
        if match is None:
            break
        start, end, depth = match.start(), match.end(), 0
        while start > 0 and (depth or text[start - 1] != "{"):
            start -= 1
            depth += (text[start] == "}") - (text[start] == "{")
        while end < len(text) and (depth or text[end] != "}"):
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        above, below = text[start : match.start()].strip(), text[match.end() : end].strip()
        if depth or re.search(r"[=,;&<>]|\\\\|\\(?:over|choose)(?![a-zA-Z])", above + below):
            break
        command = "frac" if match[1] == "over" else "binom"
        text = f"{text[:start]}\\{command}{{{above}}}{{{below}}}{text[end:]}"
    return text


def _ungrouped(text: str) -> str:
    """Commas between groups of three digits dropped, where no bracket is open."""
    inside = _bracketed(text)
    return _GROUPED.sub(lambda match: match[0] if inside[match.start()] else match[0].replace(",", ""), text)


def _bracketed(text: str) -> list[bool]:
    depth, found = 0, []
    for place, character in enumerate(text):
        opens = character in "([" or text.startswith("\\lbrace", place)
        closes = character in ")]" or text.startswith("\\rbrace", place)
        depth = max(0, depth + opens - closes)
        found.append(depth > 0)
    return found


def _as_mixed(match: re.Match[str]) -> str:
    if len(match[2]) == 3 or match[2].startswith("0") or int(match[3]) == 0 or Fraction(int(match[2]), int(match[3])) >= 1:
        return match[0]
    return f"({match[1]}+\\frac{{{match[2]}}}{{{match[3]}}})"


def _closes_at_end(text: str, start: int) -> bool:
    depth, place = 1, start
    while place < len(text):
        if text[place] == "\\":
            place += 2
            continue
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place == len(text) - 1
        place += 1
    return False
