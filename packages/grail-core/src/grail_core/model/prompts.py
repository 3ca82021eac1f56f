"""Messages → prompt tokens, one way for everybody: chat template, thinking mode, tokenizer.

A renderer is a pure function of its folder's bytes: a template that reads a clock or draws at random is refused. The result
is what `apply_chat_template` of Transformers gives for the folder, token for token, for messages without control tokens. Only
the template can write control tokens (special tokens, and added tokens that its text names): where one occurs in a message it
is encoded as ordinary text, where Transformers would take it for the token, so a problem cannot forge a turn. Nothing from the
folder is executed but the template, in Jinja's sandbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from grail_core.environment import THINK_OPEN, Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model.chat_template import compile_template
from grail_core.model.control_tokens import ControlTokens
from grail_core.model.thinking import keeping_thinking_tags, opens_thinking
from grail_core.model.tokenizer_files import TokenizerFiles, read_tokenizer_folder
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest

ThinkingMode = Literal["native", "instructed", "none"]
THINKING_MODES: tuple[ThinkingMode, ...] = ("native", "instructed", "none")
"""native: the model's own thinking block; instructed: tags asked for in the system message; none: no thinking."""

THINKING_INSTRUCTION = "Think first, between <think> and </think>, then answer."
"""What the mode `instructed` adds to the system message (or makes the system message, where there is none)."""

_ANY_QUESTION = (Message("user", "question"),)
_CONVERSATIONS_REMEMBERED = 64
_ANSWER = "answer"  # a word that no template writes at the end of a turn
_ROLES = frozenset({"system", "user", "assistant"})


