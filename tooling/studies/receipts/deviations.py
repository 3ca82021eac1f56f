"""Single answers of a dishonest node, by name: what it drew with, what it proved with, and what it changed afterwards.

Each is a whole receipt, signed, consistent in everything but the deviation. `Forgery` makes one from an order; the honest twin
is the same order answered honestly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from grail_core.inference.answers import Answer, Choice
from grail_core.inference.receipts import Receipt
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.rollouts.noise import gumbel_noise
from grail_miner.serving.answering import AdmittedOrder
from tooling.adversaries.deviations import weights
from tooling.studies.receipts.node import StudiedNode
from tooling.testing.closed_answers import ClosedAnswers

Tokens = tuple[int, ...]
Forgery = Callable[["Forger", AdmittedOrder], Receipt]
"""The forged receipt of an order of one choice."""


@dataclass
class Forger:
    """A node with every wrong model; each is made when a forgery asks for it."""

    node: StudiedNode

    @property
    def honest(self) -> ClosedAnswers:
        return self.node.honest

    @cached_property
    def int4(self) -> ClosedAnswers:
        return self._with(weights.quantised(self._model, 4, 32))

    @cached_property
    def int4_per_channel(self) -> ClosedAnswers:
        return self._with(weights.quantised(self._model, 4, None))

    @cached_property
    def int8(self) -> ClosedAnswers:
        return self._with(weights.quantised(self._model, 8, 32))

    @cached_property
    def int8_per_channel(self) -> ClosedAnswers:
        return self._with(weights.quantised(self._model, 8, None))

    @cached_property
    def smaller(self) -> ClosedAnswers:
        return self._with(PolicyModel.load(self.node.made.folders.smaller))

    @cached_property
    def stranger(self) -> ClosedAnswers:
        """Another model of the same shape: what a far checkpoint is."""
        return self._with(PolicyModel.load(self.node.made.folders.stranger))

    @property
    def _model(self) -> PolicyModel:
        return self.node.loaded.sdpa

    def _with(self, model: PolicyModel) -> ClosedAnswers:
        return self.node.answering(model)

    def drawn(self, by: ClosedAnswers, order: AdmittedOrder) -> Tokens:
        return by.draw([order])[0][0]

    def proved(self, order: AdmittedOrder, tokens: Tokens) -> Receipt:
        """An honest proof of these tokens, whoever drew them."""
        return self.honest.prove(order, [tokens])

    def with_old_sketches(self, receipt: Receipt, tokens: Tokens) -> Receipt:
        """Other tokens of the same count over the proof of the old ones, signed anew."""
        old = receipt.answer
        choice = Choice(tokens, old.choices[0].sketches, old.choices[0].logprobs)
        answer = Answer(old.prompt, (choice,), old.proof_class, old.generation_class)
        return self.honest.sign(replace(receipt, answer=answer))

    def runner_up(self, order: AdmittedOrder, tokens: Tokens, at: int) -> int:
        """The token that came second in the draw at a completion index; never an end token."""
        model = self._model
        row = [*order.prompt, *tokens[:at]]
        logits = model.logits(model.hidden_states([row])[0][-1:])[0].numpy()
        x = SeededSampler(order.policy).warp(logits, row).astype(np.float64)
        scores = x + gumbel_noise(order.seeds.sampling(0), len(row) - 1, np.arange(len(x)))
        scores[[tokens[at], *self.node.served.model.end_token_ids]] = -np.inf
        return int(np.argmax(scores))


def _by(name: str) -> Forgery:
    """Drawn and proved by the same wrong model."""
    return lambda forger, order: getattr(forger, name).answer([order])[0]


def _right_prefill(name: str) -> Forgery:
    return lambda forger, order: forger.proved(order, forger.drawn(getattr(forger, name), order))


def _other_seed(forger: Forger, order: AdmittedOrder) -> Receipt:
    """Every draw by a seed that the node liked better."""
    return forger.proved(order, _fitted(order, forger.drawn(forger.honest, _reseeded(order, 1)), forger))


def _best_of(count: int) -> Forgery:
    """The longest text of so many seeds, the right one among them."""

    def forge(forger: Forger, order: AdmittedOrder) -> Receipt:
        drawn = [forger.drawn(forger.honest, _reseeded(order, n)) for n in range(count)]
        return forger.proved(order, _fitted(order, max(drawn, key=sum), forger))

    return forge


def _policy(**changed: float) -> Forgery:
    def forge(forger: Forger, order: AdmittedOrder) -> Receipt:
        policy = replace(order.policy, **changed)  # type: ignore[arg-type]
        return forger.proved(order, _fitted(order, forger.drawn(forger.honest, replace(order, policy=policy)), forger))

    return forge


def _swapped(forger: Forger, order: AdmittedOrder) -> Receipt:
    """The text of another request, over this one's proof of the honest answer."""
    honest = forger.honest.answer([order])[0]
    tokens = _fitted(order, forger.drawn(forger.honest, _reseeded(order, 7)), forger)
    length = len(honest.answer.choices[0].completion)
    return forger.with_old_sketches(honest, (tokens * length)[:length])


