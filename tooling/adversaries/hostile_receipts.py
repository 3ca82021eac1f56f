"""Receipts that no honest node writes, each by its name and as bytes: forms that cost a reader, and orders that nobody gave.

Every function starts from an honest receipt and changes one thing. What can be signed is signed again by the node, so that a
signature is not what gives it away.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grail_core.inference.orders import NOBODY, Order, order_policy_digest
from grail_core.inference.receipts import Receipt
from grail_core.inference.signatures import command_message
from grail_core.inference.stops import contains_stop
from grail_core.inference.typed_data import direct_domain, order_digest
from grail_core.keys import LocalSigner
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Hotkey
from grail_miner.serving.answering import AdmittedOrder
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.wallets import ACCOUNT, wallet_signature

Sign = Callable[[Receipt], Receipt]
"""The same receipt under its node's key."""

_CURVE = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def malformed(receipt: Receipt) -> dict[str, bytes]:
    """What costs or confuses a reader: refused in bounded memory, before any model code."""
    whole: dict[str, Any] = json.loads(receipt.to_bytes())
    prompt = whole["answer"]["prompt"]
    far = base64.b64encode((receipt.model.vocabulary_size).to_bytes(4, "little")).decode()
    nan = base64.b64encode(b"\x00\x00\xc0\x7f" * len(receipt.answer.choices[0].completion)).decode()
    reserved = base64.b64encode(b"\x00\x80" * (len(receipt.answer.choices[0].sketches) // 2)).decode()

    def put(value: object, *path: str | int) -> bytes:
        changed = json.loads(json.dumps(whole))
        at = changed
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return json.dumps(changed).encode()

    return {
        "8 MiB of empty arrays": b"[" + b"[]," * (8 * 2**20 // 3 - 2) + b"[]]",
        "beyond 8 MiB": canonical_json(whole) + b" " * (8 << 20),
        "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "5,000 members": put({f"k{number}": "v" for number in range(5_000)}, "answer", "software"),
        "a name twice": receipt.to_bytes()[:-1] + b',"version":1}',
        "an unknown member": put(1, "url"),
        "a callback in the order": put("http://127.0.0.1/", "order", "url"),
        "an integer of 400 digits": put(10**400, "gas_used"),
        "an integer beyond 2^53": put(2**53, "order", "max_gas_price"),
        "a number with a fraction": put(1.5, "gas_used"),
        "NaN": receipt.to_bytes().replace(b'"gas_used":', b'"gas_used":NaN,"x":'),
        "10^9 tokens claimed": put(10**9, "policy", "max_tokens"),
        "tokens that are no array": put("AAAA", "answer", "prompt"),
        "base64 with unused bits": put(prompt[:-3] + _other_spelling(prompt[-3:]), "answer", "prompt"),
        "base64 with a line break": put(prompt[:4] + "\n" + prompt[4:], "answer", "prompt"),
        "an id outside the vocabulary": put(far, "answer", "prompt"),
        "log-probabilities that are no numbers": put(nan, "answer", "choices", 0, "logprobs"),
        "a sketch of the reserved value": put(reserved, "answer", "choices", 0, "sketches"),
        "17 choices": put(whole["answer"]["choices"] * 17, "answer", "choices"),
        "no choice": put([], "answer", "choices"),
        "another version of this form": put(True, "version"),
        "a lone surrogate": put("\ud800", "model", "name"),
        "no JSON": b"\xff\xfe" * 100,
        "nothing": b"",
    }


def _other_spelling(tail: str) -> str:
    """Of the last base64 letters, with bits set that decoders ignore; of a tail without such bits something that is none."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    kept = tail.rstrip("=")
    return kept[:-1] + letters[letters.index(kept[-1]) ^ 1] + tail[len(kept) :] if kept != tail else "="


def misordered(receipt: Receipt, sign: Sign, network_id: bytes, other: LocalSigner, owner: LocalSigner) -> dict[str, bytes]:
    """Orders forged, replayed and raised, under the node's own signature."""
    sub = receipt.order.subscription
    owned = replace(receipt.order, subscription=replace(sub, owner=owner.hotkey), signature=None)

    def ordered(order: Order) -> bytes:
        return sign(replace(receipt, order=order)).to_bytes()

    def signed(order: Order, by: LocalSigner) -> Order:
        digest = order_digest(receipt.domain, order)
        return replace(order, signature=by.sign(command_message(network_id, digest)))

    def changed(**of_subscription: Any) -> Order:
        return replace(receipt.order, subscription=replace(sub, **of_subscription))

    honest = signed(owned, owner)
    raised = replace(owned.subscription, max_gas_price=2)
    wallet = replace(owned, subscription=replace(sub, owner=ACCOUNT))
    by_wallet = wallet_signature(receipt.domain, wallet)
    return {
        "signed by another": ordered(signed(owned, other)),
        "owner without a signature": ordered(owned),
        "signature without an owner": ordered(replace(receipt.order, signature=honest.signature)),
        "price raised after signing": ordered(replace(honest, subscription=raised)),
        "limit raised after signing": ordered(
            replace(honest, subscription=replace(owned.subscription, max_gas_limit=owned.subscription.max_gas_limit - 1))
        ),
        "nonce changed after signing": ordered(replace(honest, nonce=honest.nonce + 1)),
        "expiry changed after signing": ordered(replace(honest, expiry=honest.expiry - 1)),
        "signed bytes instead of a command": ordered(replace(owned, signature=owner.sign(order_digest(receipt.domain, owned)))),
        "a wallet's signature of another order": ordered(replace(wallet, nonce=wallet.nonce + 1, signature=by_wallet)),
        "a wallet's signature of zeros": ordered(replace(wallet, signature=bytes(64) + b"\x1b")),
        "a wallet's signature with the high s": ordered(replace(wallet, signature=_high_s(by_wallet))),
        "unsigned, of two answers": ordered(changed(redundancy=2)),
        "unsigned, of another price": ordered(changed(max_gas_price=2)),
        "for another node": ordered(changed(terms=replace(sub.terms, node=other.hotkey))),
        "for anybody": ordered(changed(terms=replace(sub.terms, node=NOBODY))),
        "another policy's digest": ordered(
            changed(terms=replace(sub.terms, policy_digest=order_policy_digest(replace(receipt.policy, temperature=0.5))))
        ),
        "another policy": sign(replace(receipt, policy=replace(receipt.policy, temperature=0.5))).to_bytes(),
        "other features": sign(replace(receipt, features=receipt.features.replace(b"a", b"b", 1))).to_bytes(),
        "another coordinator": sign(
            replace(receipt, domain=replace(receipt.domain, verifying_contract=b"\x01" * 20))
        ).to_bytes(),
        "another chain": sign(replace(receipt, domain=replace(receipt.domain, chain_id=5))).to_bytes(),
        "another network": sign(replace(receipt, network="localnet")).to_bytes(),
        "more gas than was used": sign(replace(receipt, gas_used=receipt.gas_used + 8)).to_bytes(),
        "another container": ordered(changed(container_id=b"\x09" * 32)),
        "a policy off the list": ordered(changed(terms=replace(sub.terms, choices=2))),
    }


def misstopped(node: ClosedAnswers, one: AdmittedOrder) -> dict[str, Receipt]:
    """Answers to an order with stop texts that end elsewhere than they should, each drawn and proved as if that were its end.

    Args:
        one: an order whose answer `can_be_misstopped`.
    """
    (stopped,), (drawn,) = node.draw([one])[0], node.draw([_unstopped(one)])[0]
    decode, stops = one.served.folder.renderer.decode, one.asked.stop
    matches = [sum(map(decode(drawn[:length]).count, stops)) for length in range(len(drawn) + 1)]
    later = next(length for length in range(len(stopped) + 1, len(drawn)) if matches[length] > matches[length - 1])
    ends = {
        "goes on after a stop text": drawn,
        "one token more than its stop text": drawn[: len(stopped) + 1],
        "a stop text that matches earlier": drawn[:later],
        "ends without a stop text": stopped[:-1],
    }
    return {name: node.prove(one, [completion]) for name, completion in ends.items()}


def can_be_misstopped(node: ClosedAnswers, one: AdmittedOrder) -> bool:
    """Whether a stop text ends the answer, neither its first token nor its last, and comes again behind it."""
    (stopped,), (drawn,) = node.draw([one])[0], node.draw([_unstopped(one)])[0]
    rest = one.served.folder.renderer.decode(one.served.folder.model.spoken(drawn)[len(stopped) : -1])
    return 1 < len(stopped) < len(drawn) - 1 and contains_stop(rest, one.asked.stop)


def _unstopped(one: AdmittedOrder) -> AdmittedOrder:
    """The same draw, and nothing ends it but end token and limit."""
    return replace(one, asked=replace(one.asked, stop=()))


def _high_s(signature: bytes) -> bytes:
    """The other signature of the pair, which says the same to who does not look."""
    s = int.from_bytes(signature[32:64], "big")
    return signature[:32] + (_CURVE - s).to_bytes(32, "big") + bytes([55 - signature[64]])


def moved(receipt: Receipt, sign: Sign, others: Receipt) -> dict[str, bytes]:
    """The node's own answer under another order, interval or choice. `others`: its receipt of another order, as long."""
    answer = receipt.answer
    swapped = tuple(reversed(answer.choices))
    return {
        "under another order": sign(replace(others, answer=answer, gas_used=receipt.gas_used)).to_bytes(),
        "under another nonce": sign(replace(receipt, order=replace(receipt.order, nonce=receipt.order.nonce + 1))).to_bytes(),
        "under another interval": sign(replace(receipt, interval=2)).to_bytes(),
        "another choice": sign(replace(receipt, answer=replace(answer, choices=swapped))).to_bytes(),
        "signature of another answer": replace(receipt, signature=others.signature).to_bytes(),
    }


def resigned(receipt: Receipt, network_id: bytes, thief: LocalSigner) -> bytes:
    """Another node's answer under the thief's key, order and domain and all."""
    sub = receipt.order.subscription
    terms = replace(sub.terms, node=thief.hotkey)
    stolen = replace(
        receipt,
        node=Hotkey(thief.hotkey),
        domain=direct_domain(network_id, thief.hotkey),
        order=replace(receipt.order, subscription=replace(sub, terms=terms)),
    )
    return replace(stolen, signature=thief.sign(stolen.answer_digest(stolen.seeds(network_id)))).to_bytes()
