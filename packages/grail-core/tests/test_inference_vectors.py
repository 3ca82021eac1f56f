"""The published vectors of inference on request, read as another implementation would read them: from the JSON files."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from eth_keys.datatypes import Signature as WalletSignature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from grail_core.beacon import bls
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt, read_order
from grail_core.inference.signatures import is_signed_by
from grail_core.inference.typed_data import Domain, order_digest
from grail_core.protocol import canonical_json, constants, tagged_hash, tagged_stream, verify
from grail_core.protocol.findings import Outcome
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.reading import Node
from grail_core.verification.receipt import check_receipt

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "vectors" / "inference"
PERPETUAL = 2**256 - 1


def vectors(name: str) -> Any:
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert document["protocol_version"] == constants.PROTOCOL_VERSION
    return document["vectors"]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def b64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def int32(tokens: list[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


# Typed data: EIP-712 from its text, with the wallet library's hash.

TYPED = vectors("typed_data")


def word(kind: str, value: Any) -> bytes:
    """One member's 32 bytes."""
    if kind.startswith("uint") or kind == "bool":
        return int(value).to_bytes(32, "big")
    return bytes(keccak(value)) if kind in ("bytes", "string") else bytes(value).rjust(32, b"\0")


def hash_of(struct: str, values: dict[str, Any]) -> bytes:
    """hashStruct by the type's own published text."""
    text = TYPED["types"][struct]["type"]
    first = text[text.index("(") + 1 : text.index(")")]
    words = [bytes(keccak(text.encode()))]
    for member in first.split(","):
        kind, name = member.split(" ")
        words.append(hash_of(kind, values[name]) if kind in TYPED["types"] else word(kind, values[name]))
    return bytes(keccak(b"".join(words)))


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def message_of(order: dict[str, Any]) -> dict[str, Any]:
    """The members of an order's JSON under the names and in the types of its typed data."""
    hexed = ("owner", "container_id", "policy_digest", "features_digest", "node")
    flat = {name: raw(value) if name in hexed else value for name, value in (order | order["terms"]).items()}
    flat["features"] = b64(order["features"])
    flat["frequency"] = PERPETUAL if order["frequency"] is None else order["frequency"]
    named = {camel(name): value for name, value in flat.items() if name not in ("terms", "signature")}
    return {"nonce": order["nonce"], "expiry": order["expiry"], "sub": named | {"terms": named}}


def domain_of(domain: dict[str, Any]) -> dict[str, Any]:
    contract = raw(domain["verifying_contract"])
    return {"name": b"GrailCoordinator", "version": b"1", "chainId": domain["chain_id"], "verifyingContract": contract}


def digest_of(domain: dict[str, Any], order: dict[str, Any]) -> bytes:
    parts = hash_of("EIP712Domain", domain_of(domain)) + hash_of("DelegateSubscription", message_of(order))
    return bytes(keccak(b"\x19\x01" + parts))


