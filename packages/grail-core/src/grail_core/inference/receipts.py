"""The receipt: everything that a stranger needs beside the model to check an answer, in one canonical JSON document.

It is read as a stranger's: size and number of members before decoding, every length before it is believed, ids inside the
vocabulary, and nothing unknown. What a receipt says is not checked here (`grail_core.verification.receipt`), only what it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from grail_core.inference.answers import Answer, Choice, ServedModel, answer_digest, sketched_positions, token_bytes
from grail_core.inference.constants import (
    MAX_CHOICES,
    MAX_FEATURES_BYTES,
    MAX_RECEIPT_BYTES,
    MAX_RECEIPT_TOKENS,
    PERPETUAL,
    PROMPT_POSITIONS,
)
from grail_core.inference.orders import MAX_UINT32, Draw, Order, Subscription, Terms
from grail_core.inference.seeds import NO_RANDOMNESS, RequestSeeds, seeds_of
from grail_core.inference.signatures import HOTKEY_SIGNATURE_BYTES, WALLET_SIGNATURE_BYTES
from grail_core.inference.typed_data import Domain
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS, SKETCH_BYTES_PER_POSITION
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.policy import GenerationPolicy, policy_json, read_policy
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.types import Digest, Hotkey, Signature

VERSION = 1
_MAX_NAME = 256
_MAX_CLASS = 128
_MAX_SOFTWARE = 16


class LaterReceiptError(ValueError):
    """A receipt of a kind that this release does not read: nothing is known of it."""


@dataclass(frozen=True)
class ServedCheckpoint:
    """Which of a network's checkpoints the model was."""

    digest: Digest
    sequence: int
    valid_from: int


@dataclass(frozen=True)
class Receipt:
    network: str  # a name; its parameters and `genesis_hash` make the network id
    genesis_hash: bytes
    domain: Domain
    order: Order
    policy: GenerationPolicy
    salt: bytes
    features: bytes
    interval: int
    model: ServedModel
    gas_used: int
    answer: Answer
    node: Hotkey
    signature: Signature  # of the node, over the answer's digest
    checkpoint: ServedCheckpoint | None = None
    model_name: str = ""  # where to look for it; proves nothing
    software: Mapping[str, str] = field(default_factory=dict)
    seed_round: SignedRound | None = None
    challenge_round: SignedRound | None = None

    def seeds(self, network_id: bytes) -> RequestSeeds:
        """Raises ValueError, OverflowError: an order that typed data cannot hold."""
        return seeds_of(
            network_id,
            domain=self.domain,
            order=self.order,
            interval=self.interval,
            salt=self.salt,
            features=self.features,
            model_digest=self.model.digest(network_id),
            node=self.node,
            randomness=NO_RANDOMNESS if self.seed_round is None else self.seed_round.randomness,
        )

    def answer_digest(self, seeds: RequestSeeds) -> Digest:
        """What the node signed."""
        model = self.model.digest(seeds.network_id)
        return answer_digest(seeds.network_id, seeds.request_digest, seeds.draw_seed, model, self.node, self.salt, self.answer)

    def to_bytes(self) -> bytes:
        """Canonical JSON.

        Raises:
            ValueError: what canonical JSON cannot hold.
        """
        return canonical_json(self._json)

    @cached_property
    def _json(self) -> dict[str, Json]:
        return {
            "version": VERSION,
            "network": {"name": self.network, "genesis_hash": self.genesis_hash.hex()},
            "domain": {"chain_id": self.domain.chain_id, "verifying_contract": self.domain.verifying_contract.hex()},
            "order": order_json(self.order),
            "policy": policy_json(self.policy),
            "features": {"salt": self.salt.hex(), "body": _b64(self.features)},
            "interval": self.interval,
            "model": {
                **self.model.to_json(),
                "checkpoint": None if self.checkpoint is None else checkpoint_json(self.checkpoint),
                "name": self.model_name,
            },
            "gas_used": self.gas_used,
            "answer": {
                "prompt": _b64(token_bytes(self.answer.prompt)),
                "choices": [
                    {
                        "completion": _b64(token_bytes(choice.completion)),
                        "sketches": _b64(choice.sketches),
                        "logprobs": None if choice.logprobs is None else _b64(choice.logprobs),
                    }
                    for choice in self.answer.choices
                ],
                "proof_class": self.answer.proof_class,
                "generation_class": self.answer.generation_class,
                "software": dict(self.software),
            },
            "node": {"hotkey": self.node.hex(), "signature": self.signature.hex()},
            "seed_round": _round_json(self.seed_round),
            "challenge_round": _round_json(self.challenge_round),
            "coordinator": None,
        }

    @classmethod
    def from_bytes(cls, raw: bytes) -> Receipt:
        """Read what somebody wrote, in any spacing.

        Raises:
            LaterReceiptError: of another version, or through a coordinator.
            ValueError: with the path of what is wrong.
        """
        return _receipt(parse_json(raw, most=MAX_RECEIPT_BYTES, path="$receipt", tokens=MAX_RECEIPT_TOKENS))


