"""Completions of a network whose chat template ends every prompt with `<think>`, as they reach the grader."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from grail_core.environment import THINK_CLOSE, THINK_OPEN, Message
from grail_core.model.prompts import PromptRenderer

OPENING_TEMPLATE = (
    "{%- for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
)


def tokenizer_folder(template: str, *, tags: str = "text") -> Path:
    """A folder with a tokenizer of bytes. `tags`: the tags of thinking are "text", "added" tokens, "special" ones, or special
    ones that hold a line end too ("wide")."""
    folder = Path(tempfile.mkdtemp(dir=_room().name))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    if tags != "text":
        end = "\n" if tags == "wide" else ""
        added = [AddedToken(tag + end, special=tags != "added", normalized=False) for tag in (THINK_OPEN, THINK_CLOSE)]
        (tokenizer.add_tokens if tags == "added" else tokenizer.add_special_tokens)(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def as_graded(completion: str, asked: Sequence[Message]) -> str:
    """What the environment is given for this completion."""
    folder, renderer = _opening()
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(completion, add_special_tokens=False).ids
    return renderer.decode_completion(tokens, asked)


@cache
def _room() -> tempfile.TemporaryDirectory[str]:
    """Gone with this process."""
    return tempfile.TemporaryDirectory(prefix="grail-opened-thinking-")


@cache
def _opening() -> tuple[Path, PromptRenderer]:
    folder = tokenizer_folder(OPENING_TEMPLATE)
    return folder, PromptRenderer(folder, "native")
