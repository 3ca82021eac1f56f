"""Letters for digits in a sum, with some letters given, so that exactly one solution is left.

Letters are given until the search for a second solution ends empty within its budget of steps, so generation takes bounded
time for every seed and the solution is always unique.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grail_envs.draws import Draws

LETTERS = "ABCDEFGHKLMNPRSTUWXY"
SEARCH_STEPS = 1500


@dataclass(frozen=True)
class Sum:
    """`words`: two addends and their sum; `digits`: (letter, digit) of all; `given`: the letters told."""

    words: tuple[str, str, str]
    digits: tuple[tuple[str, int], ...]
    given: tuple[str, ...]


class Cryptarithm:
    """Addends of two to five digits, at least three letters unknown at the start."""

    name = "cryptarithm"

    def generate(self, draws: Draws) -> Sum:
        left, right = (
            draws.between(10 ** (length - 1), 10**length - 1) for length in (draws.between(2, 5), draws.between(2, 4))
        )
        numbers = (left, right, left + right)
        used = sorted({int(digit) for number in numbers for digit in str(number)})
        letters = dict(zip(used, draws.sample(LETTERS, len(used)), strict=True))
        words = tuple("".join(letters[int(digit)] for digit in str(number)) for number in numbers)
        order = draws.shuffled(sorted(letters.values()))
        digits = {letter: digit for digit, letter in letters.items()}
        unknown = min(len(order), draws.between(3, 5))
        puzzle = Sum((words[0], words[1], words[2]), tuple(sorted(digits.items())), ())
        while unknown:
            given = order[unknown:]
            if solutions(puzzle.words, {letter: digits[letter] for letter in given}, at_most=2, steps=SEARCH_STEPS) == 1:
                break
            unknown -= 1
        return Sum(puzzle.words, puzzle.digits, tuple(sorted(order[unknown:])))

    def question(self, puzzle: Sum) -> str:
        digits = dict(puzzle.digits)
        told = ", ".join(f"{letter} = {digits[letter]}" for letter in puzzle.given)
        left, right, total = puzzle.words
        return (
            "Each letter stands for one digit, different letters for different digits, and no number begins with 0"
            f"{f'; given: {told}' if told else ''}. Solve\n\n{left} + {right} = {total}\n\n"
            "Answer with the equation in digits, for example 12 + 34 = 46."
        )

    def solves(self, puzzle: Sum, answer: str) -> bool | None:
        first, plus, rest = answer.strip().strip("`").partition("+")
        second, equals, third = rest.partition("=")
        numbers = (first.strip(), second.strip(), third.strip())
        if not plus or not equals or not all(part.isascii() and part.isdigit() and len(part) <= 8 for part in numbers):
            return None
        found: dict[str, str] = {}
        for word, number in zip(puzzle.words, numbers, strict=True):
            if len(word) != len(number) or number[0] == "0":
                return False
            for letter, digit in zip(word, number, strict=True):
                if found.setdefault(letter, digit) != digit:
                    return False
        digits = dict(puzzle.digits)
        told = all(found[letter] == str(digits[letter]) for letter in puzzle.given)
        return told and len(set(found.values())) == len(found) and int(numbers[0]) + int(numbers[1]) == int(numbers[2])

    def reference(self, puzzle: Sum) -> str:
        digits = dict(puzzle.digits)
        left, right, total = ("".join(str(digits[letter]) for letter in word) for word in puzzle.words)
        return f"{left} + {right} = {total}"


def solutions(words: tuple[str, str, str], given: Mapping[str, int], *, at_most: int, steps: int) -> int:
    """How many ways there are to read the sum, counted up to `at_most`; `at_most` too if the search takes over `steps` steps.

    Column by column from the right, with the carry.
    """
    columns = [tuple(word[-1 - place] if place < len(word) else "" for word in words) for place in range(max(map(len, words)))]
    leading = {word[0] for word in words}
    digits: dict[str, int] = dict(given)
    taken = set(digits.values())
    found = 0
    spent = 0

    def place_column(column: int, row: int, carry: int) -> None:
        nonlocal found, spent
        spent += 1
        if found >= at_most or spent > steps:
            return
        if column == len(columns):
            found += carry == 0
            return
        letters = columns[column]
        if row == 2:
            total = carry + sum(digits[letter] if letter else 0 for letter in letters[:2])
            letter, digit = letters[2], total % 10
            if letter in digits:
                if digits[letter] == digit:
                    place_column(column + 1, 0, total // 10)
            elif digit not in taken and not (digit == 0 and letter in leading):
                digits[letter] = digit
                taken.add(digit)
                place_column(column + 1, 0, total // 10)
                taken.remove(digit)
                del digits[letter]
            return
        letter = letters[row]
        if not letter or letter in digits:
            place_column(column, row + 1, carry)
            return
        for digit in range(1 if letter in leading else 0, 10):
            if digit not in taken:
                digits[letter] = digit
                taken.add(digit)
                place_column(column, row + 1, carry)
                taken.remove(digit)
                del digits[letter]

    place_column(0, 0, 0)
    return at_most if spent > steps else found
