"""Readings as a page in Prometheus' text format, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from grail_core.telemetry.metrics.following import Reading
from grail_core.telemetry.metrics.metric import Kind, Metric

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
Collector = Counter | Gauge | Histogram
disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter began is no number of the table


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """What counts this metric in a registry: its names are the table's, whoever counts."""
    return Counter(metric.name.removesuffix("_total"), _about(metric), metric.label_names, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """As `counter`."""
    return Gauge(metric.name, _about(metric), metric.label_names, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    """As `counter`."""
    return Histogram(metric.name, _about(metric), metric.label_names, buckets=metric.buckets, registry=registry)


_OF_KIND: Final[dict[Kind, Callable[[Metric, CollectorRegistry], Collector]]] = {
    "counter": counter,
    "gauge": gauge,
    "histogram": histogram,
}


def _about(metric: Metric) -> str:
    return metric.about[:1].upper() + metric.about[1:] + (f" ({metric.unit})." if metric.unit else ".")


class PrometheusSink:
    """`page` may be called from any thread. `registry`: one that has collectors of its owner's already.

    A counter without labels is there from the beginning, at 0: a rate needs the step from there. A gauge is there once
    somebody said what it is: a 0 that nobody measured would be a lie.
    """

    name = "prometheus"

    def __init__(self, table: Sequence[Metric], registry: CollectorRegistry | None = None) -> None:
        self._registry = CollectorRegistry() if registry is None else registry
        self._made: dict[str, Collector] = {}
        for metric in table:
            if metric.kind == "counter" and metric.follows:
                made = self._made[metric.name] = counter(metric, self._registry)
                if len(metric.labels) == 1 and len(metric.labels[0].values) <= _FEW:
                    for value in metric.labels[0].values:
                        made.labels(value)

    def take(self, readings: Sequence[Reading]) -> None:
        for one in readings:
            made = self._made.get(one.metric.name)
            if made is None:
                made = self._made[one.metric.name] = _OF_KIND[one.metric.kind](one.metric, self._registry)
            if one.whole:
                made.clear()
            for labels, value in one.values.items():
                child = made.labels(*labels) if labels else made
                if isinstance(child, Counter):
                    child.inc(value)
                elif isinstance(child, Gauge):
                    child.set(value)
                else:
                    child.observe(value)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def close(self) -> None:
        pass


_FEW: Final = 32  # values of a label whose counters are there from the beginning
