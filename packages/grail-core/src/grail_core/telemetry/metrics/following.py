"""Follows a role's events: each that a table knows becomes readings, which go to every sink.

A logging handler beside the log file and the terminal, so that what is watched is what is logged. It decides nothing: a field
that is missing or no number is left out, a sink that raises is counted and never in the way of the event.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grail_core.telemetry.logs import fields_of
from grail_core.telemetry.metrics.metric import From, Metric

READINGS: Final = "readings"


@dataclass(frozen=True)
class Reading:
    """What an event says of one metric: a counter's step, a gauge's value or what a histogram observes, by values of labels.

    `whole`: these are all of the gauge's series; one that is not here is gone.
    """

    metric: Metric
    values: Mapping[tuple[str, ...], float]
    whole: bool = False


class Sink(Protocol):
    """Where readings go. Neither call may wait for anybody, but for `close` the few seconds that it says."""

    name: str

    def take(self, readings: Sequence[Reading]) -> None: ...

    def close(self) -> None: ...


class Follower(logging.Handler):
    """`failed`: how often a sink raised, by its name; READINGS: how often an event could not be read."""

    def __init__(self, table: Sequence[Metric], sinks: Sequence[Sink]) -> None:
        super().__init__()
        self._of_event: dict[str, list[tuple[Metric, From]]] = {}
        for metric in table:
            for source in metric.follows:
                self._of_event.setdefault(source.event, []).append((metric, source))
        self._sinks, self._turn = tuple(sinks), threading.RLock()
        self.failed: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record)
        if fields is not None:
            self.take(record.getMessage(), fields, record.created)

    def take(self, event: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """What an event does, logged or not. `at`: seconds since 1970."""
        sources = self._of_event.get(event, ())
        now = time.time() if at is None else at
        try:
            readings = [one for metric, source in sources if (one := reading(metric, source, fields, now)) is not None]
        except Exception:  # noqa: BLE001 - as below: an odd field, or one that changes meanwhile, costs its event's readings
            with self._turn:
                self.failed[READINGS] = self.failed.get(READINGS, 0) + 1
            return
        if not readings:
            return
        with self._turn:
            for sink in self._sinks:
                try:
                    sink.take(readings)
                except Exception:  # noqa: BLE001 - nothing that watches is in the way of what it watches; it is counted
                    self.failed[sink.name] = self.failed.get(sink.name, 0) + 1


def reading(metric: Metric, source: From, fields: Mapping[str, Any], at: float) -> Reading | None:
    """What one event says of one metric; None where it says nothing that is a number."""
    if source.each:
        return _each(metric, source, fields)
    value = _number(fields.get(source.field)) if source.field else (1.0 if metric.kind == "counter" else at)
    if value is None or (metric.kind == "counter" and value < 0):
        return None
    return Reading(metric, {_labels(metric, source, fields): value})


def _each(metric: Metric, source: From, fields: Mapping[str, Any]) -> Reading | None:
    held = fields.get(source.field)
    if not isinstance(held, Mapping):
        return None
    values: dict[tuple[str, ...], float] = {}
    for key, one in held.items():
        number = _number(one)
        if number is not None and not (metric.kind == "counter" and number < 0):
            labels = _labels(metric, source, fields, key)
            values[labels] = values.get(labels, 0.0) + number if metric.kind == "counter" else number
    return Reading(metric, values, whole=metric.kind == "gauge")


def _labels(metric: Metric, source: From, fields: Mapping[str, Any], key: object = "") -> tuple[str, ...]:
    def of(name: str) -> object:
        if name == source.each:
            return key
        return source.fixed[name] if name in source.fixed else fields.get(source.labels.get(name, ""))

    return tuple(label.bounded(of(label.name)) for label in metric.labels)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float(value) if isinstance(value, bool) else None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@contextmanager
def followed(follower: Follower) -> Iterator[Follower]:
    """While the block lasts, events reach the sinks."""
    root = logging.getLogger()
    root.addHandler(follower)
    try:
        yield follower
    finally:
        root.removeHandler(follower)
