"""How a wait ends: what was waited for is there, it cannot be had any more, or the role was told to stop. Values alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Opened(Generic[T]):
    """What was waited for."""

    value: T


@dataclass(frozen=True)
class Void:
    """It cannot be had, and no waiting will change that."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """The role was told to stop first."""
