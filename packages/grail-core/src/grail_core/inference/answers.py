"""A model as orders name it, an answer, and the digests that bind them.

A container is a model: folder, end tokens and thinking mode under one digest; or it is whatever checkpoint a network serves.
An answer's digest covers the request, the draw, the model, the node and every token and sketch; the node's hotkey signs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from grail_core.inference.constants import MAX_CHOICES, PROMPT_POSITIONS
from grail_core.protocol.constants import (
    MAX_NEW_TOKENS_PROTOCOL_CAP,
    MAX_PROMPT_TOKENS,
    SKETCH_BYTES_PER_POSITION,
)
from grail_core.protocol.encoding import Part, canonical_json, tagged_hash
from grail_core.protocol.manifest import MAX_END_TOKENS
from grail_core.protocol.reading import Json, Node
from grail_core.protocol.types import Digest, Hotkey

_MAX_NAME = 128
_MAX_VOCABULARY = 2**31 - 1
THINKING_MODES = ("native", "instructed", "none")


@dataclass(frozen=True)
class ServedModel:
    """What a node loaded. The same weights with half the layers, or other end tokens, are another model."""

    architecture: str
    config_digest: Digest  # SHA-256 of config.json
    weights_root: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest
    thinking_mode: str
    end_token_ids: tuple[int, ...]  # ascending
    context_length: int  # tokens
    vocabulary_size: int  # rows of the head

    def to_json(self) -> dict[str, Json]:
        return {
            "architecture": self.architecture,
            "config_digest": self.config_digest.hex(),
            "weights_root": self.weights_root.hex(),
            "tokenizer_digest": self.tokenizer_digest.hex(),
            "chat_template_digest": self.chat_template_digest.hex(),
            "thinking_mode": self.thinking_mode,
            "end_token_ids": list(self.end_token_ids),
            "context_length": self.context_length,
            "vocabulary_size": self.vocabulary_size,
        }

    @classmethod
    def from_json(cls, node: Node) -> ServedModel:
        """Raises ValueError with the path of what is wrong."""
        return cls.of_members(node.members(*cls.__dataclass_fields__))

    @classmethod
    def of_members(cls, m: dict[str, Node]) -> ServedModel:
        mode = m["thinking_mode"].text(16)
        if mode not in THINKING_MODES:
            m["thinking_mode"].refuse(f"{mode!r} is none of {', '.join(THINKING_MODES)}")
        ends = tuple(item.integer(0, _MAX_VOCABULARY) for item in m["end_token_ids"].items(MAX_END_TOKENS))
        if not ends or list(ends) != sorted(set(ends)):
            m["end_token_ids"].refuse("distinct ids in ascending order are expected, one at least")
        return cls(
            architecture=m["architecture"].text(_MAX_NAME),
            config_digest=Digest(m["config_digest"].raw(32)),
            weights_root=Digest(m["weights_root"].raw(32)),
            tokenizer_digest=Digest(m["tokenizer_digest"].raw(32)),
            chat_template_digest=Digest(m["chat_template_digest"].raw(32)),
            thinking_mode=mode,
            end_token_ids=ends,
            context_length=m["context_length"].integer(1, _MAX_VOCABULARY),
            vocabulary_size=m["vocabulary_size"].integer(1, _MAX_VOCABULARY),
        )

    def spoken(self, completion: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens of a completion that are text: all but the one that ends it. Tokenizers need not call it special."""
        return completion[:-1] if completion and completion[-1] in self.end_token_ids else completion

    def digest(self, network_id: bytes) -> Digest:
        """H("grail/infer/model", canonical JSON): the container id of exactly this model."""
        return tagged_hash(network_id, "grail/infer/model", canonical_json(self.to_json()))


def live_container_id(network_id: bytes) -> Digest:
    """H("grail/infer/live"): the container id of whatever checkpoint this network serves.

    An order that names it leaves the model to the network and the moment; every seed hangs on the digest of the model that
    answered, as with any other order.
    """
    return tagged_hash(network_id, "grail/infer/live")


@dataclass(frozen=True)
class Choice:
    """One completion and its proof."""

    completion: tuple[int, ...]
    sketches: bytes  # 8 bytes for each of the last min(32, prompt) + completion input positions
    logprobs: bytes | None  # float32, little-endian, of each completion token; None: not claimed


@dataclass(frozen=True)
class Answer:
    """Raises ValueError: no prompt, completion or choice, one beyond its limit, or a proof of another length."""

    prompt: tuple[int, ...]
    choices: tuple[Choice, ...]
    proof_class: str
    generation_class: str

    def __post_init__(self) -> None:
        if not 0 < len(self.prompt) <= MAX_PROMPT_TOKENS:
            raise ValueError(f"prompt: 1 … {MAX_PROMPT_TOKENS} tokens are expected, not {len(self.prompt)}")
        if not 0 < len(self.choices) <= MAX_CHOICES:
            raise ValueError(f"choices: 1 … {MAX_CHOICES} are expected, not {len(self.choices)}")
        for index, choice in enumerate(self.choices):
            length = len(choice.completion)
            if not 0 < length <= MAX_NEW_TOKENS_PROTOCOL_CAP:
                raise ValueError(f"choices[{index}]: 1 … {MAX_NEW_TOKENS_PROTOCOL_CAP} tokens are expected, not {length}")
            size = SKETCH_BYTES_PER_POSITION * sketched_positions(len(self.prompt), length)
            if len(choice.sketches) != size:
                raise ValueError(f"choices[{index}].sketches: {size} bytes are expected, not {len(choice.sketches)}")
            if choice.logprobs is not None and len(choice.logprobs) != 4 * length:
                raise ValueError(f"choices[{index}].logprobs: {4 * length} bytes are expected, not {len(choice.logprobs)}")

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(choice.completion) for choice in self.choices]


def sketched_positions(prompt_length: int, completion_length: int) -> int:
    """How many of the last input positions have a sketch."""
    return min(PROMPT_POSITIONS, prompt_length) + completion_length


def answer_digest(
    network_id: bytes, request_digest: bytes, draw_seed: bytes, model_digest: bytes, node: Hotkey, salt: bytes, answer: Answer
) -> Digest:
    """H("grail/infer/answer", …) over everything that was answered.

    Three parts for each choice: tokens as int32, sketches, log-probabilities as float32 (an empty part where none are claimed:
    no completion is empty), all little-endian.
    """
    parts: list[Part] = [request_digest, draw_seed, model_digest, node, salt, answer.proof_class, answer.generation_class]
    return tagged_hash(network_id, "grail/infer/answer", *parts, token_bytes(answer.prompt), *_choice_parts(answer))


def tokens_digest(network_id: bytes, request_digest: bytes, salt: bytes, answer: Answer) -> Digest:
    """H("grail/infer/tokens", …): equal for nodes that drew the same tokens."""
    completions = (token_bytes(choice.completion) for choice in answer.choices)
    return tagged_hash(network_id, "grail/infer/tokens", request_digest, salt, *completions)


def token_bytes(tokens: tuple[int, ...]) -> bytes:
    """int32, little-endian."""
    return np.asarray(tokens, dtype="<i4").tobytes()


def _choice_parts(answer: Answer) -> Iterator[bytes]:
    for choice in answer.choices:
        yield token_bytes(choice.completion)
        yield choice.sketches
        yield choice.logprobs or b""