def test_keccak() -> None:
    for case in TYPED["keccak256"]:
        assert keccak(raw(case["data"])).hex() == case["hash"]
    assert {len(case["data"]) // 2 % 136 for case in TYPED["keccak256"]} >= {0, 1, 135}, "the padding's edges"


def test_types_are_the_orders_to_the_letter() -> None:
    for case in TYPED["types"].values():
        assert keccak(case["type"].encode()).hex() == case["hash"]
    assert TYPED["types"]["DelegateSubscription"]["type"] == (
        "DelegateSubscription(uint32 nonce,uint32 expiry,Subscription sub)"
        "Subscription(bytes32 owner,bytes32 containerId,bytes features,uint256 frequency,uint32 period,uint16 redundancy,"
        "uint32 activeAt,uint64 maxGasPrice,uint32 maxGasLimit,Terms terms)"
        "Terms(uint16 agreement,uint8 draw,uint8 choices,uint32 answerSeconds,bytes32 policyDigest,bytes32 featuresDigest,"
        "bytes32 node,bool hidden)"
    )


def test_orders() -> None:
    for case in TYPED["orders"]:
        message = message_of(case["order"])
        assert hash_of("EIP712Domain", domain_of(case["domain"])).hex() == case["domain_separator"]
        assert hash_of("Terms", message["sub"]["terms"]).hex() == case["terms_hash"]
        assert hash_of("Subscription", message["sub"]).hex() == case["subscription_hash"]
        assert hash_of("DelegateSubscription", message).hex() == case["delegate_hash"]
        assert digest_of(case["domain"], case["order"]).hex() == case["digest"]
        ours = Domain(case["domain"]["chain_id"], raw(case["domain"]["verifying_contract"]))
        assert order_digest(ours, read_order(Node(case["order"]))).hex() == case["digest"]
    frequencies = {case["order"]["frequency"] for case in TYPED["orders"]}
    assert frequencies >= {None, 1}
    assert {case["order"]["terms"]["hidden"] for case in TYPED["orders"]} == {True, False}
    assert max(len(b64(case["order"]["features"])) for case in TYPED["orders"]) > 5 * 136


def test_policies_have_the_digest_that_orders_name() -> None:
    case = TYPED["policy"]
    assert hashlib.sha256(canonical_json(case["policy"])).hexdigest() == case["digest"]
    named = [order["order"]["terms"]["policy_digest"] for order in TYPED["orders"]]
    assert named.count(case["digest"]) == len(named) - 1


def test_who_signed() -> None:
    for case in TYPED["signatures"]["cases"]:
        network, account, digest, signature = (raw(case[name]) for name in ("network_id", "account", "digest", "signature"))
        assert is_signed_by(network, account, digest, signature) is case["valid"], case["about"]
        assert tagged_hash(network, "grail/infer/command", digest).hex() == case["hotkeys_sign"]
        assert by_rule(account, digest, raw(case["hotkeys_sign"]), signature) is case["valid"], case["about"]
    assert sum(case["valid"] for case in TYPED["signatures"]["cases"]) == 3


def by_rule(account: bytes, digest: bytes, for_hotkeys: bytes, signature: bytes) -> bool:
    """Section 4's rule, with the wallet library."""
    if account[:12] != bytes(12) or account == bytes(32):
        return len(signature) == 64 and verify(account, for_hotkeys, signature)
    if len(signature) != 65 or signature[64] not in (27, 28):
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if s > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0:
        return False
    try:
        key = WalletSignature(vrs=(signature[64] - 27, r, s)).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError):
        return False
    return bytes(account[12:]) == key.to_canonical_address()


def test_a_wallet_makes_the_published_signature_of_the_published_order() -> None:
    case = TYPED["orders"][0]
    parsed = message_of(case["order"])
    names = ("Terms", "Subscription", "DelegateSubscription", "EIP712Domain")
    message = encode_typed_data(
        full_message={
            "types": {name: members_of(TYPED["types"][name]["type"]) for name in names},
            "primaryType": "DelegateSubscription",
            "domain": {
                "name": "GrailCoordinator",
                "version": "1",
                "chainId": case["domain"]["chain_id"],
                "verifyingContract": "0x" + case["domain"]["verifying_contract"],
            },
            "message": parsed,
        }
    )
    signed = TYPED["signatures"]["cases"][0]
    assert signed["digest"] == case["digest"]
    recovered = Account.recover_message(message, signature=raw(signed["signature"]))
    assert recovered.lower() == "0x" + TYPED["signatures"]["address"]
    assert signed["account"] == "00" * 12 + TYPED["signatures"]["address"]


def members_of(text: str) -> list[dict[str, str]]:
    first = text[text.index("(") + 1 : text.index(")")]
    return [dict(zip(("type", "name"), member.split(" "), strict=True)) for member in first.split(",")]


# Seeds.


