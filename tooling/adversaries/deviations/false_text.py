"""Family B: what was not sampled from the policy is proved honestly, or its log-probabilities are not the model's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries import tampering
from tooling.adversaries.deviations import rules
from tooling.adversaries.deviations.decoding import Chooser
from tooling.adversaries.deviations.deviation import Deviation, Produce, Produced
from tooling.adversaries.deviations.observation import Rollout
from tooling.adversaries.deviations.workbench import Bench, edited, in_groups
from tooling.adversaries.tampering import F32, token_replaced
from tooling.testing.models.language_model import document_tokens

_NEAR_TIE = 0.25  # nats by which a steered token's score may trail


# The right prefill of text that was sampled otherwise


def other_sampling() -> list[Deviation]:
    policies = {
        "temperature × 0.7": GenerationPolicy(0, temperature=0.7),
        "temperature × 0.9": GenerationPolicy(0, temperature=0.9),
        "temperature × 0.95": GenerationPolicy(0, temperature=0.95),
        "temperature × 1.2": GenerationPolicy(0, temperature=1.2),
        "top-p 0.95": GenerationPolicy(0, top_p=0.95),
        "top-p 0.99": GenerationPolicy(0, top_p=0.99),
        "top-k 50": GenerationPolicy(0, top_k=50),
        "repetition penalty 1.1": GenerationPolicy(0, repetition_penalty=1.1),
    }
    return [
        Deviation("smaller model, right prefill", "B1", _sampled_by(lambda b: b.smaller)),
        Deviation("4-bit generation, right prefill", "B1", _sampled_by(lambda b: b.int4)),
        Deviation("8-bit generation, right prefill", "B1", _sampled_by(lambda b: b.int8)),
        Deviation("8-bit generation by groups of 32, right prefill", "B1", _sampled_by(lambda b: b.int8_grouped)),
        Deviation(
            "8-bit generation by groups of 64 with zero point, right prefill", "B1", _sampled_by(lambda b: b.int8_unnamed)
        ),
        Deviation("wrong seeds", "B2", _honestly_proved(lambda b: b.sample(hotkey="another miner"))),
        Deviation("best of 2", "B2", _best_of(2), candidates=2),
        Deviation("best of 16", "B2", _best_of(16), candidates=16),
        Deviation("steering, 1 flip per 1,000 tokens", "B2", _ruled(lambda b: rules.NearTieSteering(0.001, _NEAR_TIE))),
        Deviation("steering, 3 flips per 1,000 tokens", "B2", _ruled(lambda b: rules.NearTieSteering(0.003, _NEAR_TIE))),
        Deviation("steering, 10 flips per 1,000 tokens", "B2", _ruled(lambda b: rules.NearTieSteering(0.010, _NEAR_TIE))),
        Deviation("greedy", "B3", _ruled(lambda b: rules.Greedy())),
        *(Deviation(name, "B3", _ruled(_sampler(policy))) for name, policy in policies.items()),
        Deviation("early end", "B5", _ruled(lambda b: rules.EarlyEnd(b.honest, b.end, 0.002, 8))),
        Deviation("end suppressed", "B7", _ruled(lambda b: rules.WithoutEnd(b.honest, b.end))),
    ]


def _sampler(policy: GenerationPolicy) -> Callable[[Bench], Chooser]:
    return lambda bench: SeededSampler(policy)


def _honestly_proved(sample: Callable[[Bench], list[Rollout]]) -> Produce:
    def produce(bench: Bench) -> Produced:
        rollouts = sample(bench)
        return rollouts, bench.prove(rollouts)

    return produce


def _ruled(rule: Callable[[Bench], Chooser]) -> Produce:
    return _honestly_proved(lambda bench: bench.sample(chooser=rule(bench)))


def _sampled_by(model_of: Callable[[Bench], PolicyModel]) -> Produce:
    return _honestly_proved(lambda bench: bench.sample(model_of(bench)))


def _best_of(candidates: int) -> Produce:
    """The candidate with the most distinct tokens; candidate 0 has the assigned seed."""

    def sample(bench: Bench) -> list[Rollout]:
        drawn = [bench.sample(hotkey="miner" if c == 0 else f"draw {c}") for c in range(candidates)]
        return [max(options, key=lambda r: len(set(r.completion))) for options in zip(*drawn, strict=True)]

    return _honestly_proved(sample)


# Text that no sampling of this window gave


def other_text() -> list[Deviation]:
    return [
        Deviation("cached text", "B4", _honestly_proved(_cached)),
        Deviation("5 % of tokens replaced", "B4", _honestly_proved(_replaced)),
        Deviation("one rollout's text in all sixteen", "B4", _honestly_proved(_template), studied=False),
        Deviation("cut without an end token", "B5", _honestly_proved(_cut), studied=False),
        Deviation("end token put where none was sampled", "B5", _honestly_proved(_ended), studied=False),
        Deviation("text after the end token", "B6", _honestly_proved(_after_the_end), studied=False),
        Deviation("padded with end tokens up to the limit", "B6", _honestly_proved(_padded), studied=False),
    ]


def _cached(bench: Bench) -> list[Rollout]:
    """Continuations from the training corpus, cut to the limit."""
    rollouts = []
    for rollout in bench.sample():
        document = bench.corpus.training[16 * rollout.group + rollout.rollout]
        ids = document_tokens(bench.tokens, document)[2 + len(bench.tokens.encode(document.prompt).ids) :]
        rollouts.append(edited(rollout, ids[: bench.limit]))
    return rollouts


def _replaced(bench: Bench) -> list[Rollout]:
    """One token in twenty becomes the likeliest other one at its place."""
    changed = []
    draws = np.random.default_rng(5)
    for batch in in_groups(bench.sample()):
        states = bench.model.hidden_states([list(r.tokens) for r in batch])
        for rollout, hidden in zip(batch, states, strict=True):
            completion = list(rollout.completion)
            logits = bench.model.logits(hidden[rollout.prompt_length - 1 : -1])
            for at in np.flatnonzero(draws.random(len(completion) - 1) < 0.05):
                row = logits[at].clone()
                row[completion[at]] = row[bench.end] = -torch.inf
                completion[at] = int(row.argmax())
            changed.append(edited(rollout, completion))
    return changed


def _template(bench: Bench) -> list[Rollout]:
    firsts = {r.group: r for r in bench.sample() if r.rollout == 0}
    return [
        Rollout(group, number, first.tokens, first.prompt_length)
        for group, first in firsts.items()
        for number in range(ROLLOUTS_PER_PROBLEM)
    ]


def _cut(bench: Bench) -> list[Rollout]:
    return [edited(r, _first_half(r)) for r in bench.sample()]


def _ended(bench: Bench) -> list[Rollout]:
    return [edited(r, (*_first_half(r), bench.end)) for r in bench.sample()]


def _first_half(rollout: Rollout) -> tuple[int, ...]:
    return rollout.completion[: max(1, len(rollout.completion) // 2)]


def _after_the_end(bench: Bench) -> list[Rollout]:
    return [edited(r, token_replaced(r.completion, bench.limit // 2, bench.end)) for r in bench.sample(ends=False)]


def _padded(bench: Bench) -> list[Rollout]:
    half = bench.limit // 2
    ends = [bench.end] * (bench.limit - half)
    return [edited(r, (*r.completion[:half], *ends)) for r in bench.sample(ends=False)]


# Everything right but the claimed log-probabilities


def false_logprobs() -> list[Deviation]:
    return [
        Deviation(f"log-probabilities: {name}", "B8", _claiming(change)) for name, change in tampering.false_logprobs().items()
    ]


def _claiming(change: Callable[[F32], F32]) -> Produce:
    def produce(bench: Bench) -> Produced:
        rollouts = bench.sample()
        return rollouts, [RolloutProof(claim.sketches, change(claim.logprobs)) for claim in bench.prove(rollouts)]

    return produce
