r"""What kind of thing an answer is: one value, a list, a tuple or interval, a union, an equation, an inequality.

Read from tidy text (`formula_text`), by what stands outside of every bracket. A name before a value (`x = 5`,
`f(x) = …`, `x \in …`) is kept apart from the value, so that it may be left out but not changed. An inequality of one name
between numbers is also the interval that it describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_JOINERS = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textnormal)\s*\{\s*,?\s*(and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(and|or)(?![a-zA-Z])"
    r"|\\(lor|land|vee|wedge)(?![a-zA-Z])"
)
_GREEK = "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|psi|omega"
_MARKS = "text|mathrm|mathbf|textbf|mathit|boldsymbol|vec|overline|bar|hat|overrightarrow|operatorname|mbox|textrm|mathcal"
_NAME = re.compile(
    rf"(?:[A-Za-z]|[A-Z]{{2,4}}|\\(?:{_GREEK}|ell|Delta|Omega|Phi)(?![a-zA-Z])|\\(?:{_MARKS})\s*\{{[^{{}}]*\}}"
    r"|(?:m\s*)?\\(?:angle|triangle|measuredangle)\s*(?:[A-Z ]{1,5}|\{[A-Z ]{1,5}\}))"
    r"(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*(?:\s*\^\s*\{\s*-1\s*\})?\s*(?:\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\))?"
)
_SIGNS = re.compile(r"\\(?:le|ge|ne|in|approx)(?![a-zA-Z])|<=|>=|[=<>]")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_INTERVALS = ("()", "(]", "[)", "[]")
_CONSTANTS = frozenset(("e", "i", "\\pi", "\\mathrm{e}", "\\mathrm{i}", "\\text{e}", "\\text{i}"))


@dataclass(frozen=True)
class Shape:
    r"""`kind`: `""` (one value), `list` (in any order), `union`, `ratio`, `equation`, `relation`, or a pair of brackets.

    `parts`: texts of the parts, or of the value; of an equation or relation, its sides. `signs`: between the sides.
    `name`: what stood before the value. `also`: all values that a chain of equations says it to have, the last one included.
    `interval`: what a relation describes, where it is an interval. `either`: a list whose parts an "or" joins.
    """

    kind: str
    parts: tuple[str, ...]
    name: str = ""
    signs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    interval: Shape | None = None
    either: bool = False


def shape_of(text: str) -> Shape:
    """The shape of a tidy text."""
    text = _joined(text)
    either = "\\or " in text
    items = [item.strip() for item in _split(text, (",", ";", "\\and ", "\\or ")) if item.strip()]
    if (len(items) == 1 and not text.strip().startswith((",", ";"))) or not items:
        return _one(items[0] if items else text.strip())
    shapes = [_one(item) for item in items]
    sets = (
        shape.interval or shape.kind == "union" or _is_within(item, shape) for item, shape in zip(items, shapes, strict=True)
    )
    name = _common_name(shapes)
    if either and all(sets) and name is not None:
        return Shape("union", tuple(items), name=name)
    parts = tuple(way for item in items for way in _both_signs(item))
    return Shape("list", parts, either=either)


def _is_within(text: str, shape: Shape) -> bool:
    r"""Whether a text says `x \in (0,9)`, so that the pair in brackets is an interval and no point."""
    return shape.kind in _INTERVALS and not shape.name.startswith("(") and _sides(text)[1] == ["\\in"]


def _one(text: str) -> Shape:
    """The shape of what is no list."""
    sides, signs = _sides(text)
    if signs:
        return _related(sides, signs)
    return _value(text)


def _value(text: str, name: str = "") -> Shape:
    text = text.strip()
    unions = _split(text, ("\\cup ", "\\cup"))
    if len(unions) > 1:
        return Shape("union", tuple(part.strip() for part in unions), name)
    if text in ("\\emptyset", "\\lbrace \\rbrace", "\\lbrace\\rbrace"):
        return Shape("list", (), name)
    if re.fullmatch(r"\\mathbb\s*\{\s*R\s*\}|\\R", text):
        return Shape("()", ("-\\infty", "\\infty"), name)
    if text.startswith("\\lbrace") and text.endswith("\\rbrace"):
        inner = text[len("\\lbrace") : -len("\\rbrace")]
        if _balanced(inner):
            parts = [part.strip() for part in _split(_joined(inner), (",", ";", "\\and ", "\\or ")) if part.strip()]
            return Shape("list", tuple(way for part in parts for way in _both_signs(part)), name)
    for opening, closing in (("(", ")"), ("(", "]"), ("[", ")"), ("[", "]"), ("\\langle", "\\rangle")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            parts = [part.strip() for part in _split(inner, (",",))]
            if len(parts) > 1 and _balanced(inner):
                return Shape(opening + closing, tuple(parts), name)
    if text.count("\\pm") == 1:
        return Shape("list", tuple(_both_signs(text)), name)
    ratio = tuple(part.strip() for part in _split(text, (":",)))
    return Shape("ratio", ratio, name) if len(ratio) > 2 else Shape("", (text,), name)


def _related(sides: list[str], signs: list[str]) -> Shape:
    if "\\approx" in signs:
        place = signs.index("\\approx")
        if place or not is_name(sides[0]):  # what is said exactly counts, not what is said about its size
            return _related(sides[: place + 1], signs[:place]) if place else _value(sides[0])
        signs = ["=" if sign == "\\approx" else sign for sign in signs]
    if all(sign in ("=", "\\in") for sign in signs):
        if is_name(sides[0]):
            return replace(_value(sides[-1], named(sides[0])), also=tuple(sides[1:]) if len(sides) > 2 else ())
        if len(sides) == 2 and is_name(sides[1]) and signs == ["="]:
            return _value(sides[0], named(sides[1]))
        return Shape("equation", tuple(sides), signs=tuple(signs))
    return Shape("relation", tuple(sides), signs=tuple(signs), interval=_interval(sides, signs))


def _interval(sides: list[str], signs: list[str]) -> Shape | None:
    """The interval of `a < x`, `x < a` or `a < x < b`, whatever the signs of order are."""
    if any(sign not in _FLIPPED for sign in signs) or len(signs) > 2:
        return None
    if len(signs) == 1:
        if is_name(sides[1]) and not is_name(sides[0]):
            sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
        if not is_name(sides[0]):
            return None
        closed = signs[0] in ("\\le", "\\ge")
        if signs[0] in ("<", "\\le"):
            return Shape("(]" if closed else "()", ("-\\infty", sides[1]), named(sides[0]))
        return Shape("[)" if closed else "()", (sides[1], "\\infty"), named(sides[0]))
    if not is_name(sides[1]) or is_name(sides[0]) or is_name(sides[2]):
        return None
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    if not all(sign in ("<", "\\le") for sign in signs):
        return None
    brackets = ("[" if signs[0] == "\\le" else "(") + ("]" if signs[1] == "\\le" else ")")
    return Shape(brackets, (sides[0], sides[2]), named(sides[1]))


def is_name(text: str) -> bool:
    """Whether a text is a name for what follows, or a tuple of names, and not a constant."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]):
        parts = _split(text[1:-1], (",",))
        return len(parts) > 1 and all(not part.strip().startswith("(") and is_name(part) for part in parts)
    return text not in _CONSTANTS and _NAME.fullmatch(text) is not None


