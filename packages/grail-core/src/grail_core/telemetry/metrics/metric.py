"""One metric of a role: its name, unit and meaning, and how it follows from the events that the role logs.

A table of these is the one source of what Prometheus and W&B are told, of the page docs/monitoring.md, of dashboards and of
alerts. Names are public interface: one that is there keeps its meaning. Values of labels come from closed lists and whatever
else there is counts as "other", so that nobody's text is in a label and nobody makes a page long. Pure values; nothing here
knows a sink.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
OTHER: Final = "other"
SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 400.0)
"""Upper bounds of a histogram's buckets where the metric names none."""
_NAME: Final = re.compile(r"grail_[a-z0-9]+(_[a-z0-9]+)*")
_LABEL: Final = re.compile(r"[a-z]+(_[a-z]+)*")


@dataclass(frozen=True)
class Label:
    """A label and all values that it may have, but for OTHER. `said`: which these are, in words, where a list tells less."""

    name: str
    values: tuple[str, ...]
    said: str = ""

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.name):
            raise ValueError(f"no name of a label: {self.name!r}")

    def bounded(self, value: object) -> str:
        """The value as it is exposed."""
        if isinstance(value, int) and abs(value) >= 10**9:  # beyond every list, and maybe beyond what Python writes out
            return OTHER
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        return text if text in self.values else OTHER


UID: Final = Label("uid", tuple(map(str, range(256))), "0 … 255")
"""A neuron by its number in the subnet. No hotkey is a label: a uid's hotkey changes, and its number does not grow."""


@dataclass(frozen=True)
class From:
    """What an event does to a metric: a counter goes up, a gauge is set, a histogram observes.

    `field` holds the number; "": a counter goes up by one, and a gauge is the event's time (seconds since 1970).
    `labels` names the field that each label's value is in; `fixed` says a label's value outright. Where `each` names a label,
    the field is an object, whose keys are that label's values; of a gauge the values that are no longer there go.
    """

    event: str
    field: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    each: str = ""


@dataclass(frozen=True)
class Metric:
    """`unit`: "" for a count or a number without one, else as a person says it ("seconds", "share" is 0 … 1).

    Raises:
        ValueError: the name is not as Prometheus' conventions want it, or an event does not say every label.
    """

    name: str
    kind: Kind
    about: str
    unit: str = ""
    labels: tuple[Label, ...] = ()
    follows: tuple[From, ...] = ()  # (): a role sets it itself
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"no name of a {self.kind}: {self.name!r}")
        if self.name.endswith(("_count", "_sum", "_bucket")):
            raise ValueError(f"Prometheus keeps this ending for histograms: {self.name!r}")
        if self.kind == "histogram" and not self.buckets:
            object.__setattr__(self, "buckets", SECONDS)
        for source in self.follows:
            said = {*source.labels, *source.fixed, *filter(None, [source.each])}
            if said != set(self.label_names):
                raise ValueError(f"{self.name}: {source.event} says labels {sorted(said)}, and it has {self.label_names}")

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)


def table(*parts: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Several tables as one.

    Raises:
        ValueError: two metrics have one name.
    """
    whole = tuple(metric for part in parts for metric in part)
    twice = {metric.name for metric in whole if sum(other.name == metric.name for other in whole) > 1}
    if twice:
        raise ValueError(f"metrics of one name: {', '.join(sorted(twice))}")
    return whole
