"""Tokenizers made for one environment, so that a model of a hundred thousand weights can do something in it.

The environment's teacher says which kind (`grail_core.capabilities`): symbols, one token a word that it lists, or a byte-level
BPE learned from the environment's own prompts, which is also what an environment without a teacher gets. Both decode to text
that the environment can grade.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from grail_core.capabilities import BytePairs, Symbols, teacher_of
from grail_core.environment import Environment
from grail_core.errors import CheckpointError
from grail_core.model.prompts import PromptRenderer

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
UNKNOWN: Final = "<|unknown|>"
ROLES: Final = ("system", "user", "assistant")
SPECIALS: Final = (PAD, END, UNKNOWN, *(f"<|{role}|>" for role in ROLES))
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BPE_VOCABULARY: Final = 1024
BPE_PROBLEMS: Final = 1000


class Codec:
    """Prompts and answers of a tokenizer folder as tokens."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.renderer = PromptRenderer(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.pad, self.end = self.special(PAD), self.special(END)

    def special(self, text: str) -> int:
        """The id of a special token."""
        token = self.renderer.token_id(text)
        if token is None:
            raise CheckpointError(f"the tokenizer has no token {text}")
        return token

    def answer(self, text: str) -> tuple[int, ...]:
        """A completion with this text, end token included."""
        return (*self._tokenizer.encode(text, add_special_tokens=False).ids, self.end)


def write_tokenizer(environment: Environment, folder: Path) -> Codec:
    """Write tokenizer.json, tokenizer_config.json and the chat template made for `environment`; the codec that reads them."""
    vocabulary = teacher_of(environment).vocabulary
    tokenizer = _symbols(vocabulary) if isinstance(vocabulary, Symbols) else _byte_pairs(vocabulary, environment)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2**20,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return Codec(folder)


def _symbols(vocabulary: Symbols) -> Any:
    """Word-level: the pieces that are found are tokens, any other text between them is dropped."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    words = [*SPECIALS, *vocabulary.words]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    pieces = vocabulary.pieces or "|".join(re.escape(word) for word in sorted(vocabulary.words, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), behavior="removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


def _byte_pairs(vocabulary: BytePairs, environment: Environment) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCABULARY - len(vocabulary.whole),
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prompt_texts(environment), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in vocabulary.whole])
    return tokenizer


def _prompt_texts(environment: Environment) -> Iterable[str]:
    for seed in range(BPE_PROBLEMS):
        for message in environment.messages(environment.problem(seed)):
            yield message.content
