"""Folders that look like models: what `import_model` must say of each. A change is made to a good folder of three shards.

Each case: name, what is changed, what the refusal says (None: imported), and why.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

INDEX = "model.safetensors.index.json"
NAMES = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight")


@dataclass(frozen=True)
class FolderCase:
    name: str
    change: Callable[[Path], None]
    refusal: str | None
    reason: str


def shard(number: int, of: int = 3) -> str:
    return f"model-{number:05d}-of-{of:05d}.safetensors"


def write_folder(folder: Path) -> None:
    for number, name in enumerate(NAMES, 1):
        save_file({name: torch.full((2, 2), float(number))}, folder / shard(number), metadata={"format": "pt"})
    listed = {name: shard(number) for number, name in enumerate(NAMES, 1)}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": listed}))
    set_config(folder)


def set_config(folder: Path, **changes: Any) -> None:
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config | changes))


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: set_config(folder, **changes)


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def listed_as(**places: str) -> Callable[[Path], None]:
    """The index with other places: `norm="x"` for the tensor whose name has that part."""

    def change(folder: Path) -> None:
        value = json.loads((folder / INDEX).read_text())
        for part, place in places.items():
            name = next((name for name in NAMES if part in name), part)
            value["weight_map"][name] = place
        (folder / INDEX).write_text(json.dumps(value))

    return change


def with_index(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / INDEX).write_text(text)

    return change


def with_header(**members: Any) -> Callable[[Path], None]:
    """The last shard with these members in its header."""

    def change(folder: Path) -> None:
        tensor = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
        header = json.dumps({NAMES[2]: tensor, **members}).encode()
        (folder / shard(3)).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))

    return change


def with_weight(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    return lambda folder: save_file({NAMES[2]: torch.full((2, 2), value, dtype=dtype)}, folder / shard(3))


def one_file(folder: Path, *names: str) -> None:
    save_file({name: torch.ones(2, 2) for name in names or NAMES}, folder / "model.safetensors")


def only_one_file(folder: Path) -> None:
    (folder / INDEX).unlink()
    one_file(folder)


def doubled_in_another_shard(folder: Path) -> None:
    save_file({name: torch.ones(2, 2) for name in NAMES[1:]}, folder / shard(3))


def unlisted_in_a_shard(folder: Path) -> None:
    save_file({NAMES[2]: torch.ones(2, 2), "model.more": torch.ones(2)}, folder / shard(3))


def shards_of_two_models(folder: Path) -> None:
    (folder / INDEX).unlink()
    save_file({"x": torch.ones(2)}, folder / shard(1, 2))


def a_shard_nobody_lists(folder: Path) -> None:
    save_file({"old": torch.ones(2)}, folder / shard(4, 4))


CASES = (
    FolderCase("three of three", lambda folder: None, None, "whole"),
    FolderCase("no index, three of three", without(INDEX), None, "the names say that it is whole"),
    FolderCase("one file, no index", only_one_file, None, "one file is whole"),
    FolderCase("one file beside its index", one_file, None, "merged shards leave their index behind"),
    FolderCase("a shard nobody lists", a_shard_nobody_lists, None, "of an older download; the index says what counts"),
    FolderCase("last shard missing", without(shard(3)), "00003-of-00003", "a model with a layer less"),
    FolderCase("first shard missing", without(shard(1)), "00001-of-00003", "a model without embeddings"),
    FolderCase("no index, two of three", without(INDEX, shard(2)), "00002-of-00003", "the names count too"),
    FolderCase("no index, two models", shards_of_two_models, "two models", "nobody can say which"),
    FolderCase("all shards missing", without(*map(shard, (1, 2, 3))), "files of weights are missing", "an index alone"),
    FolderCase("listed in another shard", listed_as(norm=shard(2)), "which the index promises", "an index of other files"),
    FolderCase("listed and in no shard", listed_as(more=shard(3)), "which the index promises", "a shard was saved anew"),
    FolderCase("in a shard and not listed", unlisted_in_a_shard, "does not list", "the index says what there is"),
    FolderCase("in two shards", doubled_in_another_shard, "same tensor", "which of the two?"),
    FolderCase(
        "one file that lacks a tensor", lambda folder: one_file(folder, *NAMES[:2]), "which the index promises", "half a merge"
    ),
    FolderCase(
        "a file elsewhere", listed_as(norm="../other.safetensors"), "no name of a safetensors file", "out of the folder"
    ),
    FolderCase("an absolute file", listed_as(norm="/etc/x.safetensors"), "no name of a safetensors file", "out of the folder"),
    FolderCase("a pickle", listed_as(norm="pytorch_model.bin"), "no name of a safetensors file", "code"),
    FolderCase("index: no map", with_index('{"metadata": {}}'), "no weight_map", "says nothing"),
    FolderCase("index: no object", with_index("[]"), "no weight_map", "says nothing"),
    FolderCase("index: not JSON", with_index("{"), "index of the weights", "damaged"),
    FolderCase("index: nested deep", with_index("[" * 100_000), "index of the weights", "costs the reader its stack"),
    FolderCase(
        "index: a member twice", with_index('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'), "twice", "?"
    ),
    FolderCase("index: too many members", with_index("[" + "1," * 600_000 + "1]"), "larger than any", "costs memory"),
    FolderCase("metadata: text", with_header(__metadata__={"format": "pt"}), None, "what savers write"),
    FolderCase("metadata: a number", with_header(__metadata__={"step": 7}), "text is expected", "the package refuses it"),
    FolderCase("metadata: null in it", with_header(__metadata__={"step": None}), "text is expected", "the package refuses it"),
    FolderCase("metadata: nested", with_header(__metadata__={"a": {"b": "c"}}), "text is expected", "the package refuses it"),
    FolderCase("metadata: a list", with_header(__metadata__=["pt"]), "an object is expected", "the package refuses it"),
    FolderCase("metadata: text alone", with_header(__metadata__="pt"), "an object is expected", "the package refuses it"),
    FolderCase("largest bf16", with_weight(3.38e38), None, "just below the border"),
    FolderCase("beyond bf16", with_weight(3.4e38), "beyond what BF16 holds", "finite in float32, infinite as published"),
    FolderCase("beyond bf16, below", with_weight(-1e300, torch.float64), "beyond what BF16 holds", "the same of float64"),
    FolderCase("8-bit floats", with_weight(1.5, torch.float8_e4m3fn), None, "numbers like others, and cast like others"),
    FolderCase("8-bit floats, broken", with_weight(float("nan"), torch.float8_e5m2), "not finite", "checked like others too"),
    FolderCase("infinite", with_weight(float("inf")), "not finite", "broken"),
    FolderCase("a layer too many", configured(num_hidden_layers=1_000_000_000), "num_hidden_layers", "a reader makes each"),
    FolderCase("layers in a part", configured(text_config={"n_layer": 10**7}), "n_layer", "a part is a configuration too"),
    FolderCase("experts", configured(moe_num_experts=10**6), "moe_num_experts", "a reader makes each"),
    FolderCase(
        "layers times experts", configured(num_hidden_layers=1024, num_local_experts=4096), "modules", "a reader makes all"
    ),
    FolderCase("a width of 10^18", configured(hidden_size=10**18), "hidden_size", "no model is as wide"),
    FolderCase("a width below 0", configured(hidden_size=-8), "no causal language model", "no tensor has it"),
    FolderCase("a width in words", configured(hidden_size="wide"), "no causal language model", "no number"),
    FolderCase("unknown", configured(model_type="nobody-knows"), "no causal language model", "nobody can load it"),
    FolderCase(
        "quantised", configured(quantization_config={"quant_method": "gptq"}), "quantised", "other numbers than it means"
    ),
    FolderCase("a kernel", configured(_attn_implementation="somebody/kernel"), "asks for code", "downloaded and run"),
    FolderCase("alibi", configured(architectures=["BloomForCausalLM"], model_type="bloom"), "ALiBi", "refused at import"),
    FolderCase("capped", configured(architectures=["Gemma2ForCausalLM"], model_type="gemma2"), "softcapping", "by default"),
    FolderCase(
        "window", configured(architectures=["MistralForCausalLM"], model_type="mistral"), None, "a default window of 4,096"
    ),
    FolderCase(
        "a list that multiplies",
        configured(architectures=["GPTNeoForCausalLM"], model_type="gpt_neo", attention_types=[[["global"], 10**9]]),
        "configuration",
        "ten bytes that become a billion layers",
    ),
)
