"""What a package of somebody else may not hide: files that the digest lacks, rewards behind others, what it never gave."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs.adapters.consent import PACKAGES_VARIABLE
from grail_envs.adapters.export import export
from grail_envs.adapters.foreign import ForeignEnvironment, said
from grail_envs.adapters.installed_files import OwnModule
from grail_envs.adapters.sources import what_sources_use
from grail_envs.bound import MOST_KEPT, BoundEnvironments
from grail_envs.registry import load
from grail_envs.sandbox import GraderPool
from tooling.testing.foreign_packages import write_package

WORDS = """
class Words:
    def reset(self, *, seed):
        return "Say: one", {}

    def step(self, said):
        return "", float(said == "one"), True, False, {}
"""
TYPED = """
from dataclasses import dataclass


@dataclass
class Say:
    message: str


@dataclass
class Shown:
    prompt: str
    reward: float | None = None
    done: bool = True


class Words:
    def reset(self, seed=None):
        return Shown("Say: one")

    def step(self, action):
        return Shown("", 1.0 if action.message == "one" else None)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: GraderPool) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    for place in (tmp_path, folder):
        place.chmod(0o755)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(PACKAGES_VARIABLE, "hidden-words")
    return folder


def adapted(form: str = "gymnasium", **parameters: Any) -> ForeignEnvironment:
    given = {"package": "hidden-words", "entry": "hidden_words:Words", "most_rows": 2, **parameters}
    environment = load(form, **given)
    assert isinstance(environment, ForeignEnvironment)
    return environment


@pytest.mark.parametrize("start", ["", "from hidden_words.__pycache__.judge import Words"])
def test_no_code_in_a_folder_that_the_digest_leaves_out_is_run(start: str, site: Path) -> None:
    write_package(site, "hidden-words", {"hidden_words/__init__.py": start, "hidden_words/__pycache__/judge.py": WORDS})
    with pytest.raises(EnvironmentUnavailableError, match=r"no module of the package|has no module hidden_words\.__pycache__"):
        adapted(entry="hidden_words:Words" if start else "hidden_words.__pycache__.judge:Words")


def test_an_editable_package_runs_nothing_that_lies_beside_its_module(site: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "hidden_words").mkdir(parents=True)
    for place in (project, project / "hidden_words"):
        place.chmod(0o755)
    (project / "hidden_words/__init__.py").write_text(WORDS)
    write_package(site, "hidden-words", {"_hidden_words.pth": str(project)})
    told = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (site / "hidden_words-1.dist-info/direct_url.json").write_text(json.dumps(told))
    environment = adapted()
    assert environment.grade(environment.problem(0), "one").success
    (project / "beside_of_tests.py").write_text("")
    (project / "hidden_words/__init__.py").write_text("import beside_of_tests\n" + WORDS)
    with pytest.raises(EnvironmentUnavailableError, match="No module named 'beside_of_tests'"):
        adapted()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("run = eval", "eval in"),
        ("from builtins import exec as go\ngo('1')", "builtins.exec in"),
        ("import builtins as b\ngetattr(b, 'eval')('1')", "builtins.eval in"),
        ("from sympy import sympify as s\ns(said)", "sympy.sympify in"),
        ("import sympy.parsing.sympy_parser as p\np.parse_expr(said)", "parse_expr in"),
        ("import pickle as p\np.loads(said)", "pickle.loads in"),
        ("from dill import loads", "dill.loads in"),
        ("import pandas as pd\npd.eval(said)", "pandas.eval in"),
        ("import pandas\ntable.query(said)", "table.query in"),
        ("import subprocess\nsubprocess.run(said)", "subprocess.run in"),
        ("import re, json\nre.compile('a'); json.loads(said); table.query(said); loads = 1", ""),
    ],
)
def test_what_may_run_an_answer_is_named_by_whatever_name_it_goes(source: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(source)
    passed, value = what_sources_use([OwnModule("judge", str(tmp_path / "judge.py"))])
    assert passed is not bool(found)
    assert (found or "no proof") in value


def test_a_package_without_a_list_of_its_files_is_refused(site: Path) -> None:
    write_package(site, "hidden-words", {"hidden_words/__init__.py": WORDS})
    (site / "hidden_words-1.dist-info/RECORD").rename(site / "hidden_words-1.dist-info/SOURCES.txt")
    with pytest.raises(EnvironmentUnavailableError, match="without a list of its files"):
        adapted()


def test_every_reward_counts_however_many_there_are(site: Path) -> None:
    write_package(site, "hidden-words", {"hidden_words/__init__.py": WORDS})
    environment = adapted()
    environment._weights = {f"f{number}": 1.0 for number in range(200)}

    def graded(scores: dict[str, float]) -> tuple[float, str]:
        told = {"total": (1.0).hex(), "scores": {name: score.hex() for name, score in scores.items()}}
        grade = environment.graded(said(json.dumps([told]))[0], well_formed=True)
        return grade.reward, grade.detail

    honest = dict.fromkeys(environment._weights, 0.0) | {"f0": 1.0}
    assert graded(honest) == (1.0, "")
    told = "a reward outside of its bounds: 1, f0 -99, of 0 to 1 (lowest, highest)"
    assert graded(honest | {"f0": -99.0, "f199": 100.0}) == (0.0, told)
    assert graded({name: score for name, score in honest.items() if name != "f199"})[0] == 0.0
    assert graded(honest | {f"g{number}": 0.0 for number in range(5000)})[0] == 0.0


def test_a_step_that_gives_no_reward_is_a_fault_and_not_a_zero(site: Path) -> None:
    write_package(site, "hidden-words", {"hidden_words/__init__.py": TYPED})
    environment = adapted("openenv", action="hidden_words:Say", lowest="-1", highest="1")
    problem = environment.problem(0)
    assert environment.grade(problem, "one").reward == 1.0
    grade = environment.grade(problem, "two")
    assert (grade.reward, grade.detail) == (0.0, "the step gave no reward")


def test_ever_new_environments_of_checkpoints_are_not_all_kept() -> None:
    environments = BoundEnvironments()

    def manifest(number: int) -> Any:
        spec = load("sat", max_variables=5 + number).spec
        return SimpleNamespace(environment=spec, env_digest=spec.digest)

    first = environments(manifest(0))
    for number in range(1, MOST_KEPT + 2):
        environments(manifest(number))
        assert environments(manifest(0)) is first, "the one in use stays"
    assert len(environments._loaded) == MOST_KEPT


def test_export_to_a_link_or_below_a_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for folder in ("link", "file", "file/below"):
        with pytest.raises(ConfigurationError, match="the folder"):
            export(load("sat"), tmp_path / folder, 5)
    assert not (tmp_path / "nowhere").exists()
