"""Honest answers of the trained models, for the table that ships: measured by `grail_core.calibration.receipts`.

Tokens are drawn by the generator with its cache, and proved in two of the ways that a node may compute (`provers.SAME_DTYPE`:
both kinds of attention, alone, in batches, padded, from the cache), each way in its turn; a verifier measures by one prefill
pass of either attention. A node and a verifier on one machine differ by nothing but that; what other instruction sets do was
measured for windows (docs/proof.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from grail_core.calibration.receipts import CHOICES, LIMITS, POLICIES, Claims, Extremes, HonestAnswer, enter, limited
from grail_core.inference.constants import PROMPT_POSITIONS
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import parse_sketches, projections, quantise, sketch
from grail_core.protocol.randomness import Randomness
from grail_miner.serving.answering import AdmittedOrder
from tooling.adversaries.deviations.provers import SAME_DTYPE, same_dtype
from tooling.studies.receipts.node import NETWORK, StudiedNode, questions


def calibrate(node: StudiedNode, answers: int, extremes: Extremes, start: int = 0) -> int:
    """Measure so many answers of CHOICES choices and enter them. Returns the choices drawn."""
    orders = []
    for number, question in enumerate(questions(node.corpus, answers, start)):
        room = node.served.model.context_length - 8
        limit = LIMITS[number % len(LIMITS)]
        policy = POLICIES[number // len(LIMITS) % len(POLICIES)]
        order = node.order(question, limited(policy, limit), choices=CHOICES, logprobs=True)
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
    seeds = [order.seeds.sampling(choice) for choice in range(len(completions))]
    answer = HonestAnswer(order.prompt, completions, order.policy, seeds, signs, generation_class)
    claimed = [
        Claims(numerics_class_of(models["eager" if "eager" in name else "sdpa"]), list(_claims(node, name, answer)))
        for name in ways
    ]
    for model in models.values():
        enter(extremes, answer, claimed, model)


def _claims(
    node: StudiedNode, name: str, answer: HonestAnswer
) -> Iterator[tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]]:
    """(sketches as int16, log-probabilities) of every choice, as one honest way to compute them gives them."""
    model = node.loaded.eager if "eager" in name else node.loaded.sdpa
    rows = [[*answer.prompt, *tokens] for tokens in answer.completions]
    first = max(0, len(answer.prompt) - PROMPT_POSITIONS)
    for states, tokens in zip(same_dtype(node.loaded)[name](rows, first + 1), answer.completions, strict=True):
        data = quantise(sketch(states, answer.signs))
        logits = model.logits(states[len(answer.prompt) - first - 1 : -1]).numpy()
        chosen = logits[np.arange(len(tokens)), np.asarray(tokens)]
        top = logits.max(axis=1)
        logprobs = chosen - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
        yield parse_sketches(data, len(states)), logprobs.astype(np.float32)
