"""The sandbox: strict refuses, auto says what it lacks, lost workers are inconclusive, and nothing stays behind."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_envs.code_answers import grade_of
from grail_envs.sandbox import GraderPool, Job, Limits, SandboxUnavailableError, wire_host
from grail_envs.sandbox import pool as pool_module
from grail_envs.sandbox.wire import MAX_DEPTH, WireError, decode, encode

RIGHT = Job(code="def f(x):\n    return x + 1\n", tests=("assert f(1) == 2", "assert f(2) == 3"), remote=("f",))
SHORT = Limits(cpu_s=0.4, wall_s=0.8, memory_bytes=2**29)


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    try:
        pool = GraderPool("strict", lanes=2)
    except SandboxUnavailableError as error:
        pytest.skip(f"no complete sandbox here: {error.what}")
    yield pool
    pool.close()


def test_strict_refuses_what_auto_reports() -> None:
    with pytest.raises(SandboxUnavailableError, match="not complete") as raised:
        GraderPool("strict", lanes=1, layers=("landlock", "seccomp"))
    assert "namespaces" in raised.value.what
    assert "GRAIL_SANDBOX=auto" in raised.value.hint
    for layers in ((), ("seccomp",)):
        open_pool = GraderPool("auto", lanes=1, layers=layers)
        try:
            assert [name for name in ("landlock", "seccomp", "namespaces") if open_pool.layers[name]] == list(layers)
            assert set(open_pool.problems) >= {"landlock", "namespaces"}
            assert open_pool.grade(RIGHT).passed
        finally:
            open_pool.close()
    with pytest.raises(SandboxUnavailableError):
        GraderPool("sometimes")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_gives_the_same_verdicts() -> None:
    try:
        inside = GraderPool("auto", backend="bubblewrap", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    try:
        assert inside.layers["seccomp"]
        assert inside.grade(RIGHT).passed
        assert not inside.grade(Job(code="def f(x):\n    return x\n", tests=RIGHT.tests, remote=("f",))).passed
        peek = inside.grade(Job(code="import os\nprint(os.listdir('/root'))", program=True))
        assert not peek.passed
        assert inside.grade(Job(code="while True: pass", program=True), SHORT).limit == "cpu"
    finally:
        inside.close()


def test_verdicts_are_the_same_from_many_threads(pool: GraderPool) -> None:
    wrong = Job(code="def f(x):\n    return x\n", tests=RIGHT.tests, remote=("f",))
    with ThreadPoolExecutor(8) as executor:
        rulings = list(executor.map(pool.grade, [RIGHT, wrong] * 30))
    assert [ruling.passed for ruling in rulings] == [True, False] * 30


def test_limits_are_the_answers_and_are_named(pool: GraderPool) -> None:
    assert pool.grade(Job(code="while True: pass", program=True), SHORT).limit == "cpu"
    assert pool.grade(Job(code="import time\ntime.sleep(50)", program=True), SHORT).limit == "time"
    ruling = pool.grade(Job(code="x = bytearray(1 << 40)", program=True), SHORT)
    assert (ruling.passed, ruling.conclusive, ruling.detail) == (False, True, "MemoryError: ")
    assert pool.grade(RIGHT).limit_share < 0.6


def test_a_lost_zygote_is_replaced_and_a_twice_lost_one_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        fragile = GraderPool("strict", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    try:
        lane = fragile._free.get()
        assert lane is not None
        lane.process.kill()
        lane.process.wait()
        fragile._free.put(lane)
        assert fragile.grade(RIGHT).passed

        def lost(self: pool_module.Lane, *_: object) -> object:
            self.close()
            raise pool_module.LaneLostError("killed")

        monkeypatch.setattr(pool_module.Lane, "run", lost)
        grade = grade_of(fragile.grade(RIGHT))
        assert (grade.outcome.value, grade.success, grade.reward) == ("inconclusive", False, 0.0)
        monkeypatch.undo()
        assert fragile.grade(RIGHT).passed
    finally:
        fragile.close()


def test_a_lane_that_is_lost_before_it_has_the_job_is_ours_and_with_the_job_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here nothing confines the answer, so it can end the zygote; no such end is proof of a false claim either."""
    open_pool = GraderPool("auto", lanes=1, layers=())
    kills = Job(code="import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", program=True)
    try:
        ruling = open_pool.grade(kills)
        assert (ruling.passed, ruling.conclusive, ruling.stage, ruling.limit_share) == (False, True, "sandbox", 1.0)
        assert open_pool.grade(RIGHT).passed

        started: list[int] = []

        def cannot_start(self: GraderPool) -> pool_module.Lane:
            started.append(1)
            raise SandboxUnavailableError("no memory for a zygote")

        monkeypatch.setattr(GraderPool, "_start", cannot_start)
        assert open_pool.grade(kills).conclusive  # the job may be what has used up the machine
        assert started
        with pytest.raises(SandboxUnavailableError):
            open_pool.grade(RIGHT)
    finally:
        monkeypatch.undo()
        open_pool.close()


