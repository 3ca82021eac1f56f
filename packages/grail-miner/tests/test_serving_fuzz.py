"""Bodies that nobody thought of, to every route that takes one: an answer or OpenAI's error, and never a failure of ours."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.inference.features import Features, features_digest
from grail_core.inference.orders import Draw, Order, Subscription, Terms, order_policy_digest
from grail_core.inference.receipts import order_json
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.policy import GenerationPolicy, policy_json
from grail_miner.serving.app import application
from grail_miner.serving.edge import Edge
from grail_miner.serving.openai_reading import MAX_BODY_BYTES
from tooling.testing.keys import BOB
from tooling.testing.serving_node import MODEL, PATIENCE_S, RunningNode, answering_of, running_node, save_served_model

EXAMPLES = 40
SALT = bytes([5]) * 32
POLICY = GenerationPolicy(4)

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", "\x00", "\ud800", "<|im_end|>", "data:,x", MODEL, "a" * 70_000]))
NUMBERS = st.one_of(
    st.integers(-5, 40),
    st.sampled_from([2**31, 2**53, 2**63, 10**400, -1, 1e308, 1e-320, float("nan"), float("inf")]),
    st.floats(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
_WHAT = ["model", "prompt", "messages", "max_tokens", "max_completion_tokens", "n", "seed", "user", "echo", "tools", "unknown"]
_HOW = ["logprobs", "top_logprobs", "stop", "temperature", "top_p", "top_k", "repetition_penalty", "stream", "stream_options"]
PARAMETERS = st.sampled_from([*_WHAT, *_HOW])
POST_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/orders")
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", 1]), "text": VALUES})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.one_of(st.sampled_from(["user", "system", "assistant", "tool"]), VALUES)},
        optional={"content": st.one_of(TEXTS, st.lists(PARTS, max_size=3), VALUES), "name": VALUES},
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder: Path = tmp_path_factory.mktemp("node")
    with running_node(answering_of(save_served_model(folder / "model")), folder / "state") as running:
        yield running


def answer_of(node: RunningNode, path: str, body: bytes) -> tuple[int, bytes]:
    """Of the whole application in process, from the edge on. It comes in time, or the test fails."""
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "headers": headers,
    }

    async def receive() -> Any:
        for message in messages:
            return message
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await Edge(application(node.node), max_body=MAX_BODY_BYTES)(scope, receive, send)

    asyncio.run(ask())
    return int(sent[0]["status"]), b"".join(message.get("body", b"") for message in sent)


def require_an_answer(node: RunningNode, path: str, body: bytes) -> None:
    status, said = answer_of(node, path, body)
    if status == 200:
        assert said
        assert b'"internal_error"' not in said
        return
    assert 400 <= status < 500, said
    error = json.loads(said)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert len(said) < 4_096


def as_json(value: Any) -> bytes:
    """With what JSON does not have, too: lone surrogates, NaN."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(PARAMETERS, VALUES, max_size=4), st.booleans())
def test_any_parameters_of_a_completion(node: RunningNode, members: dict[str, Any], stream: bool) -> None:
    asked = {"model": MODEL, "prompt": "Once", "max_tokens": 2, "stream": stream, **members}
    require_an_answer(node, "/v1/completions", as_json(asked))


@settings(max_examples=EXAMPLES, deadline=None)
@given(MESSAGES, st.dictionaries(PARAMETERS, VALUES, max_size=2), st.booleans())
def test_any_conversation(node: RunningNode, messages: list[Any], members: dict[str, Any], stream: bool) -> None:
    asked = {"model": MODEL, "messages": messages, "max_tokens": 2, "stream": stream, **members}
    require_an_answer(node, "/v1/chat/completions", as_json(asked))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(POST_ROUTES), st.one_of(st.binary(max_size=200), VALUES.map(as_json)))
def test_any_bytes(node: RunningNode, path: str, body: bytes) -> None:
    require_an_answer(node, path, body)


def order_body(node: RunningNode, features: bytes) -> dict[str, Any]:
    """Signed, with features beside it."""
    answering = node.node.answering
    digest = features_digest(answering.network.id, SALT, features)
    terms = Terms(0, Draw.CLIENT, 1, 60, order_policy_digest(POLICY), digest, answering.node, True)
    sub = Subscription(BOB.hotkey, answering.container_id, b"", 1, 0, 1, 0, 1, 100_000, terms)
    order = Order(sub, 1, 2**32 - 1, None)
    signature = BOB.sign(command_message(answering.network.id, order_digest(answering.domain, order)))
    beside = {"salt": SALT.hex(), "body": base64.b64encode(features).decode()}
    return {
        "order": order_json(replace(order, signature=signature)),
        "policy": policy_json(POLICY),
        "features": beside,
        "logprobs": False,
    }


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, (*path, name))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_any_member_of_an_order_in_place_of_its_own(node: RunningNode, data: st.DataObject) -> None:
    body = order_body(node, Features(prompt="Once").to_bytes())
    *way, name = data.draw(st.sampled_from(sorted(places(body))))
    inner: Any = body
    for step in way:
        inner = inner[step]
    inner[name] = data.draw(VALUES)
    require_an_answer(node, "/v1/orders", as_json(body))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.dictionaries(PARAMETERS, VALUES, max_size=3).map(as_json)))
def test_any_features_of_a_signed_order(node: RunningNode, features: bytes) -> None:
    require_an_answer(node, "/v1/orders", as_json(order_body(node, features)))


def test_what_is_tried_is_answered_where_nothing_is_changed(node: RunningNode) -> None:
    assert answer_of(node, "/v1/orders", as_json(order_body(node, Features(prompt="Once").to_bytes())))[0] == 200
    assert answer_of(node, "/v1/completions", as_json({"model": MODEL, "prompt": "Once", "max_tokens": 2}))[0] == 200
