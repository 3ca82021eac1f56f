"""Three receipts that hold in all that needs no model: form, signatures, beacon, lengths, gas. Their tokens and sketches are
nobody's.

`unsigned_receipt` is of a request without an order, `stopped_receipt` of one with stop texts, `ordered_receipt` of an order
that a hotkey signed, with hidden features, a draw by a published round of drand's quicknet, and two choices, `live_receipt` of
a signed order for whatever checkpoint the network serves. Signatures are different each time they are made (sr25519 draws at
random); these were made once. Who changes what is signed makes them anew: `python -m tooling.testing.plain_receipts`.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from grail_core.environment import Message
from grail_core.inference.answers import Answer, Choice, ServedModel, live_container_id, sketched_positions
from grail_core.inference.constants import MAX_ANSWER_SECONDS, gas_of
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.orders import Draw, Order, Subscription, Terms, order_policy_digest, unsigned_order
from grail_core.inference.receipts import Receipt, ServedCheckpoint
from grail_core.inference.signatures import command_message
from grail_core.inference.typed_data import direct_domain, order_digest
from grail_core.keys import LocalSigner
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.network import QUICKNET, SUBNET_81, CalibrationLimits
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Signature
from tooling.testing.keys import ALICE, BOB
from tooling.testing.vectors.source import Source

NODE, OWNER = ALICE, BOB

NETWORK = dataclasses.replace(
    SUBNET_81,
    name="plain",
    beacon=QUICKNET,
    proof_classes=(DEFAULT_CLASS,),
    generation_classes=(DEFAULT_CLASS,),
    validator_classes=(DEFAULT_CLASS,),
    calibration_limits=CalibrationLimits(*[1000] * len(dataclasses.fields(CalibrationLimits))),
)
"""A network of its own: what is tuned of the named ones changes no signature here."""

GENESIS = bytes(range(32))
NETWORK_ID = NETWORK.network_id(GENESIS)
END = 2

ROUND_123 = SignedRound(
    123,
    bytes.fromhex("b75c69d0b72a5d906e854e808ba7e2accb1542ac355ae486d591aa9d43765482e26cd02df835d3546d23c4b13e0dfc92"),
)
ROUND_1000 = SignedRound(
    1000,
    bytes.fromhex("b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"),
)

_UNSIGNED_NODE = bytes.fromhex(
    "0af219ffea8c7ddedab920e4f0c2fbcf00128698c85d7b6a80e5624f313d1542"
    "a84874ae394b874d728d0071b4efd53aa56d27529d0f89863da30d6f2242a28a"
)
_STOPPED_NODE = bytes.fromhex(
    "b4a6334e50a944b1f7ecdd083ee5f8db2a16eb9e8019f4bfe86d34f8ad26e176"
    "1c6894dcfe985ae96f9e70b63f3a941bb8cc039d5801a576bd8566512c34b487"
)
_ORDERED_OWNER = bytes.fromhex(
    "54d70f478966c65e8dd320da53e129b435acd55b9594bd0d8a052fbe5388eb1e"
    "74f9b01ee58581f603c001f6df65f17cea26638708958ee945ff2855b6b6158d"
)
_ORDERED_NODE = bytes.fromhex(
    "e6e3919e524d26580054e60ef2941aa8160e872e84a363048611545ce962ca58"
    "fadafd41fee2e4425905470345212fb164c198eb2cdf07f2fc1652cef07bd28c"
)

_LIVE_OWNER = bytes.fromhex(
    "723b34cef9916b07a970010978de522ed0d350a740a249097c2ebb2281605d37"
    "5b94103b3962d9feccceea8cb4636c3353dfc773bc0226801cfb4e010cc44388"
)
_LIVE_NODE = bytes.fromhex(
    "ae38b1381ecf9f576d30499698c818776a141d0b033c99ccd33defa2bb092b7c"
    "6854089c0ff8ef32fa2bf0f028d911f3806a1be78615161a7ff403e860e2e489"
)


def unsigned_receipt() -> Receipt:
    """The answer to a request that nobody signed: a conversation of two messages, 5 + 4 tokens."""
    messages = (Message("system", "Be brief."), Message("user", "Ist 7 prim? é∑\n😀"))
    asked = Features(messages=messages, seed=-7, user="somebody")
    return _unsigned(Source("plain receipts, unsigned"), asked, (44, 0, 99, END), _UNSIGNED_NODE)


def stopped_receipt() -> Receipt:
    """The answer to a request with stop texts: it ends at no end token and before the limit."""
    asked = Features(prompt="Count: 1, 2,", seed=3, stop=("\n", " 7"))
    return _unsigned(Source("plain receipts, stopped"), asked, (11, 12, 13), _STOPPED_NODE)


def _unsigned(source: Source, asked: Features, completion: tuple[int, ...], signature: bytes) -> Receipt:
    model, policy = _model(source), GenerationPolicy(16, 0.7, 0.95)
    features = asked.to_bytes()
    order = unsigned_order(
        container_id=model.digest(NETWORK_ID), node=NODE.hotkey, features=features, policy=policy, choices=1, nonce=0
    )
    answer = Answer((1, 90, 17, 17, 3), (_choice(source, 5, completion),), DEFAULT_CLASS, DEFAULT_CLASS)
    return Receipt(
        network=NETWORK.name,
        genesis_hash=GENESIS,
        domain=direct_domain(NETWORK_ID, NODE.hotkey),
        order=order,
        policy=policy,
        salt=NO_SALT,
        features=features,
        interval=1,
        model=model,
        gas_used=gas_of(5, [len(completion)]),
        answer=answer,
        node=NODE.hotkey,
        signature=Signature(signature),
        model_name="models/plain",
        software={"grail-core": "0.1.0", "torch": "2.13.0"},
    )


def ordered_receipt() -> Receipt:
    """The answer to the third interval of a signed order: two choices, one to the limit and with its log-probabilities."""
    source = Source("plain receipts, ordered")
    model, policy = _model(source), GenerationPolicy(6, 1.0, 1.0, 50, 1.1)
    features, salt = Features(prompt="Two and two is <|im_end|>").to_bytes(), source.bytes()
    domain = direct_domain(NETWORK_ID, NODE.hotkey)
    order = hidden_order(model.digest(NETWORK_ID), policy, features_digest(NETWORK_ID, salt, features))
    prompt = tuple(source.below(100) for _ in range(40))
    logprobs = np.array([-0.25, -1.5, 0.0, -3.0, -0.0625, -20.0], dtype="<f4").tobytes()
    choices = (_choice(source, 40, (5, 6, 7, 8, 9, 10), logprobs), _choice(source, 40, (END,)))
    return Receipt(
        network=NETWORK.name,
        genesis_hash=GENESIS,
        domain=domain,
        order=dataclasses.replace(order, signature=_ORDERED_OWNER),
        policy=policy,
        salt=salt,
        features=features,
        interval=3,
        model=model,
        gas_used=gas_of(40, [6, 1]),
        answer=Answer(prompt, choices, DEFAULT_CLASS, DEFAULT_CLASS),
        node=NODE.hotkey,
        signature=Signature(_ORDERED_NODE),
        checkpoint=ServedCheckpoint(Digest(source.bytes()), 41, 5_000_010),
        seed_round=ROUND_123,
        challenge_round=ROUND_1000,
    )


def live_receipt() -> Receipt:
    """The answer to a signed order of one interval that names no model: the network's checkpoint 7 answered."""
    source = Source("plain receipts, live")
    model, policy = _model(source), GenerationPolicy(8)
    features = Features(prompt="Whatever it serves").to_bytes()
    order = unsigned_order(
        container_id=live_container_id(NETWORK_ID), node=NODE.hotkey, features=features, policy=policy, choices=1, nonce=3
    )
    owned = dataclasses.replace(order.subscription, owner=OWNER.hotkey)
    answer = Answer((5, 6, 7), (_choice(source, 3, (9, END)),), DEFAULT_CLASS, DEFAULT_CLASS)
    return Receipt(
        network=NETWORK.name,
        genesis_hash=GENESIS,
        domain=direct_domain(NETWORK_ID, NODE.hotkey),
        order=dataclasses.replace(order, subscription=owned, signature=_LIVE_OWNER),
        policy=policy,
        salt=NO_SALT,
        features=features,
        interval=1,
        model=model,
        gas_used=gas_of(3, [2]),
        answer=answer,
        node=NODE.hotkey,
        signature=Signature(_LIVE_NODE),
        checkpoint=ServedCheckpoint(Digest(source.bytes()), 7, 5_000_040),
    )


