"""Three families about nested brackets: complete a sequence, put its beginning in front, find the wrong steps of a trace."""

from __future__ import annotations

from dataclasses import dataclass

from grail_envs.draws import Draws

PAIRS = ("()", "[]", "{}", "<>")
_OPENING = {pair[0]: pair[1] for pair in PAIRS}
_CLOSING = {pair[1]: pair[0] for pair in PAIRS}


def missing_end(start: str) -> str | None:
    """The closing brackets that `start` still needs, in order; None if it closes something wrongly."""
    stack: list[str] = []
    for bracket in start:
        if bracket in _OPENING:
            stack.append(_OPENING[bracket])
        elif not stack or stack.pop() != bracket:
            return None
    return "".join(reversed(stack))


def missing_start(end: str) -> str | None:
    """The opening brackets that must stand before `end`; None if no beginning helps."""
    stack: list[str] = []
    for bracket in reversed(end):
        if bracket in _CLOSING:
            stack.append(_CLOSING[bracket])
        elif not stack or stack.pop() != bracket:
            return None
    return "".join(stack)


def _walk(draws: Draws, kinds: int, length: int) -> list[str]:
    """A legal beginning of a nested sequence, open at its end."""
    chosen = draws.sample(PAIRS, kinds)
    sequence: list[str] = []
    stack: list[str] = []
    for _ in range(length):
        if not stack or (len(stack) < 12 and draws.chance(11, 20)):
            pair = draws.choice(chosen)
            sequence.append(pair[0])
            stack.append(pair[1])
        else:
            sequence.append(stack.pop())
    if len(stack) < 2:
        for _ in range(2):
            sequence.append(draws.choice(chosen)[0])
    return sequence


def _bare(answer: str) -> str | None:
    text = "".join(answer.split()).strip("`")
    return text if text and all(bracket in _OPENING or bracket in _CLOSING for bracket in text) else None


@dataclass(frozen=True)
class Sequence:
    """The part of a sequence that is shown."""

    shown: str


class DyckCompletion:
    """Close what is open: exactly one shortest end exists."""

    name = "dyck_completion"

    def generate(self, draws: Draws) -> Sequence:
        return Sequence("".join(_walk(draws, draws.between(2, 4), draws.between(8, 50))))

    def question(self, puzzle: Sequence) -> str:
        return (
            "Complete this sequence of brackets so that every bracket is closed in the right order, with as few brackets "
            f"as possible. Answer with the whole sequence, the shown part first.\n\n{puzzle.shown}"
        )

    def solves(self, puzzle: Sequence, answer: str) -> bool | None:
        text = _bare(answer)
        return None if text is None else text == self.reference(puzzle)

    def reference(self, puzzle: Sequence) -> str:
        return puzzle.shown + (missing_end(puzzle.shown) or "")


class DyckPrefix:
    """Open what is closed: exactly one shortest beginning exists."""

    name = "dyck_prefix"

    def generate(self, draws: Draws) -> Sequence:
        mirrored = _walk(draws, draws.between(2, 4), draws.between(8, 50))
        return Sequence(
            "".join(_OPENING[bracket] if bracket in _OPENING else _CLOSING[bracket] for bracket in reversed(mirrored))
        )

    def question(self, puzzle: Sequence) -> str:
        return (
            "This is the end of a sequence of brackets. Put as few brackets as possible in front of it, so that every bracket "
            f"is opened and closed in the right order. Answer with the whole sequence, the shown part last.\n\n{puzzle.shown}"
        )

    def solves(self, puzzle: Sequence, answer: str) -> bool | None:
        text = _bare(answer)
        return None if text is None else text == self.reference(puzzle)

    def reference(self, puzzle: Sequence) -> str:
        return (missing_start(puzzle.shown) or "") + puzzle.shown


@dataclass(frozen=True)
class Trace:
    """`stacks[i]`: what the trace claims to be open after step i + 1; `wrong`: the numbers of the false ones, from 1."""

    sequence: str
    stacks: tuple[str, ...]
    wrong: frozenset[int]


class DyckErrors:
    """Which steps of a trace show a wrong stack; one to five do."""

    name = "dyck_errors"

    def generate(self, draws: Draws) -> Trace:
        sequence = "".join(_walk(draws, draws.between(2, 4), draws.between(8, 24)))
        stacks = list(true_stacks(sequence))
        wrong = draws.sample(range(len(stacks)), draws.between(1, min(5, len(stacks))))
        for place in wrong:
            stacks[place] = _spoiled(draws, stacks[place])
        return Trace(sequence, tuple(stacks), frozenset(place + 1 for place in wrong))

    def question(self, puzzle: Trace) -> str:
        lines = [
            f"{number}. read {bracket}, open: {stack or 'nothing'}"
            for number, (bracket, stack) in enumerate(zip(puzzle.sequence, puzzle.stacks, strict=True), start=1)
        ]
        return (
            f"The brackets {puzzle.sequence} are read one by one. Each line claims which brackets are open after reading one, "
            "outermost first. Each line is to be graded by itself, from the sequence, not from the line before. Which lines "
            "are wrong? Answer with their numbers, separated by commas.\n\n" + "\n".join(lines)
        )

    def solves(self, puzzle: Trace, answer: str) -> bool | None:
        parts = [part.strip() for part in answer.split(",")]
        if len(parts) > 100 or not all(part.isascii() and part.isdigit() and len(part) <= 4 for part in parts):
            return None
        return {int(part) for part in parts} == puzzle.wrong

    def reference(self, puzzle: Trace) -> str:
        return ", ".join(str(number) for number in sorted(puzzle.wrong))


def true_stacks(sequence: str) -> list[str]:
    """What is open after each bracket, outermost first."""
    stack: list[str] = []
    found: list[str] = []
    for bracket in sequence:
        if bracket in _OPENING:
            stack.append(bracket)
        else:
            stack.pop()
        found.append("".join(stack))
    return found


def _spoiled(draws: Draws, stack: str) -> str:
    """Another stack: one bracket more, fewer, or another one."""
    kind = draws.below(3) if stack else 0
    if kind == 0:
        return stack + draws.choice(PAIRS)[0]
    place = draws.below(len(stack))
    if kind == 1:
        return stack[:place] + stack[place + 1 :]
    other = draws.choice([pair[0] for pair in PAIRS if pair[0] != stack[place]])
    return stack[:place] + other + stack[place + 1 :]
