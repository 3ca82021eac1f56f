"""What both interfaces have in common about a row: waiting for it, and what of it is told, a fault's lie included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_double.requests import Request, Span

_LOOK_S = 0.05  # how often a waiting handler looks whether anybody still listens

_WHOLE_REQUEST = frozenset({"clones"})


@dataclass(frozen=True)
class Told:
    """A row as it is told to the client, at one moment."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str | None
    matched: int | None
    message: str
    label: str
    spans: tuple[Span, ...]
    prompt_tokens: int
    cached_tokens: int
    retractions: int
    waited_only: bool  # aborted before it ran


def with_fault(rows: Sequence[Request], fault: Fault | None) -> None:
    """Let a generation's fault befall its first row, or all of them where it is a fault of the request."""
    if fault is None:
        return
    for row in rows if fault.kind in _WHOLE_REQUEST else rows[:1]:
        row.fault = fault


def told(engine: Engine, row: Request) -> Told:
    """The row as it stands; call under the engine's lock."""
    tokens, finish = tuple(row.tokens), row.finish
    label = row.last_label or engine.label
    spans = row.spans(engine.label)
    fault = row.fault.kind if row.fault is not None else None
    if fault == "other_tokens" and tokens:
        others = [other for other in reversed((*engine.finished, *engine.running)) if other is not row and other.tokens]
        other = next((o for o in others if tuple(o.tokens) != tokens), None)
        tokens = tuple(other.tokens) if other is not None else tokens[::-1]
        spans = (Span(label, 0, len(tokens)),)
    elif fault == "too_few_tokens" and finish is not None and row.fault is not None:
        tokens = tokens[: -max(1, row.fault.tokens)]
        finish = "length"
    elif fault == "foreign_ids" and tokens:
        tokens = (*tokens[:-1], engine.model.vocabulary_size + 7)
    elif fault == "wrong_version" and row.fault is not None:
        label = row.fault.value or "another"
        spans = (Span(label, 0, len(tokens)),)
    return Told(
        tokens,
        tuple(row.logprobs[: len(tokens)]),
        finish,
        row.matched if finish == "stop" else None,
        row.message,
        label,
        spans,
        len(row.prompt),
        row.cached_tokens,
        row.retractions,
        row.finish == "abort" and not row.tokens and row.message != "Aborted",
    )


def finished(engine: Engine, rows: Sequence[Request], gone: Callable[[], bool]) -> list[Told]:
    """Wait for all rows; they are aborted where the client has hung up meanwhile.

    Raises:
        ConnectionAbortedError: it has.
    """
    with engine.changed:
        while not all(row.finish for row in rows):
            engine.changed.wait(_LOOK_S)
            if gone():
                hang_up(engine, rows)
                raise ConnectionAbortedError("the client has hung up")
        return [told(engine, row) for row in rows]


def progress(engine: Engine, rows: Sequence[Request], gone: Callable[[], bool]) -> Iterator[tuple[int, Told]]:
    """Each row whenever it has grown, and once when it is finished; ends with the last. Aborts as `finished` does."""
    seen = [0] * len(rows)
    open_rows = set(range(len(rows)))
    while open_rows:
        news: list[tuple[int, Told]] = []
        with engine.changed:
            for index in sorted(open_rows):
                row = rows[index]
                if row.finish is not None or len(row.tokens) > seen[index]:
                    seen[index] = len(row.tokens)
                    news.append((index, told(engine, row)))
                    if row.finish is not None:
                        open_rows.discard(index)
            if not news:
                engine.changed.wait(_LOOK_S)
        if not news and gone():
            hang_up(engine, rows)
            raise ConnectionAbortedError("the client has hung up")
        yield from news


def hang_up(engine: Engine, rows: Sequence[Request]) -> None:
    """Nobody waits for these rows any more."""
    engine.abort(lambda row: row in rows)


def whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
