"""Every moment at which a kill leaves something else on the disk than one moment before, counted and made deadly.

What a process leaves behind changes only where it changes a file: at a statement of SQLite that writes or a commit, and where
a file is made, written, flushed, named, linked or removed. Just before each of these is a kill point; between two of them every
instruction is as good as another. A write is torn: half of its bytes are there. What SQLite does within one call is not taken
apart: its own recovery is what the ledger's flushed commits rely on.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from grail_core import database

_STATEMENTS = ("execute", "executemany", "executescript")
_COMMITS = ("commit", "__exit__")
_FOLDER_CALLS = ("fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "utime", "ftruncate")


class KillPoints:
    """Counts the kill points of this process and its threads, and SIGKILLs it at one of them. Forked children do not count.

    Args:
        kill_at: at which point, from 0; None: at none.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.names: list[str] = []
        self._kill_at = kill_at
        self._lock = threading.Lock()
        self._process = os.getpid()

    def install(self) -> None:
        """From here on, for the rest of this process's life: there is no way back."""
        for name in _STATEMENTS:
            self._before(database._Cursor, name, counts=_writes)
        for name in _COMMITS:
            self._before(database._Connection, name)
        for name in _FOLDER_CALLS:
            self._before(os, name)
        self._tear_writes()
        sys.addaudithook(self._opened)

    def meet(self, name: str, last_act: Callable[[], object] = lambda: None) -> None:
        """A point. `last_act`: what is still done before the process dies here."""
        if os.getpid() != self._process:
            return
        with self._lock:  # no other thread gets any further than this
            if len(self.names) == self._kill_at:
                last_act()
                os.kill(self._process, signal.SIGKILL)
            self.names.append(name)

    def _before(self, place: Any, name: str, counts: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(place, name)

        @wraps(original)
        def met(*arguments: Any, **options: Any) -> Any:
            if counts(*arguments):
                self.meet(name)
            return original(*arguments, **options)

        setattr(place, name, met)

    def _tear_writes(self) -> None:
        for name in ("write", "pwrite"):
            setattr(os, name, self._torn(name, getattr(os, name)))

    def _torn(self, name: str, write: Callable[..., int]) -> Callable[..., int]:
        def torn(descriptor: int, data: Any, *offset: int) -> int:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                half = memoryview(data).cast("B")[: len(data) // 2]
                self.meet(name, lambda: write(descriptor, half, *offset))
            return write(descriptor, data, *offset)

        return torn

    def _opened(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_CREAT | os.O_TRUNC):
            self.meet("open")


def _writes(_: object, statement: str, *__: object) -> bool:
    return not statement.lstrip().upper().startswith(("SELECT", "PRAGMA"))
