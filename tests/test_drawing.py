"""SVG is written in one place, escaped there, and the same bytes come of the same values."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from grail_core import svg
from tooling import REPOSITORY

DRAWER = Path(svg.__file__)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), min_size=1)


def modules() -> Iterator[Path]:
    for root in (REPOSITORY / "tooling", *(REPOSITORY / "packages").glob("*/src")):
        yield from root.rglob("*.py")


def test_no_other_module_writes_svg() -> None:
    found = list(modules())
    assert DRAWER.resolve() in {path.resolve() for path in found}
    writers = [str(path) for path in found if re.search(r"<(svg|rect|circle|polyline)\b", path.read_text())]
    assert [path for path in writers if Path(path).resolve() != DRAWER.resolve()] == []


def test_the_drawer_leans_on_nothing_of_ours_and_on_no_library() -> None:
    tree = ast.parse(DRAWER.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "html", "typing"}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))


def test_whole_numbers_stay_whole_and_others_have_one_decimal() -> None:
    assert svg.line(1, 2.0, 3.25, 4, stroke="red", stroke_width=1.5) == (
        '<line x1="1" y1="2.0" x2="3.2" y2="4" stroke="red" stroke-width="1.5"/>'
    )
    assert svg.polyline([(0, 1.0), (2.55, 3)], fill="none") == '<polyline points="0,1.0 2.5,3" fill="none"/>'


def test_a_drawing_within_a_page_says_what_it_shows() -> None:
    drawn = svg.inline(150, 14, [svg.rect(0, 4, 150, 6, rx=3)], css="bullet", label="3 against 4", width=150)
    assert drawn == (
        '<svg class="bullet" viewBox="0 0 150 14" width="150" role="img" aria-label="3 against 4">'
        '<rect x="0" y="4" width="150" height="6" rx="3"/></svg>'
    )


def test_a_document_stands_alone() -> None:
    root = ElementTree.fromstring(svg.document(200, 100.5, [svg.label(1, 2, "title", bold=True, small=True)]))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.attrib["viewBox"], root.attrib["width"]) == ("0 0 200 100.5", "200")
    ground, title = root
    assert ground.attrib == {"width": "100%", "height": "100%", "fill": "white"}
    assert (title.text, title.attrib["font-weight"], title.attrib["font-size"]) == ("title", "600", "10")


@given(TEXT, TEXT)
def test_no_text_breaks_out_of_its_place(content: str, attribute: str) -> None:
    parts = [
        svg.text(0, 0, content, css=attribute, style=attribute),
        svg.rect(0, 0, 1, 1, title=content, fill=attribute),
        svg.circle(0, 0, 1, title=content, fill=attribute),
        svg.path("M0 0", title_of=attribute),
    ]
    root = ElementTree.fromstring(svg.inline(1, 1, parts, css=attribute, label=content))
    words, rect, circle, path = root
    assert root.attrib["aria-label"] == content
    assert words.text == content
    assert words.attrib["class"] == words.attrib["style"] == attribute
    for shape in (rect, circle):
        assert [child.text for child in shape] == [content]
        assert shape.attrib["fill"] == attribute
    assert path.attrib["title-of"] == attribute
