"""What a network may not do by naming a package: run what nobody named, judge by other files, break or outlive a judgement.

A manifest's every word is a stranger's; the packages here are written as wheels are installed, into a folder of this run.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.environment import EnvironmentSpec
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError, GrailError
from grail_envs.adapters.checks import check_foreign
from grail_envs.adapters.consent import PACKAGES_VARIABLE, consent_to, typed_here
from grail_envs.adapters.export import export
from grail_envs.adapters.foreign import ForeignEnvironment
from grail_envs.adapters.sources import what_sources_use
from grail_envs.bound import load_bound
from grail_envs.cli import main
from grail_envs.registry import load
from grail_envs.sandbox import GraderPool
from grail_envs.sandbox.pool import MOST_FOREIGN, _shared
from tooling.testing.foreign_packages import write_package

PACKAGE = """
import glob, mmap, os, random, subprocess, sys
from os import system

SHARED = mmap.mmap(-1, 4096)
OPENED = []


class Text:
    def contains(self, said):
        return said.isalnum()


class Words:
    action_space = None

    def __init__(self, habit="honest", words=("one", "two"), folder=""):
        self.habit, self.words = habit, words
        if habit == "spaced":
            self.action_space = Text()
        if habit == "left":
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        if habit == "raises":
            raise RuntimeError("no luck today")
        if habit == "peeks":
            self.peek()

    def peek(self):
        for place in glob.glob("/proc/[0-9]*"):
            try:
                words = open(place + "/cmdline").read()
                if "zygote.py" in words and '"foreign": null' in words:
                    open(place + "/mem", "r+b", buffering=0).close()
                    OPENED.append(place)
            except OSError:
                pass

    def reset(self, *, seed):
        self.word = self.words[seed % len(self.words)]
        return f"Opened {len(OPENED)}. Say: {self.word}", {}

    def step(self, said):
        right = float(said == self.word)
        if self.habit == "notes":
            SHARED[0] += 1
            return "", SHARED[0] / 256, True, False, {}
        if self.habit == "host":
            return "", float(os.uname().nodename == "sandbox"), True, False, {}
        if self.habit == "generous":
            right *= 10
        return "", right, self.habit != "talks" or len(said) < 6, False, {}
