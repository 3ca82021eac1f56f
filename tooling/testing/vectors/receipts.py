"""Vectors of receipts, tests/vectors/inference/receipts.json: three good ones with all that follows from them, and others.

Each of the others is a good one with one member changed: *bad* ones are not read, and the path is named; *wrong* ones are well
formed and rejected by a check that needs no model; *free* members are under no signature.
"""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from grail_core.inference.answers import live_container_id, token_bytes, tokens_digest
from grail_core.inference.features import Features, features_digest
from grail_core.inference.orders import order_policy_digest
from grail_core.inference.receipts import Receipt
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.reading import Json
from grail_core.verification.receipt import check_receipt
from tooling.testing.plain_receipts import (
    GENESIS,
    NETWORK,
    NETWORK_ID,
    live_receipt,
    ordered_receipt,
    stopped_receipt,
    unsigned_receipt,
)
from tooling.testing.vectors.source import Source

_BAD: tuple[tuple[int, str, Any, str], ...] = (
    (0, "version", True, "$receipt.version"),
    (0, "network.genesis_hash", "AB" * 32, "$receipt.network.genesis_hash"),
    (0, "network.id", "", "$receipt.network"),
    (0, "domain.verifying_contract", "00" * 19, "$receipt.domain.verifying_contract"),
    (0, "domain.chain_id", 2**53, "$receipt.domain.chain_id"),
    (0, "order.url", "http://localhost/", "$receipt.order"),
    (0, "order.frequency", -1, "$receipt.order.frequency"),
    (0, "order.features", "eyI=\n", "$receipt.order.features"),
    (0, "order.terms.draw", 2, "$receipt.order.terms.draw"),
    (0, "order.terms.hidden", 0, "$receipt.order.terms.hidden"),
    (0, "order.signature", "00" * 63, "$receipt.order.signature"),
    (0, "policy.temperature", "0.70", "$receipt.policy.temperature"),
    (0, "policy.temperature", 0.7, "$receipt"),
    (0, "policy.top_p", "nan", "$receipt.policy.top_p"),
    (0, "policy.top_k", 0, "$receipt.policy.top_k"),
    (0, "policy.seed", 1, "$receipt.policy"),
    (0, "features.salt", "00" * 31, "$receipt.features.salt"),
    (0, "interval", 0, "$receipt.interval"),
    (0, "model.thinking_mode", "deep", "$receipt.model.thinking_mode"),
    (0, "model.end_token_ids", [], "$receipt.model.end_token_ids"),
    (0, "model.end_token_ids", [7, 2], "$receipt.model.end_token_ids"),
    (0, "gas_used", "101", "$receipt.gas_used"),
    (0, "answer.prompt", "", "$receipt.answer"),
    (0, "answer.prompt", "AQAAAA", "$receipt.answer.prompt"),
    (0, "answer.prompt", "AQAAAB==", "$receipt.answer.prompt"),
    (0, "answer.prompt", "AQAA", "$receipt.answer.prompt"),
    (0, "answer.prompt", "ZAAAAA==", "$receipt.answer.prompt"),  # 100, of a vocabulary of 100
    (0, "answer.choices.0.completion", "/////w==", "$receipt.answer.choices[0].completion"),  # −1
    (0, "answer.choices.0.sketches", "", "$receipt.answer"),
    (0, "answer.choices.0.text", "seven", "$receipt.answer.choices[0]"),
    (0, "answer.choices", [], "$receipt.answer"),
    (0, "answer.software", {"torch": 2}, "$receipt.answer.software.torch"),
    (0, "node.signature", "00" * 65, "$receipt.node.signature"),
    (0, "note", "", "$receipt"),
    (1, "model.checkpoint.sequence", -1, "$receipt.model.checkpoint.sequence"),
    (1, "answer.choices.0.logprobs", "AADAfwAAwH8AAMB/AADAfwAAwH8AAMB/", "$receipt.answer.choices[0].logprobs"),  # NaN
    (1, "answer.choices.0.logprobs", "AACAvg==", "$receipt.answer"),
    (1, "seed_round.round", 0, "$receipt.seed_round.round"),
    (1, "seed_round.signature", "00" * 96, "$receipt.seed_round.signature"),
    (1, "seed_round.randomness", "00" * 32, "$receipt.seed_round"),
)
"""(receipt, member, what is put there, which path is refused)."""

_MISSING = (
    "version",
    "domain",
    "order.terms.hidden",
    "order.signature",
    "model.name",
    "answer.choices.0.logprobs",
    "coordinator",
)

