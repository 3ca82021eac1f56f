"""Signed orders over HTTP: what is answered with a receipt that shows its owner, and what is refused before any work."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.environment import Message
from grail_core.inference.constants import MAX_ANSWER_SECONDS
from grail_core.inference.features import Features, features_digest
from grail_core.inference.orders import NOBODY, Draw, Order, Subscription, Terms, order_policy_digest
from grail_core.inference.receipts import Receipt, order_json
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import order_digest
from grail_core.keys import LocalSigner
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.findings import Outcome
from grail_core.protocol.policy import GenerationPolicy, policy_json
from grail_core.verification.receipt import check_receipt
from grail_core.verification.receipt_model import model_at_hand
from grail_miner.serving.answering import Answering
from tooling.testing.clock import ManualClock
from tooling.testing.keys import BOB, CAROL
from tooling.testing.serving_node import RunningNode, answering_of, running_node, save_served_model

POLICY = GenerationPolicy(12, temperature=0.8)
FEATURES = Features(messages=(Message("user", "What is 2 + 2?"),)).to_bytes()
CLOCK = ManualClock()
LATER = CLOCK() // 1000 + 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(answering_of(folder), tmp_path_factory.mktemp("state"), clock=CLOCK) as running:
        yield running


def order_of(answering: Answering, **terms: Any) -> Order:
    """Bob's, not yet signed."""
    agreed = {
        "agreement": 0,
        "draw": Draw.CLIENT,
        "choices": 1,
        "answer_seconds": MAX_ANSWER_SECONDS,
        "policy_digest": order_policy_digest(POLICY),
        "features_digest": NOBODY,
        "node": answering.node,
        "hidden": False,
    }
    subscription = Subscription(
        owner=BOB.hotkey,
        container_id=answering.container_id,
        features=FEATURES,
        frequency=1,
        period=0,
        redundancy=1,
        active_at=0,
        max_gas_price=1,
        max_gas_limit=100_000,
        terms=Terms(**{**agreed, **terms}),
    )
    return Order(subscription, 1, LATER, None)


def signed(answering: Answering, order: Order, signer: LocalSigner = BOB) -> Order:
    message = command_message(answering.network.id, order_digest(answering.domain, order))
    return replace(order, signature=signer.sign(message))


def body_of(order: Order, features: Any = None, policy: GenerationPolicy = POLICY, logprobs: bool = False) -> dict[str, Any]:
    return {"order": order_json(order), "policy": policy_json(policy), "features": features, "logprobs": logprobs}


def test_a_signed_order_is_answered_with_a_receipt_that_shows_its_owner(node: RunningNode, folder: Path) -> None:
    order = signed(node.node.answering, order_of(node.node.answering, choices=2))
    answer = node.post("/v1/orders", body_of(order, logprobs=True))
    assert answer.status_code == 200, answer.text
    receipt = canonical_json(answer.json()["receipt"])
    served = read_served_folder(folder)
    at_hand = model_at_hand(folder, served.model, served.renderer)
    report = check_receipt(receipt, seed=bytes(32), model=at_hand, require=("order",))
    assert report.outcome is Outcome.ACCEPT, report.decisive
    assert report.texts == tuple(answer.json()["texts"])
    assert answer.json()["usage"]["completion_tokens"] == sum(Receipt.from_bytes(receipt).answer.lengths)


def test_stop_texts_of_a_signed_order_end_its_answer(node: RunningNode, folder: Path) -> None:
    answering, stops = node.node.answering, ("a", "e", "i", "o")
    features = Features(prompt="Once", stop=stops).to_bytes()
    policy = replace(POLICY, max_tokens=100)
    order = order_of(answering, choices=8, policy_digest=order_policy_digest(policy))
    order = signed(answering, replace(order, subscription=replace(order.subscription, features=features)))
    answer = node.post("/v1/orders", body_of(order, policy=policy)).json()
    served = read_served_folder(folder)
    at_hand = model_at_hand(folder, served.model, served.renderer)
    report = check_receipt(canonical_json(answer["receipt"]), seed=bytes(32), model=at_hand, require=("order",))
    assert (report.outcome, report.texts) == (Outcome.ACCEPT, tuple(answer["texts"]))
    assert not any(stop in text for text in answer["texts"] for stop in stops)
    assert "stop text" in (report.ended_by or ())


