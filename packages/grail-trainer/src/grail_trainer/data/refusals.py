"""What a validator's bucket showed in one window and what is not read again.

An object that is not what it should be is read once: its ETag is remembered. Who puts new ones there again and again is given
up after a few.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from grail_core.protocol.types import Hotkey

MAX_REFUSED: Final = 3
"""Objects of one validator and window that are read in vain; nothing more is read from it then."""


@dataclass
class Refusals:
    """Of one window."""

    _seen: set[tuple[Hotkey, str, str]] = field(default_factory=set)
    _refused: Counter[Hotkey] = field(default_factory=Counter)

    def add(self, validator: Hotkey, key: str, etag: str) -> None:
        """The object of this ETag is not what its key says."""
        self._seen.add((validator, key, etag))
        self._refused[validator] += 1

    def knows(self, validator: Hotkey, key: str, etag: str) -> bool:
        """Was this very object refused before?"""
        return (validator, key, etag) in self._seen

    def given_up(self, validator: Hotkey) -> bool:
        return self._refused[validator] >= MAX_REFUSED
