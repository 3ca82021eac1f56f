"""What a model folder says about drawing tokens is followed, named, or refused: never dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from tokenizers.normalizers import Lowercase
from transformers import AutoConfig, AutoModelForCausalLM

from grail_core.checkpoints.transfer import import_model
from grail_core.errors import CheckpointError
from grail_core.generation.defaults import sampling_defaults
from grail_trainer.cli import cli
from tests.cases.prompt_folders import FolderCase, of_bytes_with
from tests.cases.rows import rows

CASES = rows("generation_defaults.json")
pytestmark = pytest.mark.usefixtures("warm")


def model_folder(path: Path, generation: dict[str, Any], config: dict[str, Any] | None = None) -> Path:
    """A folder that can be imported: 260 tokens, ChatML, and the two files; its end token is <|im_end|> (257)."""
    FolderCase("", "").write(path)
    save_file({"model.embed_tokens.weight": torch.zeros(260, 4)}, path / "model.safetensors")
    plain = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 260, "eos_token_id": 257}
    (path / "config.json").write_text(json.dumps({**plain, **(config or {})}))
    (path / "generation_config.json").write_text(json.dumps(generation))
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['right']}: {', '.join(case['fields'])}"[:60])
def test_a_field_is_named_or_refused_when_it_is_imported(case: dict[str, Any], tmp_path: Path) -> None:
    files = {"generation_config.json": {}, "config.json": {}, case["file"]: case["fields"]}
    folder = model_folder(tmp_path / "model", files["generation_config.json"], files["config.json"])
    if case["right"] == "refused":
        for read in (import_model, sampling_defaults):
            with pytest.raises(CheckpointError, match=case["says"]):
                read(folder)
        return
    notes = import_model(folder).notes
    assert notes == sampling_defaults(folder).notes
    assert len(notes) == (case["right"] == "named")
    assert all(case["says"] in note for note in notes)


def test_an_end_token_that_the_template_never_writes_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {"eos_token_id": [257, 258]})
    assert [note for note in import_model(folder).notes if "258" in note and "never writes" in note]


def test_a_template_that_ends_turns_with_no_end_token_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {"eos_token_id": 258})
    assert len(import_model(folder).notes) == 2
    assert "ends an assistant's turn with 257 ('<|im_end|>')" in import_model(folder).notes[1]


def test_an_end_token_that_nobody_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id has 999"):
        import_model(model_folder(tmp_path / "model", {"eos_token_id": 999}))


def test_a_tokenizer_class_that_builds_another_pipeline_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {})
    FolderCase("", "", make=of_bytes_with(Lowercase())).write(folder)
    (note,) = import_model(folder).notes
    assert "Qwen2Tokenizer, which makes other tokens" in note


def test_the_command_says_what_is_left_out(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {**sizes, "num_key_value_heads": 2, "max_position_embeddings": 64}
    folder = model_folder(tmp_path / "model", {"min_p": 0.1, "eos_token_id": 257}, config)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", vocab_size=260, **config))
    save_file(dict(made.state_dict()), folder / "model.safetensors")
    ended = CliRunner().invoke(cli, ["init", "--from", str(folder), "--out", str(tmp_path / "made")])
    assert ended.exit_code == 0, ended.output
    assert "min_p: 0.1" in ended.stderr


def test_a_few_weights_of_a_large_configuration_cost_no_memory(tmp_path: Path) -> None:
    """Qwen2's default is a model of 7 billion weights: 28 GB before the loader misses one."""
    folder = model_folder(tmp_path / "model", {"eos_token_id": 257})
    ended = CliRunner().invoke(cli, ["init", "--from", str(folder), "--out", str(tmp_path / "made")])
    assert isinstance(ended.exception, CheckpointError)
    assert "the folder holds 1,040 weights" in str(ended.exception)
    assert not (tmp_path / "made").exists()
