"""The chunks of a streamed answer, as OpenAI's client libraries read them.

Text goes out as it becomes certain; what ends a choice (`finish_reason`, log-probabilities) only after the proof, and the
member `grail` in the chunk that finishes the last one. A chunk without choices comes with `include_usage` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from grail_miner.serving.refusals import RefusedRequestError

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": waiting\n\n"


@dataclass(frozen=True)
class StreamHead:
    """What all chunks of one answer have in common. `created` in Unix seconds."""

    chat: bool
    id: str
    model: str
    created: int
    fingerprint: str
    include_usage: bool

    def opening(self, choices: int) -> Iterator[bytes]:
        """What comes before any text."""
        for index in range(choices if self.chat else 0):
            yield self._chunk([self._choice(index, {"role": "assistant", "content": ""})])

    def text(self, index: int, text: str) -> bytes:
        return self._chunk([self._choice(index, {"content": text} if self.chat else text)])

    def ending(self, answer: dict[str, Any]) -> Iterator[bytes]:
        """What ends every choice, from the same answer as it is when it is not streamed."""
        choices = answer["choices"]
        for one in choices:
            choice = self._choice(one["index"], {} if self.chat else "", one["finish_reason"], one["logprobs"])
            yield self._chunk([choice], grail=answer["grail"] if one is choices[-1] else None)
        if self.include_usage:
            yield self._chunk([], usage=answer["usage"])
        yield DONE

    def _choice(self, index: int, content: Any, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        return {"index": index, "delta" if self.chat else "text": content, "finish_reason": reason, "logprobs": logprobs}

    def _chunk(
        self, choices: list[dict[str, Any]], *, usage: dict[str, int] | None = None, grail: dict[str, Any] | None = None
    ) -> bytes:
        told: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        if self.include_usage:
            told["usage"] = usage
        if grail is not None:
            told["grail"] = grail
        return event(json.dumps(told).encode())


def event(data: bytes) -> bytes:
    """One server-sent event; JSON has no line ends of its own."""
    return b"data: " + data + b"\n\n"


def error_event(refused: RefusedRequestError) -> bytes:
    """A failure after the stream has begun, which client libraries raise."""
    return event(refused.body)