def order_json(order: Order) -> dict[str, Json]:
    """The member `order` of a receipt, and what `POST /v1/orders` takes."""
    sub, terms = order.subscription, order.subscription.terms
    return {
        "owner": sub.owner.hex(),
        "container_id": sub.container_id.hex(),
        "features": _b64(sub.features),
        "frequency": None if sub.frequency == PERPETUAL else sub.frequency,
        "period": sub.period,
        "redundancy": sub.redundancy,
        "active_at": sub.active_at,
        "max_gas_price": sub.max_gas_price,
        "max_gas_limit": sub.max_gas_limit,
        "nonce": order.nonce,
        "expiry": order.expiry,
        "terms": {
            "agreement": terms.agreement,
            "draw": int(terms.draw),
            "choices": terms.choices,
            "answer_seconds": terms.answer_seconds,
            "policy_digest": terms.policy_digest.hex(),
            "features_digest": terms.features_digest.hex(),
            "node": terms.node.hex(),
            "hidden": terms.hidden,
        },
        "signature": None if order.signature is None else order.signature.hex(),
    }


def read_order(node: Node) -> Order:
    """Inverse of `order_json`. Raises ValueError with the path; which orders are valid says `invalid_field`."""
    m = node.members(*_ORDER)
    t = m["terms"].members(*_TERMS)
    draw = t["draw"].integer(0, max(Draw))
    return Order(
        subscription=Subscription(
            owner=m["owner"].raw(32),
            container_id=m["container_id"].raw(32),
            features=m["features"].base64(MAX_FEATURES_BYTES),
            frequency=PERPETUAL if m["frequency"].value is None else m["frequency"].integer(),
            period=m["period"].integer(0, MAX_UINT32),
            redundancy=m["redundancy"].integer(0, 2**16 - 1),
            active_at=m["active_at"].integer(0, MAX_UINT32),
            max_gas_price=m["max_gas_price"].integer(),
            max_gas_limit=m["max_gas_limit"].integer(0, MAX_UINT32),
            terms=Terms(
                agreement=t["agreement"].integer(0, 2**16 - 1),
                draw=Draw(draw),
                choices=t["choices"].integer(0, 255),
                answer_seconds=t["answer_seconds"].integer(0, MAX_UINT32),
                policy_digest=t["policy_digest"].raw(32),
                features_digest=t["features_digest"].raw(32),
                node=t["node"].raw(32),
                hidden=t["hidden"].flag(),
            ),
        ),
        nonce=m["nonce"].integer(0, MAX_UINT32),
        expiry=m["expiry"].integer(0, MAX_UINT32),
        signature=m["signature"].optional(_order_signature),
    )


_ORDER = (
    *("owner", "container_id", "features", "frequency", "period", "redundancy", "active_at", "max_gas_price"),
    *("max_gas_limit", "nonce", "expiry", "terms", "signature"),
)
_TERMS = ("agreement", "draw", "choices", "answer_seconds", "policy_digest", "features_digest", "node", "hidden")
_MEMBERS = (
    *("version", "network", "domain", "order", "policy", "features", "interval", "model", "gas_used", "answer", "node"),
    *("seed_round", "challenge_round", "coordinator"),
)


