"""An engine is found by its name: this wheel's own, and what another wheel adds, which can take no name of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.generation.backends import OWN, generator_factory
from grail_core.generation.options import EngineOptions

MODULE = """\
class Abacus:
    def __init__(self, options, numerics_class):
        self.options, self.numerics_class = options, numerics_class
"""


def wheel(folder: Path, name: str, entry: str, module: str = MODULE) -> None:
    """As an installed wheel lies there: a module, and metadata that names its entry point."""
    (folder / f"{name}.py").write_text(module)
    told = folder / f"{name}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[grail.generators]\n{entry}\n")


@pytest.fixture(autouse=True)
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_another_wheels_engine_is_made_with_the_options_and_the_class(tmp_path: Path) -> None:
    wheel(tmp_path, "abacus_engine", "abacus = abacus_engine:Abacus")
    made = generator_factory("abacus")(EngineOptions("abacus", max_num_seqs=7), "bf16-sdpa-cpu-transformers")
    assert made.numerics_class == "bf16-sdpa-cpu-transformers"
    assert vars(made)["options"].max_num_seqs == 7


def test_no_wheel_takes_a_name_of_ours(tmp_path: Path) -> None:
    wheel(tmp_path, "taking_hf", "hf = taking_hf:Abacus")
    assert generator_factory("hf") is OWN["hf"]


def test_a_name_that_nobody_or_two_have_and_a_wheel_that_fails_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no engine of this name") as refused:
        generator_factory("abacus")
    assert refused.value.hint == "one of sglang, vllm, hf"
    wheel(tmp_path, "failing", "slide_rule = failing:Abacus", "raise OSError('the slide is stuck')\n")
    with pytest.raises(ConfigurationError, match="cannot be imported: OSError: the slide is stuck"):
        generator_factory("slide_rule")
    wheel(tmp_path, "abacus_one", "abacus = abacus_one:Abacus")
    wheel(tmp_path, "abacus_two", "abacus = abacus_two:Abacus")
    with pytest.raises(ConfigurationError, match="two wheels") as refused:
        generator_factory("abacus")
    assert "abacus_one:Abacus, abacus_two:Abacus" in refused.value.hint
