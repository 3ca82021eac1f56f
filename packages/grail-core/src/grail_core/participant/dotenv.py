"""The grammar of `.env`, which is smaller than a shell's and strict: a line is a setting, a comment, blank, or a fault.

    line    =  blank | "#" anything | ["export"] NAME "=" value [blanks "#" anything]
    NAME    =  a letter or "_", then letters, digits, "_", "." and "-"
    value   =  plain | "'" anything but "'" "'" | '"' anything, with \\" \\\\ \\$ \\` for these four '"'
    plain   =  anything that begins with no quote; it ends before blanks and "#", or with the line

Blanks (spaces and tabs) around NAME, "=" and value do not count. A value ends on its line, nothing is expanded, and a
control character has no place anywhere. What elsewhere begins a comment (//, ;, --), ends or continues a line (;, \\) or sets a
second variable is part of a plain value here, and that it is hardly meant is told with it (`Assignment.doubt`). Faults name a
line and what to write, never what stands there: it may be a secret.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_ASSIGNMENT = re.compile(rf"(?:export[ \t]+)?({_NAME})[ \t]*=(.*)", re.DOTALL)
_COLON = re.compile(rf"(?:export[ \t]+)?({_NAME})[ \t]*:", re.DOTALL)
_OURS = r"(GRAIL|BT|R2)_[A-Z_]+|NETUID"
_NAMED = re.compile(rf"(?<![A-Za-z0-9_])({_OURS})(?![A-Za-z0-9_])")
_COMMENT = re.compile(r"(?<=[ \t])#")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AFTER_QUOTE = re.compile(r"[ \t]*(?:[ \t]#.*)?")
_ESCAPE = re.compile(r"\\([\"\\$`])")
_EXPANSION = re.compile(r"(?<!\\)(?:\\\\)*(?:\$[A-Za-z_{(]|`)")
_OTHER_COMMENT = re.compile(r"[ \t](//|;|--)(?:[ \t]|$)")
_SECOND = re.compile(rf"[ \t]({_OURS})[ \t]*=")


@dataclass(frozen=True)
class Assignment:
    """One setting of a file.

    `expands`: a shell would put something else in place of a `$…` or backquotes in it. `doubt`: why the plain value is hardly
    what was meant, "" where nothing speaks against it.
    """

    name: str
    value: str = field(repr=False)  # it may be a secret
    line: int  # from 1
    expands: bool = False
    doubt: str = ""


@dataclass(frozen=True)
class Fault:
    """A line that is none of the grammar's."""

    line: int  # from 1
    what: str
    hint: str


def parse(text: str) -> tuple[list[Assignment], list[Fault]]:
    """Every setting and every fault of a file's text, in the order of its lines, which end with LF or CR LF."""
    assignments: list[Assignment] = []
    faults: list[Fault] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        found = _parse_line(raw.removesuffix("\r").strip(" \t"), number)
        if isinstance(found, Fault):
            faults.append(found)
        elif found is not None:
            assignments.append(found)
    return assignments, faults


def _parse_line(line: str, number: int) -> Assignment | Fault | None:
    strange = next((char for char in line if char != "\t" and unicodedata.category(char) == "Cc"), None)
    if strange is not None:
        return Fault(number, f"there is a control character ({strange!a}) on this line", "write the line again without it")
    if not line or line.startswith("#"):
        return None
    match = _ASSIGNMENT.fullmatch(line)
    if match is None:
        return _no_assignment(line, number)
    name, rest = match[1], match[2]
    if rest.lstrip(" \t")[:1] in ("'", '"'):
        return _quoted(name, rest.strip(" \t"), number)
    comment = _COMMENT.search(rest)
    value = (rest[: comment.start()] if comment else rest).strip(" \t")
    return Assignment(name, value, number, expands=_EXPANSION.search(value) is not None, doubt=_doubt(value))


def _doubt(value: str) -> str:
    """What other programs' files mean by something that is part of a plain value here."""
    second, comment = _SECOND.search(value), _OTHER_COMMENT.search(value)
    if second is not None:
        return f"{second[1]} stands on the same line"
    if comment is not None:
        return f"{comment[1]} begins no comment here"
    if value.endswith(";"):
        return "; ends no line here"
    return "a line does not go on behind a backslash" if value.endswith("\\") else ""


def _no_assignment(line: str, number: int) -> Fault:
    hidden = next((char for char in line.partition("=")[0] if char not in " \t" and _is_hidden(char)), None)
    if hidden is not None:
        return Fault(
            number, f"there is a character that cannot be seen ({hidden!a}) on this line", "write the line again without it"
        )
    colon = _COLON.match(line)
    if colon is not None and re.fullmatch(_OURS, colon[1]):  # another word before a colon may be a key and its secret
        return Fault(number, f"{colon[1]} is followed by a colon, not by =", f"write {colon[1]}=value")
    if line.startswith("["):
        return Fault(number, "this is no TOML file: there are no tables in it", "take the line out, or use grail.toml")
    if colon is not None:
        return Fault(number, "a name is followed by a colon, not by =", "write NAME=value")
    ours = _NAMED.search(line)
    return Fault(number, "this line is no NAME=value", f"write {ours[1] if ours else 'NAME'}=value, or # before a comment")


def _is_hidden(char: str) -> bool:
    """Whether it looks like nothing, or like a blank: byte order marks, zero-width characters, every space of Unicode."""
    return char.isspace() or not char.isprintable()


def _quoted(name: str, rest: str, number: int) -> Assignment | Fault:
    quote = rest[0]
    body = (_SINGLE if quote == "'" else _DOUBLE).match(rest)
    if body is None:
        return Fault(number, f"{name} begins with {quote}, which is not closed on its line", f"close it with {quote}")
    if _AFTER_QUOTE.fullmatch(rest, body.end()) is None:
        return Fault(
            number, f"something follows the quoted value of {name}", f"write {name}={quote}value{quote}, and # after a blank"
        )
    if quote == "'":
        return Assignment(name, body[1], number)
    return Assignment(name, _ESCAPE.sub(r"\1", body[1]), number, expands=_EXPANSION.search(body[1]) is not None)
