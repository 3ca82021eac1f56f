"""Messages → prompt tokens, one way for everybody: chat template, thinking mode, tokenizer.

A renderer is a pure function of its folder's bytes: a template that reads a clock or draws at random is refused. Only the
template can write control tokens (special tokens, and added tokens that its text names): where one occurs in a message it
is encoded as ordinary text, so a problem cannot forge a turn. For messages without control tokens the result is what
`apply_chat_template` of Transformers gives. Nothing from the folder is executed but the template, in Jinja's sandbox.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from grail_core.environment import THINK_OPEN, Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.chat_template import compile_template
from grail_core.model.thinking import opens_thinking, with_thinking_tags
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest

ThinkingMode = Literal["native", "instructed", "none"]
THINKING_MODES: tuple[ThinkingMode, ...] = ("native", "instructed", "none")
"""native: the model's own thinking block; instructed: tags asked for in the system message; none: no thinking."""

THINKING_INSTRUCTION = "Think first, between <think> and </think>, then answer."
"""What the mode `instructed` adds to the system message (or makes the system message, where there is none)."""

_ANY_QUESTION = (Message("user", "question"),)
_CONVERSATIONS_REMEMBERED = 64
_ROLES = frozenset({"system", "user", "assistant"})
_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
_PRIVATE_USE = range(0xE000, 0xF8FF)


class PromptRenderer:
    """Renders and decodes for one tokenizer folder. Immutable; safe to share between threads.

    Args:
        tokenizer_folder: holds tokenizer.json and tokenizer_config.json, and a chat template in the latter or in
            chat_template.jinja.
        thinking_mode: the checkpoint's.

    Raises:
        CheckpointError: a file is missing or malformed, there is no single template, or the template is not pure.
    """

    def __init__(self, tokenizer_folder: str | Path, thinking_mode: str = "none") -> None:
        folder = Path(tokenizer_folder)
        if thinking_mode not in THINKING_MODES:
            raise CheckpointError(f"no such thinking mode: {thinking_mode}", hint=f"one of {', '.join(THINKING_MODES)}")
        self.thinking_mode: ThinkingMode = thinking_mode
        raw = _read(folder / "tokenizer.json")
        config = _parse_json(_read(folder / "tokenizer_config.json"), folder / "tokenizer_config.json")
        parsed = _parse_json(raw, folder / "tokenizer.json")
        self._specials = {name: _token_text(config.get(name)) for name in _SPECIAL_NAMES}
        template = _template_text(folder, config)
        self._template = compile_template(template, where=str(folder))
        self._load(raw, parsed, template, folder)
        self._opens_thinking = lru_cache(_CONVERSATIONS_REMEMBERED)(self._find_opening)
        self.tokenizer_digest = _digest({"tokenizer": hashlib.sha256(raw).hexdigest(), "specials": self._specials})
        """SHA-256 over tokenizer.json and the special tokens a template may name."""
        self.chat_template_digest = Digest(hashlib.sha256(template.encode("utf-8")).digest())

    def _load(self, raw: bytes, parsed: dict[str, Any], template: str, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
            added: list[dict[str, Any]] = parsed.get("added_tokens") or []
            controls = [item for item in added if item.get("special") or item["content"] in template]
            # The same pipeline without control tokens: it cannot produce one, whatever the text.
            ordinary = [item for item in added if item not in controls]
            self._plain = Tokenizer.from_str(json.dumps({**parsed, "added_tokens": ordinary}))
            tagged = with_thinking_tags(parsed)
            self._decoder = self._tokenizer if tagged is None else Tokenizer.from_str(json.dumps(tagged))
        except Exception as error:  # the Rust side raises plain Exception
            raise CheckpointError(f"tokenizer.json cannot be loaded: {error}", where=str(folder)) from error
        self._controls = {str(item["content"]): item for item in controls}
        self._control_ids = frozenset(int(item["id"]) for item in controls)
        self.vocabulary_size = int(self._tokenizer.get_vocab_size(with_added_tokens=True))
        alternatives = sorted(self._controls, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, alternatives))) if alternatives else None

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt tokens, with the generation prompt at the end.

        Raises:
            ProtocolViolationError: no message, a role other than system, user and assistant, or a conversation that the
                template refuses.
        """
        if not messages:
            raise ProtocolViolationError("a prompt has at least one message")
        for message in messages:
            if message.role not in _ROLES:
                raise ProtocolViolationError(f"no such role: {message.role!r}")
        chat = list(_with_instruction(messages)) if self.thinking_mode == "instructed" else list(messages)
        escape = _Escape([message.content for message in chat], list(self._controls))
        try:
            text = self._written([Message(message.role, escape.hide(message.content)) for message in chat])
        except Exception as error:  # a template can fail in any way Python can
            raise ProtocolViolationError(f"the chat template refuses this conversation: {error}") from error
        return tuple(self._encode(text, escape))

    def decode_completion(self, tokens: Sequence[int], asked: Sequence[Message] = _ANY_QUESTION) -> str:
        """The text of a completion as an environment is given it. Ids the tokenizer does not know are left out; never raises.

        Special tokens are left out too, but not the tags of thinking, wherever the tokenizer has them; where the template has
        opened the thinking at the end of the prompt, the text begins with that tag. `asked` are the messages that it answers:
        some templates decide by them.
        """
        text = str(self._decoder.decode([int(token) for token in tokens], skip_special_tokens=True))
        return THINK_OPEN + text if self._opens_thinking(tuple(asked)) else text

    def _find_opening(self, asked: tuple[Message, ...]) -> bool:
        chat = list(_with_instruction(asked)) if self.thinking_mode == "instructed" else list(asked)
        try:
            return opens_thinking(self._written, chat)
        except Exception:  # noqa: BLE001 - a conversation that the template refuses has no prompt, and no completion
            return False

    def _written(self, chat: Sequence[Message]) -> str:
        """What the template makes of a conversation. Raises whatever a template can."""
        text: str = self._template.render(
            messages=[{"role": message.role, "content": message.content} for message in chat],
            add_generation_prompt=True,
            enable_thinking=self.thinking_mode == "native",
            tools=None,
            documents=None,
            **{name: token for name, token in self._specials.items() if token is not None},
        )
        return text

    def token_id(self, text: str) -> int | None:
        """The id of exactly this token, None if there is no such one."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def _encode(self, text: str, escape: _Escape) -> Iterator[int]:
        start = 0
        if self._control_pattern is not None:
            for match in self._control_pattern.finditer(text):
                item = self._controls[match.group()]
                before = text[start : match.start()]
                yield from self._encode_text(before.rstrip() if item.get("lstrip") else before, escape)
                yield int(item["id"])
                start = match.end()
                if item.get("rstrip"):
                    start += len(text[start:]) - len(text[start:].lstrip())
        yield from self._encode_text(text[start:], escape)

    def _encode_text(self, text: str, escape: _Escape) -> Iterator[int]:
        if not text:
            return
        ids = self._plain.encode(escape.reveal(text), add_special_tokens=False).ids
        # A word-level vocabulary may list a control token as a word; in text it means nothing and is left out.
        yield from (token for token in ids if token not in self._control_ids)


