"""The one place that writes SVG: strings in, strings out, the same bytes for the same values, no dependency.

Coordinates and lengths are in user units: an `int` is written as it is, a `float` with one decimal. Every further keyword is
an attribute, written in the order given, `stroke_width=2` as `stroke-width="2"`; texts and attribute values are escaped here
and nowhere else. `css` is the element's class, `title` what a browser shows on hovering.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

Number = int | float
Attribute = str | int | float

INK: Final = "#222"
GRID: Final = "#e5e5e5"
"""Colours of a label and of a grid line in a `document`."""


def document(width: Number, height: Number, parts: Iterable[str]) -> str:
    """A file of its own: white ground, a system font at 12 px."""
    attributes: dict[str, Attribute] = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "style": "font-family:system-ui,sans-serif;font-size:12px",
    }
    ground = _element("rect", {"width": "100%", "height": "100%", "fill": "white"})
    return _element("svg", attributes, "\n".join(["", ground, *parts, ""])) + "\n"


def inline(width: Number, height: Number, parts: Iterable[str], /, *, css: str, label: str, **attributes: Attribute) -> str:
    """A drawing within a page, which styles it by the class `css`; `label` is read out in its place."""
    head: dict[str, Attribute] = {"class": css, "viewBox": f"0 0 {width:g} {height:g}"}
    return _element("svg", {**head, **_named(attributes), "role": "img", "aria-label": label}, "".join(parts))


def text(x: Number, y: Number, content: str, *, css: str = "", **attributes: Attribute) -> str:
    """One line of text; (x, y) is on its baseline, at the end that `text_anchor` says."""
    return _element("text", {**_css(css), "x": _number(x), "y": _number(y), **_named(attributes)}, escape(content))


def label(
    x: Number, y: Number, content: str, *, anchor: str = "start", bold: bool = False, small: bool = False, colour: str = INK
) -> str:
    """A text of a `document`, which has no style sheet."""
    weight = {"font_weight": "600"} if bold else {}
    size = {"font_size": "10"} if small else {}
    return text(x, y, content, text_anchor=anchor, **weight, **size, fill=colour)


def line(x1: Number, y1: Number, x2: Number, y2: Number, *, css: str = "", **attributes: Attribute) -> str:
    ends = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    return _element("line", {**_css(css), **ends, **_named(attributes)})


def grid_line(x1: Number, y1: Number, x2: Number, y2: Number) -> str:
    """A faint line of a `document`, to read values off by."""
    return line(x1, y1, x2, y2, stroke=GRID, stroke_width=1)


def path(steps: str, **attributes: Attribute) -> str:
    """`steps` as the attribute `d` has them."""
    return _element("path", {"d": steps, **_named(attributes)})


def polyline(points: Iterable[tuple[Number, Number]], **attributes: Attribute) -> str:
    joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return _element("polyline", {"points": joined, **_named(attributes)})


def rect(x: Number, y: Number, width: Number, height: Number, *, title: str = "", **attributes: Attribute) -> str:
    """(x, y) is the upper left corner."""
    sides = {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}
    return _element("rect", {**sides, **_named(attributes)}, _title(title))


def circle(x: Number, y: Number, radius: Number, *, title: str = "", **attributes: Attribute) -> str:
    place = {"cx": _number(x), "cy": _number(y), "r": _number(radius)}
    return _element("circle", {**place, **_named(attributes)}, _title(title))


def _element(name: str, attributes: dict[str, Attribute], content: str = "") -> str:
    """`content` is SVG already."""
    head = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items())
    return f"<{name}{head}>{content}</{name}>" if content else f"<{name}{head}/>"


def _number(value: Number) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _named(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    return {key.replace("_", "-"): value for key, value in attributes.items()}


def _css(name: str) -> dict[str, Attribute]:
    return {"class": name} if name else {}


def _title(content: str) -> str:
    return f"<title>{escape(content)}</title>" if content else ""