def named(text: str) -> str:
    """A name in one way of writing it."""
    return re.sub(r"\\(?:text|mathrm|mbox|textrm|operatorname)(?![a-zA-Z])|[{}\s]", "", text)


def _common_name(shapes: list[Shape]) -> str | None:
    names = {shape.interval.name if shape.interval else shape.name for shape in shapes}
    return names.pop() if len(names) == 1 else None


def _joined(text: str) -> str:
    return _JOINERS.sub(lambda match: "\\or " if (match[1] or match[2] or match[3]) in ("or", "lor", "vee") else "\\and ", text)


def _both_signs(part: str) -> list[str]:
    if part.count("\\pm") != 1:
        return [part]
    return [re.sub(r"\\pm\s*", "+", part).strip().removeprefix("+"), re.sub(r"\\pm\s*", "-", part)]


def _sides(text: str) -> tuple[list[str], list[str]]:
    """What stands between signs of relation outside of brackets, and the signs."""
    outside = _outside(text)
    sides, signs, start = [], [], 0
    for match in _SIGNS.finditer(text):
        if outside[match.start()]:
            sides.append(text[start : match.start()].strip())
            signs.append({"<=": "\\le", ">=": "\\ge"}.get(match[0], match[0]))
            start = match.end()
    return [*sides, text[start:].strip()], signs


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """The parts between separators that stand outside of every bracket."""
    outside = _outside(text)
    parts, start, place = [], 0, 0
    while place < len(text):
        separator = next((one for one in separators if outside[place] and text.startswith(one, place)), None)
        if separator is not None:
            parts.append(text[start:place])
            start = place = place + len(separator)
        else:
            place += 1
    return [*parts, text[start:]]


def _outside(text: str) -> list[bool]:
    """For each character, whether no bracket is open before it; the interval's `(…]` counts as a pair."""
    depth, found = 0, []
    for place, character in enumerate(text):
        closes = character in ")]}" or text.startswith(("\\rbrace", "\\end", "\\rangle", "\\rfloor", "\\rceil"), place)
        depth -= closes
        found.append(depth == 0 and not closes)
        depth += character in "([{" or text.startswith(("\\lbrace", "\\begin", "\\langle", "\\lfloor", "\\lceil"), place)
    return found


def _balanced(text: str) -> bool:
    """Whether no bracket closes that was not opened within."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{" or text.startswith("\\lbrace", place)) - (
            character in ")]}" or text.startswith("\\rbrace", place)
        )
        if depth < 0:
            return False
    return depth == 0
