"""`grail-envs new`: an environment under a name of one's own that passes the checks as it is, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_envs.new_environment import template_folder, write_environment


def envs(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`grail-envs`, as a process; `path` is where installed packages are looked for too."""
    places = [str(path), os.environ.get("PYTHONPATH", "")] if path is not None else [os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-m", "grail_envs.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def installed(folder: Path) -> None:
    """What an installer would leave of the wheel's metadata, from its own pyproject."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["grail.environments"]
    lines = [f"{name} = {target}" for name, target in points.items()]
    (about / "entry_points.txt").write_text("[grail.environments]\n" + "\n".join(lines) + "\n")


def test_what_new_writes_passes_check_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my_fractions"
    made = envs("new", "my_fractions", "--out", str(folder), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["files"] == ["pyproject.toml", "README.md", "my_fractions.py"]
    assert all("sums" not in (folder / name).read_text() for name in ("pyproject.toml", "README.md", "my_fractions.py"))
    installed(folder)
    for typed in ("grail-env-my-fractions", "my_fractions"):  # its wheel, and its id
        checked = envs("check", typed, "--seeds", "10", "--json", path=folder)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        findings = json.loads(checked.stdout)
        assert findings
        assert {finding["env_id"] for finding in findings} == {"my_fractions"}
        assert all(finding["passed"] for finding in findings)
    assert envs("show", "my_fractions", path=folder).returncode == 0


@pytest.mark.parametrize(
    "name", ["Sums", "1st", "a", "class", "fractions", "sat", "grail_core", "two words", "../up", "x" * 41]
)
def test_a_name_that_cannot_be_one_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        write_environment(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.py").write_text("years of work")
    with pytest.raises(ConfigurationError, match="something is there already"):
        write_environment("anagrams", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.py"]


def test_the_wheel_has_the_template() -> None:
    build = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    ((source, target),) = build["targets"]["wheel"]["force-include"].items()
    assert target == "grail_envs/template"
    assert template_folder() == Path(__file__).parents[1] / source


def test_errors_are_json_where_json_is_asked_for_wrong_usage_included() -> None:
    unknown = envs("show", "nothing_of_the_kind", "--json")
    assert unknown.returncode == 7
    assert json.loads(unknown.stderr)["error"] == "EnvironmentUnavailableError"
    wrong = envs("show", "sat", "--seed", "many", "--json")
    assert wrong.returncode == 2
    told = json.loads(wrong.stderr)
    assert "many" in told["what"]
    assert told["hint"].endswith("show --help")
    assert wrong.stdout == ""
