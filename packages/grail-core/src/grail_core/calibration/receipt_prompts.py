"""What a model is asked when receipts are measured with it: a file of questions, or these.

The built-in ones are of many kinds and lengths, some as bare texts and some of one word, whose prompts have few sketches.
Whoever knows what a node will be asked gives a file of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from grail_core.environment import Message
from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.inference.constants import MAX_FEATURES_BYTES
from grail_core.inference.features import Features
from grail_core.model.prompts import PromptRenderer
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import parse_json

MAX_FILE_BYTES: Final = 16 << 20
MAX_PROMPTS: Final = 10_000
_FORM: Final = '{"prompt": "Once upon a time"}, or {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}'

_CHATS: Final = (
    "What is 2 + 2?",
    "Hi",
    "Why is the sky blue? Explain it to a child of six in three sentences.",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "List ten animals that live in the sea, with one fact about each of them.",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey? Think step by step.",
    "Translate into French: The weather is fine today, and we shall have lunch in the garden.",
    "Write a Python function that returns the n-th Fibonacci number, with a docstring and two tests.",
    "Yes or no: is 91 a prime number?",
    "Summarise the plot of Romeo and Juliet in about a hundred words.",
    "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many did she sell altogether?",
    "Which is heavier, a kilogram of feathers or a pound of iron? Give reasons, and say what is assumed.",
    "Erkläre in zwei Sätzen, was ein Hash ist.",
    "Give me a recipe for a soup of lentils, carrots and onions: ingredients first, then the steps.",
    "Compare TCP with UDP in a table of five rows, and say when you would choose which of them.",
    "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?",
    "Name the planets in order of their distance from the sun.",
    "写一首关于秋天的短诗。",
    "ok",
    "What would you pack for a week in the mountains in October? The hut has no electricity, and there may be snow.",
    "Correct the grammar: Their going too the library tomorrow because they're books is do.",
    "Explain what a mutex is, and show in C how a deadlock comes about and how it is avoided.",
    "Draft a polite letter to a landlord about a heating that has not worked since Monday.",
    "What is the derivative of x**3 * sin(x)? Show the steps.",
)
_TEXTS: Final = (
    "Once upon a time",
    "The",
    "def quicksort(items):\n",
    "In 1905 Albert Einstein published four papers. The first of them",
    "1, 1, 2, 3, 5, 8,",
    "To whom it may concern,\n\n",
    '{"name": "Ada", "born": 1815, "known_for": ["',
    "Abstract. We study the convergence of stochastic gradient descent on objectives that are neither smooth nor",
)
BUILT_IN: Final = (
    *(Features(messages=(Message("user", text),)) for text in _CHATS),
    *(Features(prompt=text) for text in _TEXTS),
)


def prompts_of(file: Path | None, renderer: PromptRenderer) -> list[tuple[int, ...]]:
    """Prompt tokens of every question of a file, or of the built-in ones; each of these that the template takes.

    Raises:
        ConfigurationError: the file cannot be read, is too large, or a line of it is no question or one that the model's
            tokenizer or template refuses; the line is named.
    """
    if file is None:
        return [tokens for one in BUILT_IN if (tokens := _rendered(one, renderer))]
    found = []
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            of = parse_json(line, most=MAX_FEATURES_BYTES, tokens=10_000).entries(8)
            features = Features.from_bytes(canonical_json({name: one.value for name, one in of.items()}))
        except ValueError as error:
            raise ConfigurationError(f"no question: {error}", where=where, hint=_FORM) from error
        tokens = _rendered(features, renderer)
        if tokens is None:
            raise ConfigurationError("the model's tokenizer or template refuses this", where=where, hint="leave it out")
        found.append(tokens)
    if not found:
        raise ConfigurationError("no question is in the file", where=str(file), hint=_FORM)
    return found


def _rendered(asked: Features, renderer: PromptRenderer) -> tuple[int, ...] | None:
    try:
        return renderer.render(asked.messages) if asked.messages is not None else renderer.encode(str(asked.prompt))
    except ProtocolViolationError:
        return None


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"the questions cannot be read: {error.strerror}", where=str(file), hint=_FORM) from error
    lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    if len(raw) > MAX_FILE_BYTES or len(lines) > MAX_PROMPTS:
        what = f"more than {MAX_PROMPTS} questions, or {MAX_FILE_BYTES} bytes"
        raise ConfigurationError(what, where=str(file), hint="a few hundred are enough")
    yield from lines