class PromptRenderer:
    """Renders and decodes for one tokenizer folder. Immutable; safe to share between threads.

    Args:
        tokenizer_folder: holds tokenizer.json, what else `save_pretrained` writes of a tokenizer, and a chat template in
            tokenizer_config.json or in chat_template.jinja.
        thinking_mode: the checkpoint's.

    Raises:
        CheckpointError: a file is missing or malformed, there is no single template, the template is not pure, or a feature
            that Transformers has and prompts here have not; it is named.
    """

    def __init__(self, tokenizer_folder: str | Path, thinking_mode: str = "none") -> None:
        folder = Path(tokenizer_folder)
        self._build(read_tokenizer_folder(folder), thinking_mode, str(folder))

    @classmethod
    def of(cls, files: Mapping[str, bytes], thinking_mode: str = "none", *, where: str = "tokenizer files") -> PromptRenderer:
        """The renderer of a folder with these files. Raises CheckpointError as the constructor does."""
        renderer = cls.__new__(cls)
        renderer._build(files, thinking_mode, where)
        return renderer

    def _build(self, files: Mapping[str, bytes], thinking_mode: str, where: str) -> None:
        if thinking_mode not in THINKING_MODES:
            raise CheckpointError(f"no such thinking mode: {thinking_mode}", hint=f"one of {', '.join(THINKING_MODES)}")
        self.thinking_mode: ThinkingMode = thinking_mode
        read = TokenizerFiles.of(files, where=where)
        self._template = compile_template(read.template, where=where)
        self._load(read, where)
        self._opens_thinking = lru_cache(_CONVERSATIONS_REMEMBERED)(self._find_opening)
        self.tokenizer_digest = _digest({"tokenizer": hashlib.sha256(read.raw).hexdigest(), "specials": self._specials})
        """SHA-256 over tokenizer.json and the special tokens a template may name."""
        self.chat_template_digest = Digest(hashlib.sha256(read.template.encode("utf-8")).digest())

    def _load(self, read: TokenizerFiles, where: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(read.raw.decode("utf-8"))
            before = set(self._tokenizer.get_added_tokens_decoder())
            self._specials = read.special_tokens(self._tokenizer)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            added = self._tokenizer.get_added_tokens_decoder()
            self._added = {number: str(token.content) for number, token in added.items() if number not in before}
            _refuse_empty(self._tokenizer.normalizer, added.values(), where)
            listed = read.config.get("chat_control_tokens") or []
            self._decoder = keeping_thinking_tags(self._tokenizer)
            self._controls = ControlTokens(self._tokenizer, read.parsed, read.template, [str(text) for text in listed])
        except (CheckpointError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side raises plain Exception, and a panic there is no Exception
            raise CheckpointError(f"tokenizer.json cannot be loaded: {error}", where=where) from error
        self.vocabulary_size = int(self._tokenizer.get_vocab_size(with_added_tokens=True))

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
        try:
            return self._prompt(chat)
        except (ProtocolViolationError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a word that the vocabulary has no token for; a panic in Rust is no Exception
            raise ProtocolViolationError(f"the tokenizer cannot encode this conversation: {error}") from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text as it is: nothing before it, and control tokens in it are text.

        Raises:
            ProtocolViolationError: the tokenizer has no tokens for it.
        """
        try:
            escaped = self._controls.escape([text])
            (hidden,) = escaped.contents
            if hidden != text and not self._same_controls(text, hidden):
                return tuple(self._controls.encode(hidden, escaped))
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in `render`
            raise ProtocolViolationError(f"the tokenizer cannot encode this text: {error}") from error

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a completion of a text; what is left out is left out of `decode_completion` too."""
        return str(self._decoder.decode([int(token) for token in tokens], skip_special_tokens=True))

    def decode_prompt(self, tokens: Sequence[int]) -> str:
        """The text of a prompt as the model reads it: control tokens stand in it as the tokenizer writes them."""
        return str(self._decoder.decode([int(token) for token in tokens], skip_special_tokens=False))

    def decode_completion(self, tokens: Sequence[int], asked: Sequence[Message] = _ANY_QUESTION) -> str:
        """The text of a completion as an environment is given it. Ids the tokenizer does not know are left out; never raises.

        Special tokens are left out too, but not the tags of thinking, wherever the tokenizer has them; where the template has
        opened the thinking at the end of the prompt, the text begins with that tag. `asked` are the messages that it answers:
        some templates decide by them.
        """
        return self.thinking_opened(asked) + self.decode(tokens)

    def thinking_opened(self, asked: Sequence[Message]) -> str:
        """`<think>` where the template has opened the thinking at the end of this prompt, else nothing. Never raises."""
        return THINK_OPEN if self._opens_thinking(tuple(asked)) else ""

    def _find_opening(self, asked: tuple[Message, ...]) -> bool:
        chat = list(_with_instruction(asked)) if self.thinking_mode == "instructed" else list(asked)
        try:
            return opens_thinking(lambda turns: self._rendered(turns, [turn.content for turn in turns]), chat)
        except ProtocolViolationError:  # a conversation that the template refuses has no prompt, and no completion
            return False

    def token_id(self, text: str) -> int | None:
        """The id of exactly this token, None if there is no such one."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def token_text(self, token: int) -> str:
        """How the tokenizer writes this token; empty if it has none of this id."""
        return str(self._tokenizer.id_to_token(int(token)) or "")

    def assistant_turn(self) -> tuple[int | None, frozenset[int]]:
        """The control token that the template ends an assistant's turn with, None if with none; and all tokens of such a
        conversation. Both are empty where the template refuses conversations that end with an assistant."""
        chat = [Message("user", "a"), Message("assistant", _ANSWER)]
        try:
            text = self._rendered(chat, [message.content for message in chat], prompt=False)
            tokens = frozenset(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except ProtocolViolationError:
            return None, frozenset()
        after = self._controls.matches(text[text.rfind(_ANSWER) + len(_ANSWER) :]) if _ANSWER in text else []
        return (after[0].token if after else None), tokens

    def added_beyond(self, vocabulary: int) -> list[str]:
        """Tokens that other files add to tokenizer.json, of which a model of so many tokens has no embedding."""
        return [text for number, text in sorted(self._added.items()) if number >= vocabulary]

    def _prompt(self, chat: Sequence[Message]) -> tuple[int, ...]:
        contents = [message.content for message in chat]
        escaped = self._controls.escape(contents)
        text = self._rendered(chat, contents)
        if list(escaped.contents) != contents:
            hidden = self._rendered(chat, escaped.contents)
            if not self._same_controls(text, hidden):
                return tuple(self._controls.encode(hidden, escaped))
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _same_controls(self, text: str, hidden: str) -> bool:
        """Whether the messages made no control token: not the edge that looks like a piece of one, as "<" does, and not a tag
        of thinking in an earlier answer, which many templates look for and cut away."""
        found, meant = (self._controls.matches(one) for one in (text, hidden))
        return [match.token for match in found] == [match.token for match in meant]

    def _rendered(self, chat: Sequence[Message], contents: Sequence[str], *, prompt: bool = True) -> str:
        try:
            pairs = zip(chat, contents, strict=True)
            return str(
                self._template.render(
                    {
                        **self._specials,
                        "messages": [{"role": message.role, "content": content} for message, content in pairs],
                        "add_generation_prompt": prompt,
                        "enable_thinking": self.thinking_mode == "native",
                        "tools": None,
                        "documents": None,
                    }
                )
            )
        except Exception as error:  # a template can fail in any way Python can
            raise ProtocolViolationError(f"the chat template refuses this conversation: {error}") from error


def _with_instruction(messages: Sequence[Message]) -> Iterator[Message]:
    if messages[0].role == "system":
        yield Message("system", f"{messages[0].content}\n{THINKING_INSTRUCTION}")
        yield from messages[1:]
    else:
        yield Message("system", THINKING_INSTRUCTION)
        yield from messages


def _refuse_empty(normalizer: Any, added: Iterable[Any], where: str) -> None:
    """An added token whose normalised text is empty is found everywhere: the library's search for it does not end."""
    for token in added:
        if token.normalized and normalizer is not None and not normalizer.normalize_str(token.content):
            raise CheckpointError(
                f"the normalizer leaves nothing of the added token {token.content!r}",
                where=where,
                hint="save this token with normalized: false",
            )


def _digest(value: dict[str, Any]) -> Digest:
    return Digest(hashlib.sha256(canonical_json(value)).digest())
