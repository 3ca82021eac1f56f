"""Who imports a model is told what is wrong, with which folder, and what to do; what cannot be published is not made."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.errors import CheckpointError, ConfigurationError, GrailError
from grail_trainer.cli import cli
from tests.cases.import_folders import CASES, ImportCase, changed_json, write_model

pytestmark = pytest.mark.usefixtures("warm", "warm_prompts")


def imported(source: Path | str, out: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["init", "--from", str(source), "--out", str(out), *more])


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_folder_that_cannot_be_published_is_refused_with_what_where_and_hint(case: ImportCase, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    case.change(folder)
    error = imported(folder, tmp_path / "out").exception
    assert isinstance(error, CheckpointError)
    assert case.what in error.what
    assert case.hint in error.hint
    assert str(folder) in error.where
    assert str(tmp_path / ".") not in error.what.replace(str(folder), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_last_line_is_the_whole_command_that_publishes(tmp_path: Path) -> None:
    out = tmp_path / "the model"
    ended = imported(write_model(tmp_path / "model"), out)
    assert ended.exit_code == 0, ended.output
    assert f"`grail-trainer publish --model '{out}'`" in ended.stderr


@pytest.mark.parametrize(
    ("name", "hint"), [("Qwen/Qwen2.5-0.5B", "hf download Qwen/Qwen2.5-0.5B"), ("/no/such/folder", "name")]
)
def test_what_is_no_folder_is_said_to_be_none(name: str, hint: str, tmp_path: Path) -> None:
    error = imported(name, tmp_path / "out").exception
    assert isinstance(error, CheckpointError)
    assert (hint in error.hint, error.where) == (True, name)


@pytest.mark.parametrize("option", [("--env", "nosuch"), ("--seed", "1"), ("--quick",), ("--no-cache",)])
def test_an_option_that_makes_a_model_is_refused_beside_from(option: tuple[str, ...], tmp_path: Path) -> None:
    error = imported(tmp_path, tmp_path / "out", *option).exception
    assert isinstance(error, ConfigurationError)
    assert error.where == option[0]


def test_truncation_of_the_tokenizer_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    changed_json("tokenizer.json", truncation=cut)(folder)
    ended = imported(folder, tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    assert "tokenizer.json has truncation, which prompts are made without" in ended.stderr


def test_a_context_that_no_prompt_fits_is_named_by_its_setting(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    error = CliRunner().invoke(cli, ["evaluate", "--model", str(folder), "--problems", "2"]).exception
    assert isinstance(error, GrailError)
    assert "context of 64" in error.what
    assert "max_position_embeddings" in error.where
