"""A client of an inference node: one question over HTTP, and whether the receipt that comes back is of that question.

What a node sends is a stranger's: its size is bounded while it is read, and nothing of it is believed that the receipt does not
say. A receipt may be in order and still be of something else; that is looked at here (`of_this_question`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from grail_core.environment import Message
from grail_core.errors import ConfigurationError, StorageError
from grail_core.inference.constants import MAX_RECEIPT_BYTES, MIN_TEMPERATURE
from grail_core.inference.features import Features
from grail_core.inference.orders import is_unsigned_form
from grail_core.protocol.findings import Outcome
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.reading import Node, parse_json
from grail_core.verification.receipt import ReceiptReport
from grail_core.verification.wording import reject

_MAX_ANSWER = 16 << 20  # bytes: 16 choices of 8,192 tokens as JSON text
_MAX_ERROR = 64 << 10
_ANOTHER = "ask another node"
QUESTION = "question"
"""The check's name in findings about whether a receipt is of what was asked."""


@dataclass(frozen=True)
class Question:
    text: str
    system: str | None
    complete: bool
    max_tokens: int
    temperature: float
    top_p: float
    choices: int
    seed: int | None
    stop: tuple[str, ...] = ()

    @property
    def features(self) -> Features:
        """As they must stand in the receipt."""
        if self.complete:
            return Features(prompt=self.text, seed=self.seed, stop=self.stop)
        messages = [Message("system", self.system)] if self.system is not None else []
        return Features(messages=(*messages, Message("user", self.text)), seed=self.seed, stop=self.stop)

    @property
    def body(self) -> dict[str, Any]:
        shared: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.choices,
        }
        if self.seed is not None:
            shared["seed"] = self.seed
        if self.stop:
            shared["stop"] = list(self.stop)
        if self.complete:
            return {"prompt": self.text, **shared}
        asked = self.features.messages or ()
        return {"messages": [{"role": one.role, "content": one.content} for one in asked], **shared}

    def fits(self, policy: GenerationPolicy) -> bool:
        """Whether a receipt's policy is what was asked. A node draws at 0.001 where 0 is asked."""
        asked = replace(
            policy, max_tokens=self.max_tokens, temperature=max(self.temperature, MIN_TEMPERATURE), top_p=self.top_p
        )
        return policy == replace(asked, top_k=-1, repetition_penalty=1.0)


@dataclass(frozen=True)
class Asked:
    """What came back, unchecked."""

    texts: tuple[str, ...]
    receipt: bytes


