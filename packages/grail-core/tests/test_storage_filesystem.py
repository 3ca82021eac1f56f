"""What is the filesystem store's own: its times and ETags, full disks, killed writers, and no way out of a bucket."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
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
from tooling import REPOSITORY
from tooling.testing.clock import ManualClock

KEY = "grail/windows/5F-window-60.parquet"
LIMIT = 1 << 20
WITH_KIT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # for processes that run this very file


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> FilesystemStore:
    return FilesystemStore(tmp_path, "alice", clock=clock)


def reader(tmp_path: Path) -> ObjectStore:
    return FilesystemDirectory(tmp_path, "bob").open("fs:alice")


def test_put_head_list_and_pinned_reads_tell_of_one_etag_and_the_clocks_time(
    store: FilesystemStore, clock: ManualClock, tmp_path: Path
) -> None:
    for if_absent in (True, False):
        info = store.put(KEY, b"rollouts", if_absent=if_absent)
        assert info.stored_at_ms == clock.now
        assert store.head(KEY) == info
        assert list(reader(tmp_path).list("")) == [info]
        assert reader(tmp_path).get(KEY, max_bytes=8, if_match=info.etag) == b"rollouts"
        assert "-" not in info.etag
        clock.now += 5


def test_what_lies_there_is_told_without_reading_it(
    store: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "alice" / "sparse").open("wb") as file:
        file.truncate(4 << 40)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", lambda *_: pytest.fail("content is read"))
        info = reader(tmp_path).head("sparse")
        assert info is not None
        assert info.size == 4 << 40
        assert list(reader(tmp_path).list("")) == [info]
        with pytest.raises(ObjectTooLargeError):
            reader(tmp_path).get("sparse", max_bytes=32_768, if_match=info.etag)
    assert reader(tmp_path).get("sparse", max_bytes=4, if_match=info.etag, offset=1 << 40, length=4) == bytes(4)


def test_a_write_in_place_in_the_same_instant_gives_another_etag(store: FilesystemStore, tmp_path: Path) -> None:
    path = tmp_path / "alice" / KEY
    for turn in range(20):
        seen = store.put(KEY, b"first") if turn % 2 else store.head(KEY) or store.put(KEY, b"first")
        with path.open("r+b") as file:
            file.write(bytes([turn]))
        os.utime(path, ns=(0, seen.stored_at_ms * 1_000_000))
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=100, if_match=seen.etag)


def test_what_is_no_file_is_no_object_and_holds_nobody(store: FilesystemStore, tmp_path: Path) -> None:
    bucket = tmp_path / "alice"
    os.mkfifo(bucket / "fifo")
    (bucket / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bucket / "socket"))
        os.symlink("/dev/zero", bucket / "device")
        os.symlink("device", bucket / "twice")
        for name in ("fifo", "folder", "socket", "device", "twice", "device/x", "fifo/x"):
            assert reader(tmp_path).head(name) is None
            with pytest.raises(ObjectNotFoundError):
                reader(tmp_path).get(name, max_bytes=10, if_match="e")
    assert list(reader(tmp_path).list("")) == []


def test_a_listing_of_a_crowded_bucket_ends(store: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grail_core.storage.filesystem.MAX_LISTED_KEYS", 100)
    for number in range(60):
        (tmp_path / "alice" / f"f{number}").touch()
        (tmp_path / "alice" / f"no key {number}").touch()
    with pytest.raises(StorageError, match="more than 100"):
        list(reader(tmp_path).list("f1"))


def test_a_listing_of_folders_in_folders_ends_where_keys_end(store: FilesystemStore, tmp_path: Path) -> None:
    top = os.open(tmp_path / "alice", os.O_RDONLY)
    for _ in range(600):  # deeper than any key is long
        os.mkdir("d", dir_fd=top)
        inner = os.open("d", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=top))
    os.close(top)
    assert list(reader(tmp_path).list("")) == []


def test_a_bucket_that_nobody_made_is_empty(tmp_path: Path) -> None:
    assert FilesystemStore(tmp_path, "nobody", read_only=True).head("a") is None


def test_a_file_changed_in_place_behind_the_store_is_not_taken_for_the_old_one(store: FilesystemStore, tmp_path: Path) -> None:
    seen = store.put(KEY, b"first")
    path = tmp_path / "alice" / KEY
    status = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for length in (None, 5, 2):
        with pytest.raises(PreconditionFailedError):
            store.get(KEY, max_bytes=100, if_match=seen.etag, length=length)


def test_the_stores_time_does_not_go_back_for_a_key(store: FilesystemStore, clock: ManualClock) -> None:
    first = store.put(KEY, b"1")
    clock.now -= 60_000
    assert store.put(KEY, b"2").stored_at_ms == first.stored_at_ms


def test_nothing_is_read_from_the_very_end(store: FilesystemStore) -> None:
    etag = store.put(KEY, b"abcdef").etag
    assert store.get(KEY, max_bytes=6, if_match=etag, offset=6, length=1) == b""


def test_what_is_no_object_is_not_listed(store: FilesystemStore, tmp_path: Path) -> None:
    store.put(KEY, b"rollouts")
    (tmp_path / "alice" / "not a key").write_bytes(b"")
    os.symlink("/etc", tmp_path / "alice" / "link")
    os.mkfifo(tmp_path / "alice" / "pipe")
    assert [info.key for info in store.list("")] == [KEY]


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


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.from_regex(r"fs:[a-z./-]{0,20}"))
def test_no_committed_text_leads_out_of_the_root(tmp_path: Path, text: str) -> None:
    directory = FilesystemDirectory(tmp_path, "bob")
    try:
        store = directory.open(text)
    except StorageError:
        return
    assert isinstance(store, FilesystemStore)
    folder = store._folder
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
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], env=WITH_KIT, capture_output=True, text=True, check=False)
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
    worker = subprocess.Popen(
        [sys.executable, __file__, "rewrite", str(tmp_path)], env=WITH_KIT, stdout=subprocess.PIPE, text=True
    )
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
