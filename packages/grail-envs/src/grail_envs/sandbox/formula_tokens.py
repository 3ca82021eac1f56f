r"""The tokens of a formula, and the names that its grammar knows.

A number is digits with at most one point; a command keeps its backslash; words such as `sqrt` and `pi` are read as the commands
that they abbreviate where no other letter touches them. Time is linear in the text.
"""

from __future__ import annotations

import re
from typing import NoReturn

from grail_envs.sandbox.formula_tree import NotAFormulaError

FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "ln", "log", "exp")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh", "lg": "log", "tg": "tan", "ctg": "cot", "arctg": "atan"},
    **{name: name for name in ("max", "min", "gcd", "lcm", "det", "floor", "ceil", "abs", "sgn")},
}
INVERSES = {name: f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
MANY = ("max", "min", "gcd", "lcm")
_PLAIN_WORDS = ("sqrt", "pi", "infinity", "infty", "inf", "oo", *FUNCTIONS)
UPRIGHT = ("text", "textrm", "mathrm", "mathit", "textit", "mbox", "rm", "mathsf", "operatorname", "mathop", "textnormal")
_MARKS = "mathbf textbf boldsymbol bm vec overline bar hat widehat tilde widetilde mathbb mathcal overrightarrow underline dot "
_MARKS += "ddot mathfrak overarc overleftrightarrow"
MARKED = frozenset(_MARKS.split())
_GREEK = "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
_GREEK += "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar"
LETTERS = frozenset(_GREEK.split())
GEOMETRY = ("angle", "triangle", "measuredangle", "parallelogram", "square", "odot")
MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "vmatrix", "array")
CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lbrace": "\\rbrace"}
TIMES = ("*", "\\cdot", "\\times", "\\ast")
OVER = ("/", "\\div", ":")
_TOKEN = re.compile(
    r"\s+"
    r"|(?P<number>\d*\.(?=\s*\\(?:overline|bar|dot)(?![a-zA-Z]))|\d+(?:\.\d+)?|\.\d+)|(?P<command>\\\\|\\[a-zA-Z]+|\\.)"
    r"|(?P<word>(?<![a-zA-Z])(?:" + "|".join(sorted(_PLAIN_WORDS, key=len, reverse=True)) + r")(?![a-zA-Z]))"
    r"|(?P<letter>[a-zA-Z])|(?P<sign>\*\*|.)",
    re.DOTALL | re.ASCII,
)


class Tokens:
    """A place in the tokens of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        for match in _TOKEN.finditer(text):
            if match.lastgroup == "word":
                self._tokens.append(("command", "\\" + match[0], match.start()))
            elif match.lastgroup is not None:
                self._tokens.append((match.lastgroup, match[0], match.start()))
        self._at = 0

    def peek(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._tokens[place][1] if place < len(self._tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._tokens[place][0] if place < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            self.refuse()
        self._at += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            self.refuse()

    def refuse(self) -> NoReturn:
        raise NotAFormulaError(
            f"not a formula from character {self._tokens[self._at][2] if self.peek() else len(self._text)} on"
        )

    def raw(self) -> str:
        """The text of a group or of one token, without blanks."""
        if self.peek() != "{":
            return self.take()
        self.take()
        depth = 1
        parts: list[str] = []
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "".join(parts)
            parts.append(token)

    def one_digit(self) -> str:
        kind, text, place = self._tokens[self._at]
        if "." in text:
            self.refuse()
        if len(text) > 1:
            self._tokens.insert(self._at + 1, (kind, text[1:], place + 1))
        self._tokens[self._at] = ("argument", text[0], place)  # a number after it stands after an argument, not after a number
        self._at += 1
        return text[0]
