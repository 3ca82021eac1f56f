"""OpenAI's own client library asks a real node: texts, draws, log-probabilities, refusals, and receipts that hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.inference.receipts import Receipt
from grail_core.protocol.findings import Outcome
from grail_core.verification.receipt import ModelAtHand, check_receipt
from grail_core.verification.receipt_model import model_at_hand
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.serving_node import MODEL, RunningNode, answering_of, running_node, save_served_model

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 12}


def receipt_of(node: RunningNode, answer: Any) -> bytes:
    grail = answer.grail
    assert grail["receipt_url"] == f"{node.url}/v1/receipts/{grail['answer_digest']}"
    found = node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}")
    assert found.status_code == 200
    return found.content


def test_a_completion_comes_with_a_receipt_that_a_verifier_accepts_and_reads_the_same_text_from(
    node: RunningNode, client: openai.OpenAI, at_hand: ModelAtHand
) -> None:
    answer: Any = client.completions.create(**ASKED, temperature=0.9, top_p=0.95, user="somebody")
    report = check_receipt(receipt_of(node, answer), seed=bytes(32), model=at_hand)
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == (answer.choices[0].text,)
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    assert answer.grail["draw"] == "client"
    receipt = report.receipt
    assert receipt is not None
    assert (receipt.policy.temperature, receipt.policy.top_p, receipt.policy.max_tokens) == (0.9, 0.95, 12)
    assert answer.usage.prompt_tokens == len("Once upon a time")  # a byte is a token
    assert answer.usage.completion_tokens == len(receipt.answer.choices[0].completion)


def test_a_conversation_comes_with_a_receipt_that_a_verifier_accepts(
    node: RunningNode, client: openai.OpenAI, at_hand: ModelAtHand
) -> None:
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "user", "content": "What is 2 + 2?"},
    ]
    answer: Any = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=12)
    report = check_receipt(receipt_of(node, answer), seed=bytes(32), model=at_hand)
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == (answer.choices[0].message.content,)
    assert report.receipt is not None
    asked = json.loads(report.receipt.features)
    assert asked["messages"][0] == {"role": "system", "content": "Be short."}


def test_the_same_request_again_gets_the_next_draw_and_one_with_a_seed_the_same(
    node: RunningNode, client: openai.OpenAI
) -> None:
    again: list[Any] = [client.completions.create(**ASKED) for _ in range(2)]
    nonces = [Receipt.from_bytes(receipt_of(node, answer)).order.nonce for answer in again]
    assert nonces == [0, 1]
    assert again[0].choices[0].text != again[1].choices[0].text
    seeded: list[Any] = [client.completions.create(**ASKED, seed=7) for _ in range(2)]
    assert seeded[0].choices[0].text == seeded[1].choices[0].text
    assert seeded[0].grail["answer_digest"] == seeded[1].grail["answer_digest"]


def test_two_choices_are_two_draws_under_one_receipt(node: RunningNode, client: openai.OpenAI, at_hand: ModelAtHand) -> None:
    answer: Any = client.chat.completions.create(**CHAT, n=2)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 2
    assert [choice.index for choice in answer.choices] == [0, 1]
    report = check_receipt(receipt_of(node, answer), seed=bytes(32), model=at_hand)
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == tuple(texts)


def test_log_probabilities_are_those_of_the_chosen_tokens_that_the_receipt_claims(
    node: RunningNode, client: openai.OpenAI
) -> None:
    answer: Any = client.chat.completions.create(**CHAT, logprobs=True)
    content = answer.choices[0].logprobs.content
    assert all(one.logprob <= 0 for one in content)
    claimed = Receipt.from_bytes(receipt_of(node, answer)).answer.choices[0]
    assert claimed.logprobs is not None
    assert len(content) == len(claimed.completion) - (claimed.completion[-1] == END_TOKEN_ID)
    completion: Any = client.completions.create(**ASKED, logprobs=0)
    assert len(completion.choices[0].logprobs.tokens) == len(completion.choices[0].logprobs.token_logprobs) > 0
    plain: Any = client.completions.create(**ASKED)
    assert plain.choices[0].logprobs is None


def test_an_answer_says_whether_it_ended_or_was_cut_and_its_end_token_is_no_text(client: openai.OpenAI) -> None:
    reasons = set()
    for seed in range(4):
        answer: Any = client.completions.create(model=MODEL, prompt="a", max_tokens=300, n=16, seed=seed, temperature=5)
        for choice in answer.choices:
            reasons.add(choice.finish_reason)
            assert "<end>" not in choice.text
    assert reasons == {"stop", "length"}


def test_an_end_token_that_its_tokenizer_does_not_call_special_is_no_text_either(tmp_path: Path) -> None:
    folder = save_served_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    served = read_served_folder(folder)
    with running_node(answering_of(folder), tmp_path / "state") as node:
        answer = node.post("/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": 300, "n": 16, "seed": 1})
        grail = answer.json()["grail"]
        receipt = node.get(f"/v1/receipts/{grail['answer_digest']}?token={grail['receipt_token']}").content
    texts = tuple(choice["text"] for choice in answer.json()["choices"])
    assert "stop" in {choice["finish_reason"] for choice in answer.json()["choices"]}
    assert not any("<end>" in text for text in texts)
    report = check_receipt(receipt, seed=bytes(32), model=model_at_hand(folder, served.model, served.renderer))
    assert (report.outcome, report.texts) == (Outcome.ACCEPT, texts)


def test_a_temperature_of_zero_is_drawn_at_a_thousandth(node: RunningNode, client: openai.OpenAI) -> None:
    answer: Any = client.completions.create(**ASKED, temperature=0)
    assert Receipt.from_bytes(receipt_of(node, answer)).policy.temperature == 0.001


def test_a_completion_without_a_limit_has_sixteen_tokens_and_a_conversation_may_fill_the_context(
    node: RunningNode, client: openai.OpenAI
) -> None:
    answer: Any = client.completions.create(model=MODEL, prompt="Once")
    assert Receipt.from_bytes(receipt_of(node, answer)).policy.max_tokens == 16
    long = "x" * 1000  # of a context of 1024, with the template's own words
    said: Any = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": long}])
    assert said.usage.total_tokens <= 1024


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("top_logprobs", 3),
        ("min_p", 0.1),
        ("stop", list("abcde")),
        ("stop", {"a": 1}),
        ("seed", 2**53),
        ("n", 17),
        ("temperature", 11),
        ("top_p", 0),
        ("top_k", -2),
        ("repetition_penalty", 0),
        ("max_completion_tokens", 0),
        ("something_new", 1),
    ],
)
def test_what_could_not_be_proved_is_refused_by_its_name(client: openai.OpenAI, name: str, value: Any) -> None:
    body = {key: known for key, known in CHAT.items() if key != "max_tokens"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**body, extra_body={name: value})
    assert refused.value.param == name
    assert name in refused.value.message


@pytest.mark.parametrize(("name", "value"), [("best_of", 2), ("suffix", "end"), ("echo", True), ("logprobs", 2)])
def test_what_is_a_completions_alone_is_refused_by_its_name(client: openai.OpenAI, name: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{**ASKED, name: value})
    assert refused.value.param == name


def test_a_refusal_has_openais_four_members(node: RunningNode) -> None:
    refused = node.post("/v1/chat/completions", {**CHAT, "presence_penalty": 1})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_parameter")


def test_a_part_that_is_no_text_is_refused_by_its_place(node: RunningNode) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}
    refused = node.post("/v1/chat/completions", {"model": MODEL, "messages": [message]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content[1].type")


def test_parameters_at_their_neutral_values_are_accepted(node: RunningNode, client: openai.OpenAI) -> None:
    neutral: dict[str, Any] = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "functions": None,
        "best_of": 1,
        "suffix": "",
        "echo": False,
        "min_p": 0,
        "stream": False,
        "stream_options": None,
        "stop": [],
        "top_logprobs": None,
        "seed": None,
        "user": "",
        "n": None,
        "top_k": 0,
        "metadata": {},
        "store": False,
        "something_new": None,
    }
    answer = node.post("/v1/chat/completions", {**CHAT, **neutral})
    assert answer.status_code == 200, answer.text
    turns: list[Any] = [*CHAT["messages"], answer.json()["choices"][0]["message"], {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(**{**CHAT, "messages": turns}).choices


def test_options_of_a_stream_that_are_not_served_are_refused_by_their_place(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**CHAT, extra_body={"stream": True, "stream_options": {"continuous_usage_stats": True}})
    assert refused.value.param == "stream_options.continuous_usage_stats"


def test_an_alternative_truth_of_a_number_is_not_neutral(node: RunningNode) -> None:
    assert node.post("/v1/completions", {**ASKED, "presence_penalty": False}).status_code == 400
    assert node.post("/v1/completions", {**ASKED, "stream": 0}).status_code == 400


def test_only_the_served_model_is_there(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("org/another")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(**{**ASKED, "model": "another"})
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_prompt_that_leaves_no_room_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{**ASKED, "prompt": "x" * 1024})
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


def test_a_receipt_is_shown_for_its_token_alone_and_a_wrong_one_looks_like_a_missing_one(
    node: RunningNode, client: openai.OpenAI
) -> None:
    answers: list[Any] = [client.completions.create(**ASKED) for _ in range(2)]
    digest, others = answers[0].grail["answer_digest"], answers[1].grail["receipt_token"]
    wrong = [
        node.get(f"/v1/receipts/{digest}"),
        node.get(f"/v1/receipts/{digest}?token={others}"),
        node.get(f"/v1/receipts/{'0' * 64}?token={others}"),
        node.get("/v1/receipts/../receipt-key?token=a"),
    ]
    assert {answer.status_code for answer in wrong} == {404}
    assert len({answer.content for answer in wrong[:3]}) == 1


def test_a_node_says_what_it_is(node: RunningNode) -> None:
    assert node.get("/health").json() == {"status": "healthy"}
    about = node.get("/info").json()
    answering = node.node.answering
    assert about["workflows"] == ["inference", "training"]
    assert about["pending"] == {"offchain": 0, "onchain": 0}
    assert about["containers"][0]["id"] == answering.container_id.hex()
    assert about["grail"]["hotkey"] == answering.node.hex()
    assert about["grail"]["genesis_hash"] == "00" * 32
    assert about["grail"]["proof_class"] == answering.proof_class


def test_an_unknown_route_or_method_is_refused_in_the_same_shape(node: RunningNode) -> None:
    for answer, status in ((node.get("/v1/embeddings"), 404), (node.get("/v1/completions"), 405)):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
