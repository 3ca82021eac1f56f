"""Evaluate an expression with newly defined operators: each has a condition and two linear rules, and a level of precedence.

The rules are linear, so values stay small however long the expression is; the puzzle is a tree of ours and is never text
that something evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail_envs.draws import Draws
from grail_envs.exact_numbers import read_number

SYMBOLS = ("◇", "△", "○", "□", "☆", "♠")
CONDITIONS = ("a is even", "b is even", "a > b", "a + b is divisible by 3", "a is divisible by 3")


@dataclass(frozen=True)
class Rule:
    """x · a + y · b + z."""

    x: int
    y: int
    z: int

    def text(self) -> str:
        """The rule as people write it."""
        signs = [
            f"{'-' if one < 0 else '+'} {'' if abs(one) == 1 else abs(one)}{name}"
            for one, name in ((self.x, "a"), (self.y, "b"))
            if one
        ]
        signs += [f"{'-' if self.z < 0 else '+'} {abs(self.z)}"] if self.z or not signs else []
        return " ".join(signs).removeprefix("+ ")


@dataclass(frozen=True)
class Operator:
    """a SYMBOL b = `then` where the condition holds, else `otherwise`; a higher `level` binds tighter."""

    symbol: str
    condition: int
    then: Rule
    otherwise: Rule
    level: int


@dataclass(frozen=True)
class Expression:
    """Operands and, between them, indices into the operators."""

    operators: tuple[Operator, ...]
    operands: tuple[int, ...]
    between: tuple[int, ...]


class CustomOperators:
    """One to three operators, three to seven operands."""

    name = "custom_operators"

    def generate(self, draws: Draws) -> Expression:
        count = draws.between(1, 3)
        symbols = draws.sample(SYMBOLS, count)
        levels = draws.shuffled(range(1, count + 1))
        operators = tuple(
            Operator(symbol, draws.below(len(CONDITIONS)), _rule(draws), _rule(draws), level)
            for symbol, level in zip(symbols, levels, strict=True)
        )
        operands = tuple(draws.between(1, 30) for _ in range(draws.between(3, 7)))
        between = tuple(draws.below(count) for _ in operands[1:])
        return Expression(operators, operands, between)

    def question(self, puzzle: Expression) -> str:
        lines = [
            f"a {one.symbol} b = {one.then.text()} if {CONDITIONS[one.condition]}, otherwise {one.otherwise.text()}"
            for one in puzzle.operators
        ]
        order = " before ".join(one.symbol for one in sorted(puzzle.operators, key=lambda one: -one.level))
        rule = f"Evaluate {order}; equal operators" if len(puzzle.operators) > 1 else "Equal operators"
        return (
            "New operators on whole numbers:\n\n"
            + "\n".join(lines)
            + f"\n\n{rule} are evaluated from left to right. A negative number "
            f"is even, or divisible by 3, when its absolute value is. What is\n\n{shown(puzzle)}\n\n"
            "Answer with the number alone."
        )

    def solves(self, puzzle: Expression, answer: str) -> bool | None:
        if len(answer) <= 20 and answer.isascii() and answer.removeprefix("-").isdigit():
            return int(answer) == value_of(puzzle)
        number = read_number(answer)
        return None if number is None or number.percent else number.value == value_of(puzzle)

    def reference(self, puzzle: Expression) -> str:
        return str(value_of(puzzle))


def shown(puzzle: Expression) -> str:
    """The expression as text."""
    parts = [str(puzzle.operands[0])]
    for place, operand in zip(puzzle.between, puzzle.operands[1:], strict=True):
        parts += [puzzle.operators[place].symbol, str(operand)]
    return " ".join(parts)


def value_of(puzzle: Expression) -> int:
    """The value, by reducing one level after the other from left to right."""
    values, between = list(puzzle.operands), list(puzzle.between)
    for level in sorted({one.level for one in puzzle.operators}, reverse=True):
        place = 0
        while place < len(between):
            operator = puzzle.operators[between[place]]
            if operator.level == level:
                values[place : place + 2] = [applied(operator, values[place], values[place + 1])]
                del between[place]
            else:
                place += 1
    return values[0]


def applied(operator: Operator, a: int, b: int) -> int:
    """a SYMBOL b."""
    holds = (a % 2 == 0, b % 2 == 0, a > b, (a + b) % 3 == 0, a % 3 == 0)[operator.condition]
    rule = operator.then if holds else operator.otherwise
    return rule.x * a + rule.y * b + rule.z


def _rule(draws: Draws) -> Rule:
    return Rule(draws.between(1, 3), draws.between(-3, 3), draws.between(-9, 9))
