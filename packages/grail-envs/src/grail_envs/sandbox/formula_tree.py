"""What a formula is once it is read: a tree of frozen nodes. Nothing here is evaluated.

`Number` is exact; a difference is a sum with a factor of -1, a quotient a product with a power of -1. Names are compared with
their case and accents: `R` is not `r`, and a vector's name is not a number's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flint import fmpq


class NotAFormulaError(ValueError):
    """The text is no formula that is read here."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational number."""

    value: fmpq


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    text: str


@dataclass(frozen=True, slots=True)
class Constant:
    """`pi`, `e`, `i` or `infinity`."""

    text: str


@dataclass(frozen=True, slots=True)
class Sum:
    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Product:
    factors: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Power:
    base: Node
    exponent: Node


@dataclass(frozen=True, slots=True)
class Call:
    """A function by its name, such as `sin`, or `f` for one that is not known."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple[Node, ...], ...]


MAX_MATRIX_NODES = 5000
"""Nodes of a product of matrices: some eight of them."""

Node = Number | Name | Constant | Sum | Product | Power | Call | Matrix

ZERO = Number(fmpq(0))
ONE = Number(fmpq(1))
MINUS_ONE = Number(fmpq(-1))
HALF = Number(fmpq(1, 2))


def negative(node: Node) -> Node:
    return Number(-node.value) if isinstance(node, Number) else Product((MINUS_ONE, node))


def difference(left: Node, right: Node) -> Node:
    return Sum((left, negative(right)))


def quotient(left: Node, right: Node) -> Node:
    return Product((left, Power(right, MINUS_ONE)))


def children(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Sum):
        return node.terms
    if isinstance(node, Product):
        return node.factors
    if isinstance(node, Power):
        return (node.base, node.exponent)
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, Matrix):
        return tuple(entry for row in node.rows for entry in row)
    return ()


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with its children changed."""
    if isinstance(node, Sum):
        return Sum(tuple(map(change, node.terms)))
    if isinstance(node, Product):
        return Product(tuple(map(change, node.factors)))
    if isinstance(node, Power):
        return Power(change(node.base), change(node.exponent))
    if isinstance(node, Call):
        return Call(node.function, tuple(map(change, node.arguments)))
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(map(change, row)) for row in node.rows))
    return node


def names(node: Node) -> frozenset[str]:
    """The variables of a formula."""
    if isinstance(node, Name):
        return frozenset((node.text,))
    return frozenset().union(*map(names, children(node)))


def has(node: Node, wanted: Callable[[Node], bool]) -> bool:
    return wanted(node) or any(has(child, wanted) for child in children(node))


def size(node: Node) -> int:
    """Nodes of the whole tree, shared ones counted each time."""
    known: dict[int, int] = {}

    def counted(part: Node) -> int:
        if id(part) not in known:
            known[id(part)] = 1 + sum(map(counted, children(part)))
        return known[id(part)]

    return counted(node)


def with_values(node: Node, values: Mapping[str, Node]) -> Node:
    """The formula with values in place of variables."""
    if isinstance(node, Name):
        return values.get(node.text, node)
    return rebuilt(node, lambda child: with_values(child, values))


def without_matrix_sums(node: Node) -> Node:
    """The formula with sums, products and multiples of matrices carried out on their entries.

    Raises:
        NotAFormulaError: shapes that do not fit, or a matrix where only a number can stand.
    """
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(_entry(entry) for entry in row) for row in node.rows))
    node = rebuilt(node, without_matrix_sums)
    parts = children(node)
    if not any(isinstance(part, Matrix) for part in parts):
        return node
    if isinstance(node, Sum) and all(isinstance(part, Matrix) for part in parts):
        return _sum(parts)
    if isinstance(node, Product):
        found: Node = ONE
        for factor in node.factors:
            found = _times(found, factor)
        return found
    if isinstance(node, Call) and node.function == "det" and isinstance(parts[0], Matrix):
        return _determinant(parts[0].rows)
    raise NotAFormulaError("a matrix where a number is needed")


def _entry(entry: Node) -> Node:
    entry = without_matrix_sums(entry)
    if isinstance(entry, Matrix):
        raise NotAFormulaError("a matrix in a matrix")
    return entry


def _sum(parts: tuple[Node, ...]) -> Matrix:
    matrices = [part.rows for part in parts if isinstance(part, Matrix)]
    shapes = {(len(rows), len(rows[0])) for rows in matrices}
    if len(shapes) != 1:
        raise NotAFormulaError("matrices of other shapes in a sum")
    return Matrix(tuple(tuple(Sum(cells) for cells in zip(*lines, strict=True)) for lines in zip(*matrices, strict=True)))


def _times(left: Node, right: Node) -> Node:
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        columns = list(zip(*right.rows, strict=True))
        if len(left.rows[0]) != len(right.rows) or len(left.rows) * len(columns) * len(right.rows) > 512:
            raise NotAFormulaError("matrices whose shapes do not fit")
        product = Matrix(
            tuple(
                tuple(Sum(tuple(Product(pair) for pair in zip(row, column, strict=True))) for column in columns)
                for row in left.rows
            )
        )
        if size(product) > MAX_MATRIX_NODES:
            raise NotAFormulaError("a product of more matrices than are multiplied here")
        return product
    if isinstance(left, Matrix):
        left, right = right, left
    if isinstance(right, Matrix):
        return Matrix(tuple(tuple(Product((left, entry)) for entry in row) for row in right.rows))
    return Product((left, right))


def _determinant(rows: tuple[tuple[Node, ...], ...]) -> Node:
    if len(rows) != len(rows[0]) or len(rows) > 4:
        raise NotAFormulaError("a determinant of another shape than 1 to 4 rows of as many entries")
    if len(rows) == 1:
        return rows[0][0]
    terms = []
    for place, entry in enumerate(rows[0]):
        minor = _determinant(tuple(row[:place] + row[place + 1 :] for row in rows[1:]))
        terms.append(Product((entry, minor) if place % 2 == 0 else (MINUS_ONE, entry, minor)))
    return Sum(tuple(terms))
