"""From an order to a signed receipt: what is to be drawn, what is to be proved of it, and what is refused before either.

No HTTP, no waiting and no model here: what draws and proves is told by requests, and hands back tokens and proofs. A node of a
network's live checkpoints answers each order with the one that it was admitted with, whatever the network serves by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from grail_core.checkpoints.served_model import ServedFolder
from grail_core.errors import ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.inference.answers import Answer, Choice, live_container_id
from grail_core.inference.constants import gas_of
from grail_core.inference.features import NO_SALT, Features, features_digest
from grail_core.inference.orders import NOBODY, Draw, Order, invalid_field, is_unsigned_form, length_limit, unsigned_order
from grail_core.inference.receipts import Receipt, ServedCheckpoint
from grail_core.inference.seeds import RequestSeeds, seeds_of
from grail_core.inference.signatures import NoWalletLibraryError, is_signed_by
from grail_core.inference.typed_data import Domain, direct_domain, order_digest
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.constants import MAX_PROMPT_TOKENS
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature
from grail_miner.serving.live_models import LiveModels
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
class Served:
    """A model that a node answers with. `checkpoint`: which of its network's it is, None for a folder of the operator's."""

    folder: ServedFolder
    checkpoint: ServedCheckpoint | None = None


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
    served: Served  # what answers it, whatever is served by then

    model_digest: Digest  # of it

    @property
    def choices(self) -> int:
        return self.order.subscription.terms.choices


class Answering:
    """One node, one model, or the checkpoints of one network.

    Args:
        folder: the operator's, or those of the network as they become valid.
        name: where others find it; it proves nothing.
        software: versions, for people who read receipts.
        require_drawable: raises ProtocolViolationError where what draws cannot take a prompt of so many tokens with a policy.

    Attributes:
        proof_class, generation_class: numerics classes of what proves and of what draws; known once it is loaded.
    """

    def __init__(
        self,
        folder: ServedFolder | LiveModels,
        network: ServedNetwork,
        signer: Signer,
        *,
        name: str = "",
        software: Mapping[str, str] | None = None,
        require_drawable: Callable[[int, GenerationPolicy], None] = lambda prompt, policy: None,
    ) -> None:
        self.network = network
        self.domain: Domain = direct_domain(network.id, signer.hotkey)
        self.live_id: Digest | None = live_container_id(network.id) if isinstance(folder, LiveModels) else None
        self.name = name
        self._source = folder
        self._signer = signer
        self._software = dict(software or {})
        self._require_drawable = require_drawable
        self.proof_class = self.generation_class = ""

    @property
    def served(self) -> tuple[Served, ...]:
        """What orders may name at this moment, the model of orders that nobody signed first."""
        if isinstance(self._source, LiveModels):
            return tuple(Served(model.folder, model.checkpoint) for model in self._source.held())
        return (Served(self._source),)

    @property
    def container_id(self) -> Digest:
        """Of the model that answers now."""
        return self.served[0].folder.model.digest(self.network.id)

    @property
    def offered(self) -> list[tuple[Digest, Served | None]]:
        """All that an order may name: whatever the network serves (None), where one is followed, and models by their digest."""
        models: list[tuple[Digest, Served | None]] = [(one.folder.model.digest(self.network.id), one) for one in self.served]
        return models if self.live_id is None else [(self.live_id, None), *models]

    @property
    def to_hold(self) -> list[ModelToHold]:
        """What has to be loaded for the orders of this moment, the model of orders that nobody signed first."""
        return [self.holding(one.folder) for one in self.served]

    def holding(self, folder: ServedFolder) -> ModelToHold:
        """What has to be loaded before anything is drawn with this folder."""
        return ModelToHold(
            container_id=folder.model.digest(self.network.id),
            folder=folder.folder.absolute(),  # whoever loads it may be in another folder
            weights_root=folder.model.weights_root,
            end_tokens=frozenset(folder.model.end_token_ids),
            policy=folder.policy,
            vocabulary_size=folder.model.vocabulary_size,
            context_length=folder.model.context_length,
        )

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
        if wrong is None and order.signature is None and order.subscription.container_id == self.live_id:
            wrong = "signature: an order that nobody signed names the model that answers, not whatever the network serves"
        if wrong is not None:
            raise RefusedOrderError("invalid_order", wrong, wrong.partition(":")[0])
        sub, terms = order.subscription, order.subscription.terms
        served = self._required_ours(order, now_s)
        body = sub.features or features or b""
        if not sub.features and features_digest(self.network.id, salt, body) != terms.features_digest:
            raise RefusedOrderError("features_mismatch", "the features do not have the digest that the order names")
        try:
            asked = Features.from_bytes(body)
        except ValueError as error:
            raise RefusedOrderError("invalid_features", str(error)) from error
        prompt = _rendered(served.folder, asked)
        context = served.folder.model.context_length
        limit = length_limit(order, policy, context, len(prompt))
        if limit < 1:
            what = f"a prompt of {len(prompt)} tokens leaves no room in a context of {context}"
            raise RefusedOrderError("context_length_exceeded", f"{what}, or none for its gas")
        self._require_drawn_here(len(prompt), replace(policy, max_tokens=limit))
        salt = NO_SALT if sub.features else salt
        model_digest = served.folder.model.digest(self.network.id)
        seeds = seeds_of(
            self.network.id,
            domain=self.domain,
            order=order,
            interval=1,
            salt=salt,
            features=body,
            model_digest=model_digest,
            node=self._signer.hotkey,
        )
        return AdmittedOrder(order, policy, salt, body, asked, prompt, limit, seeds, logprobs, served, model_digest)

    def requests(self, one: AdmittedOrder) -> list[GenerationRequest]:
        """What is to be drawn, of each choice."""
        policy = replace(one.policy, max_tokens=one.limit)
        return [GenerationRequest(one.prompt, one.seeds.sampling(choice), policy) for choice in range(one.choices)]

    def proof_job(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]]) -> ToProve:
        """What is to be proved of these completions, one for each choice, in one pass."""
        return ToProve(
            container_id=one.model_digest,
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
        answer = Answer(one.prompt, choices, self.proof_class, self.generation_class)
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
                model=one.served.folder.model,
                gas_used=gas_of(len(one.prompt), answer.lengths),
                answer=answer,
                node=self._signer.hotkey,
                signature=NO_SIGNATURE,
                checkpoint=one.served.checkpoint,
                model_name=self.name,
                software=self._software,
            ),
        )

    def sign(self, receipt: Receipt) -> Receipt:
        """The same under this node's key."""
        return replace(receipt, signature=self._signer.sign(receipt.answer_digest(receipt.seeds(self.network.id))))

    def _require_drawn_here(self, prompt: int, policy: GenerationPolicy) -> None:
        try:
            self._require_drawable(prompt, policy)
        except ProtocolViolationError as error:
            field = "policy" if policy.repetition_penalty == 1 else "repetition_penalty"
            raise RefusedOrderError("engine_cannot_draw", error.what, field) from error

    def _required_ours(self, order: Order, now_s: int) -> Served:
        """The model that the order asks for."""
        sub, terms = order.subscription, order.subscription.terms
        held = self.served
        asked = (one for one in held if one.folder.model.digest(self.network.id) == sub.container_id)
        served = held[0] if sub.container_id == self.live_id else next(asked, None)
        if served is None:
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
        if order.signature is not None:
            self._require_signed(order, order.signature)
        return served

    def _require_signed(self, order: Order, signature: bytes) -> None:
        sub = order.subscription
        if sub.owner == NOBODY:
            raise RefusedOrderError("signer_mismatch", "a signed order has an owner", "owner")
        try:
            signed = is_signed_by(self.network.id, sub.owner, order_digest(self.domain, order), signature)
        except NoWalletLibraryError:
            raise RefusedOrderError(
                "wallets_not_supported", "this node cannot recover the signers of wallets", "signature"
            ) from None
        if not signed:
            what = "the signature is not the owner's, over this order, for this node of this network"
            raise RefusedOrderError("signer_mismatch", what, "signature")


def _rendered(folder: ServedFolder, asked: Features) -> tuple[int, ...]:
    renderer = folder.renderer
    try:
        prompt = renderer.render(asked.messages) if asked.messages is not None else renderer.encode(str(asked.prompt))
    except ProtocolViolationError as error:
        raise RefusedOrderError("prompt_refused", error.what) from error
    if not 0 < len(prompt) <= MAX_PROMPT_TOKENS:
        what = f"the prompt has {len(prompt)} tokens, from 1 to {MAX_PROMPT_TOKENS} are served"
        raise RefusedOrderError("context_length_exceeded", what)
    if max(prompt) >= folder.model.vocabulary_size:
        what = "the tokenizer makes a token of it that the model does not know"
        raise RefusedOrderError("prompt_refused", what)
    return prompt
