"""What an environment may offer beside problems and grades; each part is optional, and nobody asks for an environment by name.

An environment offers with one class attribute, `capabilities = Capabilities(…)`. It stands on what its entry point names, so
that what must be known before an environment is made (a folder, a split) can be read without making it. Functions in it take
the environment as their first argument, so a method of the class will do. What each is good for:

* `data_folder`: `load(env_id, data_dir=…)` gives the environment the data folder of the settings as the keyword `data_dir`.
* `held_out`: an evaluation asks problems that nobody trains on.
* `best_constant`: an evaluation says exactly what one fixed answer would earn, not only the best of the model's own answers.
* `teacher`: a tiny model made for the environment can read its prompts in few tokens and starts knowing its answers' form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grail_core.environment import Environment, Problem
from grail_core.errors import ConfigurationError

Demonstrate = Callable[[Problem, random.Random], str]
"""Writes a completion for a problem. A pure function of the two: whatever is left to chance is drawn from the generator."""


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE learned from the environment's own prompts; it can say any text."""

    whole: tuple[str, ...] = ("<answer>", "</answer>")  # pieces of answers that are one token each


@dataclass(frozen=True)
class Symbols:
    """One token a word; any text of a prompt or an answer that is no word is left out, so it must say nothing.

    `words` in the order of their ids. `pieces` is a regular expression that finds words in a text, where trying the words
    themselves, longest first, is not it.
    """

    words: tuple[str, ...]
    pieces: str = ""


@dataclass(frozen=True)
class Stage:
    """Supervised steps on one kind of demonstration; the learning rate falls on a cosine from the first value to the second."""

    demonstrate: Demonstrate
    steps: int = 240
    learning_rate: float = 5e-3
    last_learning_rate: float = 5e-4


@dataclass(frozen=True)
class Teacher:
    """How a tiny model for an environment is made: its vocabulary, its sizes, and what it is shown before reinforcement.

    `context_length` holds a prompt with its completion and `max_new_tokens` a completion, both in tokens of the vocabulary;
    `rows` are the demonstrations of one step. Without stages a model starts from random weights.
    """

    vocabulary: BytePairs | Symbols = BytePairs()
    stages: tuple[Stage, ...] = ()
    context_length: int = 2048
    max_new_tokens: int = 16
    rows: int = 8


@dataclass(frozen=True)
class Capabilities:
    """What an environment offers; what is None or False is not offered.

    `held_out` are the parameters with which the same environment has problems that are never trained on, beside the ones it
    was made with. `best_constant` takes the environment and at least one problem and gives the share of these, 0 … 1, that
    the best constant answer solves, the answer chosen with hindsight; it is None where the environment's parameters allow too
    many answers to try. `teacher` takes the environment.
    """

    data_folder: bool = False
    held_out: Mapping[str, Any] | None = None
    best_constant: Callable[[Any, Sequence[Problem]], float | None] | None = None
    teacher: Callable[[Any], Teacher] | None = None


GENERAL_TEACHER: Final = Teacher()
"""For an environment that offers none: byte pairs learned from its prompts, and no stage."""


def capabilities_of(offering: object) -> Capabilities:
    """What an environment, or what its entry point names, offers.

    Raises:
        ConfigurationError: its `capabilities` are something else.
    """
    offered = getattr(offering, "capabilities", None)
    if offered is None:
        return Capabilities()
    if not isinstance(offered, Capabilities):
        raise ConfigurationError(
            f"`capabilities` of an environment is a {type(offered).__name__}",
            where=getattr(offering, "__qualname__", type(offering).__qualname__),
            hint="make it a class attribute: capabilities = Capabilities(…), from grail_core.capabilities",
        )
    return offered


def teacher_of(environment: Environment) -> Teacher:
    """The environment's own teacher, else the general one.

    Raises:
        ConfigurationError: its capability `teacher` gives something else.
    """
    offered = capabilities_of(environment).teacher
    if offered is None:
        return GENERAL_TEACHER
    teacher = offered(environment)
    if not isinstance(teacher, Teacher):
        raise ConfigurationError(
            f"the capability `teacher` of the environment {environment.spec.env_id} gave a {type(teacher).__name__}",
            where=environment.spec.env_id,
            hint="it takes the environment and returns a grail_core.capabilities.Teacher",
        )
    return teacher


def best_constant_of(environment: Environment, problems: Sequence[Problem]) -> float | None:
    """Share of `problems`, 0 … 1, that the best constant answer solves; None where the environment cannot say.

    Raises:
        ConfigurationError: its capability `best_constant` gives no share.
    """
    offered = capabilities_of(environment).best_constant
    share = None if offered is None or not problems else offered(environment, problems)
    if share is not None and not 0.0 <= share <= 1.0:
        raise ConfigurationError(
            f"the capability `best_constant` of the environment {environment.spec.env_id} gave {share}",
            where=environment.spec.env_id,
            hint="it returns the share of the problems that one answer solves, 0 to 1",
        )
    return share
