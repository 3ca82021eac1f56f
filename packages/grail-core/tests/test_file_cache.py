"""A cache's file is whole or none, within its budget, whatever happens to the disk or to who writes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import DiskFullError
from grail_core.file_cache import FileCache
from grail_core.protocol.types import Digest


def digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def content(number: int, size: int = 1000) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def put(cache: FileCache, number: int, size: int = 1000) -> None:
    data = content(number, size)
    cache.put(f"30/{number}", data, digest(data))


def held(cache: FileCache, numbers: range, size: int = 1000) -> list[int]:
    return [number for number in numbers if cache.get(f"30/{number}", digest(content(number, size))) is not None]


def test_what_was_put_is_had_and_forgotten_by_its_folder(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    put(cache, 1)
    put(cache, 2)
    assert held(cache, range(3)) == [1, 2]
    assert cache.get("30/1", digest(b"other bytes")) is None  # and gone: it is nobody's
    assert held(cache, range(3)) == [2]
    cache.forget("30")
    assert held(cache, range(3)) == []


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    match how:
        case "a flipped bit":
            path.write_bytes(b"\x01" + data[1:])
        case "cut short":
            path.write_bytes(data[:500])
        case "emptied":
            path.write_bytes(b"")
        case "grown to a terabyte":
            path.write_bytes(data)
            os.truncate(path, 1 << 40)
        case "a folder":
            path.mkdir()
            (path / "x").write_bytes(b"x")
        case "a pipe":
            os.mkfifo(path)
        case "a link to itself":
            path.symlink_to(path)
        case "a file for its folder":
            path.parent.rmdir()
            path.parent.write_bytes(b"x")


DAMAGE = ("removed", "a flipped bit", "cut short", "emptied", "grown to a terabyte", "a folder", "a pipe", "a link to itself")


@pytest.mark.parametrize("how", [*DAMAGE, "a file for its folder"])
def test_a_damaged_file_is_no_entry_and_the_next_put_makes_it_whole(tmp_path: Path, how: str) -> None:
    cache = FileCache(tmp_path / "cache")
    put(cache, 1)
    damage(cache.root / "files" / "30" / "1", how)
    assert held(cache, range(1, 2)) == []
    put(cache, 1)
    assert held(cache, range(1, 2)) == [1]


def test_the_budget_holds_before_every_write_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", budget_bytes=3000)
    for number in range(3):
        put(cache, number)
    assert held(cache, range(1)) == [0]  # young again
    put(cache, 3)
    assert cache.bytes_used() == 3000
    assert held(cache, range(4)) == [0, 2, 3]
    put(cache, 9, size=4000)  # more than all of it: not kept, nothing goes for it
    assert held(cache, range(4)) == [0, 2, 3]


def test_room_is_made_for_what_lies_beside_the_entries_the_oldest_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, budget_bytes=1000)
    for number in range(3):
        put(cache, number, 300)
    cache.make_room(100)
    assert held(cache, range(3), 300) == [0, 1, 2]
    cache.make_room(500)
    assert held(cache, range(3), 300) == [2]


def test_a_clock_that_was_set_back_does_not_make_the_newest_the_oldest(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", budget_bytes=2000)
    put(cache, 1)
    os.utime(cache.root / "files" / "30" / "1", (4e9, 4e9))  # used in 2096, says its age
    put(cache, 2)
    put(cache, 3)
    assert held(cache, range(4)) == [2, 3]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1500).map(lambda n: 4 * n)), max_size=25))
def test_never_over_its_budget_and_never_wrong(tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[int, int]]) -> None:
    cache = FileCache(tmp_path_factory.mktemp("cache"), budget_bytes=5000)
    for number, size in puts:
        put(cache, number, size)
        assert cache.bytes_used() <= 5000
        assert size > 5000 or cache.get(f"30/{number}", digest(content(number, size))) == content(number, size)


@pytest.mark.parametrize("key", ["", "..", "a/../b", "/etc/passwd", "a//b", "a/", ".hidden", "a\0b", "x" * 300])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        FileCache(tmp_path).get(key, digest(b""))


def test_two_processes_killed_while_they_write_leave_whole_files_within_the_budget(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", budget_bytes=2_000_000)
    writers = [
        subprocess.Popen([sys.executable, __file__, "write", str(cache.root), str(start)], stdout=subprocess.PIPE, text=True)
        for start in (0, 100)
    ]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(15):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert cache.bytes_used() <= 2_000_000
    assert held(cache, range(200), 300_000)
    assert cache.bytes_used() == 300_000 * len(held(cache, range(200), 300_000))
    put(cache, 500)
    assert sorted(path.name for path in cache.root.iterdir()) == ["files"]


def test_a_cache_that_is_removed_while_it_is_used_begins_anew(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    put(cache, 1)
    subprocess.run(["rm", "-rf", str(cache.root)], check=True)
    assert held(cache, range(3)) == []
    put(cache, 2)
    assert held(cache, range(3)) == [2]


def test_a_device_that_is_fuller_than_the_budget_costs_old_entries_and_then_says_so(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} {__file__} fill {tmp_path}"
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        pytest.skip("no user namespaces with mounts here, so no small device can be made")
    assert ran.stdout.split("\n")[:2] == ["newest kept", "DiskFullError"], ran.stderr


def write(root: Path, start: int) -> None:
    cache = FileCache(root, budget_bytes=2_000_000)
    for number in range(start, 10**6):
        put(cache, start + number % 20, 300_000)
        print(number, flush=True)


def fill(folder: Path) -> None:
    cache = FileCache(folder / "cache", budget_bytes=1 << 30)
    for number in range(8):
        put(cache, number, 300_000)
    print("newest kept" if held(cache, range(8), 300_000)[-1] == 7 else "lost")
    (folder / "ballast").write_bytes(bytes(100_000))
    try:
        put(cache, 9, 1_200_000)
    except DiskFullError as error:
        print(type(error).__name__)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        fill(Path(sys.argv[2]))