def test_processes_that_cannot_be_confined_are_never_given_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    real = wire_host.converse

    def converse(*arguments: Any) -> Any:
        given.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(wire_host, "converse", converse)
    try:
        starved = GraderPool("strict", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    try:
        assert starved.grade(RIGHT).passed
        given.clear()
        impossible = Limits(memory_bytes="none")  # type: ignore[arg-type]  # no process can confine itself to that
        ruling = starved.grade(RIGHT, impossible)
        assert (ruling.passed, ruling.conclusive) == (False, False)
        assert given == []
        assert starved.grade(RIGHT).passed
    finally:
        starved.close()


@pytest.mark.timeout(60)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_grader_that_the_kernel_kills_convicts_nobody() -> None:
    """As when memory runs out: the answer has failed, as far as if it had used up a limit."""
    try:
        single = GraderPool("strict", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    lane = single._free.get()
    single._free.put(lane)
    assert lane is not None
    with ThreadPoolExecutor(1) as executor:
        endless = asdict(Job(code="while True: pass", program=True))
        limits = Limits(cpu_s=30.0, wall_s=30.0, memory_bytes=2**29)
        future = executor.submit(single._on_a_lane, endless, limits)  # `grade` would repeat it once, alone
        busy = None
        while busy is None and not future.done():
            children = [int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit() and _parent(e) == lane.process.pid]
            busy = next((pid for pid in children if _ticks(pid) > 20), None)
        for pid in children:
            if pid != busy:
                os.kill(pid, signal.SIGKILL)
        ruling = future.result()
    assert (ruling.passed, ruling.conclusive, ruling.limit, ruling.limit_share >= 1.0) == (False, True, "memory", True)
    assert single.grade(RIGHT).passed
    single.close()


def _ticks(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except OSError:
        return 0


def test_lanes_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RECYCLE_AFTER", 3)
    try:
        renewed = GraderPool("strict", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    try:
        pids = set()
        for _ in range(8):
            assert renewed.grade(RIGHT).passed
            lane = renewed._free.get()
            assert lane is not None
            pids.add(lane.process.pid)
            renewed._free.put(lane)
        assert len(pids) == 3
    finally:
        renewed.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_nothing_stays_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    try:
        busy = GraderPool("strict", lanes=2)
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    zygotes = []
    for code in (
        "import os\nos._exit(0)",
        "while True: pass",
        "import threading\nthreading.Thread(target=input).start()",
        "1 / 0",
    ) * 3:
        busy.grade(Job(code=code, program=True), Limits(cpu_s=0.05, wall_s=0.1, memory_bytes=2**28))
    for _ in range(2):
        lane = busy._free.get()
        if lane is not None:
            zygotes.append(lane.process.pid)
        busy._free.put(lane)
    busy.close()
    assert zygotes
    assert not [pid for pid in zygotes if Path(f"/proc/{pid}").exists()]
    parents = [_parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    assert not set(zygotes) & set(parents)
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() < 50


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def test_seeds_clocks_and_hashes_are_the_same_in_every_run(pool: GraderPool) -> None:
    code = (
        "import random, time, uuid, datetime\n"
        "print(random.random(), time.time(), uuid.uuid4(), datetime.datetime.now(), hash('x'), {'a', 'b', 'c'})\n"
        "print(random.Random().random())"
    )
    outputs = {pool.grade(Job(code=code, program=True)).output for _ in range(4)}
    assert len(outputs) == 1
    assert outputs.pop().strip()
    assert (
        pool.grade(Job(code="import random\nprint(random.random())", program=True, seed=1)).output
        != pool.grade(Job(code="import random\nprint(random.random())", program=True, seed=2)).output
    )


def test_honest_code_has_the_whole_language(pool: GraderPool) -> None:
    code = """
import asyncio, collections, dataclasses, enum, functools, threading, typing, tempfile
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0
class Colour(enum.Enum):
    RED = 1
Pair = collections.namedtuple('Pair', 'a b')
T = typing.TypeVar('T')
async def later(value):
    await asyncio.sleep(0.001)
    return value
def run(kind):
    if kind == 'async': return asyncio.run(later(3))
    if kind == 'threads':
        seen = []
        every = [threading.Thread(target=seen.append, args=(n,)) for n in range(3)]
        [t.start() for t in every]; [t.join() for t in every]
        return sorted(seen)
    if kind == 'point': return sorted([Point(2), Point(1)])[0].x
    if kind == 'pair': return Pair(1, 2)
    if kind == 'file':
        with tempfile.TemporaryFile('w+') as f:
            f.write('text'); f.seek(0); return f.read()
    if kind == 'counter': return collections.Counter('aab')
    if kind == 'generator': return (n * n for n in range(3))
    if kind == 'nan': return float('nan')
    return {1: [2, (3, {4, 5})], 'k': b'x', None: 1 + 2j}
"""
    tests = (
        "assert run('async') == 3",
        "assert run('threads') == [0, 1, 2]",
        "assert run('point') == 1",
        "assert run('pair') == (1, 2)",
        "assert run('file') == 'text'",
        "assert run('counter') == {'a': 2, 'b': 1}",
        "assert list(run('generator')) == [0, 1, 4]",
        "assert run('nan') != run('nan')",
        "assert run('') == {1: [2, (3, {4, 5})], 'k': b'x', None: 1 + 2j}",
        "assert isinstance(Colour.RED, object) and Colour.RED == Colour.RED",
    )
    ruling = pool.grade(Job(code=code, tests=tests, remote=("run", "Colour")))
    assert ruling.passed, ruling


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


@given(_values)
@settings(max_examples=200)
def test_plain_values_cross_the_border_unchanged(value: object) -> None:
    def keep(_: object) -> int:
        raise AssertionError("a plain value needs no handle")

    again = decode(json.loads(json.dumps(encode(value, keep))), lambda number: number)
    assert again == value
    assert type(again) is type(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=4).map(lambda rest: ["d", *rest]),
        max_leaves=20,
    )
)
@settings(max_examples=300)
def test_any_message_is_a_value_or_is_refused(message: object) -> None:
    try:
        decode(message, lambda number: number)
    except WireError:
        return


def test_what_equals_everything_does_not_cross() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    assert encode(Liar(5), lambda _: 0) == 5
    deep: list[object] = []
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    with pytest.raises(WireError):
        encode(deep, lambda _: 0)
    messages: list[object] = [
        ["I", "zz"],
        ["f", 1],
        ["d", 1],
        ["s", ["l"]],
        ["h", "x"],
        ["n", "eval"],
        ["F", 1, 0],
        {},
        1.5,
        ["?"],
        [],
    ]
    for message in messages:
        with pytest.raises(WireError):
            decode(message, lambda number: number)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_killed_host_leaves_no_process_even_in_the_middle_of_a_grade(pool: GraderPool) -> None:
    program = (
        "import sys, threading, time\n"
        "from grail_envs.sandbox import Job, GraderPool\n"
        "pool = GraderPool('strict', lanes=1)\n"
        "lane = pool._free.get(); pool._free.put(lane)\n"
        "threading.Thread(target=pool.grade, args=(Job(code='while True: pass', program=True),), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(lane.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    zygote = int(host.stdout.readline())
    family = [
        zygote,
        *(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == zygote),
    ]
    assert len(family) >= 2
    handles = [os.pidfd_open(pid) for pid in family]
    host.kill()
    host.wait()
    host.stdout.close()
    for handle in handles:
        ended, _, _ = select.select([handle], [], [], 30)
        os.close(handle)
        assert ended, "a process outlived its host"
