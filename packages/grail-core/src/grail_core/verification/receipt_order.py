"""Check `order` of a receipt: an order that somebody could give, for this node, with these features, and who gave it."""

from __future__ import annotations

from grail_core.inference.answers import live_container_id
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.orders import NOBODY, invalid_field, is_unsigned_form
from grail_core.inference.receipts import Receipt
from grail_core.inference.signatures import NoWalletLibraryError, is_signed_by
from grail_core.inference.typed_data import direct_domain, order_digest
from grail_core.protocol.findings import Finding, Outcome
from grail_core.verification.wording import accept, reject, say

CHECK = "order"


def check_order(receipt: Receipt, network_id: bytes, owner: bytes | None = None) -> Finding:
    """Of a receipt that is well formed. Where it does not reject, the features can be read and typed data holds the order.

    Args:
        owner: whose order it must be, if anybody signed it.
    """
    wrong = (
        invalid_field(receipt.order, receipt.policy) or _wrong_here(receipt, network_id) or _wrong_features(receipt, network_id)
    )
    if wrong is None and owner is not None and receipt.order.signature is not None:
        signed_for = receipt.order.subscription.owner
        wrong = None if signed_for == owner else f"its owner is {signed_for.hex()}, not the one that was asked for"
    return _signed(receipt, network_id) if wrong is None else reject(CHECK, detail=wrong)


def _wrong_here(receipt: Receipt, network_id: bytes) -> str | None:
    """Why the order, valid in itself, is not this answer's."""
    sub, terms = receipt.order.subscription, receipt.order.subscription.terms
    if receipt.interval > sub.frequency:
        return f"interval {receipt.interval} of an order of {sub.frequency}"
    if len(receipt.answer.choices) != terms.choices:
        return f"{len(receipt.answer.choices)} choices were answered, {terms.choices} were ordered"
    if terms.node not in (NOBODY, receipt.node):
        return "terms.node: the order is for another node"
    if receipt.domain != direct_domain(network_id, receipt.node):
        return "domain: the order is for another coordinator, node or network"
    return None


def _wrong_features(receipt: Receipt, network_id: bytes) -> str | None:
    sub = receipt.order.subscription
    if sub.features:
        if receipt.features != sub.features or receipt.salt != NO_SALT:
            return "features: they are not those that the order holds"
    elif sub.terms.features_digest == NOBODY:
        return "features: the order leaves them to a coordinator, and none took part"
    elif features_digest(network_id, receipt.salt, receipt.features) != sub.terms.features_digest:
        return "features: they do not have the digest that the order names"
    try:
        Features.from_bytes(receipt.features)
    except ValueError as error:
        return str(error)
    return None


def _signed(receipt: Receipt, network_id: bytes) -> Finding:
    order = receipt.order
    owner = order.subscription.owner
    if order.signature is None:
        if not is_unsigned_form(order, receipt.policy):
            return reject(CHECK, detail="nobody signed it, and it is not the order that its content determines")
        if order.subscription.container_id == live_container_id(network_id):
            detail = "nobody signed it, and it names whatever the network serves: such an order names the model that answers"
            return reject(CHECK, detail=detail)
        return accept(CHECK, detail="nobody signed it: the order that its own content determines")
    if owner == NOBODY:
        return reject(CHECK, detail="it is signed, and names no owner")
    try:
        signed = is_signed_by(network_id, owner, order_digest(receipt.domain, order), order.signature)
    except NoWalletLibraryError:
        detail = "a wallet signed it, and signers of wallets cannot be recovered here: pip install grail-core[inference]"
        return say(Outcome.INCONCLUSIVE, CHECK, detail=detail)
    if not signed:
        return reject(CHECK, detail=f"the signature is not the owner's ({owner.hex()})")
    return accept(CHECK, detail=f"signed by its owner {owner.hex()}")
