"""Every deviation of the study: its name, the threat it stands for, and what the miner does.

Family A forges the proof of text that is sampled as it should be, or computes both with other weights; family B proves
honestly what was not sampled from the policy. Names are the rows of the published table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations import rules
from tooling.adversaries.deviations.decoding import Chooser
from tooling.adversaries.deviations.observation import Claim, Rollout
from tooling.adversaries.deviations.provers import Prover, before_the_norm, of_layer, together
from tooling.adversaries.deviations.weights import in_eager
from tooling.adversaries.deviations.workbench import Bench, Produce, edited, in_groups
from tooling.testing.models.language_model import document_tokens

_NEAR_TIE = 0.25  # nats by which a steered token's score may trail


@dataclass(frozen=True)
class Deviation:
    """`threat` is an id of the threat model; `candidates` says how many completions are drawn for one submitted.

    `pool`: how many times as many rollouts are collected; what takes more than a window to see is measured on more.
    """

    name: str
    threat: str
    produce: Produce
    candidates: int = 1
    pool: int = 1


def all_deviations() -> list[Deviation]:
    return [*_forgeries(), *_other_weights(), *_other_sampling(), *_other_text(), *_false_logprobs()]


# A: sketches that do not come from the model's hidden states


def _forgeries() -> list[Deviation]:
    return [
        Deviation("zero sketches", "A2", _constant_sketches(0)),
        Deviation("constant sketches", "A2", _constant_sketches(1024)),
        Deviation("sketches of another model", "A3", lambda b: _proved_by(b, b.sample(), together(b.stranger))),
        Deviation(
            "hidden states of the layer before",
            "A6",
            lambda b: _proved_by(b, b.sample(), of_layer(b.model, b.model.layers - 1)),
        ),
        Deviation("hidden states before the norm", "A6", lambda b: _proved_by(b, b.sample(), before_the_norm(b.model))),
        Deviation("other prompt, right tokens claimed", "A7", _other_prompt),
        Deviation("order of two tokens changed after proving", "A9", _swapped),
        Deviation("context cut to the last tokens", "A11", _cut_context),
    ]


def _constant_sketches(word: int) -> Produce:
    def produce(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
        rollouts = bench.sample()
        honest = bench.prove(rollouts)
        made = [np.full(4 * (len(r.completion) + 1), word, "<i2").tobytes() for r in rollouts]
        return rollouts, [Claim(data, claim.logprobs) for data, claim in zip(made, honest, strict=True)]

    return produce


def _other_prompt(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
    """Sampled and proved after the next group's prompt; the file claims the assigned one."""
    shifted = [*bench.prompts[1:], bench.prompts[0]]
    asked = bench.sample(prompts=shifted)
    claims = bench.prove(asked)
    return [
        Rollout(r.group, r.rollout, (*bench.prompts[r.group], *r.completion), len(bench.prompts[r.group])) for r in asked
    ], claims


def _swapped(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
    honest = bench.sample()
    claims = bench.prove(honest)
    changed = []
    for rollout in honest:
        completion = list(rollout.completion)
        if len(completion) > 4:
            at = len(completion) // 3
            completion[at], completion[at + 1] = completion[at + 1], completion[at]
        changed.append(edited(rollout, completion))
    return changed, claims


def _cut_context(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
    """The first half of the prompt is never computed."""
    cut = len(bench.prompts[0]) // 2

    def prove(rows: Sequence[Sequence[int]], prompt: int) -> list[torch.Tensor]:
        states = bench.model.hidden_states([row[cut:] for row in rows])
        return [state[prompt - cut - 1 :] for state in states]

    short = bench.sample(prompts=[prompt[cut:] for prompt in bench.prompts])
    rollouts = [
        Rollout(r.group, r.rollout, (*bench.prompts[r.group], *r.completion), len(bench.prompts[r.group])) for r in short
    ]
    return _proved_by(bench, rollouts, prove)


def _proved_by(bench: Bench, rollouts: list[Rollout], prover: Prover) -> tuple[list[Rollout], list[Claim]]:
    return rollouts, bench.prove(rollouts, prover)


# A: the right procedure with nearly the right weights


def _other_weights() -> list[Deviation]:
    rows: list[tuple[str, str, Callable[[Bench], PolicyModel]]] = [
        ("8-bit weights, per channel", "A4", lambda b: b.int8),
        ("8-bit weights, groups of 32", "A4", lambda b: b.int8_grouped),
        ("4-bit weights, per channel", "A4", lambda b: b.int4),
        ("4-bit weights, groups of 32", "A4", lambda b: b.int4_grouped),
        ("previous checkpoint, lr 1e-6", "A5", lambda b: b.older["1e-6"]),
        ("previous checkpoint, lr 3e-6", "A5", lambda b: b.older["3e-6"]),
        ("previous checkpoint, lr 1e-5", "A5", lambda b: b.older["1e-5"]),
        ("middle layer skipped", "A11", lambda b: b.skipped),
        ("middle layer skipped, least-squares patch", "A11", lambda b: b.patched),
    ]
    named = [*rows[:1], *rows[4:7]]
    eager = [(f"{name}, eager attention", threat, _eagerly(model)) for name, threat, model in named]
    small_steps = ("lr 1e-6", "lr 3e-6")
    return [
        Deviation(name, threat, _with_model(model), pool=8 if any(step in name for step in small_steps) else 1)
        for name, threat, model in (*rows, *eager)
    ]


def _eagerly(model_of: Callable[[Bench], PolicyModel]) -> Callable[[Bench], PolicyModel]:
    """The miner also has another honest numerics than the validator: the harder case of the named alternatives."""
    return lambda bench: in_eager(model_of(bench))


def _with_model(model_of: Callable[[Bench], PolicyModel]) -> Produce:
    def produce(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
        model = model_of(bench)
        rollouts = bench.sample(model)
        return rollouts, bench.prove(rollouts, together(model), head=model)

    return produce


# B: the right prefill of text that was sampled otherwise


def _other_sampling() -> list[Deviation]:
    policies = {
        "temperature × 0.7": GenerationPolicy(0, temperature=0.7),
        "temperature × 0.9": GenerationPolicy(0, temperature=0.9),
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
    def produce(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
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


# B: text that no sampling of this window gave


def _other_text() -> list[Deviation]:
    return [
        Deviation("cached text", "B4", _honestly_proved(_cached)),
        Deviation("5 % of tokens replaced", "B4", _honestly_proved(_replaced)),
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


# B8: everything right but the claimed log-probabilities


def _false_logprobs() -> list[Deviation]:
    half = np.random.default_rng(8)
    claims: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "log-probabilities: zeros": lambda values: np.zeros_like(values),
        "log-probabilities: shifted by −0.1": lambda values: values - np.float32(0.1),
        "log-probabilities: half of them right": lambda values: np.where(
            half.random(len(values)) < 0.5, values, np.float32(-1.0)
        ).astype(np.float32),
    }
    return [Deviation(name, "B8", _claiming(change)) for name, change in claims.items()]


def _claiming(change: Callable[[np.ndarray], np.ndarray]) -> Produce:
    def produce(bench: Bench) -> tuple[list[Rollout], list[Claim]]:
        rollouts = bench.sample()
        return rollouts, [Claim(claim.sketches, change(claim.logprobs)) for claim in bench.prove(rollouts)]

    return produce
