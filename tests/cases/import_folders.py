"""Folders that a person imports by mistake: what `grail-trainer init --from` says of each, and what it tells them to do.

A change is made to a folder that can be published. Each case: name, change, what the refusal says, what its hint says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.cases.prompt_folders import FolderCase

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n"
SIZES = {
    "vocab_size": 260,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "eos_token_id": 257, **SIZES}


@dataclass(frozen=True)
class ImportCase:
    name: str
    change: Callable[[Path], None]
    what: str
    hint: str


def write_model(folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    FolderCase("", "").write(folder)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SIZES))
    save_file(dict(made.state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _write(folder / "config.json", json.dumps({**CONFIG, **changes}))


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: _write(folder / "chat_template.jinja", text)


def pointer(name: str) -> Callable[[Path], None]:
    return lambda folder: _write(folder / name, POINTER)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def changed_json(name: str, **members: Any) -> Callable[[Path], None]:
    return lambda folder: _write(folder / name, json.dumps({**json.loads((folder / name).read_text()), **members}))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _pointer_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _write(folder / "model.safetensors.index.json", POINTER)


def _adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").rename(folder / "adapter_config.json")


_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

CASES = (
    ImportCase("no tokenizer", without("tokenizer.json"), "tokenizer.json cannot be read", "save a fast tokenizer"),
    ImportCase("no template", changed_json("tokenizer_config.json", chat_template=None), "no single", "chat_template.jinja"),
    ImportCase("no end token", configured(eos_token_id=None), "no end token", "set eos_token_id"),
    ImportCase("a clock", template("{{ strftime_now('%d') }}"), "strftime_now", "write the date into the template"),
    ImportCase("a date", template("{{ date_string }}"), "date_string", "write the date into the template"),
    ImportCase("no Jinja", template("a\n{% if %}"), "Expected an expression", "line 2"),
    ImportCase("refuses all", template("{{ raise_exception('never') }}"), "never", "must render a user's message"),
    ImportCase("a loop", template(_LOOP), "ended with code", "within 2 s"),
    ImportCase("no context", configured(max_position_embeddings=None), "expected int, got NoneType", "config.json"),
    ImportCase("layer types", configured(layer_types=["full_attention"] * 2), "must be equal to the number", "config.json"),
    ImportCase("more tokens", configured(vocab_size=300), "shape [260, 8], not [300, 8]", "of one model"),
    ImportCase("fewer tokens", configured(vocab_size=259), "shape [260, 8], not [259, 8]", "of one model"),
    ImportCase("more layers", configured(num_hidden_layers=2), "model.layers.1.self_attn.q_proj.weight is missing", "of one"),
    ImportCase("pointer: weights", pointer("model.safetensors"), "Git LFS pointer", "git lfs pull"),
    ImportCase("pointer: tokenizer", pointer("tokenizer.json"), "Git LFS pointer", "git lfs pull"),
    ImportCase("pointer: index", _pointer_index, "Git LFS pointer", "git lfs pull"),
    ImportCase("an adapter", _adapter, "adapter", "merge_and_unload"),
    ImportCase("no config", without("config.json"), "no config.json", "save_pretrained"),
    ImportCase("half a config", lambda folder: _write(folder / "config.json", '{"a": 1'), "line 1 column 8", "fetch or save"),
    ImportCase("no object", lambda folder: _write(folder / "config.json", "[]"), "that is an object", "save_pretrained"),
    ImportCase("no class", configured(architectures=None), "one architecture", '"architectures"'),
    ImportCase("capped", configured(architectures=["Gemma2ForCausalLM"], model_type="gemma2"), "softcapping", "Qwen2"),
)
