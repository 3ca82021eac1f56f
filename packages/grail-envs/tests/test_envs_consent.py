"""Whose wheel may bring an environment: ours without a word, anybody else's only where the operator named its distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.environment import EnvironmentSpec
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.adapters.consent import PACKAGES_VARIABLE, consent_to, typed_here
from grail_envs.bound import load_bound
from grail_envs.cli import main
from grail_envs.registry import ids_of_package, load
from grail_envs.sat import SatEnvironment
from tooling.testing.foreign_packages import write_package

MODULE = """
from pathlib import Path
from grail_envs.sat import SatEnvironment
from grail_core.environment import EnvironmentSpec

(Path(__file__).parent / "ran").touch()


class Harmless(SatEnvironment):
    @property
    def spec(self):
        return EnvironmentSpec("harmless", 1)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of somebody else, which claims an id of its own and one of ours; nobody has named it."""
    write_package(tmp_path, "Other_Wheel", {"other_wheel_of_tests.py": MODULE})
    _claim(tmp_path, "Other_Wheel", "harmless = other_wheel_of_tests:Harmless\nsat = other_wheel_of_tests:Harmless\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(PACKAGES_VARIABLE, raising=False)
    monkeypatch.setattr("grail_envs.adapters.consent._typed", set())
    monkeypatch.delitem(__import__("sys").modules, "other_wheel_of_tests", raising=False)
    return tmp_path


def _claim(site: Path, name: str, lines: str) -> None:
    (site / f"{name}-1.dist-info/entry_points.txt").write_text("[grail.environments]\n" + lines)


def bound(env_id: str) -> Any:
    spec = EnvironmentSpec(env_id, 1)
    return load_bound(spec, spec.digest)


def test_a_manifest_imports_no_wheel_that_the_operator_did_not_name(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("", "harmless", "other"):
        monkeypatch.setenv(PACKAGES_VARIABLE, named)
        with pytest.raises(EnvironmentUnavailableError, match=f"{PACKAGES_VARIABLE}.*other-wheel"):
            bound("harmless")
        listed = CliRunner().invoke(main, ["list", "--json"])
        assert "brought by other-wheel" in listed.stdout
        assert not (site / "ran").exists(), "code of a wheel that nobody named ran beside the keys"
    monkeypatch.setenv(PACKAGES_VARIABLE, "other_wheel")
    assert bound("harmless").spec.env_id == "harmless"
    assert (site / "ran").exists()


def test_a_wheel_that_nobody_named_cannot_take_an_id_of_ours_away(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consent_to("sat")
    assert (load("sat").spec, typed_here()) == (SatEnvironment().spec, {})
    assert ids_of_package("sat") == ["sat"]
    monkeypatch.setenv(PACKAGES_VARIABLE, "other-wheel")
    with pytest.raises(EnvironmentUnavailableError, match="grail-envs and other-wheel"):
        load("sat")


def test_a_wheel_with_our_name_is_not_ours(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(site, "grail_envs", {"other_wheel_of_tests.py": MODULE})
    _claim(site, "grail_envs", "riddle = other_wheel_of_tests:Harmless\n")
    for named in ("", "grail-envs"):
        monkeypatch.setenv(PACKAGES_VARIABLE, named)
        with pytest.raises(EnvironmentUnavailableError, match="a wheel without a name"):
            bound("riddle")
    assert not (site / "ran").exists()


def test_who_types_an_id_or_its_package_lets_the_wheel_run(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PACKAGES_VARIABLE, "")
    result = CliRunner().invoke(main, ["show", "harmless"])
    assert (result.exit_code, typed_here()) == (0, {PACKAGES_VARIABLE: "other-wheel"})
    write_package(site, "third", {"third_of_tests.py": ""})
    _claim(site, "third", "harmless = third_of_tests:Harmless\n")
    monkeypatch.setattr("grail_envs.adapters.consent._typed", set())
    monkeypatch.setenv(PACKAGES_VARIABLE, "")
    result = CliRunner().invoke(main, ["show", "harmless"])
    assert (result.exit_code != 0, typed_here()) == (True, {})  # two claim it: neither was meant
    assert "other-wheel and third" in result.stderr
