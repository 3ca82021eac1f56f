"""`grail-validator calibrate` writes a table that can be judged with, and says what it may be used for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers

from grail_core.checkpoints.pinned_table import CALIBRATION_FILE, parse_table, read_table_file, shipped, shipped_bytes
from grail_core.commands.options import stop_on_signals
from grail_core.errors import CheckpointError, ConfigurationError, EnvironmentUnavailableError
from grail_core.participant.settings import load_settings
from grail_core.proof.calibration import CalibrationTable, shipped_table
from grail_validator.calibrate import CalibrationRequest, _sampling, calibrate_command, standing
from grail_validator.cli import cli
from grail_validator.compared_models import ComparedModels
from grail_validator.start import run_validator
from tooling.testing.models.tiny_qwen2 import Qwen2Shape, save_random_model

SDPA = "bf16-sdpa-cpu-transformers"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints of one tiny model, without a tokenizer."""
    shape = Qwen2Shape(40, heads=2, spread=0.15, end=3)
    return [save_random_model(tmp_path_factory.mktemp(f"step{seed}"), shape, seed) for seed in range(2)]


def write_tokenizer(folder: Path) -> None:
    """Words it knows are few, the others one token: enough to have a template rendered."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 5, "SAT": 6, "variables": 7}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content[:60] }} {% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


@pytest.fixture
def asked(folders: list[Path], tmp_path: Path) -> CalibrationRequest:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("[5, 6, 7]\n\n[8, 9]\n[10, 11, 12, 13]\n")
    return CalibrationRequest(
        models=folders,
        prompts=prompts,
        env_id=None,
        count=1,
        attentions=("sdpa",),
        max_tokens=8,
        temperature=1.0,
        end_tokens=(),
        version="test/1",
        out=tmp_path / "table.json",
    )


def test_the_table_it_writes_can_be_pinned(asked: CalibrationRequest, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate_command(load_settings(), asked, as_json=False)
    assert parse_table(read_table_file(asked.out)).table == found.table
    assert found.table.version == "test/1"
    assert asked.out.with_suffix(".svg").read_text().startswith("<svg")
    # The three prompts of the file are dealt out, 16 rollouts each: two for the first checkpoint, one for the second.
    pair = found.table.pairs[SDPA, SDPA]
    assert (pair.rollouts, pair.checkpoints) == (48, 2)
    assert [one.rollouts for one in found.conditions_of(pair)["groups"]] == [32, 16]
    printed = capsys.readouterr()
    assert f"{pair.tokens:,} of 100,000 tokens and 2 of 10 checkpoints" in printed.out
    assert found.table.place in printed.out
    assert "2/2 done" in printed.err
    assert f"against calibration {shipped().name}:" in printed.out
    assert f"{SDPA} measured in {SDPA}: checkpoints {shipped().table.pairs[SDPA, SDPA].checkpoints} -> 2" in printed.out


def test_a_proposal_is_held_against_the_table_of_the_checkpoint_that_was_measured(
    asked: CalibrationRequest, folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(folders[0], folder)
    (folder / CALIBRATION_FILE).write_bytes(shipped_bytes().replace(b"bf16-cpu/", b"pinned/"))
    one = replace(asked, models=[folder])
    found = calibrate_command(load_settings(), one, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["pinned"]["version"].startswith("pinned/")
    changed = {(one["miner"], one["measured_in"], one["what"]): one["after"] for one in told["changes"]}
    assert changed[SDPA, SDPA, "tokens"] == found.table.pairs[SDPA, SDPA].tokens
    assert changed[SDPA, "bf16-eager-cpu-transformers", "layers"] is None  # nothing was measured of that pair
    (folder / CALIBRATION_FILE).write_text("{")
    asked.out.unlink()
    with pytest.raises(ConfigurationError, match="no valid JSON"):
        calibrate_command(load_settings(), one, as_json=True)
    assert not asked.out.exists()


def test_json_is_the_only_thing_on_standard_output(asked: CalibrationRequest, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate_command(load_settings(), asked, as_json=True)
    value = json.loads(capsys.readouterr().out)
    assert (value["version"], value["place"]) == ("test/1", found.table.place)
    (pair,) = value["pairs"]
    assert not pair["enforced"]
    assert {frozenset(by_size) for by_size in pair["thresholds"].values()} == {frozenset({"16", "46", "64"})}
    assert len(value["conditions"]) == len(found.observations)


def test_problems_of_an_environment_are_rendered_with_the_models_own_template(asked: CalibrationRequest) -> None:
    one = replace(asked, prompts=None, env_id="sat", count=2)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        calibrate_command(load_settings(), one, as_json=True)
    for folder in asked.models:
        write_tokenizer(folder)
    found = calibrate_command(load_settings(), one, as_json=True)
    assert found.table.pairs[SDPA, SDPA].rollouts == 2 * 2 * 16
    with pytest.raises(EnvironmentUnavailableError):
        calibrate_command(load_settings(), replace(one, env_id="nothing"), as_json=True)


def test_it_says_plainly_what_a_table_may_be_used_for() -> None:
    pair = shipped_table().pairs[SDPA, SDPA]

    def told(**changes: Any) -> str:
        changed = replace(pair, **changes)
        return standing(CalibrationTable("x", "here", {(SDPA, SDPA): changed}))[0]

    largest = f"for models of at most {pair.largest.layers} layers and {pair.largest.hidden_size} dimensions"
    assert told().endswith(f"may be enforced, {largest}, and up to twice as deep or wide with the dead zone doubled")
    assert told(shapes=pair.shapes[:2]).endswith("reports only, with 2 of 3 shapes")
    assert told(tokens=99_999).endswith("reports only, with 99,999 of 100,000 tokens")
    assert told(checkpoints=9).endswith("reports only, with 9 of 10 checkpoints")
    assert "99 of 100,000 tokens and 1 of 10 checkpoints" in told(tokens=99, checkpoints=1)


@pytest.mark.parametrize("line", ["[]", "[1, -2]", "[1.0]", "[true]", '"5 6"', "{", "7"])
def test_a_line_that_is_no_prompt_is_named(asked: CalibrationRequest, line: str) -> None:
    assert asked.prompts is not None
    asked.prompts.write_text(f"[5]\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        calibrate_command(load_settings(), asked, as_json=False)
    assert caught.value.where == f"{asked.prompts}, line 2"


def test_mistakes_are_found_before_anything_is_measured(asked: CalibrationRequest, tmp_path: Path) -> None:
    def fails(error: type[Exception], text: str, changed: CalibrationRequest) -> None:
        with pytest.raises(error, match=text):
            calibrate_command(load_settings(), changed, as_json=False)
        assert not asked.out.exists()

    fails(ConfigurationError, "cannot be written", replace(asked, out=tmp_path / "none" / "table.json"))
    fails(ConfigurationError, "cannot be written", replace(asked, out=tmp_path / "table.svg"))
    fails(ConfigurationError, "cannot be read", replace(asked, prompts=tmp_path / "none.jsonl"))
    for version in ("", "v" * 65, "a\x1b[2J"):
        fails(ConfigurationError, "printable text of 1 to 64 characters", replace(asked, version=version))
    fails(ConfigurationError, "too few", replace(asked, models=[*asked.models] * 2))
    fails(CheckpointError, "no model in this folder", replace(asked, models=[tmp_path]))
    fails(ConfigurationError, "twice", replace(asked, models=[asked.models[0]] * 2))


def test_the_models_end_token_is_taken_unless_one_is_given(
    asked: CalibrationRequest, folders: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders[0], folder)
    assert _sampling(folder, asked)[1] == {3}
    assert _sampling(folder, replace(asked, end_tokens=(4, 5)))[1] == {4, 5}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [6, 7], "top_k": 0, "max_new_tokens": 30}))
    policy, ends = _sampling(folder, replace(asked, max_tokens=None))
    assert (ends, policy.top_k, policy.max_tokens) == (frozenset({6, 7}), -1, 30)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    with pytest.raises(CheckpointError, match="no end token"):
        _sampling(folder, asked)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "top_p": 7}))
    with pytest.raises(CheckpointError, match="top_p"):
        _sampling(folder, asked)


@pytest.mark.parametrize("prompts", [[], ["--prompts", "p", "--env", "sat"]])
def test_prompts_come_from_one_place(prompts: list[str]) -> None:
    ran = CliRunner().invoke(cli, ["calibrate", "--model", "m", "--version", "x", "--out", "t.json", *prompts])
    assert ran.exit_code == 2
    assert "either --prompts FILE or --env ID" in ran.output


def test_a_validator_does_not_start_with_a_table_it_cannot_read(tmp_path: Path) -> None:
    settings = load_settings(calibration=tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="calibration table") as caught:
        run_validator(settings, stop_on_signals, windows=1, compared=ComparedModels())
    assert "none.json" in caught.value.what  # beside what else is wrong with no settings
