"""An order: what a client signs, once or for every interval, and which of them are no orders.

`invalid_field` is the one list of rules; a node asks it before it works, and everybody asks it of a receipt. A request without
a signed order gets the one that its content determines (`unsigned_order`), so that every answer belongs to some order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from grail_core.inference.constants import (
    DELIVERY_OVERHEAD,
    MAX_AMOUNT,
    MAX_ANSWER_SECONDS,
    MAX_CHOICES,
    MAX_FEATURES_BYTES,
    MAX_PENALTY,
    MAX_REDUNDANCY,
    MAX_TEMPERATURE,
    MIN_PENALTY,
    MIN_TEMPERATURE,
    MIN_TOP_P,
    PERPETUAL,
    tokens_for_gas,
)
from grail_core.inference.features import Features
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.policy import GenerationPolicy, completion_limit, policy_json
from grail_core.protocol.types import Digest, Hotkey

NOBODY = bytes(32)
"""As owner: nobody signed. As node: anybody may answer. As digest: there is none."""

MAX_UINT32 = 2**32 - 1


class Draw(IntEnum):
    """Where the draw's seed comes from."""

    CLIENT = 0  # from the order alone
    BEACON = 1  # from a beacon round, too, that nobody knew when a node took the order


@dataclass(frozen=True)
class Terms:
    """What the order of 2023 had no fields for. Digests and keys are 32 bytes."""

    agreement: int  # 0: independent answers; else so many of `redundancy` must be equal
    draw: Draw
    choices: int  # completions of one answer
    answer_seconds: int  # from the claim to the answer
    policy_digest: bytes
    features_digest: bytes  # zero where the order holds the features, or its owner gives them later
    node: bytes  # zero: anybody
    hidden: bool  # the features are for the node, its judges and the owner


@dataclass(frozen=True)
class Subscription:
    owner: bytes  # an account: a hotkey, or an address after 12 zero bytes
    container_id: bytes  # 32 bytes: a model's digest, or `live_container_id`: whatever checkpoint the network serves
    features: bytes  # their canonical JSON, or nothing
    frequency: int  # intervals; PERPETUAL: without end
    period: int  # seconds of an interval, 0 for an order of one
    redundancy: int  # answers of an interval
    active_at: int  # Unix seconds
    max_gas_price: int  # units a gas
    max_gas_limit: int  # gas of one answer
    terms: Terms


@dataclass(frozen=True)
class Order:
    """A subscription under its owner's signature: 64 bytes of a hotkey, 65 of an address, None where nobody signed."""

    subscription: Subscription
    nonce: int
    expiry: int  # Unix seconds, exclusive
    signature: bytes | None


def order_policy_digest(policy: GenerationPolicy) -> Digest:
    """SHA-256 of the policy's canonical JSON. End tokens and thinking mode belong to the model."""
    return Digest(hashlib.sha256(canonical_json(policy_json(policy))).digest())


def slot_value(subscription: Subscription) -> int:
    """The most that one answer can cost, in units."""
    return subscription.max_gas_price * subscription.max_gas_limit


def invalid_policy(policy: GenerationPolicy) -> str | None:
    """The first parameter outside what is drawn and proved here, with its bounds; None if there is none."""
    for name, value, least, most in (
        ("max_tokens", policy.max_tokens, 1, MAX_NEW_TOKENS_PROTOCOL_CAP),
        ("temperature", policy.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE),
        ("top_p", policy.top_p, MIN_TOP_P, 1.0),
        ("repetition_penalty", policy.repetition_penalty, MIN_PENALTY, MAX_PENALTY),
        ("top_k", policy.top_k, -1, 2**31 - 1),
    ):
        if not least <= value <= most:
            return f"{name} is {value!r}, from {least} to {most} is allowed"
    return "top_k is 0, which keeps no token; -1 keeps all" if policy.top_k == 0 else None


