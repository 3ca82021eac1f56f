"""A directory of buckets that writes down which objects are read, and from whose bucket."""

from __future__ import annotations

from typing import Any

from grail_core.storage.base import ObjectStore, StoreDirectory


class WatchedDirectory:
    """Answers as the real one. `reads` has (commitment, key) of every object whose bytes were asked for."""

    def __init__(self, inner: StoreDirectory) -> None:
        self._inner = inner
        self.reads: list[tuple[str, str]] = []

    def own(self) -> ObjectStore:
        return self._inner.own()

    def commitment(self) -> str:
        return self._inner.commitment()

    def open(self, commitment: str) -> ObjectStore:
        watched: Any = _Watched(self._inner.open(commitment), commitment, self.reads)
        store: ObjectStore = watched
        return store


class _Watched:
    def __init__(self, inner: ObjectStore, commitment: str, reads: list[tuple[str, str]]) -> None:
        self._inner, self._commitment, self._reads = inner, commitment, reads

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("get", "read"):
            return found

        def reading(key: str, **options: Any) -> Any:
            self._reads.append((self._commitment, key))
            return found(key, **options)

        return reading
