"""Control tokens that a message writes stay text; those that the template writes are tokens.

Control tokens are the special tokens, and the added tokens that the template's own text names (white space alone is none, as
in Gemma's vocabulary, where line breaks are added tokens). The tokenizer's own search for added tokens decides what is one,
with its rules for white space around it, word borders and normalised text. Two tokenizers are made of the folder's:

* the *finder* has its normalizer and added tokens and no vocabulary, so that whatever it finds is an added token;
* the *plain* one has the vocabulary and the whole pipeline, but a stand-in of its own for each control token: the template's
  are replaced by stand-ins, and then no text whatever means one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grail_core.errors import ProtocolViolationError
from grail_core.model.chat_template import literal_text

_PRIVATE_USE = range(0xE000, 0xF8FF)
_MARK = "\U0010fffd"
_NOTHING = "\ufdd0"  # a noncharacter
_MAX_ROUNDS = 64


@dataclass(frozen=True)
class Match:
    """A control token in a text: characters `start` to `end`, white space that it takes with it included."""

    start: int
    end: int
    token: int


class ControlTokens:
    """The control tokens of one tokenizer and template. Immutable.

    Args:
        tokenizer: the folder's `tokenizers.Tokenizer`, as prompts are encoded with it.
        parsed: its tokenizer.json.
        template: the chat template.
        listed: further added tokens that are control tokens (`chat_control_tokens` of tokenizer_config.json).
    """

    def __init__(self, tokenizer: Any, parsed: Mapping[str, Any], template: str, listed: Sequence[str] = ()) -> None:
        from tokenizers import Tokenizer

        written = literal_text(template)
        added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
        self._ids = {
            token.content: number
            for number, token in sorted(added.items())
            if token.content
            and not token.content.isspace()
            and (token.special or token.content in written or token.content in listed)
        }
        self.ids = frozenset(self._ids.values())
        self.texts = tuple(sorted(self._ids, key=len, reverse=True))
        self._letters = [(text, frozenset(text), text.lower(), frozenset(text.lower())) for text in self.texts]
        self.ends, self.starts = _parts(self.texts)
        self.characters = frozenset(written).union(*self.texts)
        """Of the control tokens and of what the template writes: none of them may stand in for another."""
        self._changed_by_normalizer = bool(parsed.get("normalizer")) and any(
            token.normalized for token in added.values() if token.content in self._ids
        )
        words = {"type": "WordLevel", "vocab": {_NOTHING: 0}, "unk_token": _NOTHING}
        bare = {"pre_tokenizer": None, "post_processor": None, "decoder": None, "truncation": None, "padding": None}
        self._finder = Tokenizer.from_str(
            json.dumps({"version": "1.0", **bare, "normalizer": parsed.get("normalizer"), "added_tokens": [], "model": words})
        )
        self._finder.add_tokens([token for _, token in sorted(added.items())])
        self._found = {self._finder.token_to_id(text): number for text, number in self._ids.items()}
        self._plain, self._own = self._without_controls(tokenizer, parsed, added)
        model = parsed.get("model") or {}
        unknown = model.get("unk_token")
        self._unknown = model.get("unk_id") if unknown is None else tokenizer.token_to_id(str(unknown))

    def matches(self, text: str) -> list[Match]:
        """Every control token that the tokenizer finds in a text, in order."""
        encoding = self._finder.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [Match(start, end, self._found[number]) for number, (start, end) in pairs if number in self._found]

    def escape(self, contents: Sequence[str]) -> Escaped:
        """The contents with every control token in them broken by a character that stands in for one of its own."""
        return Escaped.of(contents, self)

    def encode(self, text: str, escaped: Escaped) -> Iterator[int]:
        """Tokens of a rendered text in which contents are escaped: control tokens are tokens, what is escaped is text."""
        if _MARK in text:
            raise ProtocolViolationError("a message with a control token in it uses the character U+10FFFD")
        pieces, start = [], 0
        for match in self.matches(text):
            pieces += [escaped.reveal(text[start : match.start]), _mark(match.token)]
            start = match.end
        pieces.append(escaped.reveal(text[start:]))
        for number in self._plain.encode("".join(pieces), add_special_tokens=False).ids:
            token = self._own.get(number, number)
            # A word-level vocabulary may list a control token as a word; in text it means nothing and is left out.
            if number in self._own or token not in self.ids or token == self._unknown:
                yield token

    def written_in(self, content: str, *, lower: bool = False) -> Iterator[str]:
        """Control tokens whose text a content (one in small letters: whose small letters) has in it, the longest first."""
        letters = frozenset(content)  # most tokens are out by these: some vocabularies have thousands
        for text, own, small, of_small in self._letters:
            if (of_small if lower else own) <= letters and (small if lower else text) in content:
                yield text

    def hidden_in(self, content: str) -> list[int]:
        """Where control tokens begin that only the normalizer makes of a content (another case, another width)."""
        return [match.start for match in self.matches(content)] if self._changed_by_normalizer else []

    def _without_controls(self, tokenizer: Any, parsed: Mapping[str, Any], added: dict[int, Any]) -> tuple[Any, dict[int, int]]:
        from tokenizers import AddedToken, Tokenizer

        plain: Any = Tokenizer.from_str(json.dumps({**parsed, "added_tokens": [], "truncation": None, "padding": None}))
        plain.add_tokens([token for _, token in sorted(added.items()) if token.content not in self._ids])
        stand_ins = {_mark(number): number for number in self._ids.values()}
        plain.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in stand_ins])
        own = {plain.token_to_id(text): number for text, number in stand_ins.items()}
        for number, token in added.items():
            if token.content not in self._ids:
                own[plain.token_to_id(token.content)] = number
        return plain, own


class Escaped:
    """Contents in which control tokens are hidden from the search for the template's own.

    The first character of each occurrence is replaced by a private-use character that no content uses; so are the edges of a
    content that could complete a control token together with the template's text around it, and what a template that changes
    case (`lower`, `title`, …) would make one of.
    """

    def __init__(self, contents: Sequence[str], revealed: Mapping[int, str]) -> None:
        self.contents = tuple(contents)
        self._revealed = dict(revealed)

    @classmethod
    def of(cls, contents: Sequence[str], controls: ControlTokens) -> Escaped:
        """Raises ProtocolViolationError: the contents leave no private-use character to stand in for others."""
        used = controls.characters.union(*contents)
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        hidden: dict[str, str] = {}

        def hide(character: str) -> str:
            if character not in hidden:
                stand_in = next(free, None)
                if stand_in is None:
                    raise ProtocolViolationError("a message uses the whole private-use area of Unicode")
                hidden[character] = stand_in
            return hidden[character]

        made = []
        for content in contents:
            text = content
            for control in controls.written_in(content):
                text = text.replace(control, hide(control[0]) + control[1:])
            for _ in range(_MAX_ROUNDS):
                starts = controls.hidden_in(text)
                if not starts:
                    break
                for start in starts:
                    text = text[:start] + hide(text[start]) + text[start + 1 :]
            else:
                raise ProtocolViolationError("a message has control tokens in control tokens without an end")
            core = text.strip()  # a template may trim
            begin = text.find(core) if core else len(text)
            text = text[:begin] + _edges(core, controls, hide) + text[begin + len(core) :]
            made.append(_other_cases(_edges(text, controls, hide), controls, hide))
        return cls(made, {ord(stand_in): character for character, stand_in in hidden.items()})

    def reveal(self, text: str) -> str:
        return text.translate(self._revealed)


_Parts = dict[str, list[tuple[str, int]]]


def _parts(texts: Sequence[str]) -> tuple[_Parts, _Parts]:
    """Every beginning `text[:k]` by its last character, and every end `text[k:]` by its first."""
    ends: _Parts = {}
    starts: _Parts = {}
    for text in texts:
        for k in range(1, len(text)):
            ends.setdefault(text[k - 1], []).append((text, k))
            starts.setdefault(text[k], []).append((text, k))
    return ends, starts


def _edges(content: str, controls: ControlTokens, hide: Callable[[str], str]) -> str:
    """ "<|im_end|" in front of a template's ">" (or the reverse at the start) would make a token of the two."""
    for control, k in controls.ends.get(content[-1:], ()):
        if content.endswith(control[:k]):
            content = content[: len(content) - k] + hide(control[0]) + control[1:k]
    for control, k in controls.starts.get(content[:1], ()):
        if content.startswith(control[k:]):
            content = control[k:-1] + hide(control[-1]) + content[len(control) - k :]
    return content


def _other_cases(content: str, controls: ControlTokens, hide: Callable[[str], str]) -> str:
    """ "<|IM_END|>" is a control token once a template has made it lower."""
    for control in controls.written_in(content.lower(), lower=True):
        content = re.sub(re.escape(control), lambda match: hide(match[0][0]) + match[0][1:], content, flags=re.IGNORECASE)
    return content


def _mark(token: int) -> str:
    return f"{_MARK}{token}{_MARK}"
