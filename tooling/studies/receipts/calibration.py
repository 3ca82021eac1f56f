"""The largest values that honest choices have, per pair of numerics classes and length: the table of `proof.receipt_bounds`.

Tokens are drawn by the generator with its cache, and proved in two of the ways that a node may compute (`provers.SAME_DTYPE`:
both kinds of attention, alone, in batches, padded, from the cache), each way in its turn; a verifier measures by one prefill
pass of either attention. A node and a verifier on one machine differ by nothing but that; what other instruction sets do was
measured for windows (docs/proof.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from grail_core.inference.constants import PROMPT_POSITIONS, RECEIPT_POSITIONS
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.answer import measure_answer
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.receipt_bounds import (
    PROOF,
    STATISTICS,
    LengthClass,
    PairExtremes,
    ReceiptStatistics,
    ReceiptTable,
    receipt_statistics,
)
from grail_core.proof.sketches import differences, parse_sketches, projections, quantise, sketch
from grail_core.proof.work import ChoiceMeasurement
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness
from grail_miner.serving.answering import AdmittedOrder
from tooling.adversaries.deviations.provers import SAME_DTYPE, same_dtype
from tooling.studies.receipts.node import NETWORK, StudiedNode, questions

LENGTHS = (8, 64, 256, 512)
CHOICES = 4  # of one answer
_LIMITS = (1, 4, 8, 16, 64, 64, 256, 440)
"""Completion limits in turn: some of every class."""
_POLICIES = (
    GenerationPolicy(1),
    GenerationPolicy(1, 0.7, 0.95),
    GenerationPolicy(1, 1.0, 1.0, 50),
    GenerationPolicy(1, 1.2, 1.0, -1, 1.2),
)


@dataclass
class _Largest:
    choices: int = 0
    values: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATISTICS, 0.0))


class Extremes:
    """Collects values of honest choices by (miner's class, verifier's class, length)."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], dict[int, _Largest]] = {}
        self._shapes: dict[tuple[str, str], set[Shape]] = {}

    def take(self, proof: str, generation: str, validator: str, shape: Shape, length: int, found: ReceiptStatistics) -> None:
        """Sketches are of who proved and draws of who generated: each pair takes what is its own."""
        for miner, names in ((proof, set(PROOF)), (generation, set(STATISTICS) - set(PROOF))):
            self._shapes.setdefault((miner, validator), set()).add(shape)
            of_pair = self._found.setdefault((miner, validator), {})
            of_length = of_pair.setdefault(next(one for one in LENGTHS if length <= one), _Largest())
            of_length.choices += miner == proof
            for name in names:
                of_length.values[name] = max(of_length.values[name], getattr(found, name))

    def table(self, version: str, place: str) -> ReceiptTable:
        """Of every pair the largest of all pairs: what one machine shows of two equal kernels is less than machines differ by.
        And of all lengths, but for the sum of margins: the others are of one token, or a mean."""
        pairs = []
        of_any = {name: max(one.values[name] for of in self._found.values() for one in of.values()) for name in STATISTICS}
        sums = {
            tokens: max(of[tokens].values["margin_sum"] for of in self._found.values() if tokens in of) for tokens in LENGTHS
        }
        for (miner, validator), lengths in sorted(self._found.items()):
            shapes = tuple(sorted(self._shapes[miner, validator], key=lambda one: (one.layers, one.hidden_size)))
            classes = tuple(
                LengthClass(tokens, lengths[tokens].choices, _rounded(of_any | {"margin_sum": sums[tokens]}))
                for tokens in sorted(lengths)
            )
            pairs.append(PairExtremes(miner, validator, shapes, classes))
        return ReceiptTable(version, place, tuple(pairs))


def calibrate(node: StudiedNode, answers: int, extremes: Extremes, start: int = 0) -> int:
    """Measure so many answers of CHOICES choices and enter them. Returns the choices drawn."""
    orders = []
    for number, question in enumerate(questions(node.corpus, answers, start)):
        room = node.served.model.context_length - 8
        limit = _LIMITS[number % len(_LIMITS)]
        policy = _POLICIES[number // len(_LIMITS) % len(_POLICIES)]
        order = node.order(question, _limited(policy, limit), choices=CHOICES, logprobs=True)
        if len(order.prompt) < room:
            orders.append(order)
    models = {"sdpa": node.loaded.sdpa, "eager": node.loaded.eager}
    drawn = 0
    for generator in models.values():
        completions = node.answering(generator).draw(orders)
        for number, (order, tokens) in enumerate(zip(orders, completions, strict=True), start):
            drawn += len(tokens)
            ways = [SAME_DTYPE[(number + step) % len(SAME_DTYPE)] for step in (0, 3)]
            _measure(node, order, tokens, numerics_class_of(generator), models, ways, extremes)
    return drawn


def _measure(
    node: StudiedNode,
    order: AdmittedOrder,
    completions: Sequence[tuple[int, ...]],
    generation_class: str,
    models: dict[str, PolicyModel],
    ways: Sequence[str],
    extremes: Extremes,
) -> None:
    signs = projections(Randomness(NETWORK.id), order.seeds.sketch, node.loaded.sdpa.hidden_size)
    claims = {name: list(_claims(node, name, order, completions, signs)) for name in ways}
    for model in models.values():
        shape, own = Shape(model.layers, model.hidden_size), numerics_class_of(model)
        measured = measure_answer(
            model,
            order.prompt,
            completions,
            [list(range(min(len(tokens), RECEIPT_POSITIONS))) for tokens in completions],
            signs,
            order.policy,
            [order.seeds.sampling(choice) for choice in range(len(completions))],
            prompt_positions=PROMPT_POSITIONS,
        )
        for name, claimed in claims.items():
            proof_class = numerics_class_of(models["eager" if "eager" in name else "sdpa"])
            for choice, one in enumerate(measured):
                found = _statistics(order, len(completions[choice]), one, *claimed[choice])
                extremes.take(proof_class, generation_class, own, shape, len(completions[choice]), found)


def _claims(
    node: StudiedNode, name: str, order: AdmittedOrder, completions: Sequence[tuple[int, ...]], signs: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sketches as int16, log-probabilities) of every choice, as one honest way to compute them gives them."""
    model = node.loaded.eager if "eager" in name else node.loaded.sdpa
    rows = [[*order.prompt, *tokens] for tokens in completions]
    first = max(0, len(order.prompt) - PROMPT_POSITIONS)
    for states, tokens in zip(same_dtype(node.loaded)[name](rows, first + 1), completions, strict=True):
        data = quantise(sketch(states, signs))
        logits = model.logits(states[len(order.prompt) - first - 1 : -1]).numpy()
        chosen = logits[np.arange(len(tokens)), np.asarray(tokens)]
        top = logits.max(axis=1)
        logprobs = chosen - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
        yield parse_sketches(data, len(states)), logprobs.astype(np.float32)


def _statistics(
    order: AdmittedOrder, length: int, one: ChoiceMeasurement, claims: np.ndarray, logprobs: np.ndarray
) -> ReceiptStatistics:
    return receipt_statistics(
        differences(claims, one.z),
        length,
        one.margins,
        logprobs[list(one.positions)] - one.logprobs,
        repetition_penalty=order.policy.repetition_penalty,
    )


def _limited(policy: GenerationPolicy, limit: int) -> GenerationPolicy:
    return GenerationPolicy(limit, policy.temperature, policy.top_p, policy.top_k, policy.repetition_penalty)


def _rounded(values: dict[str, float]) -> ReceiptStatistics:
    return ReceiptStatistics(**{name: float(f"{value:.4g}") for name, value in values.items()})
