"""A receipt as OpenAI's response objects, with a member `grail` that says where the receipt is and what reads it.

The texts are those that a verifier of the receipt makes of its tokens. The token that ends a completion and those of a stop
text are counted in `usage`, as gas counts them, and are neither text nor among the log-probabilities.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grail_core.checkpoints.served_model import ServedFolder
from grail_core.inference.answers import Choice
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.inference.stops import UNFINISHED, first_match
from grail_core.model.answer_texts import answer_text, ended_by
from grail_core.model.prompts import PromptRenderer


@dataclass(frozen=True)
class Kept:
    """Where a receipt is kept."""

    answer_digest: str  # hex
    url: str
    token: str


def completion_object(
    receipt: Receipt, asked: Features, folder: ServedFolder, kept: Kept, *, model: str, created: int
) -> dict[str, Any]:
    """`text_completion`. `created` in Unix seconds."""
    choices = [
        {
            "index": index,
            "text": text,
            "finish_reason": finish_reason(choice, asked, folder),
            "logprobs": _completion_logprobs(choice, asked, folder),
        }
        for index, (choice, text) in enumerate(zip(receipt.answer.choices, texts_of(receipt, asked, folder), strict=True))
    ]
    return _object("cmpl", "text_completion", choices, receipt, kept, model, created)


def chat_object(
    receipt: Receipt, asked: Features, folder: ServedFolder, kept: Kept, *, model: str, created: int
) -> dict[str, Any]:
    """`chat.completion`. `created` in Unix seconds."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": finish_reason(choice, asked, folder),
            "logprobs": _chat_logprobs(choice, asked, folder),
        }
        for index, (choice, text) in enumerate(zip(receipt.answer.choices, texts_of(receipt, asked, folder), strict=True))
    ]
    return _object("chatcmpl", "chat.completion", choices, receipt, kept, model, created)


def texts_of(receipt: Receipt, asked: Features, folder: ServedFolder) -> list[str]:
    """The text of each choice."""
    return [answer_text(folder.renderer, folder.model, asked, choice.completion) for choice in receipt.answer.choices]


def usage_of(receipt: Receipt) -> dict[str, int]:
    prompt, completion = len(receipt.answer.prompt), sum(receipt.answer.lengths)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def finish_reason(choice: Choice, asked: Features, folder: ServedFolder) -> str:
    """`stop` at an end token or a stop text, else `length`."""
    return "length" if ended_by(folder.renderer, folder.model, asked, choice.completion) == "limit" else "stop"


def fingerprint_of(container_id: bytes) -> str:
    """Of the model, as OpenAI's clients keep it beside an answer."""
    return f"grail_{container_id.hex()[:16]}"


def _object(
    prefix: str, kind: str, choices: list[dict[str, Any]], receipt: Receipt, kept: Kept, model: str, created: int
) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{kept.answer_digest[:32]}",
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint_of(receipt.order.subscription.container_id),
        "choices": choices,
        "usage": usage_of(receipt),
        "grail": {
            "answer_digest": kept.answer_digest,
            "receipt_url": kept.url,
            "receipt_token": kept.token,
            "draw": receipt.order.subscription.terms.draw.name.lower(),
        },
    }


def _logprobs(choice: Choice, spoken: Sequence[int]) -> list[float] | None:
    if choice.logprobs is None:
        return None
    values = np.frombuffer(choice.logprobs, dtype="<f4")[: len(spoken)]
    return [float(value) if math.isfinite(value) else -9999.0 for value in values]  # OpenAI's word for "almost impossible"


def _shown(choice: Choice, asked: Features, folder: ServedFolder) -> tuple[int, ...]:
    """The tokens whose text is handed out, the one whose text is cut in two among them."""
    spoken, decode = folder.model.spoken(choice.completion), folder.renderer.decode
    place = first_match(decode(spoken), asked.stop)
    if place is None:
        return spoken
    return spoken[: bisect_left(range(len(spoken)), place, key=lambda count: len(decode(spoken[:count]).rstrip(UNFINISHED)))]


def _completion_logprobs(choice: Choice, asked: Features, folder: ServedFolder) -> dict[str, Any] | None:
    spoken = _shown(choice, asked, folder)
    values = _logprobs(choice, spoken)
    if values is None:
        return None
    tokens = [_token_text(folder.renderer, token) for token in spoken]
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": None}


def _chat_logprobs(choice: Choice, asked: Features, folder: ServedFolder) -> dict[str, Any] | None:
    spoken = _shown(choice, asked, folder)
    values = _logprobs(choice, spoken)
    if values is None:
        return None
    content: list[dict[str, Any]] = [
        {"token": _token_text(folder.renderer, token), "logprob": value, "bytes": None, "top_logprobs": []}
        for token, value in zip(spoken, values, strict=True)
    ]
    return {"content": content, "refusal": None}


def _token_text(renderer: PromptRenderer, token: int) -> str:
    """A token by itself; one whose text is nothing alone, as the tokenizer writes it."""
    return renderer.decode([token]) or renderer.token_text(token)
