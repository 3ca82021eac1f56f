r"""LaTeX of an answer, read into a tree: a small grammar, by recursive descent, in time linear in the text.

Two numbers that stand next to each other are no formula: their digits are never joined and never multiplied. A whole number
before a fraction of whole numbers is a mixed number. `2(3)` is a product, `1/2x` is 1/(2x), `\sin 2x \cos x` a product of two
values, `\sqrt12` is √1·2 as TeX sets it, `2^10` is
1024 and `\log_10 x` has base 10 as people mean them. Brackets are nested 50 deep at most. What is not in
the grammar (integrals, limits, infinite sums, cases, dots) is no formula.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from flint import fmpq

from grail_envs.sandbox.formula_tokens import (
    CLOSING,
    FUNCTIONS,
    GEOMETRY,
    INVERSES,
    LETTERS,
    MANY,
    MARKED,
    MATRICES,
    OVER,
    TIMES,
    UPRIGHT,
    Tokens,
)
from grail_envs.sandbox.formula_tree import (
    HALF,
    MINUS_ONE,
    ONE,
    Call,
    Constant,
    Matrix,
    Name,
    Node,
    Number,
    Power,
    Product,
    Sum,
    negative,
    quotient,
    rebuilt,
    size,
    with_values,
)

MAX_DEPTH = 50
MAX_DIGITS = 4000
MAX_TERMS = 1000
"""Terms of a written-out sum or product."""

MAX_WRITTEN_OUT = 30_000
"""Nodes of all written-out sums and products of a formula, each within another counted every time."""


def parsed(text: str) -> Node:
    """The tree of a formula.

    Raises:
        NotAFormulaError: anything else.
    """
    reader = _Reader(text)
    node = reader.sum()
    if reader.peek() != "":
        reader.refuse()
    return node


class _Reader(Tokens):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._bars = 0
        self._in_function = 0
        self._written = 0

    def sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.refuse()
        terms = [self._signed(self.product)]
        while self.peek() in ("+", "-"):
            terms.append(self._signed(self.product))
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    def _signed(self, read: Callable[[], Node]) -> Node:
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        node = read()
        return negative(node) if minus else node

    def product(self) -> Node:
        node = self.juxtaposed()
        ratio = False
        while True:
            token = self.peek()
            if token in TIMES:
                self.take()
                node = Product((node, self._signed(self.juxtaposed)))
            elif token in OVER:
                if ratio and token == ":":
                    self.refuse()
                ratio |= self.take() == ":"
                node = quotient(node, self._signed(self.juxtaposed))
            elif token in ("\\bmod", "\\mod"):
                self.take()
                node = Call("mod", (node, self.juxtaposed()))
            else:
                return node

    def juxtaposed(self, *, in_argument: bool = False) -> Node:
        """Factors without a sign between them."""
        start = self._at
        factors = [self.factor()]
        if self._at == start + 1 and self.kind(-1) == "number" and "." not in self.peek(-1) and self.peek() == "\\frac":
            whole, part = factors[0], self.factor()
            factors = [_mixed(whole, part)]
        while self._starts_factor(in_argument):
            if self.kind() == "number" and self.kind(-1) == "number":
                self.refuse()
            if self.peek(-1) == "\\degree" and self.kind() == "number":
                self.refuse()
            factors.append(self.factor())
        return factors[0] if len(factors) == 1 else Product(tuple(factors))

    def _starts_factor(self, in_argument: bool) -> bool:
        token, kind = self.peek(), self.kind()
        if kind in ("number", "letter"):
            return True
        if kind == "sign":
            return token in "({[" or (token == "|" and not self._bars)
        if in_argument and token[1:] in FUNCTIONS:
            return False
        return kind == "command" and token not in (*TIMES, *OVER, "\\bmod", "\\mod", "\\\\", "\\end", *CLOSING.values())

    def factor(self) -> Node:
        node = self.atom()
        factorials = 0
        while True:
            token = self.peek()
            if token in ("^", "**"):
                self.take()
                node = Power(node, self.exponent())
                if self.peek() in ("^", "**"):
                    self.refuse()
            elif token == "!":
                self.take()
                factorials += 1
                if factorials > 1:
                    self.refuse()
                node = Call("factorial", (node,))
            elif token == "\\degree":
                self.take()
                if self._in_function:
                    node = Product((node, Constant("pi"), Number(fmpq(1, 180))))
            else:
                return node

    def exponent(self) -> Node:
        if self.peek() in ("+", "-"):
            return self._signed(self.exponent)
        if self.peek() == "{":
            return self.group("{")
        if self.peek() == "\\frac":
            return self._fraction()
        node = self.atom()
        if self.peek() == "^" and self.peek(-1) != "}":
            self.take()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                self.refuse()
            node = Power(node, self.exponent())
            self._depth -= 1
        return node

    def group(self, opening: str) -> Node:
        self.expect(opening)
        bars, self._bars = self._bars, 0
        node = self.sum()
        self._bars = bars
        self.expect(CLOSING[opening])
        return node

    def argument(self) -> Node:
        """What TeX takes as an argument: a group, a command's value, or one character."""
        if self.peek() == "{":
            return self.group("{")
        if self.kind() == "number":
            return Number(fmpq(int(self.one_digit())))
        return self.atom()

    def atom(self) -> Node:
        kind, token = self.kind(), self.peek()
        if kind == "number":
            return self._number()
        if kind == "letter":
            self.take()
            return self._name(token)
        if token in ("(", "[", "{"):
            return self.group(token)
        if token == "|":
            return self._absolute()
        if kind == "command":
            return self._command(token)
        return self.refuse()

    def _number(self) -> Node:
        text = self.take()
        if len(text) > MAX_DIGITS:
            self.refuse()
        value = Fraction(text.removesuffix(".") or 0)
        if "." in text and self.peek() in ("\\overline", "\\bar", "\\dot"):
            self.take()
            digits = self.one_digit() if self.kind() == "number" else self.raw()
            if not digits.isdigit() or self.kind() == "number":
                self.refuse()
            places = len(text.partition(".")[2])
            value += Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
        return Number(fmpq(value.numerator, value.denominator))

    def _absolute(self) -> Node:
        self.take()
        self._bars += 1
        node = self.sum()
        self._bars -= 1
        self.expect("|")
        return Call("abs", (node,))

    def _name(self, text: str) -> Node:
        subscript = ""
        while self.peek() in ("'", "_", "\\prime") or (self.peek() == "^" and self.peek(1) == "\\prime"):
            token = self.take()
            if token == "_":
                subscript = f"_{self.raw()}"
            elif token != "^":
                text += "'"
        text += subscript
        if text in ("e", "i"):
            return Constant(text)
        if text[0] in "fgFG" and len(text.strip("'")) == 1 and self.peek() == "(":
            return Call(text, tuple(self._arguments()))
        return Name(text)

    def _arguments(self) -> list[Node]:
        self.expect("(")
        bars, self._bars = self._bars, 0
        found = [self.sum()]
        while self.peek() == ",":
            self.take()
            found.append(self.sum())
        self._bars = bars
        self.expect(")")
        return found

    def _command(self, token: str) -> Node:
        name = token[1:]
        if name in FUNCTIONS:
            self.take()
            return self._call(FUNCTIONS[name])
        if name == "frac":
            return self._fraction()
        if name in ("lfloor", "lceil"):
            return Call("floor" if name == "lfloor" else "ceil", (self.group(token),))
        if name == "begin":
            return self._matrix()
        if name in ("sum", "prod"):
            return self._written_out(name)
        self.take()
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return Call("binomial", (self.argument(), self.argument()))
        if name == "pi" or name in ("infty", "infinity", "inf", "oo"):
            return Constant("pi" if name == "pi" else "infinity")
        if name in ("lvert", "vert"):
            return self._bracketed("\\rvert" if name == "lvert" else "\\vert")
        if name in ("imath", "jmath"):
            return Constant("i") if name == "imath" else Name("j")
        if name in UPRIGHT:
            return self._upright()
        if name in MARKED:
            return self._name(f"{'overline' if name == 'bar' else 'vec' if name == 'overrightarrow' else name}:{self.raw()}")
        if name in GEOMETRY:
            return self._name(f"{name}:{self.raw()}" if self.peek() == "{" else name + ":" + self._letters())
        if name in LETTERS:
            return self._name(name)
        self._at -= 1
        return self.refuse()

    def _letters(self) -> str:
        found = ""
        while self.kind() == "letter":
            found += self.take()
        return found

    def _upright(self) -> Node:
        text = self.raw()
        if text in FUNCTIONS:
            return self._call(FUNCTIONS[text])
        if text == "\\pi":  # the token of the word
            return Constant("pi")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.]*", text):
            self.refuse()
        return self._name(text)

    def _bracketed(self, closing: str) -> Node:
        node = self.sum()
        self.expect(closing)
        return Call("abs", (node,))

    def _fraction(self) -> Node:
        self.take()
        return quotient(self.argument(), self.argument())

    def _root(self) -> Node:
        if self.peek() == "[":
            index = self.group("[")
            return Call("root", (self.argument(), index))
        if self.peek() == "(":
            return Power(self.group("("), HALF)
        return Power(self.argument(), HALF)

    def _call(self, function: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self._number() if self.kind() == "number" else self.argument()
            else:
                power = self.exponent()
        if power == MINUS_ONE and function in INVERSES:
            function, power = INVERSES[function], None
        node = self._called(function, base)
        return node if power is None else Power(node, power)

    def _called(self, function: str, base: Node | None) -> Node:
        self._in_function += function not in MANY
        if function in MANY and self.peek() == "(":
            arguments = self._arguments()
        elif self.peek() in ("(", "[", "{", "|") or self.peek() in ("\\lfloor", "\\lceil"):
            opening = self.peek()
            arguments = [self.atom() if opening != "{" else self.group("{")]
        else:
            arguments = [self._argument_without_brackets()]
        self._in_function -= function not in MANY
        if base is not None and function != "log":
            self.refuse()
        if function == "log":
            arguments.append(base or Number(fmpq(10)))
        if function == "exp":
            return Power(Constant("e"), arguments[0])
        return Call("log" if function == "ln" else function, tuple(arguments))

    def _argument_without_brackets(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.refuse()
        node = self._signed(lambda: self.juxtaposed(in_argument=True))
        if self.peek() == "/" and self.kind(1) in ("number", "letter"):
            self.take()
            node = quotient(node, self.juxtaposed(in_argument=True))
        self._depth -= 1
        return node

    def _matrix(self) -> Node:
        self.take()
        kind = self.raw()
        if kind not in MATRICES:
            self.refuse()
        if kind == "array":
            self.raw()
        rows: list[tuple[Node, ...]] = []
        while self.peek() != "\\end":
            row = [self.sum()]
            while self.peek() == "&":
                self.take()
                row.append(self.sum())
            rows.append(tuple(row))
            if self.peek() == "\\\\":
                self.take()
            elif self.peek() != "\\end":
                self.refuse()
        self.take()
        if self.raw() != kind or not rows or len({len(row) for row in rows}) != 1:
            self.refuse()
        return Call("det", (Matrix(tuple(rows)),)) if kind == "vmatrix" else Matrix(tuple(rows))

    def _written_out(self, kind: str) -> Node:
        """A sum or product over whole numbers, with its terms written out."""
        self.take()
        self.expect("_")
        self.expect("{")
        index = self.take()
        self.expect("=")
        low = self.sum()
        self.expect("}")
        self.expect("^")
        high = self.exponent()
        body = self.juxtaposed()
        if not (isinstance(low, Number) and isinstance(high, Number) and low.value.q == 1 == high.value.q):
            self.refuse()
        first, last = int(low.value.p), int(high.value.p)
        if last - first >= MAX_TERMS or not index.isalpha():
            self.refuse()
        name = Name(index)
        self._written += size(body) * max(1, last - first + 1)
        if self._written > MAX_WRITTEN_OUT:
            self.refuse()
        if index in ("e", "i"):
            body = _renamed(body, Constant(index), name)
        parts = tuple(with_values(body, {index: Number(fmpq(value))}) for value in range(first, last + 1))
        if kind == "sum":
            return Sum(parts) if parts else Number(fmpq(0))
        return Product(parts) if parts else ONE


def _renamed(node: Node, old: Node, new: Node) -> Node:
    return new if node == old else rebuilt(node, lambda child: _renamed(child, old, new))


def _mixed(whole: Node, part: Node) -> Node:
    r"""`2\frac{1}{2}` is two and a half where both parts are whole numbers; otherwise a product."""
    if isinstance(part, Product) and len(part.factors) == 2 and isinstance(part.factors[1], Power):
        top, bottom = part.factors[0], part.factors[1].base
        if _is_whole(top) and _is_whole(bottom) and bottom != Number(fmpq(0)):
            return Sum((whole, part))
    return Product((whole, part))


def _is_whole(node: Node) -> bool:
    return isinstance(node, Number) and bool(node.value.q == 1) and bool(node.value >= 0)
