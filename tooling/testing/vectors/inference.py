"""Vectors of inference on request, under tests/vectors/inference: typed data and who signed it, seeds, answers.

A wallet's signatures are the same each time they are made (RFC 6979); a hotkey's are not, and were made once
(`tooling.testing.plain_receipts`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from grail_core.environment import Message
from grail_core.inference.answers import (
    Answer,
    Choice,
    ServedModel,
    answer_digest,
    live_container_id,
    sketched_positions,
    tokens_digest,
)
from grail_core.inference.constants import PERPETUAL, gas_of, tokens_for_gas
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.keccak import keccak256
from grail_core.inference.orders import NOBODY, Draw, Order, Subscription, Terms, order_policy_digest
from grail_core.inference.receipts import order_json
from grail_core.inference.seeds import NO_RANDOMNESS, RequestSeeds, draw_seed, request_digest
from grail_core.inference.signatures import account_of, command_message, is_signed_by
from grail_core.inference.typed_data import (
    DELEGATE_TYPE,
    DOMAIN_TYPE,
    SUBSCRIPTION_TYPE,
    TERMS_TYPE,
    Domain,
    delegate_hash,
    direct_domain,
    domain_separator,
    order_digest,
    subscription_hash,
    terms_hash,
)
from grail_core.protocol.policy import GenerationPolicy, policy_json
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Digest, Hotkey
from tooling.testing.plain_receipts import NETWORK_ID, OWNER, ordered_receipt
from tooling.testing.vectors.source import Source
from tooling.testing.wallets import ACCOUNT, ADDRESS, wallet_signature

POLICY = GenerationPolicy(256, 0.7, 0.95, 40, 1.05)
_SECP256K1 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


# Section 4: typed data and signatures.


def typed_data(source: Source) -> Json:
    lengths = (0, 1, 31, 32, 135, 136, 137, 271, 272, 500)
    orders = _orders(source)
    return {
        "keccak256": [{"data": (data := source.bytes(n)).hex(), "hash": keccak256(data).hex()} for n in lengths],
        "types": _types(),
        "policy": {"policy": policy_json(POLICY), "digest": order_policy_digest(POLICY).hex()},
        "orders": [_hashed(about, domain, order) for about, domain, order in orders],
        "signatures": _signatures(source, *orders[0][1:]),
    }


def _types() -> Json:
    referred = {"Terms": TERMS_TYPE, "Subscription": SUBSCRIPTION_TYPE + TERMS_TYPE, "EIP712Domain": DOMAIN_TYPE}
    types = {**referred, "DelegateSubscription": DELEGATE_TYPE + SUBSCRIPTION_TYPE + TERMS_TYPE}
    return {name: {"type": text, "hash": keccak256(text.encode()).hex()} for name, text in types.items()}


def _orders(source: Source) -> list[tuple[str, Domain, Order]]:
    coordinator = Domain(1, source.bytes(20))
    contract = Domain(31_337, source.bytes(20))
    node = Hotkey(source.bytes())
    once = _order(source, ACCOUNT, node=node)
    long = Features(messages=(Message("user", "…" * 500),)).to_bytes()
    pulled = _order(source, ACCOUNT, features=b"", of_terms={"agreement": 2}, frequency=PERPETUAL, period=60, redundancy=3)
    hidden = {"features_digest": source.bytes(), "hidden": True}
    return [
        ("one interval of a wallet's, features inside", coordinator, once),
        ("without end, features pulled, two of three agree", contract, dataclasses.replace(pulled, expiry=2**32 - 1)),
        ("features of several blocks, another contract", contract, _order(source, ACCOUNT, features=long, active_at=7)),
        ("hidden, of a hotkey", coordinator, _order(source, OWNER.hotkey, features=b"", of_terms=hidden)),
        ("direct, a draw from the order alone", direct_domain(source.bytes(), node), dataclasses.replace(once, nonce=1)),
        ("the greatest that both the types and JSON hold", Domain(2**53 - 1, b"\xff" * 20), _greatest()),
    ]


def _order(source: Source, owner: bytes, *, node: bytes = NOBODY, of_terms: dict[str, Any] | None = None, **of: Any) -> Order:
    """An order of one interval with its features inside, but for what is named."""
    terms = Terms(
        agreement=0,
        draw=Draw.CLIENT if any(node) else Draw.BEACON,
        choices=1,
        answer_seconds=120,
        policy_digest=order_policy_digest(POLICY),
        features_digest=NOBODY,
        node=node,
        hidden=False,
    )
    subscription = Subscription(
        owner=owner,
        container_id=source.bytes(),
        features=Features(prompt="is 7 prime?").to_bytes(),
        frequency=1,
        period=0,
        redundancy=1,
        active_at=0,
        max_gas_price=1 + source.below(1_000),
        max_gas_limit=65 + source.below(100_000),
        terms=dataclasses.replace(terms, **of_terms or {}),
    )
    return Order(dataclasses.replace(subscription, **of), source.below(2**32), 1_800_000_000, None)


def _greatest() -> Order:
    """No order that is served: what both the types and JSON hold."""
    full, widest = b"\xff" * 32, 2**32 - 1
    terms = Terms(2**16 - 1, Draw.BEACON, 255, widest, full, full, full, hidden=True)
    sub = Subscription(full, full, b"\xff", 2**256 - 1, widest, 2**16 - 1, widest, 2**53 - 1, widest, terms)
    return Order(sub, widest, widest, None)


def _hashed(about: str, domain: Domain, order: Order) -> Json:
    return {
        "about": about,
        "domain": _domain(domain),
        "order": order_json(order),
        "domain_separator": domain_separator(domain).hex(),
        "terms_hash": terms_hash(order.subscription.terms).hex(),
        "subscription_hash": subscription_hash(order.subscription).hex(),
        "delegate_hash": delegate_hash(order).hex(),
        "digest": order_digest(domain, order).hex(),
    }


def _domain(domain: Domain) -> Json:
    return {"chain_id": domain.chain_id, "verifying_contract": domain.verifying_contract.hex()}


def _signatures(source: Source, domain: Domain, order: Order) -> Json:
    """Over the first order by a wallet, over that of the second receipt by a hotkey."""
    network, digest, wallet = source.bytes(), order_digest(domain, order), wallet_signature(domain, order)
    receipt = ordered_receipt()
    ordered, hotkey = order_digest(receipt.domain, receipt.order), receipt.order.signature or b""
    r, s, v = int.from_bytes(wallet[:32], "big"), int.from_bytes(wallet[32:64], "big"), wallet[64]
    cases = [
        ("a wallet's", network, ACCOUNT, digest, wallet),
        ("a wallet's, the same for every network: the domain tells them apart", source.bytes(), ACCOUNT, digest, wallet),
        ("its high-s twin", network, ACCOUNT, digest, _rsv(r, _SECP256K1 - s, 55 - v)),
        ("high s with the low one's v", network, ACCOUNT, digest, _rsv(r, _SECP256K1 - s, v)),
        ("the other v", network, ACCOUNT, digest, _rsv(r, s, 55 - v)),
        ("v from 0", network, ACCOUNT, digest, _rsv(r, s, v - 27)),
        ("v of a chain", network, ACCOUNT, digest, _rsv(r, s, v + 10)),
        ("r = 0", network, ACCOUNT, digest, _rsv(0, s, v)),
        ("s = 0", network, ACCOUNT, digest, _rsv(r, 0, v)),
        ("r of the group's order", network, ACCOUNT, digest, _rsv(_SECP256K1, s, v)),
        ("without v", network, ACCOUNT, digest, wallet[:64]),
        ("a byte more", network, ACCOUNT, digest, wallet + b"\x00"),
        ("nothing", network, ACCOUNT, digest, b""),
        ("another digest", network, ACCOUNT, source.bytes(), wallet),
        ("another account", network, account_of(source.bytes(20)), digest, wallet),
        ("a wallet's for a hotkey", network, OWNER.hotkey, digest, wallet),
        ("a hotkey's", NETWORK_ID, OWNER.hotkey, ordered, hotkey),
        ("a hotkey's, of another network", network, OWNER.hotkey, ordered, hotkey),
        ("a hotkey's, over another digest", NETWORK_ID, OWNER.hotkey, digest, hotkey),
        ("a hotkey's for an address", NETWORK_ID, ACCOUNT, ordered, hotkey),
        ("a hotkey's for twelve zero bytes and its last twenty", NETWORK_ID, account_of(OWNER.hotkey[12:]), ordered, hotkey),
        ("anybody's, for the account of nobody", network, NOBODY, digest, bytes(63) + b"\x80"),
        ("a wallet's for the account of nobody", network, NOBODY, digest, wallet),
    ]
    return {
        "address": ADDRESS.hex(),
        "cases": [
            {
                "about": about,
                "network_id": network_id.hex(),
                "account": account.hex(),
                "digest": signed.hex(),
                "hotkeys_sign": command_message(network_id, signed).hex(),
                "signature": signature.hex(),
                "valid": is_signed_by(network_id, account, signed, signature),
            }
            for about, network_id, account, signed, signature in cases
        ],
    }


def _rsv(r: int, s: int, v: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


# Sections 4 and 7: features and seeds.


def seeds(source: Source) -> Json:
    network = source.bytes()
    nodes = [Hotkey(source.bytes()) for _ in range(2)]
    return {
        "features": _features(source),
        "direct_domains": [
            {"network_id": network.hex(), "node": node.hex(), "domain": _domain(direct_domain(network, node))} for node in nodes
        ],
        "requests": [
            {
                "network_id": (network := source.bytes()).hex(),
                "order_digest": (order := source.bytes()).hex(),
                "interval": interval,
                "features_digest": (features := source.bytes()).hex(),
                "request_digest": request_digest(network, order, interval, features).hex(),
            }
            for interval in (1, 2, 2**53 - 1)
        ],
        "draws": [_drawn(source, kind) for kind in ("client", "beacon", "agreement", "agreement by the order alone")],
    }


def _features(source: Source) -> Json:
    question = (Message("system", ""), Message("user", 'a\n"\\/é\u2028😀\x7f\x01'), Message("assistant", "<|im_end|>"))
    good = [
        Features(prompt="is 7 prime?"),
        Features(messages=question),
        Features(prompt=" ", seed=0, user="u" * 256),
        Features(messages=question[1:2], seed=-(2**53) + 1),
    ]
    stopped = [
        Features(prompt="a", stop=("\n",)),
        Features(messages=question[1:2], seed=0, user="b", stop=('"é', "x" * 64, " ", "😀")),
    ]
    own = Source("stop texts")  # of their own: what follows keeps its bytes
    refused = [
        "{}",
        '{"prompt":""}',
        '{"messages":[]}',
        '{"messages":[{"content":"a","role":"user"}],"prompt":"a"}',
        '{"messages":[{"content":"a","role":"tool"}]}',
        '{"messages":[{"content":"a","name":"b","role":"user"}]}',
        '{"messages":[{"role":"user","content":"a"}]}',
        '{"prompt": "a"}',
        '{"prompt":"\\u0061"}',
        '{"prompt":"\\ud800"}',
        '{"prompt":"a","prompt":"a"}',
        '{"prompt":"a","seed":1.0}',
        '{"prompt":"a","seed":9007199254740992}',
        '{"prompt":"a","seed":null}',
        '{"prompt":"a","temperature":"1"}',
        '{"prompt":"a","url":"http://localhost/"}',
        '{"prompt":"a","user":""}',
        '["a"]',
        '{"prompt":"a","stop":[]}',
        '{"prompt":"a","stop":"a"}',
        '{"prompt":"a","stop":[""]}',
        '{"prompt":"a","stop":["a","a"]}',
        '{"prompt":"a","stop":["a","b","c","d","e"]}',
        f'{{"prompt":"a","stop":["{"a" * 65}"]}}',
        '{"prompt":"a","stop":["\ufffd"]}',
        '{"prompt":"a","stop":["\\ud800"]}',
    ]
    alone = [_canonical(features, source, salted=index > 0) for index, features in enumerate(good)]
    return {
        "canonical": [*alone, *(_canonical(features, own, salted=True) for features in stopped)],
        "refused": list[Json](refused),
    }


def _canonical(features: Features, source: Source, *, salted: bool) -> Json:
    body, network = features.to_bytes(), source.bytes()
    salt = source.bytes() if salted else NO_SALT
    return {
        "bytes": body.hex(),
        "network_id": network.hex(),
        "salt": salt.hex(),
        "digest": features_digest(network, salt, body).hex(),
    }


def _drawn(source: Source, kind: str) -> Json:
    """N is zero with agreement, R without a beacon; the sketches' seed has the node in it always."""
    network, asked, model, node = source.bytes(), Digest(source.bytes()), source.bytes(), Hotkey(source.bytes())
    alike, by_beacon = kind.startswith("agreement"), kind in ("beacon", "agreement")
    n, r = NOBODY if alike else node, source.bytes() if by_beacon else NO_RANDOMNESS
    of_request = RequestSeeds(network, asked, draw_seed(network, asked, model, n, r), node)
    signs = [Randomness(network).sketch_bits(of_request.sketch, j, 13) for j in range(4)]
    return {
        "draw": kind,
        "network_id": network.hex(),
        "request_digest": asked.hex(),
        "model_digest": model.hex(),
        "node": node.hex(),
        "N": n.hex(),
        "R": r.hex(),
        "draw_seed": of_request.draw_seed.hex(),
        "sampling_seeds": {str(choice): str(of_request.sampling(choice)) for choice in (0, 1, 15)},
        "sketch_seed": of_request.sketch.hex(),
        "sketch_signs_13": ["".join("+" if bit > 0 else "-" for bit in row) for row in signs],
    }


