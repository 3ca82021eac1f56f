"""Engines may share one environment with the miner: both extras resolve beside everything that core and miner ask for."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from grail_core.generation.installed import TRIED
from tooling import REPOSITORY

CORE, ENVS, MINER = (
    tomllib.loads((REPOSITORY / f"packages/{name}/pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in ("grail-core", "grail-envs", "grail-miner")
)
EXTRAS = MINER["optional-dependencies"]


def test_the_extras_name_the_versions_that_the_engines_were_tried_with() -> None:
    assert {engine: [f"{engine}{versions}"] for engine, versions in TRIED.items()} == EXTRAS


def test_the_extras_of_environments_admit_what_they_are_tried_with() -> None:
    """The pins of the environments of hatch in which the adapters' tests run."""
    environments = tomllib.loads((REPOSITORY / "hatch.toml").read_text(encoding="utf-8"))["envs"]
    tried = [Requirement(one) for name in ("adapters", "adapters-classic") for one in environments[name]["extra-dependencies"]]
    pins = {(one.name, next(iter(one.specifier)).version) for one in tried if one.specifier}
    assert {name for name, _ in pins} == {"verifiers", "gymnasium", "openenv", "staros-stardata"}
    for name, release in pins - {("staros-stardata", "0.1.1")}:
        (extra,) = (Requirement(one) for one in ENVS["optional-dependencies"][name])
        assert release in extra.specifier


@pytest.mark.heavy
@pytest.mark.parametrize("engine", sorted(EXTRAS))
def test_an_engine_resolves_beside_what_core_and_miner_ask_for(engine: str, tmp_path: Path) -> None:
    """By pip itself, which downloads what the index says of each package and installs nothing."""
    optional = CORE["optional-dependencies"]
    asked = [*CORE["dependencies"], *optional["model"], *optional["bittensor"], *optional["s3"]]
    asked += [one for one in (*ENVS["dependencies"], *MINER["dependencies"]) if not one.startswith("grail-")]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    ran = subprocess.run([*command, *asked, *EXTRAS[engine]], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = {one["metadata"]["name"].lower(): one["metadata"]["version"] for one in json.loads(report.read_text())["install"]}
    assert {engine, "torch", "transformers", "bittensor", "boto3"} <= found.keys()