def test_features() -> None:
    cases = vectors("seeds")["features"]
    for case in cases["canonical"]:
        body = raw(case["bytes"])
        assert canonical_json(json.loads(body)) == body
        assert tagged_hash(raw(case["network_id"]), "grail/infer/features", raw(case["salt"]), body).hex() == case["digest"]
        assert Features.from_bytes(body).to_bytes() == body
    for text in cases["refused"]:
        with pytest.raises(ValueError, match=r"^\$features"):
            Features.from_bytes(text.encode())


def test_direct_domains() -> None:
    for case in vectors("seeds")["direct_domains"]:
        contract = tagged_hash(raw(case["network_id"]), "grail/infer/coordinator", raw(case["node"]))[:20]
        assert case["domain"] == {"chain_id": 1, "verifying_contract": contract.hex()}


def test_requests() -> None:
    for case in vectors("seeds")["requests"]:
        parts = (raw(case["order_digest"]), case["interval"], raw(case["features_digest"]))
        assert tagged_hash(raw(case["network_id"]), "grail/infer/request", *parts).hex() == case["request_digest"]


def test_draws() -> None:
    cases = vectors("seeds")["draws"]
    for case in cases:
        network, drawn, node = raw(case["network_id"]), raw(case["draw_seed"]), raw(case["node"])
        parts = [raw(case[name]) for name in ("request_digest", "model_digest", "N", "R")]
        assert tagged_hash(network, "grail/infer/draw", *parts) == drawn
        assert case["N"] == ("00" * 32 if case["draw"].startswith("agreement") else case["node"])
        assert (case["R"] == "00" * 32) == (case["draw"] in ("client", "agreement by the order alone"))
        for choice, seed in case["sampling_seeds"].items():
            assert sampling_seed(network, drawn, int(choice)) == seed
        assert tagged_hash(network, "grail/infer/sketch", drawn, node).hex() == case["sketch_seed"]
        for j, signs in enumerate(case["sketch_signs_13"]):
            bits = Randomness(network).sketch_bits(raw(case["sketch_seed"]), j, 13)
            assert "".join("+" if bit > 0 else "-" for bit in bits) == signs
    assert len(cases) == 4


def sampling_seed(network: bytes, drawn: bytes, choice: int) -> str:
    stream = tagged_stream(network, "grail/infer/sample", drawn, choice, length=8)
    return str(int.from_bytes(bytes([stream[0] & 0x7F]) + stream[1:], "big"))


# Answers.


def test_models() -> None:
    for case in vectors("answers")["models"]:
        assert tagged_hash(raw(case["network_id"]), "grail/infer/model", canonical_json(case["model"])).hex() == case["digest"]


def test_live_containers() -> None:
    for case in vectors("answers")["live"]:
        assert tagged_hash(raw(case["network_id"]), "grail/infer/live").hex() == case["container_id"]
    live = [good["receipt"]["order"]["container_id"] != good["model_digest"] for good in RECEIPTS["good"]]
    assert live == [False, False, True, False]


def answer_parts(case: dict[str, Any]) -> list[bytes | str]:
    parts = [raw(case[name]) for name in ("request_digest", "draw_seed", "model_digest", "node", "salt")]
    found: list[bytes | str] = [*parts, case["proof_class"], case["generation_class"], int32(case["prompt"])]
    for choice in case["choices"]:
        found += [int32(choice["completion"]), raw(choice["sketches"]), raw(choice["logprobs"] or "")]
    return found


def test_answers() -> None:
    for case in vectors("answers")["answers"]:
        network = raw(case["network_id"])
        assert tagged_hash(network, "grail/infer/answer", *answer_parts(case)).hex() == case["answer_digest"]
        completions = [int32(choice["completion"]) for choice in case["choices"]]
        of_tokens = tagged_hash(network, "grail/infer/tokens", raw(case["request_digest"]), raw(case["salt"]), *completions)
        assert of_tokens.hex() == case["tokens_digest"]
        for choice in case["choices"]:
            assert len(raw(choice["sketches"])) == 8 * (min(32, len(case["prompt"])) + len(choice["completion"]))
    assert {choice["logprobs"] is None for case in vectors("answers")["answers"] for choice in case["choices"]} == {True, False}


