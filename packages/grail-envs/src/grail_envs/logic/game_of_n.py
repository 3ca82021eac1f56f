"""Reach a number with four to six others, each used once, by + - * / and brackets.

Solvable by construction. An answer is read by an own parser into exact fractions: no powers, no signs, no evaluation, so a
tower of powers is not even a sentence of the language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from grail_envs.draws import Draws

MAX_EXPRESSION = 200
_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
}


@dataclass(frozen=True)
class Target:
    """`solution`: one expression that works."""

    numbers: tuple[int, ...]
    target: int
    solution: str


class GameOfN:
    """The family's puzzles, targets 10 to 200."""

    name = "game_of_n"

    def generate(self, draws: Draws) -> Target:
        count = draws.between(4, 6)
        for _ in range(40):
            numbers = tuple(draws.between(1, 20) for _ in range(count))
            value, text = _built(draws, [(number, str(number)) for number in numbers])
            if 10 <= value <= 200:
                return Target(tuple(sorted(numbers)), value, text)
        numbers = tuple(draws.between(3, 20) for _ in range(count))
        return Target(tuple(sorted(numbers)), sum(numbers), " + ".join(str(number) for number in numbers))

    def question(self, puzzle: Target) -> str:
        numbers = ", ".join(str(number) for number in puzzle.numbers)
        return (
            f"Write an expression that equals {puzzle.target}. Use each of the numbers {numbers} exactly once, and only + - * "
            "/ and round brackets. Answer with the expression alone."
        )

    def solves(self, puzzle: Target, answer: str) -> bool | None:
        parsed = evaluated(answer)
        if parsed is None:
            return None
        value, used = parsed
        return value == puzzle.target and sorted(used) == list(puzzle.numbers)

    def reference(self, puzzle: Target) -> str:
        return puzzle.solution


def evaluated(text: str) -> tuple[Fraction | None, list[int]] | None:
    """The exact value of an expression (None: division by zero) and the numbers in it; None where it is no expression."""
    if len(text) > MAX_EXPRESSION:
        return None
    text = text.strip().strip("`").replace("×", "*").replace("·", "*").replace("÷", "/").replace("−", "-")
    tokens = _tokens(text.partition("=")[0])
    return None if tokens is None else _shunted(tokens)


def _tokens(text: str) -> list[str] | None:
    tokens: list[str] = []
    place = 0
    while place < len(text):
        if text[place] in "+-*/()":
            tokens.append(text[place])
            place += 1
        elif text[place] in " \n\t":
            place += 1
        elif "0" <= text[place] <= "9":
            end = place
            while end < len(text) and "0" <= text[end] <= "9":
                end += 1
            if end - place > 4:
                return None
            tokens.append(text[place:end])
            place = end
        else:
            return None
    return tokens


def _shunted(tokens: list[str]) -> tuple[Fraction | None, list[int]] | None:
    """Operator precedence with two stacks; no recursion, so no nesting is too deep."""
    values: list[Fraction | None] = []
    operators: list[str] = []
    used: list[int] = []
    strength = {"+": 1, "-": 1, "*": 2, "/": 2}

    def apply() -> None:
        operator, right, left = operators.pop(), values.pop(), values.pop()
        broken = left is None or right is None or (operator == "/" and right == 0)
        values.append(None if broken or left is None or right is None else _OPERATIONS[operator](left, right))

    number_expected = True
    for token in tokens:
        if number_expected:
            if token == "(":
                operators.append(token)
            elif token.isdigit():
                values.append(Fraction(int(token)))
                used.append(int(token))
                number_expected = False
            else:
                return None
        elif token in strength:
            while operators and strength.get(operators[-1], 0) >= strength[token]:
                apply()
            operators.append(token)
            number_expected = True
        elif token == ")":
            while operators and operators[-1] != "(":
                apply()
            if not operators:
                return None
            operators.pop()
        else:
            return None
    if number_expected:
        return None
    while operators:
        if operators[-1] == "(":
            return None
        apply()
    return values[0], used


def _built(draws: Draws, parts: list[tuple[int, str]]) -> tuple[int, str]:
    """Join the parts two by two, with whole results only."""
    while len(parts) > 1:
        (left, first), (right, second) = (parts.pop(draws.below(len(parts))) for _ in range(2))
        operator = draws.choice("+-*/")
        if operator == "/" and (right == 0 or left % right):
            operator = "+"
        if operator == "*" and abs(left * right) > 400:
            operator = "-"
        value = left // right if operator == "/" else int(_OPERATIONS[operator](Fraction(left), Fraction(right)))
        parts.append((value, f"({first} {operator} {second})"))
    value, text = parts[0]
    return value, text[1:-1]
