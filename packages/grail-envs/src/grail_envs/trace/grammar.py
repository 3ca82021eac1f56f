"""Small Python programs drawn from a grammar, with what they print.

A program is a tree that is both written out as Python and run by an interpreter of this module, so the expected output needs
no process and takes microseconds; that Python prints the same is checked by the sweep. Every value is bounded by a modulus
and every loop by a constant, so each program ends after a few hundred steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grail_envs.draws import Draws

MODULUS = 1009
_NAMES = ("a", "b", "c", "d", "n", "total")


@dataclass(frozen=True)
class Node:
    """One statement or expression: its kind, its text or number, and its parts."""

    kind: str
    text: str = ""
    number: int = 0
    parts: tuple[Node, ...] = ()


@dataclass
class _Writer:
    """Draws a program; `scope` are the numbers that are bound wherever the next statement runs."""

    draws: Draws
    scope: list[str] = field(default_factory=list)
    marks: int = 0

    def program(self) -> tuple[Node, ...]:
        body = [
            Node("set", name, parts=(Node("int", number=self.draws.between(0, 30)),)) for name in self.draws.sample(_NAMES, 3)
        ]
        self.scope = [one.text for one in body]
        listed = tuple(Node("int", number=self.draws.between(-9, 20)) for _ in range(self.draws.between(3, 5)))
        body.append(Node("list", "items", parts=listed))
        for _ in range(self.draws.between(3, 6)):
            body += self.statement(2)
        body.append(Node("print", parts=tuple(Node("name", name) for name in self.scope)))
        body.append(Node("print", parts=(Node("name", "items"),)))
        return tuple(body)

    def statement(self, depth: int) -> list[Node]:
        kind = self.draws.below(8 if depth else 4)
        if kind <= 1:
            return self.marked(Node("set", self.draws.choice(self.scope), parts=(self.expression(2),)), 3)
        if kind == 2:
            return self.marked(Node("add", self.draws.choice(self.scope), parts=(self.expression(1),)), 3)
        if kind == 3:
            return [Node("append", "items", parts=(self.expression(1),))]
        if kind <= 5:
            then = Node("block", parts=tuple(self.block(depth - 1)))
            other = Node("block", parts=tuple(self.block(depth - 1)))
            test = Node("less", parts=(self.expression(1), self.expression(1)))
            return self.marked(Node("if", parts=(test, then, other)), 2)
        counter = f"i{depth}"
        self.scope.append(counter)
        body = self.block(depth - 1)
        self.scope.pop()
        body = [one for one in body if one.text != counter] or [Node("append", "items", parts=(Node("name", counter),))]
        return [Node("for", counter, self.draws.between(2, 4), (Node("block", parts=tuple(body)),))]

    def block(self, depth: int) -> list[Node]:
        return [one for _ in range(self.draws.between(1, 2)) for one in self.statement(depth)]

    def marked(self, node: Node, fifths: int) -> list[Node]:
        """The statement, and with some probability a debug print of one to three numbers after it."""
        if self.marks >= 6 or not self.draws.chance(fifths, 5):
            return [node]
        self.marks += 1
        shown = self.draws.sample(self.scope, min(len(self.scope), self.draws.between(1, 3)))
        return [node, Node("debug", f"__DBG_{self.marks - 1}__", parts=tuple(Node("name", name) for name in shown))]

    def expression(self, depth: int) -> Node:
        kind = self.draws.below(7 if depth else 2)
        if kind == 0:
            return Node("int", number=self.draws.between(0, 20))
        if kind == 1:
            return Node("name", self.draws.choice(self.scope))
        if kind == 2:
            return Node("len", "items")
        if kind == 3:
            return Node("index", "items", parts=(self.expression(depth - 1),))
        if kind == 4:
            return Node("divide", number=self.draws.between(2, 9), parts=(self.expression(depth - 1),))
        return Node(
            "*" if kind == 5 else self.draws.choice("+-"), parts=(self.expression(depth - 1), self.expression(depth - 1))
        )


def drawn(draws: Draws) -> tuple[str, str]:
    """A program's source and what it prints."""
    body = _Writer(draws).program()
    run = _Run()
    run.block(body)
    return "\n".join(_lines(body, 0)) + "\n", "".join(run.out)


def _lines(body: tuple[Node, ...], depth: int) -> list[str]:
    pad = "    " * depth
    lines: list[str] = []
    for node in body:
        parts = [_text(part) for part in node.parts if part.kind != "block"]
        if node.kind == "set":
            lines.append(f"{pad}{node.text} = {parts[0]}")
        elif node.kind == "add":
            lines.append(f"{pad}{node.text} = ({node.text} + {parts[0]}) % {MODULUS}")
        elif node.kind == "list":
            lines.append(f"{pad}{node.text} = [{', '.join(parts)}]")
        elif node.kind == "append":
            lines.append(f"{pad}{node.text}.append({parts[0]})")
        elif node.kind in ("print", "debug"):
            mark = [f'"{node.text}"'] if node.kind == "debug" else []
            lines.append(f"{pad}print({', '.join(mark + parts)})")
        elif node.kind == "if":
            lines += [f"{pad}if {parts[0]}:", *_lines(node.parts[1].parts, depth + 1)]
            lines += [f"{pad}else:", *_lines(node.parts[2].parts, depth + 1)]
        else:
            lines += [f"{pad}for {node.text} in range({node.number}):", *_lines(node.parts[0].parts, depth + 1)]
    return lines


def _text(node: Node) -> str:
    parts = [_text(part) for part in node.parts]
    if node.kind == "int":
        return str(node.number)
    if node.kind == "name":
        return node.text
    if node.kind == "len":
        return f"len({node.text})"
    if node.kind == "index":
        return f"{node.text}[{parts[0]} % len({node.text})]"
    if node.kind == "divide":
        return f"({parts[0]} // {node.number})"
    if node.kind == "less":
        return f"{parts[0]} < {parts[1]}"
    return f"({parts[0]} {node.kind} {parts[1]}) % {MODULUS}" if node.kind == "*" else f"({parts[0]} {node.kind} {parts[1]})"


class _Run:
    """The interpreter."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.items: list[int] = []
        self.out: list[str] = []

    def block(self, body: tuple[Node, ...]) -> None:
        for node in body:
            if node.kind == "set":
                self.numbers[node.text] = self.value(node.parts[0])
            elif node.kind == "add":
                self.numbers[node.text] = (self.numbers[node.text] + self.value(node.parts[0])) % MODULUS
            elif node.kind == "list":
                self.items = [self.value(part) for part in node.parts]
            elif node.kind == "append":
                self.items.append(self.value(node.parts[0]))
            elif node.kind in ("print", "debug"):
                shown = [str(self.items if part.text == "items" else self.value(part)) for part in node.parts]
                self.out.append(" ".join(([node.text] if node.kind == "debug" else []) + shown) + "\n")
            elif node.kind == "if":
                self.block(node.parts[1 if self.value(node.parts[0]) else 2].parts)
            else:
                for count in range(node.number):
                    self.numbers[node.text] = count
                    self.block(node.parts[0].parts)

    def value(self, node: Node) -> int:
        if node.kind == "int":
            return node.number
        if node.kind == "name":
            return self.numbers[node.text]
        if node.kind == "len":
            return len(self.items)
        first = self.value(node.parts[0])
        if node.kind == "index":
            return self.items[first % len(self.items)]
        if node.kind == "divide":
            return first // node.number
        second = self.value(node.parts[1])
        if node.kind == "less":
            return int(first < second)
        if node.kind == "*":
            return (first * second) % MODULUS
        return first + second if node.kind == "+" else first - second