def invalid_field(order: Order, policy: GenerationPolicy) -> str | None:
    """The first field with which this is no order under this policy, and why; None if it is one."""
    sub = order.subscription
    terms = sub.terms
    for name, bytes_of in (
        ("owner", sub.owner),
        ("container_id", sub.container_id),
        ("terms.policy_digest", terms.policy_digest),
        ("terms.features_digest", terms.features_digest),
        ("terms.node", terms.node),
    ):
        if len(bytes_of) != 32:
            return f"{name}: 32 bytes are expected, not {len(bytes_of)}"
    for name, value, least, most in (
        ("nonce", order.nonce, 0, MAX_UINT32),
        ("expiry", order.expiry, 0, MAX_UINT32),
        ("frequency", sub.frequency, 1, PERPETUAL),
        ("period", sub.period, 0, MAX_UINT32),
        ("redundancy", sub.redundancy, 1, MAX_REDUNDANCY),
        ("active_at", sub.active_at, 0, MAX_UINT32),
        ("max_gas_price", sub.max_gas_price, 1, MAX_AMOUNT),
        ("max_gas_limit", sub.max_gas_limit, DELIVERY_OVERHEAD + 1, MAX_UINT32),
        ("terms.agreement", terms.agreement, 0, sub.redundancy),
        ("terms.draw", terms.draw, Draw.CLIENT, Draw.BEACON),
        ("terms.choices", terms.choices, 1, MAX_CHOICES),
        ("terms.answer_seconds", terms.answer_seconds, 1, MAX_ANSWER_SECONDS),
    ):
        if not least <= value <= most:
            return f"{name}: {value if abs(value) < 2**64 else 'a huge integer'} is outside {least} … {most}"
    if MAX_AMOUNT < sub.frequency < PERPETUAL:
        return "frequency: from 1 to 2^53 − 1, or without end"
    if (sub.period == 0) != (sub.frequency == 1):
        return f"period: {sub.period} with a frequency of {sub.frequency}; it is 0 for one interval, and for no other"
    if slot_value(sub) > MAX_AMOUNT:
        return "max_gas_price: an answer could cost more than 2^53 − 1 units"
    if len(sub.features) > MAX_FEATURES_BYTES:
        return f"features: {len(sub.features)} bytes, at most {MAX_FEATURES_BYTES} are allowed"
    if sub.features and (terms.features_digest != NOBODY or terms.hidden):
        return "features: they lie in the order, where everybody reads them, and are promised otherwise too"
    if terms.draw == Draw.CLIENT and (terms.node == NOBODY or sub.redundancy != 1):
        return "terms.draw: a draw from the order alone belongs to one node and one answer, or the node could choose"
    wrong = invalid_policy(policy)
    if wrong is not None:
        return f"policy: {wrong}"
    if order_policy_digest(policy) != terms.policy_digest:
        return "terms.policy_digest: it is not that of the policy"
    return None


def length_limit(order: Order, policy: GenerationPolicy, context_length: int, prompt_length: int) -> int:
    """L: the most tokens of a completion, by policy, context and gas; below 1 the order cannot be served."""
    sub = order.subscription
    by_gas = tokens_for_gas(sub.max_gas_limit, prompt_length, sub.terms.choices)
    return min(completion_limit(policy, context_length, prompt_length), by_gas)


def unsigned_order(
    *, container_id: bytes, node: Hotkey, features: bytes, policy: GenerationPolicy, choices: int, nonce: int
) -> Order:
    """The order of a request that came without one: all of it follows from what was asked, but for the nonce, which counts how
    often the same client asked the same before (0 where the features have a seed)."""
    terms = Terms(
        agreement=0,
        draw=Draw.CLIENT,
        choices=choices,
        answer_seconds=MAX_ANSWER_SECONDS,
        policy_digest=order_policy_digest(policy),
        features_digest=NOBODY,
        node=node,
        hidden=False,
    )
    subscription = Subscription(
        owner=NOBODY,
        container_id=container_id,
        features=features,
        frequency=1,
        period=0,
        redundancy=1,
        active_at=0,
        max_gas_price=1,
        max_gas_limit=MAX_UINT32,
        terms=terms,
    )
    return Order(subscription, nonce, MAX_UINT32, None)


def is_unsigned_form(order: Order, policy: GenerationPolicy) -> bool:
    """Whether an order that nobody signed is the one that `unsigned_order` makes of its own content. With a seed its nonce is
    0: whoever writes the order would have the draws of all nonces to choose from."""
    sub = order.subscription
    try:
        asked = Features.from_bytes(sub.features)
    except ValueError:
        return False
    return (asked.seed is None or order.nonce == 0) and order == unsigned_order(
        container_id=sub.container_id,
        node=Hotkey(sub.terms.node),
        features=sub.features,
        policy=policy,
        choices=sub.terms.choices,
        nonce=order.nonce,
    )
