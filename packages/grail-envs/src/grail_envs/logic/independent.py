"""Solvers that know only the question's text: the sweep and the tests compare them with the verifiers.

They share no code with generators and verifiers, and find answers by search where those know them by construction. They
read text that we wrote ourselves, so they may be simple; they are never given an answer.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction


def independent_answer(family: str, question: str) -> str:
    """An answer to a question of `family`.

    Raises:
        ValueError: the search ends empty, or the family is unknown.
    """
    solvers = {
        "dyck_completion": _dyck_completion,
        "dyck_prefix": _dyck_prefix,
        "dyck_errors": _dyck_errors,
        "game_of_n": _game_of_n,
        "custom_operators": _custom_operators,
        "cryptarithm": _cryptarithm,
        "boolean_options": _boolean_options,
        "sudoku": _sudoku,
    }
    if family not in solvers:
        raise ValueError(f"no independent solver for {family}")
    return solvers[family](question)


def _reduced(sequence: str) -> str:
    """What is left after removing neighbouring pairs again and again."""
    while True:
        shorter = re.sub(r"\(\)|\[\]|\{\}|<>", "", sequence)
        if shorter == sequence:
            return sequence
        sequence = shorter


_MIRROR = str.maketrans("()[]{}<>", ")(][}{><")


def _dyck_completion(question: str) -> str:
    shown = question.rpartition("\n")[2]
    return shown + _reduced(shown)[::-1].translate(_MIRROR)


def _dyck_prefix(question: str) -> str:
    shown = question.rpartition("\n")[2]
    return _reduced(shown)[::-1].translate(_MIRROR) + shown


def _dyck_errors(question: str) -> str:
    sequence = question.split(" ")[2]
    wrong = []
    for line in question.partition("\n\n")[2].split("\n"):
        number, claimed = int(line.partition(".")[0]), line.partition("open: ")[2]
        if _reduced(sequence[:number]) != claimed.replace("nothing", ""):
            wrong.append(str(number))
    return ",".join(wrong)


def _game_of_n(question: str) -> str:
    target = Fraction(re.search(r"equals (\d+)", question)[1])  # type: ignore[index]
    listed = re.search(r"numbers ([\d, ]+) exactly", question)[1]  # type: ignore[index]
    parts = [(Fraction(number), number) for number in listed.split(", ")]
    seen: set[tuple[Fraction, ...]] = set()

    def search(items: list[tuple[Fraction, str]]) -> str | None:
        if len(items) == 1:
            return items[0][1] if items[0][0] == target else None
        key = tuple(sorted(value for value, _ in items))
        if key in seen:
            return None
        seen.add(key)
        for first, second in itertools.combinations(range(len(items)), 2):
            rest = [item for place, item in enumerate(items) if place not in (first, second)]
            (a, left), (b, right) = items[first], items[second]
            ways = [
                (a + b, f"({left}+{right})"),
                (a * b, f"({left}*{right})"),
                (a - b, f"({left}-{right})"),
                (b - a, f"({right}-{left})"),
            ]
            ways += [(a / b, f"({left}/{right})")] if b else []
            ways += [(b / a, f"({right}/{left})")] if a else []
            for way in ways:
                found = search([*rest, way])
                if found is not None:
                    return found
        return None

    found = search(parts)
    if found is None:
        raise ValueError("no expression reaches the target")
    return found


def _custom_operators(question: str) -> str:
    rules: dict[str, tuple[str, str, str]] = {}
    for symbol, then, condition, otherwise in re.findall(r"a (\S) b = (.+?) if (.+?), otherwise (.+)", question):
        rules[symbol] = (then, condition, otherwise)
    expression = question.partition("What is\n\n")[2].partition("\n")[0].split(" ")
    order = re.search(r"Evaluate (.+?);", question)
    levels = order[1].split(" before ") if order else list(rules)

    def rule_value(text: str, a: int, b: int) -> int:
        total = 0
        for sign, size, name in re.findall(r"([+-]?) ?(\d*)([ab]?)", text):
            if size or name:
                total += (-1 if sign == "-" else 1) * int(size or 1) * {"a": a, "b": b, "": 1}[name]
        return total

    def operate(symbol: str, a: int, b: int) -> int:
        then, condition, otherwise = rules[symbol]
        truth = {
            "a is even": abs(a) % 2 == 0,
            "b is even": abs(b) % 2 == 0,
            "a > b": a > b,
            "a + b is divisible by 3": abs(a + b) % 3 == 0,
            "a is divisible by 3": abs(a) % 3 == 0,
        }[condition]
        return rule_value(then if truth else otherwise, a, b)

    for symbol in levels:
        while symbol in expression:
            place = expression.index(symbol)
            value = operate(symbol, int(expression[place - 1]), int(expression[place + 1]))
            expression[place - 1 : place + 2] = [str(value)]
    return expression[0]


def _cryptarithm(question: str) -> str:
    left, right, total = re.search(r"([A-Z]+) \+ ([A-Z]+) = ([A-Z]+)", question).groups()  # type: ignore[union-attr]
    told = {letter: int(digit) for letter, digit in re.findall(r"([A-Z]) = (\d)", question.partition("Solve")[0])}
    unknown = sorted(set(left + right + total) - set(told))
    free = [digit for digit in range(10) if digit not in told.values()]
    for digits in itertools.permutations(free, len(unknown)):
        found = {**told, **dict(zip(unknown, digits, strict=True))}
        if 0 in (found[left[0]], found[right[0]], found[total[0]]):
            continue
        values = [int("".join(str(found[letter]) for letter in word)) for word in (left, right, total)]
        if values[0] + values[1] == values[2]:
            return f"{values[0]} + {values[1]} = {values[2]}"
    raise ValueError("no digits fit")


def _boolean_options(question: str) -> str:
    chosen = []
    for line in question.partition("\n\n")[2].split("\n"):
        letter, _, text = line.partition(": ")
        if _truth(text):
            chosen.append(letter)
    return ",".join(chosen)


def _truth(text: str) -> bool:
    """Replace facts by T and F, then fold brackets from the inside out."""
    text = re.sub(r"(\d+) \* (\d+) = (\d+)", lambda m: "FT"[int(m[1]) * int(m[2]) == int(m[3])], text)
    text = re.sub(r"(\d+) \+ (\d+) = (\d+)", lambda m: "FT"[int(m[1]) + int(m[2]) == int(m[3])], text)
    text = re.sub(r"(\d+) is divisible by (\d+)", lambda m: "FT"[int(m[1]) % int(m[2]) == 0], text)
    text = re.sub(r"(\d+) > (\d+)", lambda m: "FT"[int(m[1]) > int(m[2])], text)
    text = re.sub(r"'(\w+)' comes before '(\w+)' in a dictionary", lambda m: "FT"[sorted([m[1], m[2]])[0] == m[1]], text)
    text = re.sub(r"the word '(\w+)' contains the letter '(\w)'", lambda m: "FT"[m[1].count(m[2]) > 0], text)
    while len(text) > 1:
        before = text
        text = text.replace("(T)", "T").replace("(F)", "F").replace("not T", "F").replace("not F", "T")
        text = re.sub(r"\b([TF]) and ([TF])\b", lambda m: "FT"[m[1] + m[2] == "TT"], text)
        text = re.sub(r"\b([TF]) or ([TF])\b", lambda m: "FT"[m[1] + m[2] != "FF"], text)
        if text == before:
            raise ValueError(f"cannot read {text!r}")
    return text == "T"


def _sudoku(question: str) -> str:
    digits = "".join(question.partition("\n\n")[2].split()).replace(".", "0")
    return sudoku_solutions(digits, at_most=1)[0]


def sudoku_solutions(digits: str, *, at_most: int) -> list[str]:
    """Solutions of a grid by search over the cell with the fewest choices."""
    grid = [int(digit) for digit in digits]
    rows, columns, boxes = ([0] * 9 for _ in range(3))
    for place, digit in enumerate(grid):
        for unit, index in ((rows, place // 9), (columns, place % 9), (boxes, place // 27 * 3 + place % 9 // 3)):
            unit[index] |= 1 << digit if digit else 0
    found: list[str] = []

    def search() -> None:
        best, least = -1, 10
        for place in range(81):
            if not grid[place]:
                taken = rows[place // 9] | columns[place % 9] | boxes[place // 27 * 3 + place % 9 // 3]
                free = 9 - (taken & 1022).bit_count()
                if free < least:
                    best, least = place, free
        if best < 0:
            found.append("".join(map(str, grid)))
            return
        row, column, box = best // 9, best % 9, best // 27 * 3 + best % 9 // 3
        for digit in range(1, 10):
            bit = 1 << digit
            if not (rows[row] | columns[column] | boxes[box]) & bit and len(found) < at_most:
                grid[best] = digit
                rows[row], columns[column], boxes[box] = rows[row] | bit, columns[column] | bit, boxes[box] | bit
                search()
                grid[best] = 0
                rows[row], columns[column], boxes[box] = rows[row] ^ bit, columns[column] ^ bit, boxes[box] ^ bit

    search()
    return found
