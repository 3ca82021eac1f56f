"""The filesystem store keeps what the protocol takes from S3: whole objects, ETags, store time, and no way out of a bucket."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail_core.errors import ConfigurationError, DiskFullError, StorageError
from grail_core.storage.base import (
    ObjectNotFoundError,
    ObjectStore,
    ObjectTooLargeError,
    PreconditionFailedError,
    StoreDirectory,
)
from grail_core.storage.filesystem import FilesystemDirectory, FilesystemStore

KEY = "grail/windows/5F-window-60.parquet"
LIMIT = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FilesystemStore:
    return FilesystemStore(tmp_path, "alice", clock=clock)


def reader(tmp_path: Path) -> ObjectStore:
    return FilesystemDirectory(tmp_path, "bob").open("fs:alice")


def test_what_is_put_is_read_with_its_etag_and_the_stores_time(store: FilesystemStore, tmp_path: Path, clock: Clock) -> None:
    info = store.put(KEY, b"rollouts")
    assert (info.key, info.size, info.stored_at_ms) == (KEY, 8, clock.now)
    assert info.etag == hashlib.sha256(b"rollouts").hexdigest()
    other = reader(tmp_path)
    assert other.head(KEY) == info
    assert other.get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
    assert store.put("empty", b"").size == 0
    assert store.get("empty", max_bytes=0) == b""


def test_an_object_that_is_not_there_is_none_or_not_found(store: FilesystemStore, tmp_path: Path) -> None:
    assert store.head("a/b/c") is None
    assert FilesystemStore(tmp_path, "nobody", read_only=True).head("a") is None
    with pytest.raises(ObjectNotFoundError) as caught:
        store.get("a/b/c", max_bytes=10)
    assert caught.value.where.endswith("alice/a/b/c")
    store.delete("a/b/c")
    assert list(store.list("")) == []


def test_a_file_replaced_after_first_sight_is_not_read(store: FilesystemStore, clock: Clock) -> None:
    seen = store.put(KEY, b"first")
    clock.now += 5
    again = store.put(KEY, b"other")
    assert again.etag != seen.etag
    assert again.stored_at_ms == seen.stored_at_ms + 5
    for length in (None, 2):
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=100, if_match=seen.etag, length=length)


def test_a_file_changed_in_place_behind_the_store_is_not_taken_for_the_old_one(store: FilesystemStore, tmp_path: Path) -> None:
    seen = store.put(KEY, b"first")
    path = tmp_path / "alice" / KEY
    status = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for length in (None, 5, 2):
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=100, if_match=seen.etag, length=length)


def test_the_stores_time_does_not_go_back_for_a_key(store: FilesystemStore, clock: Clock) -> None:
    first = store.put(KEY, b"1")
    clock.now -= 60_000
    assert store.put(KEY, b"2").stored_at_ms == first.stored_at_ms


def test_a_conditional_put_keeps_what_is_there(store: FilesystemStore) -> None:
    store.put(KEY, b"first", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.put(KEY, b"second", if_absent=True)
    assert store.get(KEY, max_bytes=100) == b"first"


def test_of_many_who_create_an_object_at_once_one_wins(tmp_path: Path) -> None:
    barrier, won = threading.Barrier(8), []

    def race(number: int) -> None:
        store = FilesystemStore(tmp_path, "alice")
        barrier.wait()
        try:
            store.put(KEY, bytes([number]) * 1000, if_absent=True)
            won.append(number)
        except PreconditionFailedError:
            pass

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert FilesystemStore(tmp_path, "alice").get(KEY, max_bytes=1000) == bytes([won[0]]) * 1000


def test_readers_see_the_old_object_or_the_new_one_never_a_mixture(store: FilesystemStore, tmp_path: Path) -> None:
    other, done = reader(tmp_path), threading.Event()
    store.put(KEY, bytes([0]) * 100_000)

    def rewrite() -> None:
        for number in range(1, 40):
            store.put(KEY, bytes([number]) * 100_000)
        done.set()

    thread = threading.Thread(target=rewrite)
    thread.start()
    while not done.is_set():
        data = other.get(KEY, max_bytes=100_000)
        assert len(data) == 100_000
        assert len(set(data)) == 1
    thread.join()


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(0, None, b"abcdef"), (2, None, b"cdef"), (2, 3, b"cde"), (4, 9, b"ef"), (6, 1, b"")]
)
def test_ranges_are_read_and_pinned(store: FilesystemStore, offset: int, length: int | None, expected: bytes) -> None:
    etag = store.put(KEY, b"abcdef").etag
    assert store.get(KEY, max_bytes=6, if_match=etag, offset=offset, length=length) == expected


def test_no_more_than_max_bytes_are_read(store: FilesystemStore) -> None:
    store.put(KEY, b"abcdef")
    with pytest.raises(ObjectTooLargeError):
        store.get(KEY, max_bytes=5)
    assert store.get(KEY, max_bytes=5, length=5) == b"abcde"
    with pytest.raises(StorageError):
        store.get(KEY, max_bytes=5, offset=7)


def test_list_finds_keys_by_prefix_in_order_and_nothing_else(store: FilesystemStore, tmp_path: Path) -> None:
    keys = ["grail/windows/b", "grail/windows/a", "grail/objects/c", "top", "grail/w"]
    for key in keys:
        store.put(key, key.encode())
    (tmp_path / "alice" / "not a key").write_bytes(b"")
    os.symlink("/etc", tmp_path / "alice" / "link")
    os.mkfifo(tmp_path / "alice" / "pipe")
    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("grail/w")] == ["grail/w", "grail/windows/a", "grail/windows/b"]
    assert [info.key for info in store.list("grail/windows/")] == ["grail/windows/a", "grail/windows/b"]
    assert [info.key for info in store.list("none/")] == []
    store.delete("grail/windows/a")
    assert store.head("grail/windows/a") is None


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "..", "../bob/x", "a/../b", "a//b", "a/", "./a", "a b", "a\0b", "ä", "~tmp/x", "a\\b", "x" * 2000],
)
def test_keys_that_are_no_keys_are_refused_everywhere(store: FilesystemStore, key: str) -> None:
    for attempt in (
        lambda: store.put(key, b""),
        lambda: store.head(key),
        lambda: store.get(key, max_bytes=1),
        lambda: store.delete(key),
    ):
        with pytest.raises(StorageError, match="relative path"):
            attempt()


def test_a_link_or_pipe_in_a_hostile_bucket_leads_nowhere(store: FilesystemStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"private")
    bucket = tmp_path / "alice"
    os.symlink(secret / "key", bucket / "file")
    os.symlink(secret, bucket / "folder")
    os.mkfifo(bucket / "pipe")
    other = reader(tmp_path)
    for key in ("file", "folder/key", "pipe"):
        assert other.head(key) is None
        with pytest.raises(ObjectNotFoundError):
            other.get(key, max_bytes=100)
    with pytest.raises(StorageError):
        store.put("folder/key", b"overwritten")
    assert (secret / "key").read_bytes() == b"private"
    store.put("file", b"mine")  # replaces the link itself
    assert (secret / "key").read_bytes() == b"private"


def test_somebody_elses_bucket_is_read_only(tmp_path: Path) -> None:
    directory: StoreDirectory = FilesystemDirectory(tmp_path, "bob")
    directory.own().put("x", b"1")
    other = FilesystemDirectory(tmp_path, "carol").open(directory.commitment())
    assert other.get("x", max_bytes=1) == b"1"
    with pytest.raises(StorageError, match="read only"):
        other.put("x", b"2")
    with pytest.raises(StorageError, match="read only"):
        other.delete("x")


@pytest.mark.parametrize(
    "text",
    ["", "fs:", "fs:..", "fs:a/b", "fs:../x", "s3:alice", "fs:alice\n", " fs:alice", "fs:ALICE", "fs:ab", "fs:" + "x" * 64],
)
def test_commitments_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StorageError, match="commitment"):
        FilesystemDirectory(tmp_path, "bob").open(text)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.from_regex(r"fs:[a-z./-]{0,20}"))
def test_no_committed_text_leads_out_of_the_root(tmp_path: Path, text: str) -> None:
    directory = FilesystemDirectory(tmp_path, "bob")
    try:
        store = directory.open(text)
    except StorageError:
        return
    folder = store._folder  # type: ignore[attr-defined]
    assert folder.parent == tmp_path
    assert folder.name not in (".", "..")


def test_bad_bucket_names_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FilesystemDirectory(tmp_path, "../evil")
    assert "GRAIL_STORAGE_BUCKET" in caught.value.hint


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_object(
    store: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store.put(KEY, b"old")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(DiskFullError) as caught:
            store.put(KEY, b"new")
    assert caught.value.where == str(tmp_path / "alice" / KEY)
    assert caught.value.hint
    assert store.get(KEY, max_bytes=10) == b"old"
    assert os.listdir(tmp_path / "alice" / "~tmp") == []


def test_a_really_full_device_is_named(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=256k none {tmp_path} && exec {sys.executable} {__file__} fill {tmp_path}"
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("no user namespaces with mounts here, so no small device can be made")
    answer = json.loads(ran.stdout)
    assert answer == {"error": "DiskFullError", "where": f"{tmp_path}/alice/big", "kept": "old", "leftovers": []}


def test_temporary_files_of_a_killed_writer_are_removed_and_never_listed(tmp_path: Path) -> None:
    FilesystemStore(tmp_path, "alice")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    spare = tmp_path / "alice" / "~tmp"
    (spare / f"{gone.pid}-aa").write_bytes(b"half")
    (spare / f"{os.getpid()}-bb").write_bytes(b"in use")
    store = FilesystemStore(tmp_path, "alice")
    assert os.listdir(spare) == [f"{os.getpid()}-bb"]
    assert list(store.list("")) == []


def test_a_writer_killed_at_any_moment_leaves_whole_objects(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, __file__, "rewrite", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    for _ in range(20):
        worker.stdout.readline()
    worker.kill()
    worker.communicate()
    store = FilesystemStore(tmp_path, "alice")
    infos = list(store.list(""))
    assert infos
    for info in infos:
        data = store.get(info.key, max_bytes=LIMIT, if_match=info.etag)
        assert (len(data), len(set(data))) == (200_000, 1)


def fill(root: Path) -> None:
    store = FilesystemStore(root, "alice")
    store.put("small", b"old")
    try:
        store.put("big", bytes(1 << 20))
    except DiskFullError as error:
        left = os.listdir(root / "alice" / "~tmp")
        kept = store.get("small", max_bytes=3).decode()
        print(json.dumps({"error": type(error).__name__, "where": error.where, "kept": kept, "leftovers": left}))


def rewrite(root: Path) -> None:
    store = FilesystemStore(root, "alice")
    turn = 0
    while True:
        store.put(f"k{turn % 3}", bytes([turn % 251]) * 200_000, if_absent=turn < 3)
        print(turn, flush=True)
        turn += 1


if __name__ == "__main__":
    {"fill": fill, "rewrite": rewrite}[sys.argv[1]](Path(sys.argv[2]))
