"""The checks of a receipt, cheapest first, each with a finding; what they mean together; and what they leave open.

Four outcomes. Reject: the node lied, or ran another model or another draw altogether. Unproven: less than that, and still not
what was ordered, so nobody pays. Inconclusive: something is missing here (a model, a library, memory). Accept: else. A receipt
stands alone, so its positions are drawn by whoever checks it (`seed`), after the node had committed to all of them. torch and
tokenizers are not imported here: whoever has no model checks everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from grail_core.beacon import bls
from grail_core.errors import MachineFaultError, ProtocolViolationError
from grail_core.inference.answers import ServedModel, live_container_id
from grail_core.inference.constants import RECEIPT_POSITIONS, gas_of
from grail_core.inference.features import Features
from grail_core.inference.orders import Draw
from grail_core.inference.receipts import LaterReceiptError, Receipt
from grail_core.inference.seeds import RequestSeeds
from grail_core.model.answer_texts import answer_text, ended_by
from grail_core.proof.errors import MalformedSketchError
from grail_core.proof.numerics import NUMERICS_CLASSES
from grail_core.proof.reader_table import ReaderTable
from grail_core.proof.receipt_bounds import ReceiptStatistics, ReceiptTable
from grail_core.proof.sketches import parse_sketches
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.network import NETWORKS, NetworkParameters
from grail_core.protocol.rollouts.noise import challenged_positions
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.receipt_bounds import JudgedBy, MeasuredAnswer, judging, measured_findings
from grail_core.verification.receipt_checkpoint import check_checkpoint
from grail_core.verification.receipt_order import check_order
from grail_core.verification.receipt_termination import check_termination
from grail_core.verification.wording import accept, reject, say

if TYPE_CHECKING:
    from grail_core.model.prompts import PromptRenderer

_BY_MODEL: Final = ("proof", "logprob", "sampling")
CHECKS: Final = (
    *("receipt", "order", "node", "beacon", "journal", "model", "prompt", "termination", "gas"),
    *_BY_MODEL,
)
"""In this order; the first that rejects ends them."""

REQUIREMENTS: Final = ("order", "coordinator", "calibrated")
"""What a reader may ask for beyond the checks: an order that its owner signed, a coordinator's word for the times, and numerics
classes that the finer bounds are enforced for."""
REQUIRE: Final = "require"
"""The check's name in findings about them."""

NO_CHAIN: Final = bytes(32)
"""The genesis hash of a node that belongs to no chain."""

_NO_RECEIPT_SHOWS: Final = (
    "what no single receipt shows: 8-bit weights, a checkpoint a few steps away, a token that was nearly drawn in the place of "
    "the one that was"
)
_COARSE_ALONE: Final = (
    "the finer bounds: the numerics classes that the node names are not calibrated for a model of this shape. Below the coarse "
    "bounds it can have run 4-bit weights or a nearby checkpoint, and chosen up to three tokens in ten, the last among them. "
    "`grail receipts calibrate` measures bounds of your own"
)
_DRAW_OF_THE_ORDER: Final = (
    "The draw follows from the order and the node's key alone. Whoever wrote the order, or could take another key, could try "
    "draws: nobody could where you sent a seed, and knew the key, the network and the thinking mode before."
)
_WHICH_CHECKPOINT: Final = (
    "The order takes whatever checkpoint its network serves: that this one was valid when it was asked is the node's word, and "
    "each of the network's checkpoints gives another draw."
)
_KEY_NOT_ASKED: Final = "Whether the node's key is a registered participant's was not asked: that is on the chain."

_WORST: Final = (Outcome.REJECT, Outcome.UNPROVEN, Outcome.INCONCLUSIVE)

Measure = Callable[[Receipt, RequestSeeds, Sequence[Sequence[int]]], MeasuredAnswer]
"""(receipt, its seeds, positions of every choice) → measurements, by a model of the receipt's weights."""


@dataclass(frozen=True)
class ModelAtHand:
    """The folder that a receipt is held against, and how an answer is measured with it. Raises MachineFaultError there."""

    where: str  # the folder, for messages
    model: ServedModel  # what the folder holds
    renderer: PromptRenderer  # of the folder
    measure: Measure
    table: ReceiptTable  # of the finer bounds
    manifest: bytes | None = None  # what the folder has as grail-manifest.json, as it lies there
    own: ReaderTable | None = None  # the reader's own table, which comes first where it holds