class _Escape:
    """Hides control tokens that occur in message contents from the search for the template's own.

    The first character of each occurrence is replaced by a private-use character that no content uses; so are the edges of a
    content that could complete a control token together with the template's text around it.
    """

    def __init__(self, contents: Sequence[str], controls: Sequence[str]) -> None:
        self._controls = sorted((control for control in controls if control), key=len, reverse=True)
        used = set().union(*map(set, contents), *map(set, controls))
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        self._hidden: dict[str, str] = {}
        self._revealed: dict[int, str] = {}
        for character in sorted({c for control in self._controls for c in (control[0], control[-1])}):
            stand_in = next(free, None)
            if stand_in is None:
                raise ProtocolViolationError("a message uses the whole private-use area of Unicode")
            self._hidden[character] = stand_in
            self._revealed[ord(stand_in)] = character

    def hide(self, content: str) -> str:
        for control in self._controls:
            content = content.replace(control, self._hidden[control[0]] + control[1:])
        # "<|im_end|" in front of a template's ">" (or the reverse at the start) would make a token of the two.
        for control in self._controls:
            for k in range(1, len(control)):
                if content.endswith(control[:k]):
                    content = content[: len(content) - k] + self._hidden[control[0]] + control[1:k]
                if content.startswith(control[k:]):
                    content = control[k:-1] + self._hidden[control[-1]] + content[len(control) - k :]
        return content

    def reveal(self, text: str) -> str:
        return text.translate(self._revealed)


def _with_instruction(messages: Sequence[Message]) -> Iterator[Message]:
    if messages[0].role == "system":
        yield Message("system", f"{messages[0].content}\n{THINKING_INSTRUCTION}")
        yield from messages[1:]
    else:
        yield Message("system", THINKING_INSTRUCTION)
        yield from messages


def _template_text(folder: Path, config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    try:
        template = _read(file).decode("utf-8") if file.is_file() else config.get("chat_template")
    except UnicodeDecodeError as error:
        raise CheckpointError("the chat template is not UTF-8", where=str(file)) from error
    if not isinstance(template, str) or not template:
        raise CheckpointError("the tokenizer has no single chat template", where=str(folder), hint="add chat_template.jinja")
    return template


def _token_text(value: Any) -> str | None:
    """Special tokens stand in tokenizer_config.json as text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}", where=str(path)) from error


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} is not an object", where=str(path))
    return value


def _digest(value: dict[str, Any]) -> Digest:
    return Digest(hashlib.sha256(canonical_json(value)).digest())
