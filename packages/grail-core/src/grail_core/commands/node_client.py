"""A client of an inference node: one question over HTTP, and whether the receipt that comes back is of that question.

What a node sends is a stranger's (`node_http`), and nothing of it is believed that the receipt does not say, streamed or not.
A receipt may be in order and still be of something else; that is looked at here (`of_this_question`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from grail_core.commands.node_http import MAX_ANSWER, NodeHttp, member, shown, unreadable
from grail_core.environment import Message
from grail_core.errors import ConfigurationError, StorageError
from grail_core.inference.constants import MAX_RECEIPT_BYTES, MIN_TEMPERATURE
from grail_core.inference.features import Features
from grail_core.inference.orders import is_unsigned_form
from grail_core.protocol.findings import Outcome
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.reading import Node
from grail_core.verification.receipt import ReceiptReport
from grail_core.verification.wording import reject

_OF_THE_MODEL = ("model", "prompt", "termination", "proof", "logprob", "sampling")
"""The checks that need the model's folder."""
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
    thinking_mode: str | None = None  # the node's, which its model belongs to; None: whichever it is

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


@dataclass(frozen=True)
class AskedNode:
    """Where it is asked, for how many seconds in all, and as which of its clients."""

    url: str
    timeout: float
    token: str | None = None


def ask_node(node: AskedNode, question: Question, told: Callable[[str], None] | None = None) -> Asked:
    """Ask, and fetch the receipt, in so many seconds for all of it: a node that sends a byte now and then holds nobody longer.

    Args:
        told: the answer is streamed, and each piece of its text goes here as it comes, in the caller's thread. Of one choice.

    Raises:
        ConfigurationError: no URL of a node, or a question that no node takes. StorageError: no answer, or none that can be
            read.
    """
    if told is not None and question.choices != 1:
        raise ValueError("one choice alone is streamed")
    try:
        question.features.to_bytes()
    except ValueError as error:
        raise ConfigurationError(f"this cannot be asked: {error}", where="TEXT") from error
    base = node.url.rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationError("a node's address begins with http:// or https://", where=shown(node.url))
    come: queue.SimpleQueue[str | Asked | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            come.put(_asked(replace(node, url=base), question, None if told is None else come.put))
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that waits
            come.put(error)

    # What drips headers is inside the library: only a thread that nobody waits for ends with the command.
    threading.Thread(target=run, name="ask", daemon=True).start()
    end = time.monotonic() + node.timeout
    while True:
        try:
            answer = come.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            what = f"the node did not answer within {node.timeout:g} s"
            raise StorageError(what, where=shown(base), hint="--timeout gives it longer; --max-tokens asks for less") from None
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Asked):
            return answer
        if told is not None:
            told(answer)


def _asked(node: AskedNode, question: Question, put: Callable[[str], None] | None) -> Asked:
    base = node.url
    with httpx.Client(timeout=httpx.Timeout(node.timeout, connect=10.0), follow_redirects=False) as client:
        http = NodeHttp(client, node.token)
        model = _first_model(http.json("GET", f"{base}/v1/models"), base)
        url = base + ("/v1/completions" if question.complete else "/v1/chat/completions")
        body = {"model": model, **question.body}
        try:
            if put is None:
                said = _answer(http.json("POST", url, body), question.complete)
            else:
                said = _streamed(http.events(url, {**body, "stream": True}), question.complete, put)
        except ValueError as error:
            raise unreadable(base, error) from error
        receipt = http.receipt(f"{base}/v1/receipts/{said.digest}", said.token, MAX_RECEIPT_BYTES)
    return Asked(said.texts, receipt)


@dataclass(frozen=True)
class _Said:
    """An answer, and where its receipt is: digest and token in hex."""

    texts: tuple[str, ...]
    digest: str
    token: str


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
    elif not _thought_as_asked(report, question.thinking_mode):
        expected = question.thinking_mode or "none"
        wrong = f"the node answered in the thinking mode {receipt.model.thinking_mode!r}, not in {expected!r} (--thinking)"
    elif not is_unsigned_form(receipt.order, receipt.policy) or (question.seed is not None and receipt.order.nonce != 0):
        wrong = "the order is not the one that the question determines: the node wrote its own"
    elif report.texts is not None and report.texts != asked.texts:
        wrong = "the text that was sent is not that of the receipt's tokens"
    if wrong is None:
        return report
    return replace(report, findings=(*report.findings, reject(QUESTION, detail=wrong)))


def _thought_as_asked(report: ReceiptReport, asked: str | None) -> bool:
    """Each mode is another model digest and so another draw: the node may choose none, but a signed checkpoint says its own."""
    if asked is None and report.checkpoint_checked:
        return True
    return report.receipt is not None and report.receipt.model.thinking_mode == (asked or "none")


def only_the_model_is_missing(report: ReceiptReport) -> bool:
    """Of an answer whose model nobody has here: everything else was looked at, and nothing speaks against it."""
    said = {finding.check: finding.outcome for finding in report.findings}
    missing = {finding.check for finding in report.findings if finding.outcome is Outcome.INCONCLUSIVE}
    accepted = all(said.get(check) is Outcome.ACCEPT for check in ("order", "node"))
    return report.outcome is Outcome.INCONCLUSIVE and accepted and missing <= set(_OF_THE_MODEL)


def _first_model(node: Node, base: str) -> str:
    try:
        listed = member(node, "data").items(64)
        return member(listed[0], "id").text(512)
    except (ValueError, IndexError) as error:
        raise unreadable(base, error) from error


def _answer(node: Node, complete: bool) -> _Said:
    """Raises ValueError."""
    choices = member(node, "choices").items(16)
    texts = []
    for choice in choices:
        held = member(choice, "text") if complete else member(member(choice, "message"), "content")
        texts.append(held.text(MAX_ANSWER))
    return _said(texts, member(node, "grail"))


def _streamed(events: Iterator[Node], complete: bool, put: Callable[[str], None]) -> _Said:
    """Of one choice. Raises ValueError; what `put` was given by then stays said."""
    pieces: list[str] = []
    grail: Node | None = None
    for event in events:
        for choice in member(event, "choices").items(1):
            member(choice, "index").integer(0, 0)
            if grail is not None:
                choice.refuse("a chunk of a choice that is finished")
            piece = _piece(choice, complete)
            if piece:
                pieces.append(piece)
                put(piece)
            if member(choice, "finish_reason").value is not None:
                grail = member(event, "grail")
    if grail is None:
        raise ValueError("$: the stream ended without a chunk that finishes the answer")
    return _said(["".join(pieces)], grail)


def _piece(choice: Node, complete: bool) -> str:
    if complete:
        return member(choice, "text").text(MAX_ANSWER)
    delta = member(choice, "delta").entries(16)
    return delta["content"].text(MAX_ANSWER) if "content" in delta else ""


def _said(texts: Sequence[str], grail: Node) -> _Said:
    return _Said(tuple(texts), member(grail, "answer_digest").raw(32).hex(), member(grail, "receipt_token").raw(32).hex())