def hidden_order(container_id: bytes, policy: GenerationPolicy, digest: bytes, owner: bytes = OWNER.hotkey) -> Order:
    """Five intervals of an hour, of two choices, by NODE; nobody signed it yet."""
    terms = Terms(
        agreement=0,
        draw=Draw.BEACON,
        choices=2,
        answer_seconds=MAX_ANSWER_SECONDS,
        policy_digest=order_policy_digest(policy),
        features_digest=digest,
        node=NODE.hotkey,
        hidden=True,
    )
    subscription = Subscription(
        owner=owner,
        container_id=container_id,
        features=b"",
        frequency=5,
        period=3_600,
        redundancy=1,
        active_at=1_790_000_000,
        max_gas_price=3,
        max_gas_limit=5_000,
        terms=terms,
    )
    return Order(subscription, nonce=12, expiry=1_800_000_000, signature=None)


def by_node(receipt: Receipt, node: LocalSigner = NODE) -> Receipt:
    """The receipt under a signature of its node, whatever it says."""
    digest = receipt.answer_digest(receipt.seeds(NETWORK_ID))
    return dataclasses.replace(receipt, signature=node.sign(digest))


def by_owner(receipt: Receipt, owner: LocalSigner = OWNER) -> Receipt:
    """The receipt with its order signed by a hotkey; the node signs it after that."""
    message = command_message(NETWORK_ID, order_digest(receipt.domain, receipt.order))
    return dataclasses.replace(receipt, order=dataclasses.replace(receipt.order, signature=owner.sign(message)))


