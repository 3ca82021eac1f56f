"""The model that `init --work gradient --preset tiny` makes: an ordinary float32 folder over the corpus's own tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grail_core.checkpoints.safety import read_model_files
from grail_core.errors import ConfigurationError
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.trained_model import TrainedModel
from grail_envs.corpus.bytes_1 import Bytes1
from grail_trainer.tiny.gradient_model import END_TOKEN, create


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    create(folder, 7)
    return folder


def test_a_checkpoint_can_be_made_of_it(folder: Path) -> None:
    files = read_model_files(folder)
    assert files.architecture == "Qwen2ForCausalLM"
    model = TrainedModel.load(folder)
    assert sum(value.size for value in model.state().values()) == 81_888
    assert PolicyModel.load(folder).dtype == torch.bfloat16
    assert PromptRenderer(folder).vocabulary_size == model.vocabulary_size == Bytes1.spec.vocabulary


def test_its_tokens_are_those_of_the_corpus(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = Bytes1().sequence(0).tolist()
    text = "".join(END_TOKEN if token == 256 else chr(token) for token in tokens)
    assert tokenizer(text).input_ids == tokens
    assert tokenizer.decode(tokens) == text
    everything = bytes(range(256)).decode("latin-1")
    assert tokenizer(everything).input_ids == list(everything.encode("utf-8"))


def test_a_seed_decides_every_weight(folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "again", 7)
    create(tmp_path / "other", 8)
    first, again, other = (TrainedModel.load(one).state() for one in (folder, tmp_path / "again", tmp_path / "other"))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_folder_that_holds_something_is_left_alone(folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(ConfigurationError, match="not empty"):
        create(folder)
    assert sorted(folder.iterdir()) == before
