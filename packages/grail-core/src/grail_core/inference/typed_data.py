"""What is signed, as EIP-712 typed data: the same 32 bytes for a wallet and for a hotkey.

An order fits one coordinator of one network: its address is in the domain. A node that answers directly is its own
coordinator, and its address follows from its hotkey (`direct_domain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from grail_core.inference.keccak import keccak256
from grail_core.inference.orders import Order, Subscription, Terms
from grail_core.protocol.encoding import tagged_hash
from grail_core.protocol.types import Digest, Hotkey

DOMAIN_TYPE: Final = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
TERMS_TYPE: Final = (
    "Terms(uint16 agreement,uint8 draw,uint8 choices,uint32 answerSeconds,bytes32 policyDigest,bytes32 featuresDigest,"
    "bytes32 node,bool hidden)"
)
SUBSCRIPTION_TYPE: Final = (
    "Subscription(bytes32 owner,bytes32 containerId,bytes features,uint256 frequency,uint32 period,uint16 redundancy,"
    "uint32 activeAt,uint64 maxGasPrice,uint32 maxGasLimit,Terms terms)"
)
DELEGATE_TYPE: Final = "DelegateSubscription(uint32 nonce,uint32 expiry,Subscription sub)"
NAME: Final = "GrailCoordinator"
VERSION: Final = "1"


@dataclass(frozen=True)
class Domain:
    """Where an order may be used."""

    chain_id: int
    verifying_contract: bytes  # 20 bytes


def direct_domain(network_id: bytes, node: Hotkey) -> Domain:
    """The domain of orders that a node answers itself: chain 1, the first 20 bytes of H("grail/infer/coordinator", node)."""
    return Domain(1, tagged_hash(network_id, "grail/infer/coordinator", node)[:20])


@lru_cache(maxsize=4)  # a receipt's checks need it more than once, and of long features it takes a tenth of a second
def order_digest(domain: Domain, order: Order) -> Digest:
    """keccak256(0x1901 ‖ domain separator ‖ hash of the DelegateSubscription), EIP-712.

    Raises:
        OverflowError, ValueError: a field that its type cannot hold.
    """
    return Digest(keccak256(b"\x19\x01" + domain_separator(domain) + delegate_hash(order)))


def delegate_hash(order: Order) -> bytes:
    """hashStruct of the DelegateSubscription. Errors: as `order_digest`."""
    return _hash_struct(
        _type_hash(DELEGATE_TYPE + SUBSCRIPTION_TYPE + TERMS_TYPE),  # types that are referred to follow in order of name
        _uint(order.nonce, 32),
        _uint(order.expiry, 32),
        subscription_hash(order.subscription),
    )


@lru_cache(maxsize=8)
def domain_separator(domain: Domain) -> bytes:
    """hashStruct of the domain. Errors: as `order_digest`."""
    if len(domain.verifying_contract) != 20:
        raise ValueError(f"verifying_contract: 20 bytes are expected, not {len(domain.verifying_contract)}")
    return _hash_struct(
        _type_hash(DOMAIN_TYPE),
        keccak256(NAME.encode()),
        keccak256(VERSION.encode()),
        _uint(domain.chain_id, 256),
        bytes(12) + domain.verifying_contract,
    )


def subscription_hash(sub: Subscription) -> bytes:
    """hashStruct of the subscription. Errors: as `order_digest`."""
    return _hash_struct(
        _type_hash(SUBSCRIPTION_TYPE + TERMS_TYPE),
        _bytes32(sub.owner),
        _bytes32(sub.container_id),
        keccak256(sub.features),
        _uint(sub.frequency, 256),
        _uint(sub.period, 32),
        _uint(sub.redundancy, 16),
        _uint(sub.active_at, 32),
        _uint(sub.max_gas_price, 64),
        _uint(sub.max_gas_limit, 32),
        terms_hash(sub.terms),
    )


def terms_hash(terms: Terms) -> bytes:
    """hashStruct of the terms. Errors: as `order_digest`."""
    return _hash_struct(
        _type_hash(TERMS_TYPE),
        _uint(terms.agreement, 16),
        _uint(terms.draw, 8),
        _uint(terms.choices, 8),
        _uint(terms.answer_seconds, 32),
        _bytes32(terms.policy_digest),
        _bytes32(terms.features_digest),
        _bytes32(terms.node),
        _uint(int(terms.hidden), 8),
    )


def _hash_struct(*words: bytes) -> bytes:
    return keccak256(b"".join(words))


@lru_cache(maxsize=8)
def _type_hash(text: str) -> bytes:
    return keccak256(text.encode())


def _uint(value: int, bits: int) -> bytes:
    if not 0 <= value < 1 << bits:
        raise OverflowError(f"an integer that {bits} bits do not hold")
    return value.to_bytes(32, "big")


def _bytes32(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError(f"32 bytes are expected, not {len(value)}")
    return value
