"""Honest answers of anybody's model, drawn, proved and measured as nodes and verifiers do it: a table of exactly this model.

Each round draws answers of all length limits with one policy and one kind of attention; each is proved with both kinds, its
choices together or one by one, in turn, and measured with both kinds on every device of a verifier. A choice that was drawn
before counts no second time. What one machine cannot show is what machines differ by; bounds have floors for that
(`proof.receipt_bounds.LEAST`). Engines draw in classes of their own, which are not measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from grail_core.calibration.measure import ATTENTIONS
from grail_core.calibration.receipts import CHOICES, LIMITS, POLICIES, Claims, Extremes, HonestAnswer, enter, limited
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.inference.constants import MIN_TEMPERATURE, PROMPT_POSITIONS
from grail_core.model.memory import in_parts
from grail_core.model.policy_model import Attention, PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.numerics import MOST_EAGER_TOKENS, numerics_class_of
from grail_core.proof.reader_table import Measured
from grail_core.proof.sketches import parse_sketches, projections
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.randomness import Randomness

_POLICIES: Final = (*POLICIES, GenerationPolicy(1, MIN_TEMPERATURE))
"""Those of the shipped table, and nearly greedy."""
_NETWORK: Final = Randomness(bytes(32))  # seeds of a calibration belong to no network
_ROOM: Final = 8  # tokens that a prompt leaves in the context, at least


@dataclass(frozen=True)
class HonestNode:
    """Who draws and proves, and who measures; a device of both is loaded once.

    Args:
        end_tokens: ids that end a completion. most_tokens: of a completion.
    """

    model: PolicyModel
    verifiers: Sequence[PolicyModel]
    end_tokens: frozenset[int]
    most_tokens: int


def measure_model(
    node: HonestNode,
    prompts: Sequence[tuple[int, ...]],
    answers: int,
    *,
    seed: int = 0,
    told: Callable[[int], None] = lambda done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Extremes, Measured]:
    """So many answers of CHOICES choices, or as many as were measured when `stopped` says true.

    Args:
        prompts: asked in turn; those that do not leave `_ROOM` in the context must not be among them (`fitting`).
        seed: the same gives the same answers. told: the answers measured so far, after each.

    Raises:
        UnprovableError: a hidden state that is zero or not finite. MachineFaultError: memory does not hold one choice.
    """
    extremes = Extremes(once=True)
    done = tokens = 0
    distinct: set[tuple[int, tuple[int, ...]]] = set()  # near-greedy draws of one prompt are one choice, however often
    rng = np.random.default_rng(seed)
    for first in range(0, answers, len(LIMITS)):
        numbers = range(first, min(first + len(LIMITS), answers))
        for number, answer in zip(numbers, _drawn(node, prompts, numbers, rng), strict=True):
            if stopped():
                return extremes, Measured(done, len(distinct), tokens)
            _measure(node, answer, number, extremes)
            distinct |= {(number % len(prompts), completion) for completion in answer.completions}
            done, tokens = done + 1, tokens + sum(map(len, answer.completions))
            told(done)
    return extremes, Measured(done, len(distinct), tokens)


def fitting(prompts: Sequence[tuple[int, ...]], model: PolicyModel) -> list[tuple[int, ...]]:
    """Those that leave room for an answer."""
    return [prompt for prompt in prompts if 0 < len(prompt) <= model.context_length - _ROOM]


def _drawn(
    node: HonestNode, prompts: Sequence[tuple[int, ...]], numbers: range, rng: np.random.Generator
) -> Iterator[HonestAnswer]:
    """A round: its answers decode together, as the requests of a node do."""
    turn = numbers.start // len(LIMITS)
    attention = ATTENTIONS[turn % len(ATTENTIONS)]
    policies = [
        limited(_POLICIES[turn % len(_POLICIES)], min(LIMITS[number % len(LIMITS)], node.most_tokens)) for number in numbers
    ]
    asked = [prompts[number % len(prompts)] for number in numbers]
    seeds = rng.integers(2**63, size=(len(numbers), CHOICES)).tolist()
    requests = [
        GenerationRequest(prompt, one, policy=policy)
        for prompt, policy, own in zip(asked, policies, seeds, strict=True)
        for one in own
    ]
    with node.model.attending(attention):
        name = numerics_class_of(node.model)
        drawn = iter(HfGenerator(node.model, policies[0], node.end_tokens).generate(requests))
    for prompt, policy, own in zip(asked, policies, seeds, strict=True):
        completions = [next(drawn).tokens for _ in own]
        signs = projections(_NETWORK, rng.bytes(32), node.model.hidden_size)
        yield HonestAnswer(prompt, completions, policy, own, signs, name)


def _measure(node: HonestNode, answer: HonestAnswer, number: int, extremes: Extremes) -> None:
    longest = len(answer.prompt) + max(map(len, answer.completions))
    kinds: tuple[Attention, ...] = ATTENTIONS if longest <= MOST_EAGER_TOKENS else ("sdpa",)
    claimed = [_claims(node.model, answer, kind, alone=(number + at) % 2 == 1) for at, kind in enumerate(kinds)]
    for verifier in node.verifiers:
        for kind in kinds:
            with verifier.attending(kind):
                enter(extremes, answer, claimed, verifier)


def _claims(model: PolicyModel, answer: HonestAnswer, attention: Attention, *, alone: bool) -> Claims:
    """As a node proves them: all choices in one pass, or where memory would not hold them, one by one."""

    def prove(completions: Sequence[tuple[int, ...]]) -> list[RolloutProof]:
        rows = [[*answer.prompt, *tokens] for tokens in completions]
        return prove_rollouts(
            model, rows, [len(answer.prompt)] * len(rows), answer.signs, prompt_positions=PROMPT_POSITIONS, logprobs=True
        )

    with model.attending(attention):
        if alone:
            proofs = [proof for tokens in answer.completions for proof in prove([tokens])]
        else:
            proofs, _ = in_parts(answer.completions, prove)
        name = numerics_class_of(model)
    return Claims(name, [(parse_sketches(one.sketches, len(one.sketches) // 8), one.logprobs) for one in proofs])
