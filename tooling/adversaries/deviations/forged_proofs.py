"""Family A: the proof is forged, of text that is sampled as it should be, or both are computed with other weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections, parse_sketches
from grail_core.protocol.constants import SKETCH_SCALE
from tooling.adversaries.deviations.deviation import Deviation, Produce, Produced
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.adversaries.deviations.provers import Prover, before_the_norm, moved, of_layer, together
from tooling.adversaries.deviations.weights import in_eager, map_between
from tooling.adversaries.deviations.workbench import Bench, edited
from tooling.adversaries.tampering import constant_sketches, two_swapped

Prompts = Sequence[tuple[int, ...]]


# Sketches that do not come from the model's hidden states


def forgeries() -> list[Deviation]:
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
        Deviation("other prompt, right tokens claimed", "A7", _next_prompt),
        Deviation("own projections", "A8", _own_projections, studied=False),
        Deviation("order of two tokens changed after proving", "A9", _swapped),
        Deviation("context cut to the last tokens", "A11", _cut_context),
    ]


def _constant_sketches(word: int) -> Produce:
    def produce(bench: Bench) -> Produced:
        rollouts = bench.sample()
        honest = bench.prove(rollouts)
        made = [constant_sketches(len(r.completion) + 1, word) for r in rollouts]
        return rollouts, [RolloutProof(data, claim.logprobs) for data, claim in zip(made, honest, strict=True)]

    return produce


def asked_otherwise(bench: Bench, prompts: Prompts) -> Produced:
    """Sampled and proved after other prompts than the assigned, and the file says so."""
    rollouts = bench.sample(prompts=prompts)
    return rollouts, bench.prove(rollouts)


def asked_otherwise_in_secret(bench: Bench, prompts: Prompts) -> Produced:
    """Sampled and proved after other prompts than the assigned, which the file claims."""
    rollouts, claims = asked_otherwise(bench, prompts)
    return [_behind(r, bench.prompts[r.group]) for r in rollouts], claims


def _next_prompt(bench: Bench) -> Produced:
    return asked_otherwise_in_secret(bench, [*bench.prompts[1:], bench.prompts[0]])


def _behind(rollout: Rollout, prompt: tuple[int, ...]) -> Rollout:
    """The same completion behind another prompt."""
    return Rollout(rollout.group, rollout.rollout, (*prompt, *rollout.completion), len(prompt))


def _own_projections(bench: Bench) -> Produced:
    """Honest hidden states under projections that the miner chose."""
    rollouts = bench.sample()
    return rollouts, bench.prove(rollouts, setting=_OwnProjections(bench.setting.label, bench.setting.policy, bench.setting))


@dataclass(frozen=True)
class _OwnProjections(Setting):
    real: Setting

    def projections(self, hidden: int) -> Projections:
        return np.ascontiguousarray(self.real.projections(hidden)[:, ::-1])


def _swapped(bench: Bench) -> Produced:
    honest = bench.sample()
    claims = bench.prove(honest)
    changed = [edited(r, two_swapped(r.completion, len(r.completion) // 3)) if len(r.completion) > 4 else r for r in honest]
    return changed, claims


def _cut_context(bench: Bench) -> Produced:
    """The first half of the prompt is never computed."""
    cut = len(bench.prompts[0]) // 2

    def prove(rows: Sequence[Sequence[int]], prompt: int) -> list[torch.Tensor]:
        states = bench.model.hidden_states([row[cut:] for row in rows])
        return [state[prompt - cut - 1 :] for state in states]

    short = bench.sample(prompts=[prompt[cut:] for prompt in bench.prompts])
    return _proved_by(bench, [_behind(r, bench.prompts[r.group]) for r in short], prove)


def _proved_by(bench: Bench, rollouts: list[Rollout], prover: Prover) -> Produced:
    return rollouts, bench.prove(rollouts, prover)


# The right procedure with nearly the right weights


def other_weights() -> list[Deviation]:
    rows: list[tuple[str, str, Callable[[Bench], PolicyModel]]] = [
        ("8-bit weights, per channel", "A4", lambda b: b.int8),
        ("8-bit weights, groups of 32", "A4", lambda b: b.int8_grouped),
        ("8-bit weights, groups of 64 with zero point", "A4", lambda b: b.int8_unnamed),
        ("8-bit floating-point weights", "A4", lambda b: b.eight_bit_floats),
        ("4-bit weights, per channel", "A4", lambda b: b.int4),
        ("4-bit weights, groups of 32", "A4", lambda b: b.int4_grouped),
        ("low-rank change of the weights", "A4", lambda b: b.low_rank),
        ("previous checkpoint, lr 1e-6", "A5", lambda b: b.older["1e-6"]),
        ("previous checkpoint, lr 3e-6", "A5", lambda b: b.older["3e-6"]),
        ("previous checkpoint, lr 1e-5", "A5", lambda b: b.older["1e-5"]),
        ("middle layer skipped", "A11", lambda b: b.skipped),
        ("middle layer skipped, least-squares patch", "A11", lambda b: b.patched),
    ]
    also_eager = ("8-bit weights, per channel", "previous checkpoint, lr 1e-6", "previous checkpoint, lr 3e-6")
    named = [row for row in rows if row[0] in (*also_eager, "previous checkpoint, lr 1e-5")]
    eager = [(f"{name}, eager attention", threat, _eagerly(model)) for name, threat, model in named]
    small_steps = ("lr 1e-6", "lr 3e-6")
    return [
        *(
            Deviation(name, threat, _with_model(model), pool=8 if any(step in name for step in small_steps) else 1)
            for name, threat, model in (*rows, *eager)
        ),
        Deviation("8-bit weights, float32 activations", "A4", _exactly),
        Deviation("8-bit weights, states moved by a fitted map", "A4", _moved),
        Deviation("8-bit weights, sketches hidden in noise, in a fifth of the rollouts", "A4", _in_noise),
        *(
            Deviation(f"{name}, one rollout in 16 run honestly", threat, _mostly(_with_model(model)), studied=False)
            for name, threat, model in rows
            if threat == "A4" and "-bit weights" in name
        ),
    ]


def _mostly(produce: Produce) -> Produce:
    """One rollout of every group is sampled and proved with the right weights: enough to spoil a sum over the others."""

    def produced(bench: Bench) -> Produced:
        honest = bench.sample()
        theirs, right = produce(bench), bench.prove(honest)
        kept = [honest[at].rollout == 0 for at in range(len(honest))]
        rollouts = [mine if keep else other for mine, other, keep in zip(honest, theirs[0], kept, strict=True)]
        return rollouts, [mine if keep else other for mine, other, keep in zip(right, theirs[1], kept, strict=True)]

    return produced


_FITTED_ROLLOUTS, _OVERSHOT = 8, 1.5
_NOISE = 0.04  # z: beyond what the test of a named alternative takes of one coordinate, and far below the coarse bound


def _moved(bench: Bench) -> Produced:
    """Eight rollouts are run under both models; a linear map of the copy's states then takes away what it predicts of their
    difference in all others, and half as much again."""
    both = [list(one.tokens) for one in bench.sample()[:_FITTED_ROLLOUTS]]
    matrix = map_between(bench.int8, bench.model, both)
    rollouts = bench.sample(bench.int8)
    return rollouts, bench.prove(rollouts, moved(bench.int8, matrix, _OVERSHOT), head=bench.int8)


def _in_noise(bench: Bench) -> Produced:
    """Seven rollouts of 32 are the copy's, with a random sign of the same size on every coordinate: it points nowhere."""
    honest, draw = bench.sample(), np.random.default_rng(29)
    right, (rounded, theirs) = bench.prove(honest), _with_model(lambda b: b.int8)(bench)
    rollouts, claims = list(honest), list(right)
    for at, one in enumerate(rounded):
        if one.rollout < 3 + one.group % 2:
            words = parse_sketches(theirs[at].sketches, len(one.completion) + 1)
            noisy = words + draw.choice([-1, 1], words.shape) * round(_NOISE * SKETCH_SCALE)
            rollouts[at], claims[at] = one, RolloutProof(noisy.astype("<i2").tobytes(), theirs[at].logprobs)
    return rollouts, claims


def _exactly(bench: Bench) -> Produced:
    """8-bit weights without the rounding that any honest miner of a bf16 class has."""
    rollouts = bench.sample(bench.int8)
    return rollouts, bench.prove(rollouts, together(bench.int8_single), head=bench.int8_single)


def _eagerly(model_of: Callable[[Bench], PolicyModel]) -> Callable[[Bench], PolicyModel]:
    """The miner also has another honest numerics than the validator: the harder case of the named alternatives."""
    return lambda bench: in_eager(model_of(bench))


def _with_model(model_of: Callable[[Bench], PolicyModel]) -> Produce:
    def produce(bench: Bench) -> Produced:
        model = model_of(bench)
        rollouts = bench.sample(model)
        return rollouts, bench.prove(rollouts, together(model), head=model)

    return produce