# Section 8: models and answers; section 3: gas.


def answers(source: Source) -> Json:
    shapes = (((5,), False), ((1, 3, 2), True), ((40,), True))
    gas = ((1, [1]), (100, [50, 7]), (4_096, [8_192] * 16))
    limits = ((65, 1, 1), (73, 1, 1), (1_000, 100, 3), (2**32 - 1, 4_096, 16), (100, 90, 1))
    return {
        "models": [
            {"network_id": (network := source.bytes()).hex(), "model": model.to_json(), "digest": model.digest(network).hex()}
            for model in (_model(source, "none", (2,)), _model(source, "native", (0, 7, 151_645)))
        ],
        "live": [
            {"network_id": network.hex(), "container_id": live_container_id(network).hex()}
            for network in (bytes(32), NETWORK_ID)
        ],
        "answers": [_answered(source, lengths, claimed) for lengths, claimed in shapes],
        "gas": [{"prompt": p, "completions": list[Json](lengths), "gas": gas_of(p, lengths)} for p, lengths in gas],
        "tokens_for_gas": [
            {"max_gas_limit": limit, "prompt": prompt, "choices": choices, "tokens": tokens_for_gas(limit, prompt, choices)}
            for limit, prompt, choices in limits
        ],
    }


def _model(source: Source, thinking: str, ends: tuple[int, ...]) -> ServedModel:
    config, weights, tokenizer, template = (Digest(source.bytes()) for _ in range(4))
    return ServedModel("Qwen2ForCausalLM", config, weights, tokenizer, template, thinking, ends, 32_768, 151_936)


