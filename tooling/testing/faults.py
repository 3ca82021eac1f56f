"""Faults on chosen calls: what stands before a chain, a store or a beacon, and answers as the real one otherwise."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Outcome = Callable[[int], BaseException | None]
"""What the n-th call (from 1) of a method raises; None: the real answer."""


_FOR_EVER = 100


def first(count: int, error: BaseException) -> Outcome:
    """The first `count` calls fail."""
    return lambda call: error if call <= count else None


def always(error: BaseException) -> Outcome:
    """Every call fails; a test in which something is tried for ever fails, and does not hang."""

    def outcome(call: int) -> BaseException:
        return error if call <= _FOR_EVER else AssertionError(f"tried {call} times")

    return outcome


class Faulty:
    """Any object, some of whose methods fail. `calls` counts them by name, failed ones too."""

    def __init__(self, inner: object, **outcomes: Outcome) -> None:
        self.inner, self.outcomes, self.calls = inner, outcomes, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            outcome = self.outcomes.get(name)
            error = outcome(self.calls[name]) if outcome is not None else None
            if error is not None:
                raise error
            return found(*arguments, **options)

        return call


def faulty(inner: object, **outcomes: Outcome) -> Any:
    """A `Faulty`, as whatever the object stands for."""
    return Faulty(inner, **outcomes)


class _Events(logging.Handler):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def emit(self, record: logging.LogRecord) -> None:
        self._names.append(record.getMessage())


@contextmanager
def events() -> Iterator[list[str]]:
    """The names of the events that the project logs meanwhile, in their order."""
    names: list[str] = []
    handler = _Events(names)
    loggers = [logging.getLogger(name) for name in ("grail_core", "grail_miner", "grail_validator", "grail_trainer")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield names
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
