"""Somebody else's package as an environment: bound by its files, asked by its rows, judged in a process that cannot hurt.

The packages are small ones in Gymnasium's form, written here and installed into a folder of this run; the real libraries have
tests of their own (`hatch run adapters:test`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PathDistribution, version
from pathlib import Path
from typing import Any

import pytest

from grail_core.environment import GradeOutcome
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.adapters.checks import check_foreign, environments_of
from grail_envs.adapters.consent import PACKAGES_VARIABLE
from grail_envs.adapters.export import export
from grail_envs.adapters.exported import Exported
from grail_envs.adapters.foreign import ForeignEnvironment
from grail_envs.adapters.installed_files import NoModuleError, OwnModule, digest_of, own_file, own_modules
from grail_envs.adapters.sources import what_sources_use
from grail_envs.bound import load_bound
from grail_envs.registry import load
from grail_envs.sandbox import GraderPool
from grail_envs.sat import SatEnvironment
from tooling.testing.foreign_packages import write_package

PACKAGE = """
import os, random, socket, threading, time

SEEN = []


class Echo:
    def __init__(self, habit="honest"):
        self.habit = habit
        if habit == "threads":
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    def reset(self, *, seed):
        self.word = "word " + str(seed)
        if self.habit == "pictures":
            return [1, 2], {}
        return "Say: " + self.word, {}

    def step(self, said):
        reward = {
            "honest": lambda: float(said == self.word),
            "raises": lambda: 1 / len(said),
            "outside": lambda: 1.5,
            "no number": lambda: float("nan"),
            "leaves": lambda: said and os._exit(0),
            "network": lambda: socket.create_connection(("127.0.0.1", 9)) and 1.0,
            "files": lambda: float(bool(open("/etc/hostname").read()) or os.listdir("/home")),
            "unruly": lambda: SEEN.append(1) or len(SEEN) + random.random() + "abcdefgh".index(list(set("abcdefgh"))[0]),
        }.get(self.habit, lambda: 0.0)()
        return "", reward, self.habit != "talks", False, {}
