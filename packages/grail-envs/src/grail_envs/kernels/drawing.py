"""What an answer is judged on: the draws of a task, their seeds, and whether a task can tell right answers from others at all.

Seeds follow from the problem, the answer's text and the plans that its Python has already made, so inputs come about after the
last thing that the answer decides: whoever would carry outputs in a plan would have to know the digest of what he is writing. A
task whose right outputs hardly depend on its inputs is none: an answer that ignores them would be right.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from grail_envs.kernels.comparing import Expected, array_of, clearly_different, terms_of

LEAST_SHARE: Final = 1 / 4
"""Of the elements of some output, how many have to be others in another draw of the same sizes."""

SHAPES_SEED: Final = 0
"""Of the draw that only shows shapes."""


@dataclass(frozen=True)
class Task:
    """One problem's module, and the same with the sizes of each draw; the first ones are those that the prompt shows."""

    name: str
    source: str
    draws: tuple[str, ...]


@dataclass(frozen=True)
class Shapes:
    """What the trace of one draw is given, and about how many bytes its inputs and outputs take as text."""

    call: dict[str, Any]
    size: int


@dataclass(frozen=True)
class Drawn:
    """Inputs and weights of one draw as a process is given them, and the right outputs."""

    call: dict[str, Any]
    contents: dict[str, str]
    expected: tuple[Expected, ...]


def fresh_seeds(task: Task, code: str, seed: int, plans: list[dict[str, Any]]) -> list[int]:
    """A seed for every draw: whoever changes a letter, or a number of a launch, gets other inputs."""
    said = json.dumps(["grail-envs/kernel", task.name, task.draws, seed, code, plans], sort_keys=True)
    head = hashlib.sha256(said.encode()).digest()
    return [int.from_bytes(hashlib.sha256(head + bytes([number])).digest()[:4], "big") for number in range(len(task.draws))]


def shapes_of(said: dict[str, Any]) -> Shapes:
    """The shapes that a process says of a draw.

    Raises:
        KeyError, TypeError, ValueError: it says something else.
    """
    call = {name: said[name] for name in ("init", "inputs", "weights")}
    return Shapes(json.loads(json.dumps(call)), int(said["size"]))


def drawn_of(said: dict[str, Any]) -> Drawn:
    """A draw from what a process says of it.

    Raises:
        KeyError, IndexError, TypeError, ValueError: values of a type that is not compared.
    """
    shapes = [tuple(one[2]) for one in said["inputs"] if one[1] != "value"]
    shapes += [tuple(one[2]) for one in said["weights"]]
    expected = []
    for native, dtype, shape, raw in said["outputs"]:
        values = array_of(dtype, tuple(shape), base64.b64decode(raw))
        expected.append(Expected(native, tuple(shape), values, terms_of(shapes, tuple(shape))))
    contents = {f"input:{name}": raw for name, kind, _, *rest in said["inputs"] if kind != "value" for raw in rest}
    contents |= {f"weight:{name}": raw for name, _, _, raw in said["weights"]}
    call = {
        "init": said["init"],
        "inputs": [one[:3] for one in said["inputs"]],
        "weights": [one[:3] for one in said["weights"]],
    }
    return Drawn(call, contents, tuple(expected))


def ignores_inputs(drawn: list[Drawn]) -> bool:
    """Whether an answer that ignores its inputs could be right: no output differs enough between draws of the first sizes."""
    first = drawn[0]
    others = [one for one in drawn[1:] if one.call == first.call]
    shares = [
        float(np.mean([clearly_different(right, one.expected[number].values).mean() for one in others]))
        for number, right in enumerate(first.expected)
        if right.values.size and others
    ]
    return max(shares, default=0.0) < LEAST_SHARE


def batches(sizes: list[int], most: int) -> list[list[int]]:
    """Places 0, 1, … in order, in lists whose sizes together are at most `most`; what is larger is alone."""
    found: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if not found or size > room:
            found.append([])
            room = most
        found[-1].append(number)
        room -= size
    return found
