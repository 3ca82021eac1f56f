"""What is an order and what is none, one rule after the other, up to the edge of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from grail_core.inference import constants
from grail_core.inference.constants import MAX_AMOUNT, PERPETUAL, gas_of, tokens_for_gas
from grail_core.inference.orders import (
    MAX_UINT32,
    NOBODY,
    Draw,
    Order,
    invalid_field,
    invalid_policy,
    is_unsigned_form,
    length_limit,
    order_policy_digest,
    slot_value,
    unsigned_order,
)
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, PROOF_BATCH_SIZE
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Hotkey
from tooling.testing.plain_receipts import hidden_order

POLICY = GenerationPolicy(256, 0.7, 0.95)
NODE = Hotkey(b"\x05" * 32)
ORDER = hidden_order(b"\x01" * 32, POLICY, b"\x02" * 32)
TERMS = {field.name for field in dataclasses.fields(ORDER.subscription.terms)}
ONCE: dict[str, Any] = {"frequency": 1, "period": 0}


def changed(order: Order, **changes: Any) -> Order:
    """The order with other fields, of itself, its subscription or its terms."""
    sub = order.subscription
    terms = dataclasses.replace(sub.terms, **{name: value for name, value in changes.items() if name in TERMS})
    of_order = {name: value for name, value in changes.items() if name in ("nonce", "expiry", "signature")}
    of_sub = {name: value for name, value in changes.items() if name not in TERMS and name not in of_order}
    return dataclasses.replace(order, subscription=dataclasses.replace(sub, terms=terms, **of_sub), **of_order)


def test_the_order_that_the_others_are_made_of_is_one() -> None:
    assert invalid_field(ORDER, POLICY) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": 0},
        {"nonce": MAX_UINT32},
        {"expiry": 0},
        {"expiry": MAX_UINT32},
        ONCE,
        {"frequency": 2},
        {"frequency": PERPETUAL},
        {"period": 1},
        {"period": MAX_UINT32},
        {"redundancy": 16},
        {"active_at": 0},
        {"active_at": MAX_UINT32},
        {"max_gas_price": 1},
        {"max_gas_price": MAX_AMOUNT // 65, "max_gas_limit": 65},
        {"max_gas_limit": 65},
        {"max_gas_limit": MAX_UINT32},
        {"redundancy": 3, "agreement": 3},
        {"choices": 1},
        {"choices": 16},
        {"answer_seconds": 1},
        {"answer_seconds": 3_600},
        {"node": NOBODY},
        {"hidden": False},
        {"features_digest": NOBODY},
        {"features_digest": NOBODY, "hidden": False, "features": bytes(64 << 10)},
        {"draw": Draw.CLIENT},
    ],
)
def test_the_limits_themselves_are_allowed(changes: dict[str, Any]) -> None:
    assert invalid_field(changed(ORDER, **changes), POLICY) is None


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("owner", {"owner": bytes(20)}),
        ("container_id", {"container_id": bytes(33)}),
        ("terms.policy_digest", {"policy_digest": b""}),
        ("terms.features_digest", {"features_digest": bytes(31)}),
        ("terms.node", {"node": bytes(64)}),
        ("nonce", {"nonce": -1}),
        ("nonce", {"nonce": MAX_UINT32 + 1}),
        ("expiry", {"expiry": -1}),
        ("expiry", {"expiry": MAX_UINT32 + 1}),
        ("frequency", {"frequency": 0}),
        ("frequency", {"frequency": PERPETUAL + 1}),
        ("period", {"period": -1}),
        ("period", {"period": MAX_UINT32 + 1}),
        ("period", {"period": 0}),
        ("period", {"frequency": 1}),
        ("period", {"frequency": PERPETUAL, "period": 0}),
        ("redundancy", {"redundancy": 0}),
        ("redundancy", {"redundancy": 17}),
        ("active_at", {"active_at": -1}),
        ("active_at", {"active_at": MAX_UINT32 + 1}),
        ("max_gas_price", {"max_gas_price": 0}),
        ("max_gas_price", {"max_gas_price": MAX_AMOUNT + 1}),
        ("max_gas_price", {"max_gas_price": MAX_AMOUNT // 65 + 1, "max_gas_limit": 65}),
        ("max_gas_limit", {"max_gas_limit": 64}),
        ("max_gas_limit", {"max_gas_limit": MAX_UINT32 + 1}),
        ("terms.agreement", {"agreement": -1}),
        ("terms.agreement", {"agreement": 2}),
        ("terms.draw", {"draw": 2}),
        ("terms.draw", {"draw": -1}),
        ("terms.choices", {"choices": 0}),
        ("terms.choices", {"choices": 17}),
        ("terms.answer_seconds", {"answer_seconds": 0}),
        ("terms.answer_seconds", {"answer_seconds": 3_601}),
        ("features", {"features": bytes((64 << 10) + 1), "features_digest": NOBODY, "hidden": False}),
        ("features", {"features": b"{}", "hidden": False}),
        ("features", {"features": b"{}", "features_digest": NOBODY}),
        ("terms.draw", {"draw": Draw.CLIENT, "node": NOBODY}),
        ("terms.draw", {"draw": Draw.CLIENT, "redundancy": 2}),
        ("terms.draw", {"draw": 0, "node": NOBODY}),
        ("terms.policy_digest", {"policy_digest": NOBODY}),
        ("nonce", {"nonce": -(10**5_000)}),
        ("frequency", {"frequency": 10**5_000}),
    ],
)
def test_one_step_beyond_a_limit_the_field_is_named(field: str, changes: dict[str, Any]) -> None:
    wrong = invalid_field(changed(ORDER, **changes), POLICY)
    assert wrong is not None
    assert wrong.startswith(f"{field}: ")


def test_an_order_names_the_digest_of_its_policy_and_of_no_other() -> None:
    other = dataclasses.replace(POLICY, temperature=0.71)
    assert str(invalid_field(ORDER, other)).startswith("terms.policy_digest")
    assert invalid_field(changed(ORDER, policy_digest=order_policy_digest(other)), other) is None


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("max_tokens", (1, MAX_NEW_TOKENS_PROTOCOL_CAP), (0, -1, MAX_NEW_TOKENS_PROTOCOL_CAP + 1)),
        ("temperature", (0.001, 10.0), (0.0, 0.00099, 10.0001, -1.0, 1e-46, float("nan"), float("inf"))),
        ("top_p", (0.001, 1.0), (0.0, 0.0009, 1.0001, float("nan"))),
        ("repetition_penalty", (0.1, 10.0), (0.0, 0.0999, 10.1, float("nan"))),
        ("top_k", (-1, 1, 2**31 - 1), (0, -2, 2**31)),
    ],
)
def test_a_policy_is_one_that_is_drawn_and_proved_here(name: str, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    for value in inside:
        policy = dataclasses.replace(POLICY, **{name: value})
        assert invalid_policy(policy) is None
        assert invalid_field(changed(ORDER, policy_digest=order_policy_digest(policy)), policy) is None
    for value in outside:
        policy = dataclasses.replace(POLICY, **{name: value})
        assert str(invalid_policy(policy)).startswith(f"{name} is ")
        assert str(invalid_field(ORDER, policy)).startswith(f"policy: {name} is ")


def test_a_policys_digest_tells_every_parameter_apart() -> None:
    changes: dict[str, Any] = {"max_tokens": 255, "temperature": 1.0, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1}
    policies = [POLICY, *(dataclasses.replace(POLICY, **{name: value}) for name, value in changes.items())]
    assert len({order_policy_digest(policy) for policy in policies}) == 6


def test_a_slot_is_worth_price_times_limit() -> None:
    assert slot_value(ORDER.subscription) == 3 * 5_000


# Gas.


def test_the_choices_of_an_answer_are_one_proof_batch() -> None:
    assert constants.MAX_CHOICES == PROOF_BATCH_SIZE


@pytest.mark.parametrize("choices", [1, 3, 16])
@pytest.mark.parametrize("spare", [0, 1, 7])
def test_as_many_tokens_as_the_gas_allows_cost_no_more_than_it_and_one_more_each_would(choices: int, spare: int) -> None:
    limit = gas_of(100, [20] * choices) + spare
    assert tokens_for_gas(limit, 100, choices) == 20
    assert gas_of(100, [21] * choices) > limit


def test_gas_is_overhead_and_prompt_and_eight_a_completion_token() -> None:
    assert gas_of(10, [3, 4]) == 64 + 10 + 8 * 7


@pytest.mark.parametrize(
    ("limit", "context", "prompt", "expected"),
    [
        (MAX_UINT32, 1_000, 100, 256),  # the policy's
        (MAX_UINT32, 300, 100, 200),  # the context's
        (64 + 100 + 16 * 10, 1_000, 100, 10),  # the gas of two choices
        (64 + 100 + 16 * 10 - 1, 1_000, 100, 9),
        (64 + 100 + 15, 1_000, 100, 0),
        (65, 1_000, 100, -7),
        (MAX_UINT32, 100, 100, 0),
    ],
)
def test_a_completion_ends_at_the_first_of_policy_context_and_gas(limit: int, context: int, prompt: int, expected: int) -> None:
    assert length_limit(changed(ORDER, max_gas_limit=limit), POLICY, context, prompt) == expected


# The order that nobody signed.

UNSIGNED = unsigned_order(container_id=b"\x01" * 32, node=NODE, features=b'{"prompt":"a"}', policy=POLICY, choices=2, nonce=3)


def test_the_order_of_a_request_is_an_order_and_costs_nothing_that_anybody_pays() -> None:
    assert invalid_field(UNSIGNED, POLICY) is None
    assert is_unsigned_form(UNSIGNED, POLICY)
    sub = UNSIGNED.subscription
    assert (sub.owner, sub.max_gas_price, sub.max_gas_limit, sub.active_at) == (NOBODY, 1, MAX_UINT32, 0)
    assert (UNSIGNED.nonce, UNSIGNED.expiry, UNSIGNED.signature) == (3, MAX_UINT32, None)
    assert (sub.terms.draw, sub.terms.node, sub.terms.answer_seconds) == (Draw.CLIENT, NODE, 3_600)


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": b"\x03" * 32},
        {"features": b""},
        {"frequency": 2},
        {"period": 1},
        {"redundancy": 2},
        {"active_at": 1},
        {"max_gas_price": 2},
        {"max_gas_limit": 5_000},
        {"expiry": MAX_UINT32 - 1},
        {"signature": bytes(64)},
        {"agreement": 1},
        {"draw": Draw.BEACON},
        {"answer_seconds": 60},
        {"policy_digest": NOBODY},
        {"features_digest": b"\x04" * 32},
        {"hidden": True},
    ],
)
def test_every_free_choice_in_an_order_that_nobody_signed_is_refused(changes: dict[str, Any]) -> None:
    assert not is_unsigned_form(changed(UNSIGNED, **changes), POLICY)


@pytest.mark.parametrize(
    "changes",
    [{"nonce": 4}, {"choices": 1}, {"features": b'{"prompt":"b"}'}, {"container_id": bytes(32)}, {"node": b"\x06" * 32}],
)
def test_what_was_asked_and_of_whom_is_free(changes: dict[str, Any]) -> None:
    assert is_unsigned_form(changed(UNSIGNED, **changes), POLICY)


def test_an_unsigned_order_under_another_policy_is_none() -> None:
    assert not is_unsigned_form(UNSIGNED, dataclasses.replace(POLICY, temperature=1.0))