"""

GYM: dict[str, Any] = {"package": "word-games", "entry": "word_games:Words", "most_rows": 2}
Made = Callable[..., ForeignEnvironment]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: GraderPool) -> Path:
    folder = tmp_path / "site"
    write_package(folder, "word-games", {"word_games/__init__.py": PACKAGE})
    for place in (tmp_path, folder):
        place.chmod(0o777)  # the package's process has a user id of its own, and is to be able to do harm
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv(PACKAGES_VARIABLE, raising=False)
    return folder


@pytest.fixture
def made(site: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv(PACKAGES_VARIABLE, "other,Word_Games")

    def make(habit: str = "honest", **parameters: Any) -> ForeignEnvironment:
        environment = load("gymnasium", **GYM, arguments={"habit": habit}, **parameters)
        assert isinstance(environment, ForeignEnvironment)
        return environment

    return make


def bound(env_id: str, parameters: dict[str, Any]) -> Any:
    spec = EnvironmentSpec(env_id, 1, parameters)
    return load_bound(spec, spec.digest)


@pytest.mark.parametrize(
    ("env_id", "parameters"),
    [
        ("gymnasium", {"package": "numpy", "entry": "os:system"}),
        ("gymnasium", {"package": "word-games", "entry": "word_games:system"}),
        ("gymnasium", {"package": "word-games", "entry": "word_games:os.system"}),
        ("gymnasium", {"package": "word-games", "entry": "word_games:subprocess.getoutput", "argument": "cmd"}),
        ("gymnasium", {"package": "word-games", "entry": "subprocess:Things-v0"}),
        ("openenv", {"package": "numpy", "entry": "os:system", "action": "builtins:str"}),
    ],
)
def test_a_manifest_runs_nothing_that_a_named_package_does_not_define(
    env_id: str, parameters: dict[str, Any], site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    given = {name: value for name, value in parameters.items() if name != "argument"}
    given["arguments"] = f'{{"{parameters.get("argument", "command")}": "touch {mark}"}}'
    for consent, said in (
        (None, f"{PACKAGES_VARIABLE}="),
        (f"numpy,{parameters['package']}", "no module of|not a class or function"),
    ):
        if consent:
            monkeypatch.setenv(PACKAGES_VARIABLE, consent)
        with pytest.raises(EnvironmentUnavailableError, match=said):
            bound(env_id, given)
        assert not mark.exists(), "the trainer's manifest ran a command here"


@pytest.mark.parametrize("env_id", ["gymnasium", "openenv", "verifiers"])
def test_a_package_that_nobody_named_is_refused_whether_it_is_there_or_not(env_id: str, site: Path) -> None:
    own: dict[str, Any] = {"verifiers": {}, "gymnasium": {"entry": "a:B"}, "openenv": {"entry": "a:B", "action": "a:C"}}[env_id]
    for package in ("word-games", "numpy", "not-installed-here"):
        with pytest.raises(EnvironmentUnavailableError) as raised:
            bound(env_id, {"package": package, **own})
        assert f"{PACKAGES_VARIABLE}={package}" in str(raised.value)
        assert "whenever a network asks for it" in str(raised.value)


def test_who_types_a_package_at_a_command_consents_for_it_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grail_envs.adapters.consent._typed", set())
    monkeypatch.setenv(PACKAGES_VARIABLE, "")
    consent_to("sat?package=numpy")
    assert typed_here() == {}
    consent_to("gymnasium?package=word_games&entry=word_games:Words")
    assert (typed_here(), os.environ[PACKAGES_VARIABLE]) == ({PACKAGES_VARIABLE: "word-games"}, "word-games")
    with pytest.raises(EnvironmentUnavailableError, match=f"{PACKAGES_VARIABLE}=numpy,word-games"):
        load("gymnasium?package=numpy&entry=numpy:ndarray")


def test_what_judges_are_the_files_of_the_digest(
    site: Path, tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = made().spec.digest
    other = PACKAGE.replace("float(said == self.word)", "1.0")
    (tmp_path / "other.py").write_text(other)
    source = site / "word_games/__init__.py"
    compiled = importlib.util.cache_from_source(str(source))
    py_compile.compile(str(tmp_path / "other.py"), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    (tmp_path / "first/word_games").mkdir(parents=True)
    (tmp_path / "first/word_games/__init__.py").write_text(other)
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    environment = load("gymnasium", **GYM, arguments={"words": ["one", "two"]})
    assert environment.grade(environment.problem(0), "neither").reward == 0.0
    assert made().spec.digest == honest
    with pytest.raises(EnvironmentUnavailableError, match="no module of the package"):
        load("gymnasium", **{**GYM, "entry": "word_games.judge:Words"})
    (site / "word_games/judge.py").write_text(other)  # not in RECORD, in a folder of the package: it may run, and counts
    assert made().spec.digest != honest


@pytest.mark.parametrize(
    "parameters",
    [
        {"highest": "1e30000000", "lowest": "0"},
        {"highest": "9" * 30, "lowest": "0"},
        {"lowest": {}, "highest": []},
        {"success_at": "nan"},
        {"requires": [1]},
        {"requires": {"click": 8}},
        {"package_digest": 5},
        {"package_version": ["1.2"]},
        {"arguments": "[" * 100_000},
        {"arguments": '{"a":' + "[" * 400 + "]" * 400 + "}"},
        {"most_rows": 10**9},
        {"entry": 7},
        {"package": ["word-games"]},
    ],
    ids=lambda one: "-".join(one),
)
def test_parameters_of_a_stranger_are_refused_with_a_reason(parameters: dict[str, Any], made: Made) -> None:
    with pytest.raises(GrailError) as raised:
        bound("gymnasium", {**GYM, **parameters})
    assert len(str(raised.value)) < 1500


def test_an_id_of_a_stranger_carries_no_parameters(data_dir: Path) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="is no id"):
        bound(f"gsm8k?data_dir={data_dir}", {})


def test_a_bound_of_zero_is_a_bound(made: Made) -> None:
    typed = load("gymnasium?package=word-games&entry=word_games:Words&most_rows=2&lowest=0&highest=2&success_at=0.5")
    assert typed.spec.parameters["lowest"] == "0"
    problem = typed.problem(0)
    word = typed.messages(problem)[0].content.rpartition(" ")[2]
    assert (typed.grade(problem, word).reward, typed.grade(problem, word).success) == (0.5, True)
    assert load_bound(typed.spec, typed.spec.digest).spec == typed.spec


def test_no_judgement_leaves_a_note_for_the_next_one_in_shared_memory(made: Made) -> None:
    environment = made("notes")
    assert len({environment.grade(environment.problem(0), "x").reward for _ in range(4)}) == 1


def test_a_judge_does_not_learn_the_name_of_the_machine(made: Made) -> None:
    environment = made("host")
    assert environment.grade(environment.problem(0), "x").reward == 1.0
    assert "the machine (uname in" in what_sources_use(environment.package.modules)[1]


def test_a_package_that_leaves_a_process_is_refused(made: Made) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="starts processes when it is loaded"):
        made("left")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has user ids to give")
def test_a_package_cannot_open_the_memory_of_the_grader_of_code(made: Made, pool: GraderPool) -> None:
    environment = made("peeks")
    assert environment.messages(environment.problem(0))[0].content.startswith("Opened 0.")


def test_an_action_that_its_space_does_not_hold_is_told(made: Made) -> None:
    environment = made("spaced")
    problem = environment.problem(0)
    word = environment.messages(problem)[0].content.rpartition(" ")[2]
    assert environment.grade(problem, word).reward == 1.0
    grade = environment.grade(problem, word + "\n")
    assert (grade.reward, "newline" in grade.detail) == (0.0, True)


def test_check_fails_a_package_whose_pay_or_end_nobody_has_seen(made: Made) -> None:
    def failed(habit: str, answer: str | None = None) -> set[str]:
        environment = made(habit)
        right = environment.messages(environment.problem(0))[0].content.rpartition(" ")[2] if answer is None else answer
        said: list[str] = []
        findings = check_foreign(environment, rows=1, answer=right, progress=said.append)
        assert len(said) > 4
        return {finding.check for finding in findings if not finding.passed} - {"sources"}  # it starts a program, for a habit

    assert failed("honest", "wrong") == {"pays"}
    assert failed("generous") == {"rewards_in_bounds", "pays"}
    assert failed("talks") == {"one_step"}


def typed(entry: str, arguments: str = "{}") -> list[str]:
    given = ("package=word-games", f"entry={entry}", f"arguments={arguments}")
    return ["gymnasium", *(word for one in given for word in ("--param", one))]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (["gymnasium"], "needs package and entry"),
        (["nope"], "there is no environment 'nope'"),
        (typed("words:Words"), "its own modules are word_games"),
        (typed("word_games:Word"), "there is no 'Word'"),
        (typed("word_games:Words", '{"a": 1}'), "its arguments are"),
        (typed("word_games:Words", '{"habit": "raises"}'), "RuntimeError: no luck today (in __init__.py, line"),
    ],
)
def test_what_a_person_typed_wrong_is_said_with_what_to_type(
    params: list[str], said: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PACKAGES_VARIABLE, "")
    result = CliRunner().invoke(main, ["show", *params])
    assert said in result.stderr
    assert "openenv" not in result.stderr.partition("known:")[0]
    assert result.exit_code in (3, 7)


@pytest.mark.parametrize("env_id", ['x"""\nimport os\n"""', "core", "envs", "数学", 'a"\n[tool]\nx="', "A", "a--b"])
def test_an_id_that_is_no_name_for_a_package_is_not_exported(env_id: str, tmp_path: Path) -> None:
    class Named:
        spec = EnvironmentSpec(env_id, 1)

    with pytest.raises(ConfigurationError, match="gives no package a name"):
        export(Named(), tmp_path / "out", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="-5 problems"):
        export(load("sat"), tmp_path / "out", -5)
    assert not (tmp_path / "out").exists()


def test_ever_new_arguments_leave_no_more_processes_than_a_few(made: Made) -> None:
    environments = [load("gymnasium", **GYM, arguments={"words": ["one", str(number)]}) for number in range(MOST_FOREIGN + 1)]
    assert sum(bool(pool.kind.foreign) for pool in _shared.values()) == MOST_FOREIGN
    first = environments[0]
    assert first.grade(first.problem(0), first.messages(first.problem(0))[0].content.rpartition(" ")[2]).reward == 1.0
