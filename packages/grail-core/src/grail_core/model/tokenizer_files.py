"""What a folder's tokenizer files mean together, read as Transformers reads them (5.23, `PreTrainedTokenizerFast`).

The vocabulary and its pipeline are tokenizer.json's; tokenizer_config.json, special_tokens_map.json and added_tokens.json add
special tokens to it and give names to them; chat_template.jinja outranks the template in the configuration. Which of these
files is read when, and which outranks which, is Transformers' own history; it is followed here to the letter, since a special
token that one reader sees and another does not is another prompt. What cannot be followed is refused and named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.lfs_pointers import refuse_pointer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATES_FOLDER = "additional_chat_templates"
PROMPT_FILES = (TOKENIZER_FILE, CONFIG_FILE, SPECIALS_FILE, ADDED_FILE, TEMPLATE_FILE)
"""All that prompts are made of."""

_ANEW = "save the tokenizer anew with `save_pretrained`"
_FAST = "save a fast tokenizer beside the model (`tokenizer.save_pretrained(folder)` of a fast one writes this file)"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ADDITIONAL, _EXTRA = "additional_special_tokens", "extra_special_tokens"

# Members of tokenizer_config.json that change which tokens a text becomes, in ways that are not followed here: what each does.
_REFUSED = {
    "split_special_tokens": "encodes special tokens as text, those of the template too",
    "fix_mistral_regex": "replaces the pre-tokenizer of tokenizer.json",
    "fast_tokenizer_files": "names other files to read in place of tokenizer.json",
    "init_inputs": "passes arguments to the tokenizer's constructor",
    "model_specific_special_tokens": "passes arguments to the tokenizer's constructor",
    "tokenizer_object": "passes arguments to the tokenizer's constructor",
    "tokenizer_padding": "passes arguments to the tokenizer's constructor",
    "tokenizer_truncation": "passes arguments to the tokenizer's constructor",
    "_json_padding": "passes arguments to the tokenizer's constructor",
    "_json_truncation": "passes arguments to the tokenizer's constructor",
    "post_processor": "passes arguments to the tokenizer's constructor",
    "gguf_file": "reads the tokenizer from a GGUF file",
    "vocab": "builds the tokenizer anew",
    "merges": "builds the tokenizer anew",
}
# Names under which `apply_chat_template` passes something else: a special token of one of them is an error there.
_TAKEN = frozenset(
    {"messages", "tools", "documents", "conversations", "chat_template", "enable_thinking", "add_generation_prompt"}
    | {"continue_final_message", "return_assistant_tokens_mask", "self"}
)


@dataclass(frozen=True)
class TokenizerFiles:
    """One folder's tokenizer files, parsed. `tokenizers.Tokenizer` is built from it by `PromptRenderer`."""

    raw: bytes  # tokenizer.json
    parsed: Mapping[str, Any]  # the same
    template: str  # the default chat template
    config: Mapping[str, Any]  # tokenizer_config.json; empty where there is none
    listed: Mapping[str, Any] | None  # special_tokens_map.json
    added: Mapping[str, Any] | None  # added_tokens.json

    @classmethod
    def of(cls, files: Mapping[str, bytes], *, where: str) -> TokenizerFiles:
        """Read files by name; others than `PROMPT_FILES` are ignored.

        Raises:
            CheckpointError: one is missing or malformed, there is no default template, or a feature that is not followed.
        """
        if TOKENIZER_FILE not in files:
            raise CheckpointError(f"there is no {TOKENIZER_FILE}", where=where, hint=_FAST)
        config = _object(files, CONFIG_FILE, where) or {}
        for name, does in _REFUSED.items():
            if config.get(name) or (name == "fast_tokenizer_files" and config.get(name, ()) is None):
                raise CheckpointError(
                    f"{CONFIG_FILE} has {name}, which {does}; prompts would not be those of {TOKENIZER_FILE}",
                    where=where,
                    hint=f"leave {name} out and save the tokenizer as it is meant",
                )
        parsed = _object(files, TOKENIZER_FILE, where) or {}
        model = parsed.get("model")
        if isinstance(model, dict) and model.get("dropout"):
            raise CheckpointError(
                f"{TOKENIZER_FILE} has dropout, which draws at random how a text is cut into tokens",
                where=where,
                hint="set model.dropout to null: it is for training a tokenizer's user, not for prompts",
            )
        return cls(
            raw=files[TOKENIZER_FILE],
            parsed=parsed,
            template=_default_template(files, config, where),
            config=config,
            listed=_object(files, SPECIALS_FILE, where),
            added=_object(files, ADDED_FILE, where),
        )

    def special_tokens(self, tokenizer: Any) -> dict[str, str]:
        """Put into `tokenizer` what the other files add to it; the special tokens a template may name, by name.

        Args:
            tokenizer: a `tokenizers.Tokenizer` of `raw`, as it was loaded; changed in place.

        Raises:
            CheckpointError: Transformers would not load these files.
        """
        try:
            return _Loading(self).into(tokenizer)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"the special tokens cannot be read as Transformers reads them: {error}",
                where=CONFIG_FILE,
                hint=_ANEW,
            ) from error


