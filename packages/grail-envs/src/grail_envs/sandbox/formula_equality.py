r"""Whether two formulas say the same: numbers by `formula_zero`, formulas with variables at points.

Formulas with variables are the same when they fold to the same tree, or when they have the same value at every one of `POINTS`
points. The points are rational numbers drawn from a digest of both formulas, some below 0, and some whole where a formula has
steps; values there are compared as numbers
are, so two formulas that differ are taken for the same only if their difference vanishes at all of them (for polynomials of
degree d with a chance of (d / 2^19)^POINTS). Without an i in sight variables are real: where neither formula is real, neither
has a value, so `\sqrt{1/n}` is `1/\sqrt{n}`, while `\sqrt{x^2}` is not `x`.
"""

from __future__ import annotations

import hashlib

from flint import fmpq

from grail_envs.sandbox.formula_tree import (
    Call,
    Constant,
    Matrix,
    Node,
    Number,
    Power,
    Product,
    difference,
    has,
    names,
    negative,
    with_values,
    without_matrix_sums,
)
from grail_envs.sandbox.formula_zero import Comparison, UndefinedError

POINTS = 8
_INFINITY = Constant("infinity")
_PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199)


class Formulas:
    """Compares formulas; one an answer, so that what one answer costs has one budget."""

    def __init__(self, units: float) -> None:
        self._numbers = Comparison(units)

    def same(self, left: Node, right: Node) -> bool:
        """Whether two formulas say the same.

        Raises:
            UndefinedError: one has no value anywhere.
            UndecidedError: the budget or the bound is out of reach.
            NotAFormulaError: matrices whose shapes do not fit.
        """
        left, right = without_matrix_sums(left), without_matrix_sums(right)
        if isinstance(left, Matrix) or isinstance(right, Matrix):
            return self._same_matrices(left, right)
        if left == right:
            return True
        if _has_infinity(left) or _has_infinity(right):
            signs = self._infinity(left), self._infinity(right)
            return signs[0] != 0 and signs[0] == signs[1]
        first, second = self._numbers.fold(left), self._numbers.fold(right)
        if first == second:
            return True
        if not names(first) and not names(second):
            return self._numbers.equal(first, second)
        return self._same_at_points(first, second)

    def proportional(self, left: Node, right: Node) -> int:
        """The sign of the constant c with `left` = c · `right` everywhere; 0 without one, or where both are zero everywhere."""
        if isinstance(left, Matrix) or isinstance(right, Matrix) or _has_infinity(left) or _has_infinity(right):
            return 0
        first, second = self._numbers.fold(left), self._numbers.fold(right)
        for values in _points(first, second):
            one, other = with_values(first, values), with_values(second, values)
            if self._numbers.surely_not_real(one) or self._numbers.surely_not_real(other):
                continue
            if self._numbers.zero(self._numbers.fold(one)) or self._numbers.zero(self._numbers.fold(other)):
                return 0
            if not self.same(Product((first, other)), Product((second, one))):
                return 0
            return self._numbers.sign(one) * self._numbers.sign(other)
        return 0

    def order(self, left: Node, right: Node) -> int:
        """-1, 0 or 1 as the first number is below, equal to or above the second; infinities count."""
        signs = self._infinity(left), self._infinity(right)
        if signs[0] or signs[1]:
            return (signs[0] > signs[1]) - (signs[0] < signs[1])
        if self.same(left, right):
            return 0
        return self._numbers.sign(difference(left, right))

    def _same_matrices(self, left: Node, right: Node) -> bool:
        if not isinstance(left, Matrix) or not isinstance(right, Matrix) or len(left.rows) != len(right.rows):
            return False
        pairs = [pair for lines in zip(left.rows, right.rows, strict=True) for pair in zip(*lines, strict=False)]
        return len(left.rows[0]) == len(right.rows[0]) and all(self.same(one, other) for one, other in pairs)

    def _infinity(self, node: Node) -> int:
        """1 or -1 for infinity with its sign, else 0."""
        if node == _INFINITY:
            return 1
        return -1 if node == negative(_INFINITY) else 0

    def _same_at_points(self, left: Node, right: Node) -> bool:
        strict = has(left, _is_imaginary) or has(right, _is_imaginary)
        equal = unlike = 0
        for values in _points(left, right):
            found = self._same_at(with_values(left, values), with_values(right, values), strict)
            if found is False:
                return False
            equal += found is True
            unlike += found == "not real"
        return equal >= 2 or (equal >= 1 and not unlike)

    def _same_at(self, left: Node, right: Node, strict: bool) -> bool | str:
        undefined = 0
        for node in (left, right):
            try:
                self._numbers.fold(node)
            except UndefinedError:
                undefined += 1
        if undefined:
            return "undefined" if undefined == 2 else False
        try:
            if self._numbers.equal(left, right):
                return True
        except UndefinedError:
            return False
        both = not strict and self._numbers.surely_not_real(left) and self._numbers.surely_not_real(right)
        return "not real" if both else False


def _is_imaginary(node: Node) -> bool:
    return node == Constant("i")


def _has_infinity(node: Node) -> bool:
    return has(node, lambda part: part == _INFINITY)


def _is_not_rational(node: Node) -> bool:
    """Whether a node makes values large or irrational where variables are: functions, and powers that are not whole."""
    if isinstance(node, Power):
        whole = isinstance(node.exponent, Number) and node.exponent.value.q == 1 and abs(node.exponent.value) < 1000
        return not whole and bool(names(node))
    return isinstance(node, Call)


def _is_step(node: Node) -> bool:
    return isinstance(node, Call) and node.function in ("floor", "ceil", "mod")


def _points(left: Node, right: Node) -> list[dict[str, Node]]:
    """Values of the variables: the same for the same two formulas, and unknown before both are."""
    variables = sorted(names(left) | names(right))
    seed = hashlib.sha512(f"{left!r}\0{right!r}".encode())
    small = has(left, _is_not_rational) or has(right, _is_not_rational)
    steps = has(left, _is_step) or has(right, _is_step)
    found: list[dict[str, Node]] = []
    for point in range(POINTS):
        values: dict[str, Node] = {}
        for variable in variables:
            drawn = seed.copy()
            drawn.update(f"\0{point}\0{variable}".encode())
            number = int.from_bytes(drawn.digest(), "big")
            sign = 1 if point % 3 == 0 else -1 if point % 3 == 1 else 1 - 2 * (number & 1)
            bottom = 1 if steps and point in (2, 5) else _PRIMES[(number >> 8) % len(_PRIMES)]
            top = 200 + (number >> 32) % 700 if small else 2**19 + (number >> 32) % 2**19
            if small and point in (6, 7):
                top *= 37
            values[variable] = Number(fmpq(sign * int(top), bottom))
        found.append(values)
    return found