def test_gas() -> None:
    document = vectors("answers")
    for case in document["gas"]:
        assert case["gas"] == 64 + case["prompt"] + 8 * sum(case["completions"])
    for case in document["tokens_for_gas"]:
        assert case["tokens"] == (case["max_gas_limit"] - 64 - case["prompt"]) // (8 * case["choices"])


def test_stop_texts() -> None:
    """The rule in other words: the earliest place where one ends, and the token that brings it."""
    cases = vectors("stops")
    for case in cases:
        tokens = [raw(token) for token in case["tokens"]]
        texts = [b"".join(tokens[:count]).decode("utf-8", "replace") for count in range(len(tokens) + 1)]
        first = next((k for k, text in enumerate(texts) if any(stop in text for stop in case["stop"])), None)
        assert case["right_lengths"] == ([] if first is None else [first])
        whole = texts[-1]
        assert whole.startswith(case["handed_out"])
        assert not any(stop in case["handed_out"] for stop in case["stop"])
        rest = whole[len(case["handed_out"]) :]
        assert not rest or any(rest.startswith(stop) for stop in case["stop"])
    assert {len(case["right_lengths"]) for case in cases} == {0, 1}


# Receipts.

RECEIPTS = vectors("receipts")
NETWORK = raw(RECEIPTS["network"]["network_id"])
PARAMETERS = NetworkParameters.from_json(Node(RECEIPTS["network"]["parameters"]))


def changed(case: dict[str, Any]) -> bytes:
    """A good receipt with one member put or, without `put`, left out."""
    document = copy.deepcopy(RECEIPTS["good"][case["receipt"]]["receipt"])
    *way, last = case["at"]
    place = document
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if "put" in case:
        place[last] = case["put"]
    else:
        del place[last]
    return json.dumps(document).encode()


@pytest.mark.parametrize("good", RECEIPTS["good"])
def test_everything_follows_from_a_receipts_json(good: dict[str, Any]) -> None:
    receipt = good["receipt"]
    answer, node, salt = receipt["answer"], raw(receipt["node"]["hotkey"]), raw(receipt["features"]["salt"])
    ordered = digest_of(receipt["domain"], receipt["order"])
    features = tagged_hash(NETWORK, "grail/infer/features", salt, b64(receipt["features"]["body"]))
    asked = tagged_hash(NETWORK, "grail/infer/request", ordered, receipt["interval"], features)
    served = {name: value for name, value in receipt["model"].items() if name not in ("checkpoint", "name")}
    model = tagged_hash(NETWORK, "grail/infer/model", canonical_json(served))
    seed_round = receipt["seed_round"]
    randomness = bytes(32) if seed_round is None else hashlib.sha256(raw(seed_round["signature"])).digest()
    drawn = tagged_hash(NETWORK, "grail/infer/draw", asked, model, node, randomness)
    parts = [b64(choice[name] or "") for choice in answer["choices"] for name in ("completion", "sketches", "logprobs")]
    head = (asked, drawn, model, node, salt, answer["proof_class"], answer["generation_class"], b64(answer["prompt"]))
    digest = tagged_hash(NETWORK, "grail/infer/answer", *head, *parts)
    assert good["order_digest"] == ordered.hex()
    assert good["policy_digest"] == hashlib.sha256(canonical_json(receipt["policy"])).hexdigest()
    assert good["policy_digest"] == receipt["order"]["terms"]["policy_digest"]
    assert good["features_digest"] == features.hex()
    assert good["request_digest"] == asked.hex()
    assert good["model_digest"] == model.hex()
    assert raw(receipt["order"]["container_id"]) in (model, tagged_hash(NETWORK, "grail/infer/live"))
    assert good["draw_seed"] == drawn.hex()
    assert good["sampling_seeds"] == [sampling_seed(NETWORK, drawn, c) for c in range(len(answer["choices"]))]
    assert good["sketch_seed"] == tagged_hash(NETWORK, "grail/infer/sketch", drawn, node).hex()
    assert good["answer_digest"] == digest.hex()
    assert good["tokens_digest"] == tagged_hash(NETWORK, "grail/infer/tokens", asked, salt, *parts[::3]).hex()
    assert verify(node, digest, raw(receipt["node"]["signature"]))
    assert receipt["domain"]["verifying_contract"] == tagged_hash(NETWORK, "grail/infer/coordinator", node)[:20].hex()