def read_tokenizer_folder(folder: Path) -> dict[str, bytes]:
    """The files of `folder` that prompts are made of. Raises CheckpointError: one cannot be read, or another outranks it."""
    refuse_hidden_default(folder)
    files = {}
    for name in PROMPT_FILES:
        path = folder / name
        if name in (TOKENIZER_FILE,) or path.is_file():
            try:
                files[name] = path.read_bytes()
            except OSError as error:
                hint = (
                    "save a fast tokenizer: it writes one"
                    if isinstance(error, FileNotFoundError)
                    else "look at its permissions"
                )
                raise CheckpointError(f"{name} cannot be read: {error.strerror}", where=str(path), hint=hint) from error
            refuse_pointer(files[name], where=str(path))
    return files


def refuse_hidden_default(folder: Path) -> None:
    """Transformers reads a folder of further templates too, which a checkpoint does not hold.

    Raises:
        CheckpointError: one of them is the default, or hides it: with any of them, the configuration's template is not read.
    """
    names = {path.name for path in folder.glob(f"{TEMPLATES_FOLDER}/*.jinja")}
    if "default.jinja" in names or (names and not (folder / TEMPLATE_FILE).is_file()):
        raise CheckpointError(
            f"{TEMPLATES_FOLDER} outranks the chat template of the folder",
            where=str(folder),
            hint=f"write the default into {TEMPLATE_FILE}, and leave no default.jinja in {TEMPLATES_FOLDER}",
        )


def cutting_notes(folder: Path) -> tuple[str, ...]:
    """One sentence where tokenizer.json cuts or fills up texts, which prompts are not; the file is one that was checked."""
    if not (folder / TOKENIZER_FILE).is_file():
        return ()
    parsed = _object(read_tokenizer_folder(folder), TOKENIZER_FILE, str(folder)) or {}
    kept = [name for name in ("truncation", "padding") if parsed.get(name)]
    return (f"{TOKENIZER_FILE} has {' and '.join(kept)}, which prompts are made without",) if kept else ()


def has_template(folder: Path) -> bool:
    """Whether a folder has a tokenizer and a chat template, of whatever form."""
    if not (folder / TOKENIZER_FILE).is_file():
        return False
    files = read_tokenizer_folder(folder)
    return bool(chat_templates(_object(files, CONFIG_FILE, str(folder)), files.get(TEMPLATE_FILE), where=str(folder)))


def chat_templates(config: Any, file: bytes | None, *, where: str) -> dict[str, str]:
    """Every chat template by name; the file is the default and outranks the configuration's.

    Args:
        config: tokenizer_config.json, parsed: `chat_template` is a text, a list of `{name, template}`, or an object.
        file: chat_template.jinja.

    Raises:
        CheckpointError: a template is no text.
    """
    templates: dict[str, str] = {}
    value = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(value, list):
        if not all(isinstance(item, dict) and "name" in item and "template" in item for item in value):
            raise CheckpointError("the chat templates are no list of name and template", where=where, hint=_ANEW)
        value = {item["name"]: item["template"] for item in value}
    if isinstance(value, str):
        value = {"default": value}
    if value is not None:
        if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
            raise CheckpointError("a chat template is no text", where=where, hint=_ANEW)
        templates.update(value)
    if file is not None:
        try:
            templates["default"] = file.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                "the chat template is not UTF-8", where=f"{where}: {TEMPLATE_FILE}", hint="save it as UTF-8"
            ) from error
    return templates


def _default_template(files: Mapping[str, bytes], config: Mapping[str, Any], where: str) -> str:
    templates = chat_templates(config, files.get(TEMPLATE_FILE), where=where)
    if templates.get("default"):
        return templates["default"]
    if templates:
        raise CheckpointError(
            f"the tokenizer has no single chat template: {', '.join(sorted(templates))}, and none of the name `default`",
            where=where,
            hint="name one of them default, or write it into chat_template.jinja",
        )
    raise CheckpointError(
        "the tokenizer has no single chat template",
        where=where,
        hint=f"write the template that the model was trained with into {TEMPLATE_FILE}",
    )


