"""A file is replaced whole or not at all, and what somebody killed over it has left goes with the next write."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest

from grail_core.disk import write_atomically
from grail_core.errors import StorageError
from tooling.testing.killing import killed_at

CALLS = [(os, name) for name in ("open", "write", "fsync", "replace", "close", "ftruncate")]


def test_killed_at_any_call_a_write_leaves_the_old_file_or_the_new_one_and_the_next_write_nothing_else(tmp_path: Path) -> None:
    for step in range(100):
        folder = tmp_path / str(step)
        write_atomically(folder / "file", b"old")
        killed = killed_at(step, CALLS, partial(write_atomically, folder / "file", b"new"))
        assert (folder / "file").read_bytes() in (b"old", b"new")
        write_atomically(folder / "file", b"after")
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("file", b"after")]
        if not killed:
            break
    assert 6 <= step < 99


def test_many_who_write_one_file_at_once_leave_one_of_theirs(tmp_path: Path) -> None:
    said = [bytes([number]) * 4096 for number in range(8)]
    start = threading.Barrier(len(said))

    def write(data: bytes) -> None:
        start.wait()
        for _ in range(20):
            write_atomically(tmp_path / "file", data)

    threads = [threading.Thread(target=write, args=(data,)) for data in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_what_somebody_laid_in_the_way_is_neither_written_nor_kept(kind: str, tmp_path: Path) -> None:
    other, way = tmp_path / "other", tmp_path / ".file.tmp"
    other.write_bytes(b"theirs")
    if kind == "symlink":
        way.symlink_to(other)
    elif kind == "hard link":
        os.link(other, way)
    else:
        os.mkfifo(way)
    write_atomically(tmp_path / "file", b"ours")
    assert other.read_bytes() == b"theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


def test_a_folder_in_the_way_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(StorageError, match="folder stands"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