def _model(source: Source) -> ServedModel:
    return ServedModel(
        architecture="Qwen2ForCausalLM",
        config_digest=Digest(source.bytes()),
        weights_root=Digest(source.bytes()),
        tokenizer_digest=Digest(source.bytes()),
        chat_template_digest=Digest(source.bytes()),
        thinking_mode="none",
        end_token_ids=(END, 98),
        context_length=512,
        vocabulary_size=100,
    )


def _choice(source: Source, prompt: int, completion: tuple[int, ...], logprobs: bytes | None = None) -> Choice:
    words = [source.below(2**16 - 1) - (2**15 - 1) for _ in range(4 * sketched_positions(prompt, len(completion)))]
    return Choice(completion, np.array(words, dtype="<i2").tobytes(), logprobs)


def _print_new_signatures() -> None:
    ordered, live = by_node(by_owner(ordered_receipt())), by_node(by_owner(live_receipt()))
    for name, signature in (
        ("_UNSIGNED_NODE", by_node(unsigned_receipt()).signature),
        ("_STOPPED_NODE", by_node(stopped_receipt()).signature),
        ("_ORDERED_OWNER", ordered.order.signature or b""),
        ("_ORDERED_NODE", ordered.signature),
        ("_LIVE_OWNER", live.order.signature or b""),
        ("_LIVE_NODE", live.signature),
    ):
        text = signature.hex()
        sys.stdout.write(f'{name} = bytes.fromhex(\n    "{text[:64]}"\n    "{text[64:]}"\n)\n')


if __name__ == "__main__":
    _print_new_signatures()
