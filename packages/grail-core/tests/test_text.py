"""Whatever a stranger wrote, what a person reads neither acts, nor hides, nor turns around."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from grail_core.errors import StorageError
from grail_core.protocol.findings import MAX_DETAIL, MAX_NUMBER_TEXT
from grail_core.telemetry.console import PlainColumn, PlainConsole
from grail_core.text import MAX_COMBINING, MAX_LINE, printable, printable_lines
from grail_core.verification.wording import reject

HOSTILE = (
    *(
        "\x1b",
        "\x9b",
        "\x00",
        "\r",
        "\x08",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\u200b",
        "\u200d",
        "\u2060",
        "\ufeff",
    ),
    *("\u202e", "\u202a", "\u2066", "\u2069", "\u200f", "\u061c", "\u05d0", "\u0627", "\ud800", "\udc00", "\ufffe", "\ue000"),
    *("\u00ad", "\u034f", "\u115f", "\u3164", "\ufe0f", "\u2800", "\u180e", "\u3000", "\u00a0", "\U000e0041", "\U0001f600"),
)
strange = st.text(st.characters() | st.sampled_from(HOSTILE), max_size=60) | st.lists(st.sampled_from(HOSTILE)).map("".join)
DANGEROUS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def is_harmless(text: str) -> bool:
    """By Python's tables of Unicode, which the code under test does not ask."""
    marks = longest = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        longest = max(longest, marks)
        if unicodedata.category(character) in DANGEROUS - {"Cn"} or unicodedata.bidirectional(character) in ("R", "AL", "RLO"):
            return False
    return longest <= MAX_COMBINING and "\u3000" not in text


@given(strange, st.integers(0, 80))
def test_what_is_printable_is_one_harmless_line_of_its_length_and_stays_as_it_is(text: str, most: int) -> None:
    made = printable(text, most)
    assert len(made) <= most
    assert is_harmless(made)
    assert printable(made, most) == made
    lines = printable_lines(text, most)
    assert is_harmless(lines.replace("\n", ""))
    assert printable_lines(lines, most) == lines


@pytest.mark.parametrize("character", HOSTILE)
def test_what_is_not_harmless_is_seen_by_its_escape(character: str) -> None:
    assert printable(f"a{character}b").startswith("a\\")


HONEST = ("", "plain", "naïve Ünïcode", "Việt", "Привет", "日本語かな", "한국어", "2⁶⁴ · ≤ 0.3 → “x”…", "[/x] <b> \\")


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == printable_lines(text) == text


def test_accents_do_not_pile_up_and_nothing_is_long() -> None:
    assert printable("e" + "\u0301" * 50).startswith("e\u0301\u0301\\u0301")
    assert len(printable("\x00" * 10**6)) == MAX_LINE
    assert printable("x" * 10**6)[-1] == "…"
    assert printable("x" * 10, 3) == "xx…"


@given(strange)
def test_a_finding_says_nothing_that_acts(text: str) -> None:
    finding = reject("schema", value=text * 9, threshold=text * 9, detail=text * 30)
    for said, most in ((finding.value, MAX_NUMBER_TEXT), (finding.threshold, MAX_NUMBER_TEXT), (finding.detail, MAX_DETAIL)):
        assert isinstance(said, str)
        assert is_harmless(said)
        assert len(said) <= most


@given(strange)
def test_an_error_says_nothing_that_acts(text: str) -> None:
    error = StorageError(text, where=text, hint=text)
    assert is_harmless(str(error).replace("\n", ""))
    assert is_harmless(error.where)


def printed(*things: object) -> str:
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, color_system=None, width=200)
    for thing in things:
        console.print(thing)
    return out.getvalue()


MARKUP = ("[/x]", "[bold]x[/bold]", "[link=file:///etc/passwd]x[/link]", ":smile:", "[", "\\[red]")


@given(strange | st.sampled_from(MARKUP))
def test_a_console_prints_markup_as_it_stands_and_nothing_that_acts(text: str) -> None:
    table = Table(text, title=text)
    table.add_row(text)
    shown = printed(text, Text(text), table)
    assert is_harmless(shown.replace("\n", ""))


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown(text: str) -> None:
    table = Table("why")
    table.add_row(text)
    assert text in printed(text)
    assert text in printed(table)


def test_a_progress_bar_takes_no_markup() -> None:
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=200)
    with Progress(PlainColumn(), PlainColumn("note"), console=console) as progress:
        progress.add_task("[/x]\x1b[2J", total=1, note="[/y]")
        task = progress.tasks[0]
        told = [column.render(task) for column in progress.columns if isinstance(column, PlainColumn)]
        assert [str(text) for text in told] == ["[/x]\\x1b[2J", "[/y]"]


@pytest.mark.parametrize("width", [40, 60, 120])
def test_a_sentence_is_folded_between_words_and_stands_under_its_first(width: int) -> None:
    out = io.StringIO()
    sentence = " ".join(f"word{number}" for number in range(60))
    PlainConsole(file=out, force_terminal=True, color_system=None, width=width).say(f"  {sentence}")
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert [line[: len(line) - len(line.lstrip())] for line in lines] == ["  ", *["    "] * (len(lines) - 1)]
    assert " ".join(line.strip() for line in lines) == sentence
    whole = io.StringIO()
    PlainConsole(file=whole, width=width).say(f"  {sentence}")
    assert whole.getvalue() == f"  {sentence}\n", "in a pipe it stays one line, which can be searched for"
