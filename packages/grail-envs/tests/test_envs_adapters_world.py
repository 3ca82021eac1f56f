"""The world that somebody else's environment is loaded and judged in: one clock, one zone, one randomness, and no neighbour.

The package takes hold of clocks by name when it is imported, as honest ones do.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grail_envs.adapters.checks import check_foreign
from grail_envs.adapters.consent import PACKAGES_VARIABLE
from grail_envs.adapters.foreign import ForeignEnvironment
from grail_envs.registry import load
from grail_envs.sandbox import GraderPool
from grail_envs.sandbox import pool as pool_module
from grail_envs.sandbox.pool import Kind
from tooling.testing.foreign_packages import write_package

PACKAGE = """
import asyncio, os, sys, threading, time as clocks
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date, datetime
from os import urandom
from time import localtime, monotonic, perf_counter, time

sys.path.append("/etc")
SALT = urandom(1)[0]
HOME = os.path.expanduser("~")
assert HOME != "/tmp" and os.listdir(HOME) == [], "the home of somebody else"


class Date(date):
    pass


async def busy():
    for _ in range(4):
        sum(range(4_000_000))
        await asyncio.sleep(0)
    return True


async def within(what, seconds):
    try:
        return await asyncio.wait_for(what, seconds)
    except asyncio.TimeoutError:
        return "late"


def in_threads():
    with ThreadPoolExecutor(1) as threads:
        try:
            list(as_completed([threads.submit(threading.Event().wait, 0.4)], timeout=0.1))
        except TimeoutError:
            return True


class Worlds:
    def __init__(self, habit="honest"):
        self.habit = habit
        while habit == "gated" and not os.path.exists(os.path.join(os.path.dirname(__file__), "../gate")):
            clocks.sleep(0.02)

    def reset(self, *, seed):
        return f"seed {seed}", {}

    def step(self, said):
        reward = {
            "time": lambda: abs(time() - 1_700_000_000) < 1,
            "monotonic": lambda: abs(monotonic() - 1_700_000_000) < 1 and abs(perf_counter() - 1_700_000_000) < 1,
            "gettime": lambda: abs(clocks.clock_gettime(clocks.CLOCK_MONOTONIC) - 1_700_000_000) < 1,
            "date": lambda: date.today() == date(2023, 11, 14) and isinstance(datetime.now(), date),
            "kinds": lambda: issubclass(datetime, date) and not isinstance(date.today(), Date),
            "zone": lambda: (localtime().tm_hour, clocks.timezone, os.environ["TZ"]) == (22, 0, "UTC"),
            "busy": lambda: asyncio.run(within(busy(), 0.02)) is True,
            "late": lambda: asyncio.run(within(asyncio.sleep(0.3), 0.1)) == "late",
            "threads": in_threads,
            "slow": lambda: clocks.sleep(0.5) is None,
            "path": lambda: not bool(open("/etc/passwd").read()),
        }.get(said)
        if self.habit == "salted":
            return "", SALT / 256, True, False, {}
        return "", float(reward() or 0) if reward else 0.0, True, False, {}
"""

GYM: dict[str, Any] = {"package": "world-games", "entry": "world_games:Worlds", "most_rows": 2}
Made = Callable[..., ForeignEnvironment]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pool: GraderPool) -> Any:
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)
    write_package(folder, "world-games", {"world_games/__init__.py": PACKAGE})

    def make(habit: str = "honest") -> ForeignEnvironment:
        environment = load("gymnasium", **GYM, arguments={"habit": habit})
        assert isinstance(environment, ForeignEnvironment)
        return environment

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv(PACKAGES_VARIABLE, "world-games")
        patch.setenv("TZ", "Asia/Tokyo")
        yield make


@pytest.mark.parametrize("what", ["time", "monotonic", "gettime", "date", "kinds", "zone", "busy", "late", "threads"])
def test_clocks_that_a_package_bound_at_import_are_the_same_everywhere(what: str, made: Made) -> None:
    environment = made()
    grade = environment.grade(environment.problem(0), what)
    assert (grade.reward, grade.detail) == (1.0, "")


def test_a_folder_that_a_package_puts_on_the_path_is_not_read_by_a_judgement(made: Made) -> None:
    environment = made()
    assert "raised PermissionError" in environment.grade(environment.problem(0), "path").detail


def test_check_sees_what_is_drawn_while_a_package_loads(made: Made) -> None:
    failed = {finding.check for finding in check_foreign(made("salted"), rows=1) if not finding.passed}
    assert failed == {"chance", "pays"}


def test_the_home_of_a_package_is_its_own_and_goes_with_it(made: Made) -> None:
    environment = made()
    pool = environment.pool(world=3)
    home = Path(pool._home)
    assert home != Path(environment.pool()._home)
    assert home.is_dir()
    pool.close()
    assert not home.exists()


def environment_kind(environment: ForeignEnvironment, habit: str) -> Kind:
    """The processes of the same package with another habit, not started."""
    kind = environment._kind
    options = json.loads(kind.foreign) | {"arguments": {"habit": habit}}
    return dataclasses.replace(kind, name=f"{kind.name} {habit}", foreign=json.dumps(options))


def _until(true: Callable[[], object]) -> None:
    """Returns when it holds; the run's own limit of time is the limit."""
    while not true():
        time.sleep(0.01)


def test_a_package_that_takes_its_time_to_load_keeps_no_other_waiting(made: Made) -> None:
    environment = made()
    gate = Path(environment.package.modules[0].path).parent / "gate"
    with ThreadPoolExecutor(2) as crowd:
        loading = [crowd.submit(pool_module.shared_pool, environment_kind(environment, "gated")) for _ in range(2)]
        try:
            _until(lambda: pool_module._making)
            assert environment.grade(environment.problem(0), "time").reward == 1.0
            assert not any(one.done() for one in loading)
        finally:
            gate.touch()
        assert loading[0].result() is loading[1].result(), "who asks for the same waits for the same"
    gate.unlink()


def test_a_pool_that_makes_room_for_another_breaks_no_grade(made: Made) -> None:
    environment = made("crowded")
    pool = environment.pool()
    with ThreadPoolExecutor(2) as crowd:
        grades = [crowd.submit(environment.grade, environment.problem(0), "slow") for _ in range(2)]
        _until(lambda: pool._free.qsize() < pool._count)
        pool.retire()
        assert [grade.result().reward for grade in grades] == [1.0, 1.0]
    assert environment.grade(environment.problem(0), "time").reward == 1.0, "who still holds it may ask"
    assert [pool._free.get_nowait() for _ in range(pool._count)] == [None] * pool._count, "and no process is left"