@dataclass(frozen=True)
class ReceiptReport:
    """What the checks say, and what they rest on."""

    findings: tuple[Finding, ...]
    receipt: Receipt | None = None
    answer_digest: Digest | None = None
    texts: tuple[str, ...] | None = None  # of the choices, up to a stop text; None without a tokenizer of theirs
    ended_by: tuple[str, ...] | None = None  # each choice: "end token", "stop text" or "limit"; None like the texts
    not_enforced: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    network_id: Digest | None = None  # that every digest and seed of it is under
    calibrated: bool | None = None  # whether the finer bounds were enforced; None where nothing was measured
    judged_by: JudgedBy | None = None  # whose they were; None where none were enforced
    checkpoint_checked: bool = False  # the checkpoint that it names is the network's own, by the trainer's signature

    @property
    def outcome(self) -> Outcome:
        said = {finding.outcome for finding in self.findings}
        return next((one for one in _WORST if one in said), Outcome.ACCEPT)

    @property
    def decisive(self) -> Finding | None:
        """The first finding of the outcome; None where all is accepted."""
        outcome = self.outcome
        return None if outcome is Outcome.ACCEPT else next(one for one in self.findings if one.outcome is outcome)


def check_receipt(
    raw: bytes,
    *,
    seed: bytes,
    network: NetworkParameters | None = None,
    genesis: bytes | None = None,
    model: ModelAtHand | None = None,
    positions: int | None = RECEIPT_POSITIONS,
    require: Sequence[str] = (),
    node: Hotkey | None = None,
    owner: bytes | None = None,
) -> ReceiptReport:
    """Every check that can be made here.

    Args:
        raw: as the node or somebody else gave it.
        seed: 32 bytes that the node could not know when it answered: one's own random bytes.
        network: whose receipt it must be; None: any network's, of which those on a chain need their parameters.
        genesis: the hash of the chain's first block, which the receipt's must be. Every seed has it in it, and it is the node
            that wrote it: without one, only a checkpoint that the network's trainer signed under it shows which it is.
        model: without one, nothing that needs a model or tokenizer is checked.
        positions: of a choice whose draws are looked at; None: all.
        require: some of REQUIREMENTS; unmet ones are unproven.
        node: whose answer it must be; None: anybody's.
        owner: the account, 32 bytes, whose signed order it must be; None: anybody's, or nobody's.
    """
    try:
        receipt = Receipt.from_bytes(raw)
        claims = [parse_sketches(choice.sketches, len(choice.sketches) // 8) for choice in receipt.answer.choices]
    except LaterReceiptError as error:
        return ReceiptReport((say(Outcome.INCONCLUSIVE, "receipt", detail=str(error)),))
    except (ValueError, MalformedSketchError) as error:
        return ReceiptReport((reject("receipt", detail=f"no receipt: {error}"),))
    if network is not None and network.name != receipt.network:
        detail = f"it is of the network {receipt.network!r}, not of {network.name!r}"
        return ReceiptReport((reject("receipt", detail=detail),), receipt)
    if node is not None and receipt.node != node:
        return ReceiptReport((reject("node", detail=_another_node(receipt)),), receipt)
    if genesis is not None and receipt.genesis_hash != genesis:
        detail = f"it is of the chain {receipt.genesis_hash.hex()}, not of {genesis.hex()}"
        return ReceiptReport((reject("receipt", detail=detail),), receipt)
    # Without a chain there is no trainer and no deployment either: the parameters are those of the name.
    params = NETWORKS.get(receipt.network) if receipt.genesis_hash == NO_CHAIN else network
    if params is None:
        detail = f"the parameters of its network, {receipt.network!r}, are needed: they are part of every seed"
        unseen = [
            say(Outcome.UNPROVEN, REQUIRE, value=name, detail=f"required: {name}, which was not looked at") for name in require
        ]
        return ReceiptReport((say(Outcome.INCONCLUSIVE, "receipt", detail=detail), *unseen), receipt)
    case = _Case(receipt, claims, params, model, seed, positions, node, owner)
    findings = list(_until_reject(case.findings()))
    if not any(finding.outcome is Outcome.REJECT for finding in findings):
        findings += case.chain(genesis)
        findings += case.required(require)
        if owner is not None:
            findings.append(case.required_owner(owner))
    return ReceiptReport(
        findings=tuple(findings),
        receipt=receipt,
        answer_digest=case.answer_digest,
        texts=case.texts(),
        ended_by=case.ended_by(),
        not_enforced=case.not_enforced(),
        trust=case.trust(),
        network_id=case.network_id,
        calibrated=case.calibrated,
        judged_by=case.judged_by,
        checkpoint_checked=case.checkpoint is not None and case.checkpoint.outcome is Outcome.ACCEPT,
    )


def _another_node(receipt: Receipt) -> str:
    return f"it is of node {receipt.node.hex()}, not of the one that was asked for"


def _until_reject(findings: Iterator[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield finding
        if finding.outcome is Outcome.REJECT:
            return


class _Case:
    """One receipt, read, under its network."""

    def __init__(
        self,
        receipt: Receipt,
        claims: Sequence[np.ndarray],
        params: NetworkParameters,
        model: ModelAtHand | None,
        seed: bytes,
        positions: int | None,
        node: Hotkey | None,
        owner: bytes | None,
    ) -> None:
        self.receipt = receipt
        self.claims = claims
        self.params = params
        self.network_id = params.network_id(receipt.genesis_hash)
        self.seed = seed
        self.positions = positions
        self.node = node
        self.owner = owner
        self.given = model
        self.model: ModelAtHand | None = None  # once its digests were found to be the receipt's
        self.checkpoint: Finding | None = None  # what its manifest says of the checkpoint that the receipt names, if any
        self.answer_digest: Digest | None = None
        self.seeds: RequestSeeds | None = None
        self.features: Features | None = None
        self.order: Finding | None = None
        self.bounds: list[ReceiptStatistics] | None = None  # the finer ones, where they are enforced
        self.judged_by: JudgedBy | None = None
        self.looked_at: list[list[int]] | None = None  # of each choice, once it was measured

    def findings(self) -> Iterator[Finding]:
        choices = len(self.receipt.answer.choices)
        yield accept("receipt", value=choices, detail=f"well formed, of network {self.params.name}, {choices} choices")
        self.order = order = check_order(self.receipt, self.network_id, self.owner)
        yield order
        if order.outcome is Outcome.REJECT:
            return
        self.features = Features.from_bytes(self.receipt.features)
        self.seeds = self.receipt.seeds(self.network_id)
        self.answer_digest = self.receipt.answer_digest(self.seeds)
        yield self._node()
        yield self._beacon()
        yield accept("journal", detail="answered directly: no coordinator took part, and nothing was paid through one")
        yield self._model()
        yield self._prompt()
        yield check_termination(self.receipt, self.features, None if self.model is None else self.model.renderer)
        yield self._gas()
        yield from self._measured(self.seeds, self.answer_digest)

    # What needs the receipt alone.

    def _node(self) -> Finding:
        answer = self.receipt.answer
        for role, name in (("proof", answer.proof_class), ("generation", answer.generation_class)):
            if name not in NUMERICS_CLASSES:
                return reject("node", value=name, detail=f"no numerics class of this release, as {role} class")
        assert self.answer_digest is not None
        if self.node is not None and self.node != self.receipt.node:
            return reject("node", detail=_another_node(self.receipt))
        if not verify(self.receipt.node, self.answer_digest, self.receipt.signature):
            return reject("node", detail=f"the signature over the answer is not that of node {self.receipt.node.hex()}")
        return accept("node", detail=f"the answer is signed by node {self.receipt.node.hex()}")

    def _beacon(self) -> Finding:
        draw = self.receipt.order.subscription.terms.draw
        rounds = {"seed_round": self.receipt.seed_round, "challenge_round": self.receipt.challenge_round}
        if (draw is Draw.BEACON) != (rounds["seed_round"] is not None):
            named = "a beacon round" if draw is Draw.BEACON else "the order alone"
            return reject("beacon", detail=f"the order asks for a draw by {named}, and the receipt is of the other kind")
        for name, one in rounds.items():
            if one is not None and not bls.is_valid(self.params.beacon.public_key, one.round, one.signature):
                return reject("beacon", value=one.round, detail=f"{name}: not a signature of this network's beacon")
        if draw is Draw.BEACON:
            detail = "the round is the beacon's; that nobody knew it when the order was taken, only a coordinator could say"
            return say(Outcome.INCONCLUSIVE, "beacon", detail=detail)
        return accept("beacon", detail="the draw follows from the order alone; no round took part")

    def _gas(self) -> Finding:
        receipt = self.receipt
        expected = gas_of(len(receipt.answer.prompt), receipt.answer.lengths)
        limit = receipt.order.subscription.max_gas_limit
        if receipt.gas_used != expected:
            return reject("gas", value=receipt.gas_used, threshold=expected, detail="not the gas of these tokens")
        if expected > limit:
            return reject("gas", value=expected, threshold=limit, detail="more gas than was ordered")
        return accept("gas", value=expected, threshold=limit, detail="64 + prompt + 8 · completions")

    # What needs the folder.

    def _model(self) -> Finding:
        receipt = self.receipt
        wrong = self._wrong_container()
        if wrong is not None:
            return reject("model", detail=wrong)
        if self.given is None:
            return say(Outcome.INCONCLUSIVE, "model", detail=f"no folder of the model of the receipt{self._where_to_look()}")
        served, claimed = self.given.model, receipt.model
        for name in served.__dataclass_fields__:
            mine, theirs = getattr(served, name), getattr(claimed, name)
            if mine != theirs:
                shown = [value.hex() if isinstance(value, bytes) else str(value) for value in (theirs, mine)]
                which = f"{self.given.where} is not the model of the receipt{self._where_to_look()}; is it the right folder?"
                return reject("model", detail=f"{which} {name} is {shown[1]:.80}, of the receipt {shown[0]:.80}")
        said = f"{self.given.where} is the model of the receipt, weights and all"
        if receipt.checkpoint is not None:
            trainer = None if receipt.genesis_hash == NO_CHAIN else self.params.trainer_hotkey
            self.checkpoint = check_checkpoint(receipt, receipt.checkpoint, self.given.manifest, trainer, self.network_id)
            if self.checkpoint.outcome is Outcome.REJECT:
                return self.checkpoint
            said = f"{self.checkpoint.detail}; {said}"
        self.model = self.given
        if self._is_live and self.checkpoint is not None:  # nothing else says that this model is the one that was ordered
            return say(self.checkpoint.outcome, "model", detail=said)
        return accept("model", detail=said)

    def _wrong_container(self) -> str | None:
        """Why the order's container is not what answered, as far as the receipt alone says it."""
        receipt = self.receipt
        if not self._is_live:
            named = receipt.order.subscription.container_id == receipt.model.digest(self.network_id)
            return None if named else "the order names another container than the model that answered"
        if receipt.genesis_hash == NO_CHAIN:
            return "the order takes whatever its network serves, and the node belongs to none"
        return "the order takes whatever its network serves, and no checkpoint is named" if receipt.checkpoint is None else None

    @property
    def _is_live(self) -> bool:
        return self.receipt.order.subscription.container_id == live_container_id(self.network_id)

    def _where_to_look(self) -> str:
        name = self.receipt.model_name
        return f", which calls its model {name!r:.200}" if name else ""

    def _prompt(self) -> Finding:
        if self.model is None or self.features is None:
            return _without_model("prompt")
        renderer = self.model.renderer
        try:
            if self.features.messages is not None:
                rendered = renderer.render(self.features.messages)
            else:
                rendered = renderer.encode(str(self.features.prompt))
        except ProtocolViolationError as error:
            return reject("prompt", detail=f"the model's tokenizer or template refuses what was asked: {error.what}")
        claimed = self.receipt.answer.prompt
        if rendered != claimed:
            same = next((i for i, (a, b) in enumerate(zip(rendered, claimed, strict=False)) if a != b), None)
            where = f"they differ at token {same}" if same is not None else f"{len(rendered)} tokens are expected"
            return reject("prompt", value=len(claimed), detail=f"not what was asked, rendered for this model: {where}")
        return accept("prompt", value=len(claimed), detail="what was asked, rendered anew")

    def _measured(self, seeds: RequestSeeds, answer_digest: Digest) -> Iterator[Finding]:
        if self.model is None:
            yield from map(_without_model, _BY_MODEL)
            return
        looked_at = [self._looked_at(index, answer_digest) for index in range(len(self.claims))]
        try:
            measured = self.model.measure(self.receipt, seeds, looked_at)
            self.looked_at = looked_at
        except MachineFaultError as error:
            for check in _BY_MODEL:
                yield say(Outcome.INCONCLUSIVE, check, detail=f"this machine could not measure it: {error.what}")
            return
        self.bounds, self.judged_by = judging(self.receipt, measured, self.model.own, self.model.table)
        yield from measured_findings(self.receipt, self.claims, measured, self.bounds)

    def _looked_at(self, choice: int, answer_digest: Digest) -> list[int]:
        length = len(self.receipt.answer.choices[choice].completion)
        if self.positions is None or length <= self.positions:
            return list(range(length))
        return challenged_positions(self.seed, answer_digest + choice.to_bytes(8, "big"), length, self.positions)

    # What it all rests on.

    def chain(self, genesis: bytes | None) -> list[Finding]:
        """What is said of a genesis hash that nobody vouches for but the node, which could have tried some."""
        signed = self.checkpoint is not None and self.checkpoint.outcome is Outcome.ACCEPT
        if self.receipt.genesis_hash == NO_CHAIN or genesis is not None or signed:
            return []
        detail = (
            f"that {self.receipt.genesis_hash.hex()[:16]}… is its chain's first block is the node's word, and every draw hangs "
            "on it: name it (--genesis), or hold the receipt against a checkpoint that the trainer signed"
        )
        return [say(Outcome.INCONCLUSIVE, "receipt", detail=detail)]

    def required(self, require: Sequence[str]) -> list[Finding]:
        met: Mapping[str, tuple[bool, str]] = {
            "order": (self.receipt.order.signature is not None, "the order is signed by its owner"),
            "coordinator": (False, "a coordinator recorded claim and delivery"),
            "calibrated": (
                self.bounds is not None,
                f"the bounds of single receipts are enforced for these classes{self._by_your_table}",
            ),
        }
        return [
            say(Outcome.ACCEPT if met[name][0] else Outcome.UNPROVEN, REQUIRE, value=name, detail=f"required: {met[name][1]}")
            for name in require
        ]

    def required_owner(self, owner: bytes) -> Finding:
        """Of an order that does not reject: it is his, or nobody's; or his if the signature could be looked at."""
        order = self.order if self.receipt.order.signature is not None else None
        outcome = Outcome.UNPROVEN if order is None else order.outcome
        return say(outcome, REQUIRE, value="owner", detail=f"required: the order is signed by {owner.hex()}")

    @property
    def _by_your_table(self) -> str:
        by = self.judged_by
        return f", by your own table {by.file}" if by is not None and by.file is not None else ""

    def texts(self) -> tuple[str, ...] | None:
        return self._of_each_choice(answer_text)

    def ended_by(self) -> tuple[str, ...] | None:
        return self._of_each_choice(ended_by)

    def _of_each_choice(
        self, said: Callable[[PromptRenderer, ServedModel, Features, tuple[int, ...]], str]
    ) -> tuple[str, ...] | None:
        if self.model is None or self.features is None:
            return None
        renderer, model = self.model.renderer, self.receipt.model
        return tuple(said(renderer, model, self.features, choice.completion) for choice in self.receipt.answer.choices)

    @property
    def calibrated(self) -> bool | None:
        return None if self.looked_at is None else self.bounds is not None

    def not_enforced(self) -> tuple[str, ...]:
        """What a receipt that passed could still be; the figures are in docs/inference.md. What was not measured at all the
        findings say."""
        said = []
        if self.checkpoint is not None and self.checkpoint.outcome is not Outcome.ACCEPT:
            said.append(self.checkpoint.detail or "")
        if self.looked_at is None:
            return tuple(said)
        said.append(_NO_RECEIPT_SHOWS if self.calibrated else _COARSE_ALONE)
        own = self.model.own if self.model is not None else None
        if own is not None and (self.judged_by is None or self.judged_by.file is None):
            said.append(
                f"your table {own.name}: it has no bounds for this model and the numerics classes of receipt and verifier"
            )
        tokens, looked_at = sum(self.receipt.answer.lengths), sum(map(len, self.looked_at))
        if looked_at < tokens:
            said.append(f"the draws of {tokens - looked_at} of {tokens} tokens: they were not looked at this time")
        return tuple(said)

    def trust(self) -> tuple[str, ...]:
        receipt = self.receipt
        said = []
        if receipt.order.signature is None:
            said.append(
                "Nobody signed the order: whoever shows this receipt could have asked many times and shows the answer it likes."
            )
        if receipt.order.subscription.terms.draw is Draw.CLIENT:
            said.append(_DRAW_OF_THE_ORDER)
        if self._is_live:
            said.append(_WHICH_CHECKPOINT)
        by = self.judged_by
        if by is not None and by.file is not None:
            table = f"your own table {by.file} ({by.version}, SHA-256 {by.digest.hex()})"
            said.append(f"The finer bounds are those of {table}: what honest receipts differ by is its maker's word.")
        if receipt.genesis_hash == NO_CHAIN:
            said.append("No chain stands behind the node's key: it is a key, not a registered participant.")
        else:
            said.append(_KEY_NOT_ASKED)
        said.append("When it was answered is not proved, and neither is that the text is true or was seen by nobody else.")
        return tuple(said)


def _without_model(check: str) -> Finding:
    return say(Outcome.INCONCLUSIVE, check, detail="it needs the model")
