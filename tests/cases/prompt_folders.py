"""Tokenizer folders, each with a reason: prompts equal Transformers', or the folder is refused, and with which word.

A case is the change it makes to a plain folder: the tokenizer, its JSON, the files beside it. Templates by themselves are in
prompt_templates.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>")


def of_bytes() -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return tokenizer


def of_letters(scheme: str, split: bool) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        letters = "\u2581\nabcdefghijklmnopqrstuvwxyz"
        vocabulary = {"<unk>": 0, **{c: i + 1 for i, c in enumerate(letters)}}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
        return tokenizer

    return make


def of_bytes_with(normalizer: Any = None, pre_tokenizer: Any = None, post_processor: Any = None) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = of_bytes()
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if pre_tokenizer is not None:
            tokenizer.pre_tokenizer = pre_tokenizer
        if post_processor is not None:
            tokenizer.post_processor = post_processor
        return tokenizer

    return make


def of_llama() -> Tokenizer:
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"\u2581": 256, "h": 257, "<unk>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return tokenizer


def of_word_pieces() -> Tokenizer:
    words = ["[UNK]", "<", ">", "|", "_", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[UNK] $A [UNK]", special_tokens=[("[UNK]", 0)])
    return tokenizer


def of_pieces_with_scores() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("\u2581", -4.0), *((c, -6.0) for c in "abcdefghijklmnopqrstuvwxyz\n"), ("\u2581what", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


@dataclass(frozen=True)
class FolderCase:
    name: str
    reason: str
    text: str = "hello what"
    make: Callable[[], Tokenizer] = of_bytes
    template: str | None = CHATML  # in tokenizer_config.json
    config: dict[str, Any] = field(default_factory=dict)
    change: Callable[[dict[str, Any]], None] | None = None  # of tokenizer.json
    files: dict[str, Any] = field(default_factory=dict)
    specials: tuple[str, ...] = SPECIALS
    says: str | None = None  # refused, with this word in the reason

    def write(self, folder: Path) -> Path:
        tokenizer = self.make()
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in self.specials])
        parsed = json.loads(tokenizer.to_str())
        if self.change is not None:
            self.change(parsed)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": self.template}
        written = {"tokenizer.json": parsed, "tokenizer_config.json": {**config, **self.config}, **self.files}
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in written.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes((value if isinstance(value, str) else json.dumps(value)).encode())
        return folder


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parsed: parsed.update({name: value})


def _add(text: str, **fields: bool) -> Callable[[dict[str, Any]], None]:
    def change(parsed: dict[str, Any]) -> None:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        number = max(token["id"] for token in parsed["added_tokens"]) + 1
        parsed["added_tokens"].append({"id": number, "content": text, **plain, **fields})

    return change


def _dropout(parsed: dict[str, Any]) -> None:
    parsed["model"]["dropout"] = 0.1


CUT = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
FILL = {
    "strategy": {"Fixed": 64},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<s>",
}
BOS = "{{ bos_token }}" + CHATML
CASES = (
    FolderCase("first", "the space stands before the whole text only", make=of_letters("first", False)),
    FolderCase("first, cut into words", "the same, where words are cut at spaces", make=of_letters("first", True)),
    FolderCase("always", "the space stands before every piece between control tokens", make=of_letters("always", True)),
    FolderCase("never", "no space is added", make=of_letters("never", True)),
    FolderCase(
        "unknown characters", "they are the unknown token, which is special, and are kept", "ÄÖ a", of_letters("first", True)
    ),
    FolderCase("prepended by a normalizer", "bytes for what has no piece", "hi 😀 there", of_llama),
    FolderCase("word pieces", "the post-processor adds nothing to a prompt", "Hello WHAT zzz", of_word_pieces),
    FolderCase("pieces with scores", "cut where the scores are best", "what is whatever", of_pieces_with_scores),
    FolderCase(
        "a prefix space", "before every piece that has none", make=of_bytes_with(pre_tokenizer=pre_tokenizers.ByteLevel())
    ),
    FolderCase("composed", "normalised before it is cut", "cafe\u0301 ﬁ", of_bytes_with(normalizers.NFKC())),
    FolderCase(
        "digits one by one",
        "a sequence of pre-tokenizers",
        "in 2024, 10 of 12",
        of_bytes_with(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        ),
    ),
    FolderCase("truncation", "saved by whoever trained with it; prompts are whole", change=_set("truncation", CUT)),
    FolderCase("padding", "the same", change=_set("padding", FILL)),
    FolderCase(
        "padding names a token", "pad_token is the padding's", template=CHATML + "{{ pad_token }}", change=_set("padding", FILL)
    ),
    FolderCase(
        "an ordinary added token", "its id comes after the special ones", "a <|fim_prefix|> b", change=_add("<|fim_prefix|>")
    ),
    FolderCase("it takes white space", "lstrip and rstrip", "a  <tool>  b", change=_add("<tool>", lstrip=True, rstrip=True)),
    FolderCase("it is a word", "single_word: not inside another", "cat concat cat", change=_add("cat", single_word=True)),
    FolderCase(
        "it is normalised",
        "found in what the normalizer leaves",
        "THE end The",
        of_bytes_with(normalizers.Lowercase()),
        change=_add("the", normalized=True),
    ),
    FolderCase(
        "white space is a token",
        "the template writes it, and so may a message",
        "a\n\nb",
        template="{{ messages[0].content }}\n\n",
        change=_add("\n\n"),
    ),
    FolderCase(
        "a special token takes white space",
        "the template's own too",
        "  hello  ",
        change=_add("<|end|>", special=True, lstrip=True, rstrip=True),
        template="{{ messages[0].content }}<|end|> \n x",
    ),
    FolderCase(
        "named in special_tokens_map.json",
        "an older place",
        template=BOS,
        files={"special_tokens_map.json": {"bos_token": "<s>"}},
    ),
    FolderCase(
        "named there as an object",
        "the same",
        template=BOS,
        files={
            "special_tokens_map.json": {
                "bos_token": {"content": "<s>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
            }
        },
    ),
    FolderCase(
        "named there and not read",
        "added_tokens_decoder says that the folder is newer",
        template="{{ bos_token is defined }}" + CHATML,
        config={"added_tokens_decoder": {}},
        files={"special_tokens_map.json": {"bos_token": "<s>"}},
    ),
    FolderCase(
        "named in both",
        "the older file outranks",
        template=BOS,
        config={"bos_token": "<|im_end|>"},
        files={"special_tokens_map.json": {"bos_token": "<s>"}},
    ),
    FolderCase(
        "named as an object",
        "with its type",
        template=BOS,
        config={
            "bos_token": {
                "__type": "AddedToken",
                "content": "<s>",
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            }
        },
    ),
    FolderCase(
        "sep, cls and mask",
        "they are special tokens too",
        template=CHATML + "{{ sep_token }}{{ cls_token }}{{ mask_token }}",
        config={"sep_token": "<s>", "cls_token": "<|im_start|>", "mask_token": "<|im_end|>"},
    ),
    FolderCase(
        "a token of one model",
        "any name that ends in _token",
        template=CHATML + "{{ image_token }}",
        config={"image_token": "<s>"},
    ),
    FolderCase(
        "extra special tokens by name",
        "they have names, so a template may use them",
        template=CHATML + "{{ boi }}",
        config={"extra_special_tokens": {"boi": "<s>"}},
    ),
    FolderCase(
        "a special token that tokenizer.json lacks",
        "it gets the next id",
        "x y",
        template=BOS,
        config={"bos_token": "<new>", "additional_special_tokens": ["<more>"]},
    ),
    FolderCase("a token in added_tokens.json", "it is added", "x <more> y", files={"added_tokens.json": {"<more>": 700}}),
    FolderCase(
        "flags in added_tokens_decoder",
        "they outrank tokenizer.json's",
        " a ",
        config={
            "added_tokens_decoder": {
                "257": {
                    "content": "<|im_end|>",
                    "single_word": False,
                    "lstrip": True,
                    "rstrip": True,
                    "normalized": False,
                    "special": True,
                }
            }
        },
    ),
    FolderCase(
        "templates by name",
        "prompts use the default",
        template=None,
        config={"chat_template": [{"name": "tool_use", "template": "{{ tools[0] }}"}, {"name": "default", "template": CHATML}]},
    ),
    FolderCase(
        "the file outranks",
        "chat_template.jinja is the default",
        template="not this",
        files={"chat_template.jinja": CHATML.replace("\\n", "\n")},
    ),
    FolderCase(
        "line ends of Windows",
        "one line end is as good as another",
        template=None,
        files={"chat_template.jinja": "{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}\r\n"},
    ),
    FolderCase(
        "no default among them",
        "nobody knows which is meant",
        template=None,
        config={"chat_template": [{"name": "tool_use", "template": CHATML}]},
        says="default",
    ),
    FolderCase(
        "more templates in their folder",
        "as save_pretrained writes several: the file is the default",
        template=None,
        files={"chat_template.jinja": "{{ messages[0].content }}", "additional_chat_templates/tool_use.jinja": "not this"},
    ),
    FolderCase(
        "a default in their folder",
        "Transformers takes it, and a checkpoint does not hold it",
        files={"additional_chat_templates/default.jinja": "{{ messages[0].content }}"},
        says="additional_chat_templates",
    ),
    FolderCase(
        "no file beside their folder",
        "Transformers does not read the configuration's template then",
        files={"additional_chat_templates/tool_use.jinja": "not this"},
        says="additional_chat_templates",
    ),
    FolderCase("no template", "a base model", template=None, says="template"),
    FolderCase("dropout", "another prompt each time", change=_dropout, says="dropout"),
    FolderCase(
        "special tokens are split",
        "the template's own would be text",
        config={"split_special_tokens": True},
        says="split_special_tokens",
    ),
    FolderCase(
        "another pre-tokenizer", "not the one of tokenizer.json", config={"fix_mistral_regex": True}, says="fix_mistral_regex"
    ),
    FolderCase(
        "files by version",
        "another file than tokenizer.json",
        config={"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
        says="fast_tokenizer_files",
    ),
    FolderCase(
        "an object that says `special` for itself",
        "Transformers does not load it",
        files={"special_tokens_map.json": {"extra_special_tokens": [{"content": "<more>", "special": True}]}},
        says="special",
    ),
    FolderCase(
        "an object without a type", "Transformers does not load it", config={"bos_token": {"content": "<s>"}}, says="bos_token"
    ),
    FolderCase(
        "a name that is taken",
        "the template is given something else under it",
        config={"extra_special_tokens": {"messages": "<s>"}},
        says="messages",
    ),
    FolderCase(
        "nothing is left of a token",
        "it would be found everywhere",
        make=of_bytes_with(normalizers.Strip()),
        change=_add("  ", normalized=True),
        says="normalizer",
    ),
)