def _receipt(node: Node) -> Receipt:
    top = node.entries(MAX_RECEIPT_TOKENS)  # a later version may have more members
    if "version" in top and top["version"].integer(1) != VERSION:
        raise LaterReceiptError(f"{top['version'].path}: version {VERSION} is read here")
    m = node.members(*_MEMBERS)
    if m["coordinator"].value is not None:
        raise LaterReceiptError(f"{m['coordinator'].path}: receipts of a coordinator are not read by this release")
    network = m["network"].members("name", "genesis_hash")
    domain = m["domain"].members("chain_id", "verifying_contract")
    features = m["features"].members("salt", "body")
    model = m["model"].members(*ServedModel.__dataclass_fields__, "checkpoint", "name")
    signer = m["node"].members("hotkey", "signature")
    served = ServedModel.of_members(model)
    answer = m["answer"].members("prompt", "choices", "proof_class", "generation_class", "software")
    return Receipt(
        network=network["name"].text(64),
        genesis_hash=network["genesis_hash"].raw(32),
        domain=Domain(domain["chain_id"].integer(), domain["verifying_contract"].raw(20)),
        order=read_order(m["order"]),
        policy=read_policy(m["policy"].members(*GenerationPolicy.__dataclass_fields__)),
        salt=features["salt"].raw(32),
        features=features["body"].base64(MAX_FEATURES_BYTES),
        interval=m["interval"].integer(1),
        model=served,
        gas_used=m["gas_used"].integer(),
        answer=_answer(m["answer"], answer, served.vocabulary_size),
        node=Hotkey(signer["hotkey"].raw(32)),
        signature=Signature(signer["signature"].raw(64)),
        checkpoint=model["checkpoint"].optional(_checkpoint),
        model_name=model["name"].text(_MAX_NAME),
        software={name: item.text(_MAX_NAME) for name, item in answer["software"].entries(_MAX_SOFTWARE).items()},
        seed_round=m["seed_round"].optional(_round),
        challenge_round=m["challenge_round"].optional(_round),
    )


def _answer(node: Node, m: Mapping[str, Node], vocabulary: int) -> Answer:
    prompt = _tokens(m["prompt"], MAX_PROMPT_TOKENS, vocabulary)
    choices = tuple(_choice(item, vocabulary) for item in m["choices"].items(MAX_CHOICES))
    classes = m["proof_class"].text(_MAX_CLASS), m["generation_class"].text(_MAX_CLASS)
    return node.build(lambda: Answer(prompt, choices, *classes))


def _choice(node: Node, vocabulary: int) -> Choice:
    m = node.members("completion", "sketches", "logprobs")
    most = SKETCH_BYTES_PER_POSITION * sketched_positions(PROMPT_POSITIONS, MAX_NEW_TOKENS_PROTOCOL_CAP)
    return Choice(
        completion=_tokens(m["completion"], MAX_NEW_TOKENS_PROTOCOL_CAP, vocabulary),
        sketches=m["sketches"].base64(most),
        logprobs=m["logprobs"].optional(_logprobs),
    )


def _tokens(node: Node, most: int, vocabulary: int) -> tuple[int, ...]:
    raw = node.base64(4 * most)
    if len(raw) % 4:
        node.refuse(f"{len(raw)} bytes are no int32 array")
    ids = np.frombuffer(raw, dtype="<i4")
    outside = np.flatnonzero((ids < 0) | (ids >= vocabulary))
    if outside.size:
        node.refuse(f"token id {ids[outside[0]]} at {outside[0]} is outside the vocabulary of {vocabulary}")
    return tuple(ids.tolist())


def _logprobs(node: Node) -> bytes:
    raw = node.base64(4 * MAX_NEW_TOKENS_PROTOCOL_CAP)
    if len(raw) % 4 or not np.isfinite(np.frombuffer(raw, dtype="<f4")).all():
        node.refuse("finite float32 numbers are expected")
    return raw


def _order_signature(node: Node) -> bytes:
    size = len(node.text(2 * WALLET_SIGNATURE_BYTES)) // 2
    return node.raw(size if size == HOTKEY_SIGNATURE_BYTES else WALLET_SIGNATURE_BYTES)


def checkpoint_json(one: ServedCheckpoint) -> dict[str, Json]:
    """The member `model.checkpoint` of a receipt."""
    return {"digest": one.digest.hex(), "sequence": one.sequence, "valid_from": one.valid_from}


def _checkpoint(node: Node) -> ServedCheckpoint:
    m = node.members("digest", "sequence", "valid_from")
    return ServedCheckpoint(Digest(m["digest"].raw(32)), m["sequence"].integer(), m["valid_from"].integer())


def _round(node: Node) -> SignedRound:
    m = node.members("round", "signature")
    return SignedRound(m["round"].integer(1), m["signature"].raw(48))


def _round_json(one: SignedRound | None) -> Json:
    return None if one is None else {"round": one.round, "signature": one.signature.hex()}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
