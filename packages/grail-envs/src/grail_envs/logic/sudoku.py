"""Sudokus with exactly one solution, made from forty bases by the symmetries of the grid.

Renaming digits, swapping rows and columns within and between bands, and transposing keep the number of solutions, so no
search is needed: a puzzle takes microseconds, and a base gives more than 10¹¹ of them. The seed also chooses how many cells
more than the base's are given.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail_envs.draws import Draws
from grail_envs.logic.sudoku_bases import BASES


@dataclass(frozen=True)
class Grid:
    """81 digits by rows, 0 for empty; and the solution."""

    given: str
    solution: str


class Sudoku:
    """22 to 50 givens."""

    name = "sudoku"

    def generate(self, draws: Draws) -> Grid:
        given, solution = draws.choice(BASES)
        names = dict(zip("123456789", draws.shuffled("123456789"), strict=True))
        rows, columns = (_lines(draws) for _ in range(2))
        transpose = draws.chance(1, 2)
        places = [(9 * c + r) if transpose else (9 * r + c) for r in rows for c in columns]
        solved = "".join(names[solution[place]] for place in places)
        shown = [place for place in range(81) if given[places[place]] != "0"]
        empty = [place for place in range(81) if given[places[place]] == "0"]
        shown += draws.sample(empty, draws.between(0, 50 - len(shown)))
        keep = set(shown)
        return Grid("".join(solved[place] if place in keep else "0" for place in range(81)), solved)

    def question(self, puzzle: Grid) -> str:
        rows = [" ".join(puzzle.given[9 * row : 9 * row + 9].replace("0", ".")) for row in range(9)]
        return (
            "Solve this sudoku: every row, every column and every 3x3 box holds the digits 1 to 9. Answer with the nine rows, "
            "one on each line.\n\n" + "\n".join(rows)
        )

    def solves(self, puzzle: Grid, answer: str) -> bool | None:
        digits = "".join(answer.replace("|", " ").replace("-", " ").replace("+", " ").strip("`").split())
        if len(digits) != 81 or not all("1" <= digit <= "9" for digit in digits):
            return None
        return obeys(digits) and all(want in ("0", digit) for want, digit in zip(puzzle.given, digits, strict=True))

    def reference(self, puzzle: Grid) -> str:
        return "\n".join(" ".join(puzzle.solution[9 * row : 9 * row + 9]) for row in range(9))


def obeys(digits: str) -> bool:
    """Whether every row, column and box of a full grid holds nine different digits."""
    for unit in range(9):
        row = digits[9 * unit : 9 * unit + 9]
        column = digits[unit::9]
        corner = 27 * (unit // 3) + 3 * (unit % 3)
        box = "".join(digits[corner + 9 * line : corner + 9 * line + 3] for line in range(3))
        if not len(set(row)) == len(set(column)) == len(set(box)) == 9:
            return False
    return True


def _lines(draws: Draws) -> list[int]:
    """The nine lines in an order that keeps bands together."""
    return [3 * band + line for band in draws.shuffled(range(3)) for line in draws.shuffled(range(3))]
