"""Small Qwen2 models with random weights: the one place of tests, kit and benchmarks that builds their configuration.

A shape and a seed decide every weight. One thread makes them, so that the number of cores changes no bit. Models that have
learnt something are in `language_model`; the model that a trainer ships with is `grail_trainer.tiny`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END_TOKEN = "<end>"
END_TOKEN_ID = 256
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True)
class Qwen2Shape:
    """Architecture of one small Qwen2.

    Attributes:
        vocabulary, context: tokens. hidden: width; intermediate: that of the feed-forward part, twice `hidden` where None.
        spread: standard deviation of the initial weights; 0.02 leaves every distribution of the next token nearly uniform,
            0.2 gives a tiny model firm opinions. tied: one matrix for embeddings and head. end: end token of the
            configuration. sliding_window: tokens that every layer after the first attends to.
    """

    vocabulary: int
    hidden: int = 32
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int | None = None
    context: int = 64
    spread: float = 0.2
    tied: bool = False
    end: int | None = None
    sliding_window: int | None = None


BYTES = Qwen2Shape(END_TOKEN_ID + 1, context=1024, spread=0.08, tied=True)
"""A model over bytes and one end token, as `save_byte_model` makes it."""


def configuration(shape: Qwen2Shape) -> Qwen2Config:
    """The shape as Transformers writes it down."""
    windowed: dict[str, Any] = {}
    if shape.sliding_window is not None:
        windowed = {"use_sliding_window": True, "sliding_window": shape.sliding_window, "max_window_layers": 1}
    return Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate or 2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
        initializer_range=shape.spread,
        tie_word_embeddings=shape.tied,
        eos_token_id=shape.end,
        **windowed,
    )


def random_model(shape: Qwen2Shape, seed: int = 0) -> Qwen2ForCausalLM:
    """A float32 model. Sets torch's global seed and its number of threads, to one."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(configuration(shape))


def in_bfloat16(module: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    """The same module with its parameters rounded. The rotary frequencies stay float32, as when a checkpoint is loaded."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return module


def save_random_model(folder: Path, shape: Qwen2Shape, seed: int = 0) -> Path:
    """A folder with configuration and bfloat16 weights, without a tokenizer. Returns `folder`."""
    random_model(shape, seed).to(torch.bfloat16).save_pretrained(folder)
    return folder


def save_byte_model(folder: Path, shape: Qwen2Shape = BYTES, seed: int = 3) -> Path:
    """An ordinary Transformers folder: random weights, a tokenizer of bytes, `TEMPLATE`. Returns `folder`."""
    save_random_model(folder, shape, seed)
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), END_TOKEN]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TOKEN)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder
