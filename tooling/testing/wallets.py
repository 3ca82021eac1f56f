"""A wallet of nobody in particular, and orders as its library takes them.

The types are written down a second time, as members of a message: what `grail_core.inference.typed_data` hashes is held against
what `eth-account` makes of these.
"""

from __future__ import annotations

from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from grail_core.inference.orders import Order
from grail_core.inference.signatures import account_of
from grail_core.inference.typed_data import Domain

SECRET = bytes([7]) * 32
ADDRESS = bytes.fromhex(Account.from_key(SECRET).address.removeprefix("0x"))
ACCOUNT = account_of(ADDRESS)

_DELEGATE = ("nonce uint32", "expiry uint32", "sub Subscription")
_SUBSCRIPTION = (
    *("owner bytes32", "containerId bytes32", "features bytes", "frequency uint256", "period uint32", "redundancy uint16"),
    *("activeAt uint32", "maxGasPrice uint64", "maxGasLimit uint32", "terms Terms"),
)
_TERMS = (
    *("agreement uint16", "draw uint8", "choices uint8", "answerSeconds uint32", "policyDigest bytes32"),
    *("featuresDigest bytes32", "node bytes32", "hidden bool"),
)
_DOMAIN = ("name string", "version string", "chainId uint256", "verifyingContract address")
_TYPES = {
    struct: [dict(zip(("name", "type"), member.split(), strict=True)) for member in members]
    for struct, members in (
        ("EIP712Domain", _DOMAIN),
        ("DelegateSubscription", _DELEGATE),
        ("Subscription", _SUBSCRIPTION),
        ("Terms", _TERMS),
    )
}


def typed_message(domain: Domain, order: Order) -> dict[str, Any]:
    """An order as a wallet is asked to sign it (`eth_signTypedData_v4`)."""
    sub, terms = order.subscription, order.subscription.terms
    return {
        "types": _TYPES,
        "primaryType": "DelegateSubscription",
        "domain": {
            "name": "GrailCoordinator",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": "0x" + domain.verifying_contract.hex(),
        },
        "message": {
            "nonce": order.nonce,
            "expiry": order.expiry,
            "sub": {
                "owner": sub.owner,
                "containerId": sub.container_id,
                "features": sub.features,
                "frequency": sub.frequency,
                "period": sub.period,
                "redundancy": sub.redundancy,
                "activeAt": sub.active_at,
                "maxGasPrice": sub.max_gas_price,
                "maxGasLimit": sub.max_gas_limit,
                "terms": {
                    "agreement": terms.agreement,
                    "draw": int(terms.draw),
                    "choices": terms.choices,
                    "answerSeconds": terms.answer_seconds,
                    "policyDigest": terms.policy_digest,
                    "featuresDigest": terms.features_digest,
                    "node": terms.node,
                    "hidden": terms.hidden,
                },
            },
        },
    }


def wallet_digest(domain: Domain, order: Order) -> bytes:
    """What a wallet signs for an order, by the wallet library's own encoder and hash."""
    message = encode_typed_data(full_message=typed_message(domain, order))
    return keccak(b"\x19" + message.version + message.header + message.body)


def wallet_signature(domain: Domain, order: Order, secret: bytes = SECRET) -> bytes:
    """65 bytes, the same each time (RFC 6979)."""
    return bytes(Account.sign_typed_data(secret, full_message=typed_message(domain, order)).signature)
