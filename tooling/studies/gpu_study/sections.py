"""What a section of the study is: figures of one subject on one shape, taken item by item.

An item is short enough that stopping between two of them keeps a run within its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tooling.studies.gpu_study.bench import Bench

Figures = Mapping[str, Any]
Item = tuple[str, Callable[[], Figures]]
"""(name, what measures it)."""


class NotHereError(Exception):
    """This device or model has no such thing: no failure."""


@dataclass(frozen=True)
class Section:
    """`share`: of the time, against the other sections'."""

    name: str
    share: float
    items: Callable[[Bench], Sequence[Item]]
    small_shapes_only: bool = False  # those that a CPU can run beside
