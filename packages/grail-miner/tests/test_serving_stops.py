"""Stop texts over HTTP, by OpenAI's own client library: where the text ends, what the receipt has, and what is told of it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from grail_core.inference.receipts import Receipt
from grail_core.protocol.findings import Outcome
from grail_core.verification.receipt import ModelAtHand, check_receipt
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.serving_node import MODEL, RunningNode

STOPS = ["a", "e", "i", "o"]
ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 64, "seed": 5, "n": 16, "stop": STOPS}


def receipt_of(node: RunningNode, answer: Any) -> bytes:
    return node.get(f"/v1/receipts/{answer.grail['answer_digest']}?token={answer.grail['receipt_token']}").content


def test_a_text_ends_before_its_stop_text_and_the_tokens_with_it(
    node: RunningNode, client: openai.OpenAI, at_hand: ModelAtHand
) -> None:
    answer: Any = client.completions.create(**ASKED)
    report = check_receipt(receipt_of(node, answer), seed=bytes(32), model=at_hand)
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == tuple(choice.text for choice in answer.choices)
    assert report.receipt is not None
    assert report.ended_by is not None
    assert "stop text" in report.ended_by
    for choice, by, kept in zip(answer.choices, report.ended_by, report.receipt.answer.choices, strict=True):
        assert not any(stop in choice.text for stop in STOPS)
        assert choice.finish_reason == ("length" if by == "limit" else "stop")
        if by == "stop text":
            assert any(at_hand.renderer.decode(kept.completion) == choice.text + stop for stop in STOPS), "a byte is a token"
    assert answer.usage.completion_tokens == sum(report.receipt.answer.lengths)


def test_an_answer_that_no_stop_text_ends_is_whole(node: RunningNode, client: openai.OpenAI, at_hand: ModelAtHand) -> None:
    answer: Any = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}], max_tokens=8, stop="no such text is there"
    )
    report = check_receipt(receipt_of(node, answer), seed=bytes(32), model=at_hand)
    assert (report.outcome, report.texts) == (Outcome.ACCEPT, (answer.choices[0].message.content,))
    (choice,) = Receipt.from_bytes(receipt_of(node, answer)).answer.choices
    assert len(choice.completion) == 8 or choice.completion[-1] == END_TOKEN_ID


def test_log_probabilities_end_where_the_text_does(node: RunningNode, client: openai.OpenAI) -> None:
    answer: Any = client.completions.create(**ASKED, logprobs=0)
    for choice in answer.choices:
        tokens = choice.logprobs.tokens
        assert len(tokens) == len(choice.logprobs.token_logprobs)
        if choice.text.isascii():
            assert "".join(tokens) == choice.text


@pytest.mark.parametrize("stop", [None, "", []])
def test_no_stop_text_is_the_request_that_it_would_be_without(node: RunningNode, stop: Any) -> None:
    plain = {key: value for key, value in ASKED.items() if key != "stop"} | {"n": 1, "max_tokens": 4}
    digests = [node.post("/v1/completions", body).json()["grail"]["answer_digest"] for body in (plain, {**plain, "stop": stop})]
    assert digests[0] == digests[1]


def test_a_stop_text_given_twice_is_one(node: RunningNode) -> None:
    small = {**ASKED, "n": 1, "max_tokens": 4}
    bodies = [{**small, "stop": stop} for stop in ("\n", ["\n"], ["\n", "\n"])]
    assert len({node.post("/v1/completions", body).json()["grail"]["answer_digest"] for body in bodies}) == 1


@pytest.mark.parametrize(
    ("stop", "param"),
    [
        (list("abcde"), "stop"),
        (7, "stop"),
        (["a", ""], "stop[1]"),
        (["a", 1], "stop[1]"),
        (["a" * 65], "stop[0]"),
        (["\ufffd"], "stop[0]"),
    ],
)
def test_what_is_no_stop_text_is_refused_by_its_place(node: RunningNode, stop: Any, param: str) -> None:
    refused = node.post("/v1/completions", {**ASKED, "stop": stop})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_one_prompt_may_come_in_a_list_and_of_several_each_needs_a_request(node: RunningNode) -> None:
    small = {**ASKED, "n": 1, "max_tokens": 4}
    alone, listed = (node.post("/v1/completions", {**small, "prompt": prompt}) for prompt in ("Once", ["Once"]))
    assert alone.json()["grail"]["answer_digest"] == listed.json()["grail"]["answer_digest"]
    for prompt in (["a", "b"], [], [1, 2], [[1, 2]], [None]):
        refused = node.post("/v1/completions", {**small, "prompt": prompt})
        assert (refused.status_code, refused.json()["error"]["param"][:6]) == (400, "prompt")
    assert "batch size 1" in node.post("/v1/completions", {**small, "prompt": ["a", "b"]}).json()["error"]["message"]
