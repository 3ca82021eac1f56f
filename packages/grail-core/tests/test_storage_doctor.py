"""`grail storage doctor` writes into a bucket that somebody uses: it leaves nothing there."""

from __future__ import annotations

from pathlib import Path

from grail_core.clock import wall_clock_ms
from grail_core.examination.bucket import examine
from grail_core.storage.base import NoAnswerError, ObjectInfo
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore


class Unready(FilesystemStore):
    """From a put on it does not say what became of it: of the first one, that it was written."""

    fails_from = 1
    puts = 0

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        self.puts += 1
        if self.puts > 1 and self.puts >= self.fails_from:
            raise NoAnswerError("the store is not ready (503 SlowDown)", where=key)
        info = super().put(key, data, if_absent=if_absent)
        if self.puts >= self.fails_from:
            raise NoAnswerError("the store does not answer", where=key)
        return info


class Own(FilesystemDirectory):
    """Whose own bucket is given."""

    store: Unready

    def own(self) -> Unready:
        return self.store


def test_the_doctor_leaves_nothing_behind_whichever_of_its_tries_fails(tmp_path: Path) -> None:
    directory = Own(tmp_path, "adam")
    for fails_from in (1, 2):
        directory.store = Unready(tmp_path, "adam")
        directory.store.fails_from = fails_from
        found = examine(directory, wall_clock_ms)
        assert not all(one.ok for one in found)
        assert list(directory.store.list("")) == []