"""

GYM: dict[str, Any] = {"package": "echo-words", "entry": "echo_words:Echo", "most_rows": 8}


def write_release(folder: Path, release: str, text: str = PACKAGE) -> None:
    write_package(folder, "echo-words", {"echo_words/__init__.py": text}, release)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, pool: GraderPool) -> Iterator[Path]:
    folder: Path = tmp_path_factory.mktemp("site")
    folder.chmod(0o755)  # as folders of wheels are: the package's process has a user id of its own
    write_release(folder, "1.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv(PACKAGES_VARIABLE, "echo-words")
        yield folder
    sys.modules.pop("echo_words", None)


@pytest.fixture(scope="module")
def made(installed: Path) -> Callable[[str], ForeignEnvironment]:
    def make(habit: str) -> ForeignEnvironment:
        environment = load("gymnasium", **GYM, arguments={"habit": habit})
        assert isinstance(environment, ForeignEnvironment)
        return environment

    return make


def test_a_package_of_one_step_asks_its_rows_and_judges_what_is_said(made: Callable[[str], ForeignEnvironment]) -> None:
    environment = made("honest")
    asked = {environment.messages(environment.problem(seed))[0].content for seed in range(8)}
    assert asked == {f"Say: word {row}" for row in range(8)}
    problem = environment.problem(2**64 - 1)
    word = environment.messages(problem)[0].content.removeprefix("Say: ")
    right, wrong = environment.grade(problem, word), environment.grade(problem, "word")
    assert (right.reward, right.success, wrong.reward, wrong.success) == (1.0, True, 0.0, False)
    assert environment.grade(problem, f"<think>no</think>{word}").success
    assert not environment.grade(problem, f"<think>{word}").success
    kept = load("gymnasium", **GYM, arguments={"habit": "honest"}, thinking="kept")
    assert [kept.grade(problem, text).success for text in (word, f"<think>no</think>{word}")] == [True, False]
    assert "echo_words" not in sys.modules, "a package is never imported by the process that holds a wallet"


def test_the_spec_binds_version_files_and_requirements_and_says_what_to_install(
    made: Callable[[str], ForeignEnvironment], installed: Path
) -> None:
    spec = made("honest").spec
    assert spec.parameters["requires"] == {"click": version("click")}
    assert load_bound(spec, spec.digest).spec == spec
    other_requirement = {**spec.parameters, "requires": {"click": "0.1"}}
    with pytest.raises(EnvironmentUnavailableError, match=r"pip install 'click==0\.1'"):
        load("gymnasium", **other_requirement)
    try:
        write_release(installed, "1.2", PACKAGE + "\n")
        with pytest.raises(EnvironmentUnavailableError, match="the files of echo-words"):
            load("gymnasium", **spec.parameters)
        write_release(installed, "1.3")
        with pytest.raises(EnvironmentUnavailableError, match=r"pip install 'echo-words==1\.2'"):
            load("gymnasium", **spec.parameters)
    finally:
        write_release(installed, "1.2")
    assert load("gymnasium", **spec.parameters).spec.digest == spec.digest


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("raises", "raised ZeroDivisionError"),
        ("outside", "outside of its bounds"),
        ("no number", "outside of its bounds"),
        ("leaves", "no verdict"),
        ("network", "raised PermissionError"),
        ("files", "raised PermissionError"),
    ],
)
def test_what_breaks_a_judge_is_graded_and_earns_nothing(
    habit: str, said: str, made: Callable[[str], ForeignEnvironment]
) -> None:
    environment = made(habit)
    grade = environment.grade(environment.problem(1), "x" if habit == "leaves" else "")
    assert (grade.outcome, grade.reward, grade.success) == (GradeOutcome.GRADED, 0.0, False)
    assert said in grade.detail


def test_rewards_outside_of_the_unit_are_scaled_by_the_bounds_that_are_given(installed: Path) -> None:
    environment = load("gymnasium", **GYM, arguments={"habit": "outside"}, lowest="-0.5", highest="3.5", success_at="1/2")
    grade = environment.grade(environment.problem(0), "x")
    assert (grade.reward, grade.success) == (0.5, True)


@pytest.mark.parametrize(
    ("habit", "said"), [("talks", "goes on after the first step"), ("threads", "starts threads"), ("pictures", "not a text")]
)
def test_what_cannot_be_adapted_is_refused_when_it_is_loaded(
    habit: str, said: str, made: Callable[[str], ForeignEnvironment]
) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=said):
        made(habit)


def test_check_passes_an_honest_package_and_names_what_another_does(made: Callable[[str], ForeignEnvironment]) -> None:
    def failed(habit: str) -> set[str]:
        return {finding.check for finding in check_foreign(made(habit), rows=1) if not finding.passed}

    assert failed("honest") == set()
    assert failed("unruly") == {"rewards", "state", "chance", "rewards_in_bounds", "pays"}


def test_a_package_that_runs_what_is_said_is_named(installed: Path) -> None:
    modules = [OwnModule("echo_words", str(installed / "echo_words"))]
    assert what_sources_use(modules)[0]
    try:
        write_release(installed, "1.2", PACKAGE + "\njudge = lambda said: eval(said)\n")
        passed, value = what_sources_use(modules)
    finally:
        write_release(installed, "1.2")
    assert not passed
    assert "eval in __init__.py" in value
    assert "random in __init__.py" in value


def test_a_package_is_checked_by_its_name_with_the_form_that_it_has(installed: Path) -> None:
    assert environments_of("echo-words", {"entry": "a:B"}) == [("gymnasium", {"package": "echo-words", "entry": "a:B"})]
    assert environments_of("echo_words", {"entry": "a:B", "action": "a:C"})[0][0] == "openenv"
    with pytest.raises(ConfigurationError, match="--param entry"):
        environments_of("echo-words", {})
    with pytest.raises(EnvironmentUnavailableError):
        environments_of("no-such-package", {})


def test_the_modules_of_a_package_are_those_of_its_list_of_files(tmp_path: Path) -> None:
    files = {
        "shared/one/__init__.py": "",
        "shared/one/data.txt": "x",
        "shared/two.py": "",
        "three.py": "",
        "../bin/four.py": "",
    }
    write_package(tmp_path / "site", "many-modules", files)
    (tmp_path / "site/shared/others.py").write_text("")  # of another package in the same folder
    found = PathDistribution(tmp_path / "site/many_modules-1.dist-info")
    modules = own_modules(found, "many_modules")
    assert [module.name for module in modules] == ["shared.one", "shared.two", "three"]
    names = ("shared.one", "shared.two", "three", "shared", "shared.others", "four", "os", "three.four", "shared.one.data")
    assert [own_file(modules, name) is not None for name in names] == [True] * 3 + [False] * 6
    write_package(tmp_path / "site", "taker", {"json/__init__.py": ""})
    with pytest.raises(NoModuleError, match="not its own to bring"):
        own_modules(PathDistribution(tmp_path / "site/taker-1.dist-info"), "taker")


def test_a_wheel_and_an_editable_folder_of_the_same_sources_have_one_digest(tmp_path: Path) -> None:
    write_package(tmp_path / "wheel", "echo-words", {"echo_words/__init__.py": PACKAGE, "echo_words/words.txt": "one"})
    write_package(tmp_path / "linked", "echo-words", {"_echo_words.pth": str(tmp_path / "wheel")})
    (tmp_path / "linked/echo_words-1.dist-info/direct_url.json").write_text(
        json.dumps({"url": (tmp_path / "wheel").as_uri(), "dir_info": {"editable": True}})
    )
    wheel, linked = (
        own_modules(PathDistribution(tmp_path / name / "echo_words-1.dist-info"), "echo_words") for name in ("wheel", "linked")
    )
    assert digest_of(wheel) == digest_of(linked)
    (tmp_path / "wheel/echo_words/words.txt").write_text("two")
    (tmp_path / "wheel/echo_words/__pycache__").mkdir()
    (tmp_path / "wheel/echo_words/__pycache__/judge.pyc").write_text("not run")
    changed = digest_of(wheel)
    (tmp_path / "wheel/echo_words/__pycache__/judge.pyc").write_text("nor counted")
    assert digest_of(linked) == changed


def test_a_name_carries_parameters_wherever_an_environment_is_named() -> None:
    assert load("sat?max_variables=4&min_clauses=6").spec == load("sat", max_variables=4, min_clauses=6).spec
    with pytest.raises(ConfigurationError, match="write NAME=VALUE"):
        load("sat?max_variables")


def test_an_exported_environment_judges_as_ours_and_refuses_another_digest(tmp_path: Path) -> None:
    ours = SatEnvironment()
    written = export(ours, tmp_path / "out", 5)
    space: dict[str, Any] = {}
    exec(next(path for path in written if path.name == "exported.py").read_text(), space)
    exported: Exported = space["EXPORTED"]
    assert [one["content"] for one in exported.messages(3)] == [one.content for one in ours.messages(ours.problem(3))]
    said = "<answer>x1=0 x2=1 x3=1</answer>"
    assert [exported.grade(seed, said) for seed in range(5)] == [ours.grade(ours.problem(seed), said) for seed in range(5)]
    with pytest.raises(EnvironmentUnavailableError, match="not the one that was exported"):
        Exported("sat", exported.parameters, "0" * 64, 5).messages(0)
    with pytest.raises(ConfigurationError, match="not empty"):
        export(ours, tmp_path / "out", 5)
