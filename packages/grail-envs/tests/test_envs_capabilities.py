"""What an environment offers beside problems and grades: declared once, read by everybody, and never half believed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grail_core.capabilities import Capabilities, Teacher, best_constant_of, capabilities_of, teacher_of
from grail_core.environment import EnvironmentSpec
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs import load, load_held_out
from grail_envs.adapters.consent import PACKAGES_VARIABLE
from grail_envs.bound import load_bound
from grail_envs.registry import factory, ids_of_package
from grail_envs.sat import SatEnvironment

MODULE = """
from grail_core.capabilities import Capabilities
from grail_core.environment import EnvironmentSpec

class Reader:
    capabilities = Capabilities(data_folder=True, held_out={"split": "test"})
    def __init__(self, split="train", data_dir=None):
        self.spec, self.folder = EnvironmentSpec("reader", 1, {"split": split}), data_dir

class Plain:
    spec = EnvironmentSpec("plain", 1)

class Undeclared:
    def __init__(self, data_dir=None): pass

class Folderless:
    capabilities = Capabilities(data_folder=True)

class WrongSplit:
    capabilities = Capabilities(held_out={"splt": "test"})
    def __init__(self, split="train"): pass

class NotCapabilities:
    capabilities = {"data_folder": True}

def made(data_dir):
    return Reader(data_dir=data_dir)
made.capabilities = Capabilities(data_folder=True)
"""
ENTRIES = ("Reader", "Plain", "Undeclared", "Folderless", "WrongSplit", "NotCapabilities", "made")


@pytest.fixture(autouse=True)
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wheel of somebody else's environments."""
    metadata = tmp_path / "others-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    lines = [f"{name.lower()} = others_environments:{name}" for name in ENTRIES]
    (metadata / "entry_points.txt").write_text("[grail.environments]\n" + "\n".join(lines) + "\n")
    (tmp_path / "others_environments.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PACKAGES_VARIABLE, "others")


@pytest.mark.parametrize("env_id", ["reader", "made"])
def test_a_folder_goes_to_whoever_declares_it(env_id: str) -> None:
    assert load(env_id, data_dir="/folder").folder == "/folder"  # type: ignore[attr-defined]


def test_an_environment_that_reads_no_folder_is_made_without_one() -> None:
    assert load("plain", data_dir="/folder").spec == load("plain").spec
    assert load("sat", data_dir="/folder").spec == SatEnvironment().spec


def test_a_checkpoint_never_says_which_folder_is_read() -> None:
    spec = EnvironmentSpec("reader", 1, {"split": "train"})
    assert load_bound(spec, spec.digest, Path("/ours")).folder == Path("/ours")  # type: ignore[attr-defined]
    theirs = EnvironmentSpec("reader", 1, {"split": "train", "data_dir": "/theirs"})
    for ours in (None, Path("/ours")):
        with pytest.raises(EnvironmentUnavailableError, match="is not the network's"):
            load_bound(theirs, theirs.digest, ours)


def test_held_out_is_the_same_environment_over_other_problems() -> None:
    held_out = load_held_out("reader", data_dir="/folder")
    assert (held_out.spec.parameters, held_out.folder) == ({"split": "test"}, "/folder")  # type: ignore[attr-defined]
    assert load_held_out("plain").spec == load("plain").spec


def test_our_own_hold_out_the_test_split_of_a_data_set(data_dir: Path) -> None:
    held_out = {env_id: capabilities_of(factory(env_id)).held_out for env_id in ids_of_package("grail-envs")}
    split = {"split": "test"}
    assert {env_id: one for env_id, one in held_out.items() if one is not None} == {
        "gsm8k": split,
        "math": {"split": "math500"},
        "mbpp": split,
        "affine_trace": split,
    }
    trained, asked = load("gsm8k", data_dir=data_dir), load_held_out("gsm8k", data_dir=data_dir)
    assert (trained.spec.parameters["split"], asked.spec.parameters["split"]) == ("train", "test")
    assert trained.spec.data_digest != asked.spec.data_digest


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: load("undeclared", data_dir="/folder"), "does not offer `data_folder`"),
        (lambda: load("folderless", data_dir="/folder"), "offers `data_folder` but has no parameter data_dir"),
        (lambda: load_held_out("wrongsplit"), "no parameter 'splt'"),
        (lambda: load_held_out("notcapabilities"), "is a dict"),
    ],
)
def test_a_declaration_that_cannot_hold_is_an_error_that_names_it(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_a_capability_that_gives_something_else_is_an_error_that_names_it() -> None:
    class Odd(SatEnvironment):
        capabilities = Capabilities(best_constant=lambda environment, problems: 7.0, teacher=lambda environment: None)  # type: ignore[arg-type,return-value]

    odd = Odd()
    with pytest.raises(ConfigurationError, match="`best_constant`"):
        best_constant_of(odd, [odd.problem(1)])
    with pytest.raises(ConfigurationError, match="`teacher`"):
        teacher_of(odd)


def test_what_is_not_offered_is_nothing_and_a_general_teacher() -> None:
    assert capabilities_of(object()) == Capabilities()
    for families in ((), ("sudoku",), ("game_of_n", "sudoku")):
        assert teacher_of(load("affine_logic", families=families)) == Teacher()
    logic = load("affine_logic")
    assert best_constant_of(logic, [logic.problem(1)]) is None
    assert best_constant_of(SatEnvironment(3, 17, 5, 8), [SatEnvironment().problem(1)]) is None


@pytest.mark.parametrize(("env_id", "parameters"), [("sat", {}), ("gsm8k", {}), ("affine_logic", {"families": ["game_of_n"]})])
def test_demonstrations_are_well_formed_and_repeat(data_dir: Path, env_id: str, parameters: dict[str, Any]) -> None:
    environment = load(env_id, data_dir=data_dir, **parameters)
    stages = teacher_of(environment).stages
    assert stages
    for stage in stages:
        for seed in range(50):
            problem = environment.problem(seed)
            text = stage.demonstrate(problem, random.Random(seed))
            assert text == stage.demonstrate(problem, random.Random(seed))
            assert environment.grade(problem, text).well_formed
