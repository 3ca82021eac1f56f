"""Tokenizer folders drawn at random: every kind of tokenizer, special tokens in every place they can stand, any template.

For the comparison of prompts with Transformers'. One seed gives one folder; what is drawn is what published tokenizers have,
in combinations that nobody has published.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = ("the", "and", "what", "is", "user", "assistant", "system", "ing", "er", "hello", "world", "12", "2024", "Jul", "in")
_SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[SEP]", "[CLS]", "[MASK]", "<pad>", "<think>", "</think>", "[INST]")
_ORDINARY = ("<|fim_prefix|>", "<tool>", "####", "  ", "\n\n", "Ünï", "don't", "A B", "café", "the end")
_PIECES = (
    *_WORDS, " ", "  ", "\n", "\n\n", "\t", "a", "b", "Z", "ü", "É", "e\u0301", "ﬁ", "½", "你好",
    "\u00a0", "\u200b", "<", ">", "|", "<|", "|>", "</", "1", "7", "3.14", ",", ".", "!", "'s", "don't",
    "####", "<tool>", "<|fim_prefix|>", "▁", "A B", "\r\n", "  x", "\U0001f600",
)  # fmt: skip


@dataclass(frozen=True)
class DrawnFolder:
    """A folder of tokenizer files, and what was drawn, for whoever looks at a difference."""

    path: Path
    kind: str
    files: dict[str, Any]


def draw_folder(seed: int, template: str, path: Path) -> DrawnFolder:
    """Write the folder of this seed, with this template in it, to `path`, which is made."""
    draw = random.Random(seed)
    kind = draw.choice(["bytes", "bytes", "metaspace", "prepended", "unigram", "pieces", "words"])
    specials = draw.sample(_SPECIALS, draw.randint(3, len(_SPECIALS)))
    within = draw.sample(specials, draw.randint(0, len(specials)))  # of these, the vocabulary has the text as well
    tokenizer = _TOKENIZERS[kind](draw, within)
    _add_tokens(draw, tokenizer, specials)
    if draw.random() < 0.2:
        tokenizer.enable_truncation(draw.randint(1, 9), direction=draw.choice(["left", "right"]))
    if draw.random() < 0.2:
        tokenizer.enable_padding(pad_token=draw.choice(specials), pad_id=3, length=draw.choice([None, 64]))
    files: dict[str, Any] = {"tokenizer.json": json.loads(tokenizer.to_str())}
    _name_specials(draw, files, specials)
    _place_template(draw, files, template)
    path.mkdir(parents=True)
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=draw.random() < 0.5)
        (path / name).write_bytes(text.encode())
    return DrawnFolder(path, kind, files)


def draw_conversation(seed: int, avoid: Sequence[str]) -> list[dict[str, str]]:
    """One to six turns whose contents hold none of the texts in `avoid`."""
    draw = random.Random(seed)
    turns = [{"role": "system", "content": _content(draw, avoid)}] if draw.random() < 0.5 else []
    for index in range(draw.choice([1, 1, 1, 3, 5])):
        turns.append({"role": ("user", "assistant")[index % 2], "content": _content(draw, avoid)})
    return turns


def _content(draw: random.Random, avoid: Sequence[str]) -> str:
    text = "".join(draw.choice(_PIECES) + draw.choice(["", "", " "]) for _ in range(draw.randint(0, 14)))
    for one in avoid:
        text = text.replace(one, "")
    return "" if any(one in text for one in avoid) else text


def _bytes(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(_merged(draw, alphabet, within, first="Ġ"))
    prefix = draw.random() < 0.25
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    tokenizer.pre_tokenizer = draw.choice(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=prefix),
            pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]),
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=prefix)]
            ),
        ]
    )
    _normalize(draw, tokenizer)
    if draw.random() < 0.5:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=draw.random() < 0.5)
    return tokenizer


def _metaspace(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    alphabet = [*"\u2581\n<|>/_", *_LETTERS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!'"]
    tokenizer = Tokenizer(_merged(draw, alphabet, within, first="\u2581", unknown=True))
    scheme = draw.choice(["first", "first", "always", "never"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=draw.random() < 0.5)
    _normalize(draw, tokenizer)
    return tokenizer


def _prepended(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    """As Llama 2: no pre-tokenizer, blanks are marked by the normalizer, unknown characters are bytes."""
    alphabet = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *_LETTERS]
    tokenizer = Tokenizer(_merged(draw, alphabet, within, first="\u2581", unknown=True, byte_fallback=True))
    steps = [normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), *steps] if draw.random() < 0.6 else steps)
    return tokenizer


def _unigram(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    vocabulary = [("<unk>", 0.0), *((text, -1.0) for text in within)]
    vocabulary += [(character, -8.0 - draw.random()) for character in "\u2581\n<|>" + _LETTERS + "0123456789"]
    vocabulary += [(mark + word, -3.0 - draw.random()) for word in _WORDS for mark in ("", "\u2581")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=draw.choice(["first", "always", "never"]))
    _normalize(draw, tokenizer)
    return tokenizer


def _pieces(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    words = [
        "[UNK]",
        *within,
        *_LETTERS,
        *(f"##{letter}" for letter in _LETTERS),
        *"0123456789<>|.,!'/",
        *_WORDS,
        "##ing",
        "##er",
    ]
    tokenizer = Tokenizer(models.WordPiece(_numbered(words), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=draw.random() < 0.7, clean_text=draw.random() < 0.7)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _post_process(draw, tokenizer, "[UNK]")
    return tokenizer


def _words(draw: random.Random, within: Sequence[str]) -> Tokenizer:
    words = ["<unk>", *within, *_WORDS, *_LETTERS, *"0123456789<>|.,!/"]
    tokenizer = Tokenizer(models.WordLevel(_numbered(words), unk_token="<unk>"))
    tokenizer.pre_tokenizer = draw.choice(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex("|".join(_WORDS)), "removed", invert=True),
            pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]),
        ]
    )
    _normalize(draw, tokenizer)
    _post_process(draw, tokenizer, "<unk>")
    return tokenizer


_TOKENIZERS = {
    "bytes": _bytes,
    "metaspace": _metaspace,
    "prepended": _prepended,
    "unigram": _unigram,
    "pieces": _pieces,
    "words": _words,
}


def _merged(
    draw: random.Random, alphabet: Sequence[str], within: Sequence[str], *, first: str, unknown: bool = False, **options: bool
) -> models.BPE:
    """A BPE that joins the letters of some words, front to back."""
    tokens = dict.fromkeys([*(["<unk>"] if unknown else []), *within, *alphabet])
    merges: dict[tuple[str, str], None] = {}
    for word in draw.sample(_WORDS, 8):
        letters = [*([first] if draw.random() < 0.5 else []), *word]
        if not all(letter in tokens for letter in letters):
            continue
        left = letters[0]
        for letter in letters[1:]:
            merges[left, letter] = None
            left += letter
            tokens[left] = None
    if unknown:
        options["fuse_unk"] = draw.random() < 0.5
    return models.BPE(vocab=_numbered(tokens), merges=list(merges), unk_token="<unk>" if unknown else None, **options)


def _numbered(tokens: Any) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _normalize(draw: random.Random, tokenizer: Tokenizer) -> None:
    steps = [
        normalizers.NFC(),
        normalizers.NFKC(),
        normalizers.Lowercase(),
        normalizers.Strip(),
        normalizers.Replace("\u200b", ""),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    ]
    if draw.random() < 0.5:
        tokenizer.normalizer = normalizers.Sequence(draw.sample(steps, draw.randint(1, 2)))


def _post_process(draw: random.Random, tokenizer: Tokenizer, text: str) -> None:
    if draw.random() < 0.5:
        number = tokenizer.token_to_id(text)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{text} $A {text}", special_tokens=[(text, number)])


def _add_tokens(draw: random.Random, tokenizer: Tokenizer, specials: Sequence[str]) -> None:
    held = [text for text in specials if draw.random() < 0.85]
    tokens = [_token(draw, text, special=draw.random() < 0.9) for text in held]
    tokens += [_token(draw, text, special=False) for text in draw.sample(_ORDINARY, draw.randint(0, 4))]
    if draw.random() < 0.5:
        draw.shuffle(tokens)
    tokenizer.add_tokens(tokens)


def _token(draw: random.Random, text: str, *, special: bool) -> AddedToken:
    rare = draw.random() < 0.3
    return AddedToken(
        text,
        special=special,
        lstrip=rare and draw.random() < 0.5,
        rstrip=rare and draw.random() < 0.5,
        single_word=rare and draw.random() < 0.3,
        normalized=draw.random() < (0.15 if special else 0.5) and not text.isspace(),
    )


def _name_specials(draw: random.Random, files: dict[str, Any], specials: Sequence[str]) -> None:
    """Give names to special tokens, in one of the places where they can stand."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    named = {name: draw.choice(specials) for name in NAMES if draw.random() < 0.6}
    place = draw.choice(["config", "config", "map", "both", "decoder"])
    if place in ("config", "both", "decoder"):
        config.update({name: _written(draw, text, typed=True) for name, text in named.items()})
    if place in ("map", "both"):
        files["special_tokens_map.json"] = {
            name: _written(draw, draw.choice([text, specials[0]])) for name, text in named.items()
        }
    if place == "decoder":
        added = {str(one["id"]): {k: v for k, v in one.items() if k != "id"} for one in files["tokenizer.json"]["added_tokens"]}
        for one in added.values():
            if draw.random() < 0.1:
                one["lstrip"] = not one["lstrip"]
        config["added_tokens_decoder"] = added
        if draw.random() < 0.3:  # not read there then
            files["special_tokens_map.json"] = {"sep_token": specials[0]}
    if draw.random() < 0.2:
        config["image_token"] = draw.choice(["<image>", specials[0]])
    extra = draw.choice([None, None, "extra_special_tokens", "additional_special_tokens", "named"])
    if extra == "named":
        config["extra_special_tokens"] = {"boi_token": "<boi>", "tool_call": specials[-1]}
    elif extra:
        target = files["special_tokens_map.json"] if place == "map" and draw.random() < 0.5 else config
        target[extra] = [specials[1], "<extra_0>"]
    if place != "decoder" and draw.random() < 0.2:
        size = len(files["tokenizer.json"]["added_tokens"]) + 900
        files["added_tokens.json"] = {"<extra_1>": size, specials[0]: size + 1}
    options: dict[str, list[Any]] = {
        "add_bos_token": [True, False],
        "clean_up_tokenization_spaces": [True, False],
        "model_max_length": [16, 10**30],
        "padding_side": ["left"],
        "add_prefix_space": [True, False],
        "legacy": [True, False],
    }
    for name, values in options.items():
        if draw.random() < 0.3:
            config[name] = draw.choice(values)
    files["tokenizer_config.json"] = config


def _written(draw: random.Random, text: str, *, typed: bool = False) -> Any:
    """A special token as text, or as an object."""
    if draw.random() < 0.7:
        return text
    value: dict[str, Any] = {
        "content": text,
        "lstrip": draw.random() < 0.2,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
    }
    return {"__type": "AddedToken", **value} if typed else value


def _place_template(draw: random.Random, files: dict[str, Any], template: str) -> None:
    place = draw.choice(["file", "config", "list", "object", "both"])
    config, other = files["tokenizer_config.json"], "{{ 'not this one' }}"
    if place in ("file", "both"):
        files["chat_template.jinja"] = template
    if place == "config":
        config["chat_template"] = template
    elif place == "list":
        config["chat_template"] = [{"name": "tool_use", "template": other}, {"name": "default", "template": template}]
    elif place == "object":
        config["chat_template"] = {"default": template, "rag": other}
    elif place == "both":
        config["chat_template"] = draw.choice([other, [{"name": "rag", "template": other}]])