_WRONG: tuple[tuple[int, str, Any], ...] = (
    (0, "network.name", "another"),
    (0, "domain.chain_id", 2),
    (0, "order.max_gas_price", 2),
    (0, "order.nonce", 1),
    (0, "order.terms.choices", 2),
    (0, "order.terms.draw", 1),
    (0, "policy.temperature", "0.8"),
    (0, "features.salt", "01" * 32),
    (0, "interval", 2),
    (0, "answer.choices.0.completion", "LAAAAAAAAABjAAAAYgAAAA=="),  # the other end token
    (0, "answer.proof_class", "bf16-eager-cpu-transformers"),
    (0, "answer.proof_class", "bf16-by-hand"),
    (0, "gas_used", 102),
    (0, "model.context_length", 513),
    (
        0,
        "seed_round",
        {"round": 1000, "signature": ordered_receipt().to_bytes().split(b'"round":1000,"signature":"')[1][:96].decode()},
    ),
    (1, "order.signature", None),
    (1, "order.terms.hidden", False),
    (1, "order.expiry", 1_800_000_001),
    (1, "features.salt", "00" * 32),
    (1, "features.body", "eyJwcm9tcHQiOiJhIn0="),
    (1, "interval", 6),
    (1, "seed_round", None),
    (1, "seed_round.round", 124),
    (1, "challenge_round.round", 1001),
    (1, "answer.choices.0.logprobs", None),
    (1, "gas_used", 159),
    (0, "order.container_id", live_container_id(NETWORK_ID).hex()),  # nobody signed it
    (1, "order.container_id", live_container_id(NETWORK_ID).hex()),
    (2, "order.container_id", live_receipt().model.digest(NETWORK_ID).hex()),
    (2, "order.signature", None),
    (2, "model.checkpoint", None),
    (2, "model.weights_root", "00" * 32),
    (3, "features.body", base64.b64encode(Features(prompt="Count: 1, 2,", seed=3).to_bytes()).decode()),
    (3, "answer.choices.0.completion", base64.b64encode(token_bytes((11, 12))).decode()),
    (3, "gas_used", 94),
)
"""(receipt, member, what is put there): well formed, and not what was signed."""

_FREE: tuple[tuple[int, str, Any], ...] = (
    (0, "model.name", "elsewhere"),
    (0, "answer.software", {}),
    (1, "model.checkpoint", None),
    (2, "model.checkpoint.sequence", 8),  # the network's manifest says it, where the folder has one
    (1, "challenge_round", None),
)
"""What is under no signature: hints, and what other checks hold against its source."""


def receipts(_: Source) -> Json:
    good = [unsigned_receipt(), ordered_receipt(), live_receipt(), stopped_receipt()]
    documents = [json.loads(receipt.to_bytes()) for receipt in good]
    return {
        "network": {"parameters": NETWORK.to_json(), "genesis_hash": GENESIS.hex(), "network_id": NETWORK_ID.hex()},
        "good": [_digests(receipt, document) for receipt, document in zip(good, documents, strict=True)],
        "bad": [
            _case(which, at, put) | {"refused": _refused(documents[which], at, put, path)} for which, at, put, path in _BAD
        ],
        "missing": [{"receipt": 0, "at": list[Json](at.split(".")), "refused": _lacking(documents[0], at)} for at in _MISSING],
        "wrong": [_case(i, at, put) | {"rejected_by": _rejected(documents[i], at, put)} for i, at, put in _WRONG],
        "free": [_case(i, at, put) | {"rejected_by": _rejected(documents[i], at, put)} for i, at, put in _FREE],
    }


def _digests(receipt: Receipt, document: Json) -> Json:
    of_receipt = receipt.seeds(NETWORK_ID)
    model = receipt.model.digest(NETWORK_ID)
    findings = _checked(receipt.to_bytes())
    if any(finding.outcome is Outcome.REJECT for finding in findings):
        raise ValueError(f"what is signed has changed: python -m tooling.testing.plain_receipts ({findings[-1].detail})")
    return {
        "receipt": document,
        "order_digest": order_digest(receipt.domain, receipt.order).hex(),
        "policy_digest": order_policy_digest(receipt.policy).hex(),
        "features_digest": features_digest(NETWORK_ID, receipt.salt, receipt.features).hex(),
        "request_digest": of_receipt.request_digest.hex(),
        "model_digest": model.hex(),
        "draw_seed": of_receipt.draw_seed.hex(),
        "sampling_seeds": [str(of_receipt.sampling(choice)) for choice in range(len(receipt.answer.choices))],
        "sketch_seed": of_receipt.sketch.hex(),
        "answer_digest": receipt.answer_digest(of_receipt).hex(),
        "tokens_digest": tokens_digest(NETWORK_ID, of_receipt.request_digest, receipt.salt, receipt.answer).hex(),
        "findings": {finding.check: finding.outcome.value for finding in findings},
    }


def _case(which: int, at: str, put: Any) -> dict[str, Json]:
    return {"receipt": which, "at": list[Json](at.split(".")), "put": put}


def _place(document: Any, at: str) -> tuple[Any, Any, str]:
    """A copy of the document; the object or array in it that holds a member; and the member's name."""
    copied = copy.deepcopy(document)
    *way, last = at.split(".")
    place = copied
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    return copied, place, last


def _changed(document: Json, at: str, put: Any) -> bytes:
    copied, place, name = _place(document, at)
    place[name] = put
    return json.dumps(copied).encode()


def _refused(document: Json, at: str, put: Any, path: str) -> str:
    return _complaint(_changed(document, at, put), path)


def _lacking(document: Json, at: str) -> str:
    copied, place, name = _place(document, at)
    del place[name]
    way = "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in at.split(".")[:-1])
    return _complaint(json.dumps(copied).encode(), f"$receipt{way}")


def _complaint(raw: bytes, path: str) -> str:
    """The path, if it is what the reader complains of."""
    try:
        Receipt.from_bytes(raw)
    except ValueError as error:
        if not str(error).startswith(f"{path}: "):
            raise ValueError(f"{path} should be refused, not {error}") from error
        return path
    raise ValueError(f"{path} should be refused")


def _checked(raw: bytes) -> tuple[Finding, ...]:
    return check_receipt(raw, seed=bytes(32), network=NETWORK, genesis=GENESIS).findings


def _rejected(document: Json, at: str, put: Any) -> str | None:
    """By which check that needs no model; None: by none of them."""
    findings = _checked(_changed(document, at, put))
    return next((finding.check for finding in findings if finding.outcome is Outcome.REJECT), None)