class _Loading:
    """The steps of `PreTrainedTokenizerBase._from_pretrained` and of the constructors after it, in their order."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._files = files
        self._values: dict[str, Any] = dict(files.config)
        self._specific: dict[str, Any] = {}
        self._decoder: dict[int, Any] = {}
        self._by_text: dict[str, Any] = {}

    def into(self, tokenizer: Any) -> dict[str, str]:
        values = self._values
        if _ADDITIONAL in values and not values.get(_EXTRA):
            values[_EXTRA] = values.pop(_ADDITIONAL)
        for name in list(values):
            if name not in _NAMES and name.endswith("_token") and isinstance(values[name], str):
                self._specific[name] = values.pop(name)
        self._take_named_extras()
        if "added_tokens_decoder" in values:
            for index, token in values["added_tokens_decoder"].items():
                self._add(int(index), _added_token(token))
        else:
            self._read_listed()
            self._read_added()
        self._values = values = {name: _with_added_tokens(value) for name, value in values.items()}
        for name in _NAMES:
            if values.get(name) is not None and self._by_text:
                values[name] = self._by_text.get(str(values[name]), values[name])
        padding = tokenizer.padding
        if padding is not None:
            values.setdefault("pad_token", padding["pad_token"])
        if _ADDITIONAL in values and _EXTRA not in values:
            values[_EXTRA] = values.pop(_ADDITIONAL)
        return self._extend(tokenizer)

    def _read_listed(self) -> None:
        from tokenizers import AddedToken

        for name, value in (self._files.listed or {}).items():
            if not (name.endswith("_token") or name in (_ADDITIONAL, _EXTRA)):
                raise ValueError(f"{SPECIALS_FILE} has {name}, which is no special token")
            if isinstance(value, dict) and name != _EXTRA:
                value = _added_token({**value, "special": True})
            elif name == _EXTRA and isinstance(value, list):
                held = list(self._values.get(_EXTRA) or [])
                for one in value:
                    token = AddedToken(**one, special=True) if isinstance(one, dict) else one  # not with its own `special`
                    if token not in held:
                        held.append(token)
                value = held
            self._values[name] = value
        self._take_named_extras()

    def _take_named_extras(self) -> None:
        if isinstance(self._values.get(_EXTRA), dict):
            self._specific.update(self._values.pop(_EXTRA))

    def _read_added(self) -> None:
        from tokenizers import AddedToken

        if self._files.added is not None:
            specials = {str(self._values[name]) for name in _NAMES if self._values.get(name)}
            specials |= {str(token) for token in self._values.get(_EXTRA) or []}
            for text, index in self._files.added.items():
                special = text in specials
                self._add(int(index), AddedToken(text, rstrip=False, lstrip=False, normalized=not special, special=special))
        for one in self._files.parsed.get("added_tokens") or []:
            fields = dict(one)
            self._add(int(fields.pop("id")), AddedToken(**fields))

    def _add(self, index: int, token: Any) -> None:
        self._decoder[index] = token
        self._by_text[str(token)] = token

    def _extend(self, tokenizer: Any) -> dict[str, str]:
        """Name the special tokens, and add those that the tokenizer lacks."""
        from tokenizers import AddedToken

        named: dict[str, Any] = dict.fromkeys(_NAMES)
        extra: list[Any] = []
        found: dict[str, Any] = {}
        for name, value in self._values.items():
            if name in _NAMES and value is not None:
                named[name] = _token(name, value)
            elif name == _EXTRA and isinstance(value, dict):
                named.update({key: _token(key, one) for key, one in value.items()})
            elif name == _EXTRA and value is not None:
                extra = [_token(name, one) for one in value]
            elif name.endswith("_token") and isinstance(value, str | AddedToken):
                found[name] = value
        for name, value in {**found, **self._specific}.items():
            if name in _TAKEN:
                raise ValueError(f"a special token has the name {name}, which the template is given something else under")
            named[name] = _token(name, value)

        held = tokenizer.get_added_tokens_decoder().values()
        known = {repr(token) for token in held}
        missing = [token for _, token in sorted(self._decoder.items(), key=lambda item: item[0]) if repr(token) not in known]
        encoder = {token.content for token in held} | {str(token) for token in missing}
        for value in [*named.values(), *extra]:
            if value is not None and str(value) not in encoder and value not in missing:
                missing.append(value)
        texts = {str(value) for value in named.values() if value}
        tokenizer.add_tokens([_to_add(token, texts) for token in missing])
        return {name: str(value) for name, value in named.items() if value is not None}


def _token(name: str, value: Any) -> Any:
    from tokenizers import AddedToken

    if not isinstance(value, str | AddedToken):
        raise TypeError(f"{name} is neither a text nor an added token")
    return value


def _to_add(token: Any, named: set[str]) -> Any:
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=True)
    if not token.special and str(token) in named:
        token.special = True
    return token


def _added_token(value: Any) -> Any:
    from tokenizers import AddedToken

    return value if isinstance(value, AddedToken) else AddedToken(**value)


def _with_added_tokens(value: Any) -> Any:
    """The value with each object that says `"__type": "AddedToken"` made one."""
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return _added_token({name: one for name, one in value.items() if name != "__type"})
    if isinstance(value, list):
        return [_with_added_tokens(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_added_tokens(one) for name, one in value.items()}
    return value


def _object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any] | None:
    if name not in files:
        return None
    try:
        value = json.loads(files[name].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not JSON: {error}", where=f"{where}: {name}", hint=_ANEW) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is not an object", where=f"{where}: {name}", hint=_ANEW)
    return value