def _answered(source: Source, lengths: tuple[int, ...], claimed: bool) -> Json:
    network, asked, drawn, model, salt = (source.bytes() for _ in range(5))
    node, prompt = Hotkey(source.bytes()), tuple(source.below(151_936) for _ in range(34))
    choices = tuple(
        Choice(
            completion=tuple(source.below(151_936) for _ in range(length)),
            sketches=source.bytes(8 * sketched_positions(len(prompt), length)),
            logprobs=source.bytes(4 * length) if claimed and index != 1 else None,
        )
        for index, length in enumerate(lengths)
    )
    answer = Answer(prompt, choices, "bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers")
    return {
        "network_id": network.hex(),
        "request_digest": asked.hex(),
        "draw_seed": drawn.hex(),
        "model_digest": model.hex(),
        "node": node.hex(),
        "salt": salt.hex(),
        "proof_class": answer.proof_class,
        "generation_class": answer.generation_class,
        "prompt": list[Json](prompt),
        "choices": [
            {
                "completion": list[Json](choice.completion),
                "sketches": choice.sketches.hex(),
                "logprobs": None if choice.logprobs is None else choice.logprobs.hex(),
            }
            for choice in choices
        ],
        "answer_digest": answer_digest(network, asked, drawn, model, node, salt, answer).hex(),
        "tokens_digest": tokens_digest(network, asked, salt, answer).hex(),
    }