def _replaced(where: str, *, anew: bool, nearly: bool = False) -> Forgery:
    """One token of the honest answer replaced: by a word of the node's liking, or by the one that came second."""

    def forge(forger: Forger, order: AdmittedOrder) -> Receipt:
        honest = forger.honest.answer([order])[0]
        tokens = honest.answer.choices[0].completion
        at = {"first": 0, "middle": len(tokens) // 2, "last": len(tokens) - 1}[where]
        vocabulary, ends = forger.node.served.model.vocabulary_size, forger.node.served.model.end_token_ids
        wished = forger.runner_up(order, tokens, at) if nearly else (tokens[at] + 101) % vocabulary
        while wished in ends:
            wished += 1
        changed = (*tokens[:at], wished, *tokens[at + 1 :])
        return forger.proved(order, changed) if anew else forger.with_old_sketches(honest, changed)

    return forge


def _reseeded(order: AdmittedOrder, number: int) -> AdmittedOrder:
    """The same order with the seeds of another; 0 is its own."""
    if number == 0:
        return order
    seeds = replace(order.seeds, draw_seed=type(order.seeds.draw_seed)(bytes([number]) * 32))
    return replace(order, seeds=seeds)


def _fitted(order: AdmittedOrder, tokens: Sequence[int], forger: Forger) -> Tokens:
    """Cut or repeated to the order's limit, without an end token: the length must not be what gives it away."""
    ends = forger.node.served.model.end_token_ids
    kept = [token for token in tokens if token not in ends] or [ends[0] + 1]
    return tuple((kept * order.limit)[: order.limit])


DEVIATIONS: Mapping[str, Forgery] = {
    "4-bit weights, groups of 32": _by("int4"),
    "4-bit weights, per channel": _by("int4_per_channel"),
    "8-bit weights, groups of 32": _by("int8"),
    "8-bit weights, per channel": _by("int8_per_channel"),
    "another model of the same shape": _by("stranger"),
    "4-bit text, right prefill": _right_prefill("int4"),
    "8-bit text, right prefill": _right_prefill("int8"),
    "smaller model, right prefill": _right_prefill("smaller"),
    "another seed": _other_seed,
    "best of 2": _best_of(2),
    "best of 16": _best_of(16),
    "swapped text": _swapped,
    "first token replaced, old proof": _replaced("first", anew=False),
    "middle token replaced, old proof": _replaced("middle", anew=False),
    "last token replaced, old proof": _replaced("last", anew=False),
    "first token replaced, proved anew": _replaced("first", anew=True),
    "middle token replaced, proved anew": _replaced("middle", anew=True),
    "last token replaced, proved anew": _replaced("last", anew=True),
    "runner-up of a draw, proved anew": _replaced("middle", anew=True, nearly=True),
    "runner-up of the last draw, proved anew": _replaced("last", anew=True, nearly=True),
    "temperature 0.7": _policy(temperature=0.7),
    "temperature 0.9": _policy(temperature=0.9),
    "temperature 1.2": _policy(temperature=1.2),
    "top-p 0.95": _policy(top_p=0.95),
    "top-k 50": _policy(top_k=50),
    "repetition penalty 1.1": _policy(repetition_penalty=1.1),
}
"""By name. What draws otherwise is made to have the honest length."""
