"""Which options are true: and, or and not over small facts about numbers and words, whose truth is computed."""

from __future__ import annotations

from dataclasses import dataclass

from grail_envs.draws import Draws

WORDS = ("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle", "ladder")


@dataclass(frozen=True)
class Node:
    """`kind`: fact, not, and, or. A fact has its text and its truth."""

    kind: str
    parts: tuple[Node, ...] = ()
    text: str = ""
    truth: bool = False


@dataclass(frozen=True)
class Options:
    """The statements A, B, C, …"""

    statements: tuple[Node, ...]


class BooleanOptions:
    """Six to eight statements, at least one of them true."""

    name = "boolean_options"

    def generate(self, draws: Draws) -> Options:
        count = draws.between(6, 8)
        while True:  # all false has probability below 2⁻⁴ a round, and draws never end
            statements = tuple(_statement(draws, draws.between(1, 3)) for _ in range(count))
            if any(holds(one) for one in statements):
                return Options(statements)

    def question(self, puzzle: Options) -> str:
        lines = [f"{chr(65 + place)}: {written(one)}" for place, one in enumerate(puzzle.statements)]
        return (
            "Which of these statements are true? 'or' is true when at least one side is. Answer with the letters of all true "
            "statements, separated by commas.\n\n" + "\n".join(lines)
        )

    def solves(self, puzzle: Options, answer: str) -> bool | None:
        letters = [part.strip() for part in answer.split(",")]
        if len(letters) > 26 or not all(len(letter) == 1 and "A" <= letter <= "Z" for letter in letters):
            return None
        return set(letters) == _true_letters(puzzle)

    def reference(self, puzzle: Options) -> str:
        return ", ".join(sorted(_true_letters(puzzle)))


def holds(node: Node) -> bool:
    """The truth of a statement."""
    if node.kind == "fact":
        return node.truth
    if node.kind == "not":
        return not holds(node.parts[0])
    values = [holds(part) for part in node.parts]
    return all(values) if node.kind == "and" else any(values)


def written(node: Node) -> str:
    """A statement in words, every part in brackets."""
    if node.kind == "fact":
        return node.text
    if node.kind == "not":
        return f"not ({written(node.parts[0])})"
    return f" {node.kind} ".join(f"({written(part)})" for part in node.parts)


def _true_letters(puzzle: Options) -> set[str]:
    return {chr(65 + place) for place, one in enumerate(puzzle.statements) if holds(one)}


def _statement(draws: Draws, depth: int) -> Node:
    if depth == 0:
        return _fact(draws)
    kind = draws.choice(("not", "and", "or"))
    if kind == "not":
        return Node("not", (_statement(draws, depth - 1),))
    return Node(kind, (_statement(draws, depth - 1), _statement(draws, draws.below(depth))))


def _fact(draws: Draws) -> Node:
    kind = draws.below(6)
    a, b = draws.between(2, 30), draws.between(2, 30)
    if kind == 0:
        claimed = a * b + draws.choice((0, 0, 1, -1, 10))
        return Node("fact", text=f"{a} * {b} = {claimed}", truth=a * b == claimed)
    if kind == 1:
        claimed = a + b + draws.choice((0, 0, 1, -1, 10))
        return Node("fact", text=f"{a} + {b} = {claimed}", truth=a + b == claimed)
    if kind == 2:
        total, divisor = a * b + draws.choice((0, 0, 1)), draws.between(2, 9)
        return Node("fact", text=f"{total} is divisible by {divisor}", truth=total % divisor == 0)
    if kind == 3:
        return Node("fact", text=f"{a * a} > {b * b + a}", truth=a * a > b * b + a)
    first, second = draws.sample(WORDS, 2)
    if kind == 4:
        return Node("fact", text=f"'{first}' comes before '{second}' in a dictionary", truth=first < second)
    letter = draws.choice("aeinrt")
    return Node("fact", text=f"the word '{first}' contains the letter '{letter}'", truth=letter in first)