def ask_node(url: str, question: Question, timeout: float) -> Asked:
    """Ask, and fetch the receipt, in so many seconds for all of it: a node that sends a byte now and then holds nobody longer.

    Raises:
        ConfigurationError: no URL of a node, or a question that no node takes. StorageError: no answer, or none that can be
            read.
    """
    try:
        question.features.to_bytes()
    except ValueError as error:
        raise ConfigurationError(f"this cannot be asked: {error}", where="TEXT") from error
    base = url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError("a node's address begins with http:// or https://", where=url)
    done: queue.SimpleQueue[Asked | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(_asked(base, question, timeout))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            done.put(error)

    # What drips headers is inside the library: only a thread that nobody waits for ends with the command.
    threading.Thread(target=run, name="ask", daemon=True).start()
    try:
        answer = done.get(timeout=timeout)
    except queue.Empty:
        what = f"the node did not answer within {timeout:g} s"
        raise StorageError(what, where=base, hint="--timeout gives it longer; --max-tokens asks for less") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _asked(base: str, question: Question, timeout: float) -> Asked:
    with httpx.Client(timeout=httpx.Timeout(timeout, connect=10.0), follow_redirects=False) as client:
        model = _first_model(_read(client, "GET", f"{base}/v1/models"), base)
        path = "/v1/completions" if question.complete else "/v1/chat/completions"
        answer = _read(client, "POST", base + path, {"model": model, **question.body})
        try:
            texts, digest, token = _answer(answer, question.complete)
        except ValueError as error:
            raise _unreadable(base, error) from error
        receipt = _bytes(client, "GET", f"{base}/v1/receipts/{digest}", params={"token": token}, most=MAX_RECEIPT_BYTES)
    return Asked(texts, receipt)


def of_this_question(report: ReceiptReport, question: Question, asked: Asked) -> ReceiptReport:
    """The report with one more finding, where the receipt is not of this question, or its text not what was sent."""
    receipt = report.receipt
    if receipt is None or report.outcome is Outcome.REJECT:
        return report
    wrong = None
    if receipt.features != question.features.to_bytes():
        wrong = "the receipt is of another question"
    elif not question.fits(receipt.policy) or len(receipt.answer.choices) != question.choices:
        wrong = "the receipt is of other parameters than were asked for"
    elif not is_unsigned_form(receipt.order, receipt.policy) or (question.seed is not None and receipt.order.nonce != 0):
        wrong = "the order is not the one that the question determines: the node wrote its own"
    elif report.texts is not None and report.texts != asked.texts:
        wrong = "the text that was sent is not that of the receipt's tokens"
    if wrong is None:
        return report
    return replace(report, findings=(*report.findings, reject(QUESTION, detail=wrong)))


def _first_model(node: Node, base: str) -> str:
    try:
        listed = _member(node, "data").items(64)
        return _member(listed[0], "id").text(512)
    except (ValueError, IndexError) as error:
        raise _unreadable(base, error) from error


def _answer(node: Node, complete: bool) -> tuple[tuple[str, ...], str, str]:
    choices = _member(node, "choices").items(16)
    texts = []
    for choice in choices:
        held = _member(choice, "text") if complete else _member(_member(choice, "message"), "content")
        texts.append(held.text(_MAX_ANSWER))
    grail = _member(node, "grail")
    return tuple(texts), _member(grail, "answer_digest").raw(32).hex(), _member(grail, "receipt_token").raw(32).hex()


def _member(node: Node, name: str) -> Node:
    value = node.value
    if not isinstance(value, Mapping) or name not in value:
        node.refuse(f"no member {name!r}")
    return Node(value[name], f"{node.path}.{name}")


def _read(client: httpx.Client, method: str, url: str, body: dict[str, Any] | None = None) -> Node:
    try:
        return parse_json(_bytes(client, method, url, body=body, most=_MAX_ANSWER), most=_MAX_ANSWER, floats=True)
    except ValueError as error:
        raise _unreadable(url, error) from error


def _bytes(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    most: int,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
) -> bytes:
    """The body of a 200, of at most `most` bytes, as it was sent and read no further: few compressed bytes can be gigabytes."""
    try:
        with client.stream(method, url, json=body, params=params, headers={"accept-encoding": "identity"}) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise StorageError("the node sends a compressed body, which was not asked for", where=url, hint=_ANOTHER)
            limit = most if response.status_code == 200 else _MAX_ERROR
            raw = bytearray()
            for part in response.iter_raw():
                raw += part
                if len(raw) > limit:
                    raise StorageError(f"the node sends more than {limit} bytes", where=url, hint=_ANOTHER)
    except httpx.HTTPError as error:
        raise StorageError(
            f"the node does not answer: {str(error) or type(error).__name__}",
            where=url,
            hint="does `grail-miner serve` run there? --node says where to look",
        ) from error
    if response.status_code != 200:
        raise StorageError(
            f"the node refuses ({response.status_code}): {_reason(bytes(raw))}", where=url, hint="see what it says"
        )
    return bytes(raw)


def _reason(raw: bytes) -> str:
    try:
        error = _member(parse_json(raw, most=_MAX_ERROR, tokens=1000, floats=True), "error")
        return _member(error, "message").text(_MAX_ERROR)
    except ValueError:
        return raw[:200].decode("utf-8", "replace")


def _unreadable(where: str, error: Exception) -> StorageError:
    return StorageError(f"the node's answer cannot be read: {error}", where=where, hint="is a GRAIL node there?")
