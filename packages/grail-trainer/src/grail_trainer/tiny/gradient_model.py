"""The model that a local network of gradient work trains: Qwen2, 48 wide, two layers, over bytes and one end token.

An ordinary folder as `tiny.init` makes them (safetensors, configuration, tokenizer, chat template, generation defaults), but in
float32, since gradient work publishes float32, and with random weights: there is nothing to warm up. Token ids are the bytes'
own values and 256 the end token, as the corpus `bytes-1` has them. A pure function of the seed and the version of torch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError
from grail_trainer.tiny.init import place_folder

END_TOKEN: Final = "<end>"
END: Final = 256
HIDDEN_SIZE: Final = 48
LAYERS: Final = 2
HEADS: Final = 4
KEY_VALUE_HEADS: Final = 2
INTERMEDIATE_SIZE: Final = 192
CONTEXT: Final = 1024
"""Tokens; a sequence of the corpus has 64, prompts some hundred bytes: the network may turn to rollouts."""

_TEMPLATE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"
"""A conversation is its texts, one a line: what the model reads in training has no roles."""


def create(folder: Path, seed: int = 0) -> None:
    """Make the model folder: 81,888 parameters.

    Raises:
        ConfigurationError: `folder` exists and is not empty.
        DiskFullError, StorageError: the disk refuses; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError("the folder for the model is not empty", where=str(folder), hint="choose another with --out")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".model.", dir=folder.parent))
    try:
        with storage_errors(building):
            _new_module(seed).save_pretrained(building)
            _write_tokenizer(building)
        place_folder(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _new_module(seed: int) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=END + 1,
                hidden_size=HIDDEN_SIZE,
                intermediate_size=INTERMEDIATE_SIZE,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=KEY_VALUE_HEADS,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=True,
                eos_token_id=END,
                bos_token_id=None,
                attn_implementation="sdpa",
            )
        )
    finally:
        torch.set_num_threads(threads)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: byte for byte, letter in enumerate(_letters())} | {END_TOKEN: END}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_TOKEN)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    value = {"do_sample": True, "eos_token_id": [END], "max_new_tokens": 64, "temperature": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(value, indent=1), encoding="utf-8")


def _letters() -> list[str]:
    """How a byte-level tokenizer spells each byte: printable ones as they are in Latin-1, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
