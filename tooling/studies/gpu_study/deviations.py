"""Dishonest work on this device: other weights, other sampling, and what each test says of it.

Whoever runs other weights draws and proves with them; beside it stands the same text with the right prefill, which only tests
of tokens can tell. A step of training is a random direction here: how visible it is says nothing of trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grail_core.model.sampling import SeededSampler
from tooling.adversaries.deviations.decoding import Chooser
from tooling.adversaries.deviations.observation import Rollout
from tooling.studies.gpu_study import honest, texts
from tooling.studies.gpu_study.bench import Bench, stepped
from tooling.studies.gpu_study.measuring import claims_of, figures_of
from tooling.studies.gpu_study.random_models import Change, eight_bit_float, quantised, zero_point
from tooling.studies.gpu_study.sections import Figures, Item, Section

OTHER_WEIGHTS: Final[dict[str, Change]] = {
    "8-bit weights, per channel": quantised(8, None),
    "8-bit weights, groups of 64 with zero point": zero_point(8, 64),
    "8-bit weights, groups of 32": quantised(8, 32),
    "4-bit weights, groups of 32": quantised(4, 32),
    "4-bit weights, groups of 64 with zero point": zero_point(4, 64),
    "fp8 weights": eight_bit_float,
    "previous checkpoint, lr 1e-5": stepped("previous-1"),
    "previous checkpoint, lr 3e-6": stepped("previous-2"),
}
OTHER_TEMPERATURE: Final = {"temperature x 0.9": 0.9, "temperature x 0.95": 0.95}
OTHER_TOP_P: Final = {"top-p 0.95": 0.95, "top-p 0.99": 0.99}


@dataclass(frozen=True)
class Nucleus:
    """The seeded token among those of the nucleus, which is found where the logits are. Where it ends is not the protocol's
    business: the network's policy has none."""

    honest: SeededSampler
    top_p: float

    def sample(
        self,
        logits: Tensor,
        seeds: npt.NDArray[np.uint64],
        positions: npt.NDArray[np.uint32],
        histories: Sequence[Sequence[int]] | None = None,
    ) -> npt.NDArray[np.int64]:
        ordered, places = (logits / self.honest.policy.temperature).sort(dim=1, descending=True)
        mass = ordered.softmax(dim=1)
        outside = mass.cumsum(dim=1) - mass >= self.top_p
        inside = torch.zeros_like(outside).scatter_(1, places, ~outside)
        return self.honest.sample(logits.masked_fill(~inside, -torch.inf), seeds, positions, histories)


def _judged(bench: Bench, text: Sequence[Rollout]) -> Figures:
    """What the validator says of a text that the right model proved."""
    claims = claims_of(bench.model, bench.setting, text, honest.states_of(bench.model, text, honest.prescribed))
    measured = bench.validator.measure(text)
    compared = bench.validator.compare(text, bench.amount)
    return figures_of(bench.setting, text, claims, measured, compared)


def _honest(bench: Bench) -> Figures:
    return {"honest": _judged(bench, bench.text)}


def _weights(bench: Bench, change: Change) -> Figures:
    """The text of other weights: proved by them, and proved by the right ones."""
    other = bench.other.become(change)
    text = texts.draw(other, bench.setting, bench.amount)
    states = honest.states_of(other, text, honest.prescribed)
    measured = bench.validator.measure(text)
    compared = bench.validator.compare(text, bench.amount)
    dishonest = claims_of(other, bench.setting, text, states)
    right = claims_of(bench.model, bench.setting, text, honest.states_of(bench.model, text, honest.prescribed))
    return {
        "run": figures_of(bench.setting, text, dishonest, measured, compared),
        "generation alone": figures_of(bench.setting, text, right, measured, compared),
    }


def _sampled(bench: Bench, chooser: Chooser) -> Figures:
    text = texts.draw(bench.model, bench.setting, bench.amount, chooser)
    return {"run": _judged(bench, text)}


def _items(bench: Bench) -> Sequence[Item]:
    policy = bench.setting.policy
    cooler = {
        name: SeededSampler(replace(policy, temperature=policy.temperature * factor))
        for name, factor in OTHER_TEMPERATURE.items()
    }
    narrower = {name: Nucleus(SeededSampler(policy), top_p) for name, top_p in OTHER_TOP_P.items()}
    samplers: dict[str, Chooser] = {**cooler, **narrower}
    weights = [(name, partial(_weights, bench, change)) for name, change in OTHER_WEIGHTS.items()]
    sampling = [(name, partial(_sampled, bench, chooser)) for name, chooser in samplers.items()]
    # What tells most comes first: the last ones fall out where time is short.
    return [("honest", partial(_honest, bench)), *weights[:2], sampling[0], *weights[2:6], *sampling[1:], *weights[6:]]


SECTION = Section("deviations", 4.0, _items)