def test_the_orders_signature_and_the_beacons_are_of_those_who_should_have_made_them() -> None:
    receipt = RECEIPTS["good"][1]["receipt"]
    signed = tagged_hash(NETWORK, "grail/infer/command", raw(RECEIPTS["good"][1]["order_digest"]))
    assert verify(raw(receipt["order"]["owner"]), signed, raw(receipt["order"]["signature"]))
    for one in (receipt["seed_round"], receipt["challenge_round"]):
        assert bls.is_valid(PARAMETERS.beacon.public_key, one["round"], raw(one["signature"]))
    assert RECEIPTS["good"][0]["receipt"]["order"]["signature"] is None


def test_good_receipts_are_read_and_written_and_pass_all_that_needs_no_model() -> None:
    assert PARAMETERS.network_id(raw(RECEIPTS["network"]["genesis_hash"])) == NETWORK
    for good in RECEIPTS["good"]:
        written = canonical_json(good["receipt"])
        assert Receipt.from_bytes(written).to_bytes() == written
        genesis = raw(RECEIPTS["network"]["genesis_hash"])
        findings = check_receipt(written, seed=bytes(32), network=PARAMETERS, genesis=genesis).findings
        assert {finding.check: finding.outcome.value for finding in findings} == good["findings"]
        assert Outcome.REJECT.value not in good["findings"].values()


@pytest.mark.parametrize("case", [*RECEIPTS["bad"], *RECEIPTS["missing"]], ids=lambda case: ".".join(case["at"]))
def test_bad_receipts_are_refused_with_the_path(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        Receipt.from_bytes(changed(case))
    assert str(caught.value).startswith(f"{case['refused']}: ")


@pytest.mark.parametrize("case", RECEIPTS["wrong"], ids=lambda case: ".".join(case["at"]))
def test_wrong_receipts_are_rejected_by_the_check(case: dict[str, Any]) -> None:
    report = check_receipt(changed(case), seed=bytes(32), network=PARAMETERS)  # whatever its chain is
    assert report.outcome is Outcome.REJECT
    assert report.decisive is not None
    assert report.decisive.check == case["rejected_by"] is not None


def test_what_is_under_no_signature_changes_no_digest() -> None:
    for case in RECEIPTS["free"]:
        receipt = Receipt.from_bytes(changed(case))
        assert receipt.answer_digest(receipt.seeds(NETWORK)).hex() == RECEIPTS["good"][case["receipt"]]["answer_digest"]
        assert case["rejected_by"] is None


def test_every_check_that_needs_no_model_rejects_some_wrong_receipt() -> None:
    assert {case["rejected_by"] for case in RECEIPTS["wrong"]} == {"receipt", "order", "node", "beacon", "model", "gas"}


def test_sketches_and_logprobs_are_little_endian_arrays() -> None:
    choice = RECEIPTS["good"][1]["receipt"]["answer"]["choices"][0]
    assert np.frombuffer(b64(choice["completion"]), "<i4").tolist() == [5, 6, 7, 8, 9, 10]
    assert np.frombuffer(b64(choice["logprobs"]), "<f4").tolist() == [-0.25, -1.5, 0.0, -3.0, -0.0625, -20.0]
    assert len(b64(choice["sketches"])) == 8 * (32 + 6)
