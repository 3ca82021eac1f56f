"""From an order to a signed receipt: what is to be drawn, what is to be proved of it, and what is refused before either.

No HTTP, no waiting and no model here: what draws and proves is told by requests, and hands back tokens and proofs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from grail_core.checkpoints.served_model import ServedFolder
from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.inference.answers import Answer, Choice
from grail_core.inference.constants import gas_of
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.orders import NOBODY, Draw, Order, invalid_field, is_unsigned_form, length_limit, unsigned_order
from grail_core.inference.receipts import Receipt
from grail_core.inference.seeds import RequestSeeds, seeds_of
from grail_core.inference.signatures import NoWalletLibraryError, is_signed_by
from grail_core.inference.typed_data import Domain, direct_domain, order_digest
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.constants import MAX_PROMPT_TOKENS
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature
from grail_miner.serving.models import ModelToHold, ToProve

NO_SIGNATURE = Signature(bytes(64))


class RefusedOrderError(Exception):
    """An order that this node does not answer. `code` is one word for programs, `field` what is wrong (or "")."""

    def __init__(self, code: str, what: str, field: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.field = code, what, field


@dataclass(frozen=True)
class ServedNetwork:
    """Whose network id is in every seed. Without a chain the genesis hash is zero."""

    params: NetworkParameters
    genesis_hash: bytes

    @cached_property
    def id(self) -> Digest:
        return self.params.network_id(self.genesis_hash)


@dataclass(frozen=True)
class AdmittedOrder:
    """An order that will be answered, and all that is known of the answer before the model runs."""

    order: Order
    policy: GenerationPolicy
    salt: bytes
    features: bytes
    asked: Features
    prompt: tuple[int, ...]
    limit: int  # tokens of a completion
    seeds: RequestSeeds
    logprobs: bool  # of the chosen tokens are claimed

    @property
    def choices(self) -> int:
        return self.order.subscription.terms.choices

    @property
    def container_id(self) -> bytes:
        """Of the model that answers."""
        return self.order.subscription.container_id


class Answering:
    """One node, one model.

    Args:
        folder: what is served. name: where others find it; it proves nothing.
        software: versions, for people who read receipts.

    Attributes:
        numerics_class: of whatever draws and proves; known once it is loaded.
    """

    def __init__(
        self,
        folder: ServedFolder,
        network: ServedNetwork,
        signer: Signer,
        *,
        name: str = "",
        software: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.network = network
        self.domain: Domain = direct_domain(network.id, signer.hotkey)
        self.container_id = folder.model.digest(network.id)
        self.numerics_class = ""
        self.name = name
        self._signer = signer
        self._software = dict(software or {})

    @property
    def node(self) -> Hotkey:
        """The key that signs, which orders name."""
        return self._signer.hotkey

    def unsigned(self, asked: Features, policy: GenerationPolicy, choices: int, nonce: int) -> Order:
        """The order of a request that came without one. Raises RefusedOrderError: features beyond their limit."""
        try:
            features = asked.to_bytes()
        except ValueError as error:
            raise RefusedOrderError("features_too_large", str(error)) from error
        return unsigned_order(
            container_id=self.container_id,
            node=self._signer.hotkey,
            features=features,
            policy=policy,
            choices=choices,
            nonce=nonce,
        )

    def admit(
        self,
        order: Order,
        policy: GenerationPolicy,
        *,
        salt: bytes = NO_SALT,
        features: bytes | None = None,
        now_s: int,
        logprobs: bool = False,
    ) -> AdmittedOrder:
        """Everything that a verifier would look at before it runs a model, looked at before we run ours.

        Args:
            features: of an order that does not hold them. now_s: Unix seconds, against the order's expiry.

        Raises:
            RefusedOrderError
        """
        wrong = invalid_field(order, policy)
        if wrong is None and order.signature is None and not is_unsigned_form(order, policy):
            wrong = "signature: an order that nobody signed is the one that its own content determines"
        if wrong is not None:
            raise RefusedOrderError("invalid_order", wrong, wrong.partition(":")[0])
        sub, terms = order.subscription, order.subscription.terms
        self._require_ours(order, now_s)
        body = sub.features or features or b""
        if not sub.features and features_digest(self.network.id, salt, body) != terms.features_digest:
            raise RefusedOrderError("features_mismatch", "the features do not have the digest that the order names")
        try:
            asked = Features.from_bytes(body)
        except ValueError as error:
            raise RefusedOrderError("invalid_features", str(error)) from error
        prompt = self._rendered(asked)
        limit = length_limit(order, policy, self.folder.model.context_length, len(prompt))
        if limit < 1:
            what = f"a prompt of {len(prompt)} tokens leaves no room in a context of {self.folder.model.context_length}"
            raise RefusedOrderError("context_length_exceeded", f"{what}, or none for its gas")
        salt = NO_SALT if sub.features else salt
        seeds = seeds_of(
            self.network.id,
            domain=self.domain,
            order=order,
            interval=1,
            salt=salt,
            features=body,
            model_digest=self.container_id,
            node=self._signer.hotkey,
        )
        return AdmittedOrder(order, policy, salt, body, asked, prompt, limit, seeds, logprobs)

    @property
    def to_hold(self) -> ModelToHold:
        """What has to be loaded before anything is drawn."""
        served = self.folder.model
        return ModelToHold(
            container_id=self.container_id,
            folder=self.folder.folder,
            weights_root=served.weights_root,
            end_tokens=frozenset(served.end_token_ids),
            policy=self.folder.policy,
        )

    def requests(self, one: AdmittedOrder) -> list[GenerationRequest]:
        """What is to be drawn, of each choice."""
        policy = replace(one.policy, max_tokens=one.limit)
        return [GenerationRequest(one.prompt, one.seeds.sampling(choice), policy) for choice in range(one.choices)]

    def proof_job(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]]) -> ToProve:
        """What is to be proved of these completions, one for each choice, in one pass."""
        return ToProve(
            container_id=one.container_id,
            network_id=self.network.id,
            sketch_seed=one.seeds.sketch,
            prompt=one.prompt,
            completions=tuple(completions),
            logprobs=one.logprobs,
        )

    def receipt(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]], proofs: Sequence[RolloutProof]) -> Receipt:
        """Signed."""
        choices = tuple(
            Choice(completion, proof.sketches, proof.logprobs.astype("<f4").tobytes() if one.logprobs else None)
            for completion, proof in zip(completions, proofs, strict=True)
        )
        answer = Answer(one.prompt, choices, self.numerics_class, self.numerics_class)
        return self.sign(
            Receipt(
                network=self.network.params.name,
                genesis_hash=self.network.genesis_hash,
                domain=self.domain,
                order=one.order,
                policy=one.policy,
                salt=one.salt,
                features=one.features,
                interval=1,
                model=self.folder.model,
                gas_used=gas_of(len(one.prompt), answer.lengths),
                answer=answer,
                node=self._signer.hotkey,
                signature=NO_SIGNATURE,
                model_name=self.name,
                software=self._software,
            ),
        )

    def sign(self, receipt: Receipt) -> Receipt:
        """The same under this node's key."""
        return replace(receipt, signature=self._signer.sign(receipt.answer_digest(receipt.seeds(self.network.id))))

    def _require_ours(self, order: Order, now_s: int) -> None:
        sub, terms = order.subscription, order.subscription.terms
        if sub.container_id != self.container_id:
            raise RefusedOrderError(
                "container_not_offered", "this node serves another model than the order names", "container_id"
            )
        if terms.draw is not Draw.CLIENT or sub.frequency != 1:
            raise RefusedOrderError(
                "coordinator_needed", "a node answers single orders whose draw follows from the order alone"
            )
        if terms.node != self._signer.hotkey:
            raise RefusedOrderError("not_for_this_node", "the order names another node", "terms.node")
        if now_s >= order.expiry:
            raise RefusedOrderError("signature_expired", f"the order expired at {order.expiry}", "expiry")
        if order.signature is None:
            return
        if sub.owner == NOBODY:
            raise RefusedOrderError("signer_mismatch", "a signed order has an owner", "owner")
        try:
            signed = is_signed_by(self.network.id, sub.owner, order_digest(self.domain, order), order.signature)
        except NoWalletLibraryError:
            raise RefusedOrderError(
                "wallets_not_supported", "this node cannot recover the signers of wallets", "signature"
            ) from None
        if not signed:
            what = "the signature is not the owner's, over this order, for this node of this network"
            raise RefusedOrderError("signer_mismatch", what, "signature")

    def _rendered(self, asked: Features) -> tuple[int, ...]:
        renderer = self.folder.renderer
        try:
            prompt = renderer.render(asked.messages) if asked.messages is not None else renderer.encode(str(asked.prompt))
        except ProtocolViolationError as error:
            raise RefusedOrderError("prompt_refused", error.what) from error
        if not 0 < len(prompt) <= MAX_PROMPT_TOKENS:
            what = f"the prompt has {len(prompt)} tokens, from 1 to {MAX_PROMPT_TOKENS} are served"
            raise RefusedOrderError("context_length_exceeded", what)
        if max(prompt) >= self.folder.model.vocabulary_size:
            what = "the tokenizer makes a token of it that the model does not know"
            raise RefusedOrderError("prompt_refused", what)
        return prompt