def test_the_same_order_again_is_answered_with_the_same_tokens(node: RunningNode) -> None:
    body = body_of(signed(node.node.answering, order_of(node.node.answering)))
    answers = [node.post("/v1/orders", body).json() for _ in range(2)]
    assert answers[0]["texts"] == answers[1]["texts"]
    assert answers[0]["receipt"]["answer"]["choices"] == answers[1]["receipt"]["answer"]["choices"]


def test_features_beside_the_order_are_taken_under_their_digest(node: RunningNode) -> None:
    answering, salt = node.node.answering, bytes([5]) * 32
    order = order_of(answering, hidden=True, features_digest=features_digest(answering.network.id, salt, FEATURES))
    order = signed(answering, replace(order, subscription=replace(order.subscription, features=b"")))
    features = {"salt": salt.hex(), "body": base64.b64encode(FEATURES).decode()}
    assert node.post("/v1/orders", body_of(order, features)).status_code == 200
    refused = node.post("/v1/orders", body_of(order, {**features, "salt": "00" * 32}))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "features_mismatch")


def expired(answering: Answering) -> Order:
    return signed(answering, replace(order_of(answering), expiry=CLOCK() // 1000))


def of_another_node(answering: Answering) -> Order:
    return signed(answering, order_of(answering, node=CAROL.hotkey))


def replayed_by_another_owner(answering: Answering) -> Order:
    order = signed(answering, order_of(answering))
    return replace(order, subscription=replace(order.subscription, owner=CAROL.hotkey))


def with_its_limit_raised(answering: Answering) -> Order:
    order = signed(answering, order_of(answering))
    return replace(order, subscription=replace(order.subscription, max_gas_limit=200_000))


def of_another_model(answering: Answering) -> Order:
    order = order_of(answering)
    return signed(answering, replace(order, subscription=replace(order.subscription, container_id=bytes(32))))


def signed_by_nobody(answering: Answering) -> Order:
    return order_of(answering)


def drawn_by_a_beacon(answering: Answering) -> Order:
    return signed(answering, order_of(answering, draw=Draw.BEACON))


@pytest.mark.parametrize(
    ("make", "code", "param"),
    [
        (expired, "signature_expired", "expiry"),
        (of_another_node, "not_for_this_node", "terms.node"),
        (replayed_by_another_owner, "signer_mismatch", "signature"),
        (with_its_limit_raised, "signer_mismatch", "signature"),
        (of_another_model, "container_not_offered", "container_id"),
        (signed_by_nobody, "invalid_order", "signature"),
        (drawn_by_a_beacon, "coordinator_needed", None),
    ],
)
def test_an_order_that_is_not_to_be_answered_is_refused_by_name(
    node: RunningNode, make: Any, code: str, param: str | None
) -> None:
    refused = node.post("/v1/orders", body_of(make(node.node.answering)))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, code, param), error["message"]


def test_a_policy_other_than_the_ordered_one_is_refused(node: RunningNode) -> None:
    order = signed(node.node.answering, order_of(node.node.answering))
    refused = node.post("/v1/orders", body_of(order, policy=replace(POLICY, temperature=0.7)))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "terms.policy_digest")


@pytest.mark.parametrize("spoil", ["order", "policy", "features", "logprobs", "more"])
def test_a_body_with_a_member_too_few_or_too_many_is_refused(node: RunningNode, spoil: str) -> None:
    body = body_of(signed(node.node.answering, order_of(node.node.answering)))
    body = {**body, "more": 1} if spoil == "more" else {name: value for name, value in body.items() if name != spoil}
    refused = node.post("/v1/orders", body)
    assert refused.status_code == 400
    assert spoil in refused.json()["error"]["message"]
