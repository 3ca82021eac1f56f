"""No honest inner loop leaves its reach, and what lies beyond it by little does not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grail_core.gradient.reach import Reach
from grail_core.proof.inner import Rates, adamw, descended
from grail_core.proof.trained_model import F32
from grail_core.protocol.gradient.spec import GradientSpec
from tooling.testing.inner_rounds import SGD, SPEC

SEQUENCE = 5
SPECS = [
    replace(SPEC, inner_steps=4, learning_rates=((0, 4_000_000),)),
    replace(SPEC, inner_steps=30, beta1=999_000, beta2=900_000, weight_decay=300_000),
    replace(SPEC, inner_steps=8, beta1=0, beta2=0, warmup=4),
    replace(SPEC, inner_steps=8, beta1=0, beta2=999_999, weight_decay=0),
]


def moved(spec: GradientSpec, theta: F32, gradients: list[F32]) -> F32:
    first = second = np.zeros_like(theta)
    for step, gradient in enumerate(gradients):
        theta, first, second = adamw(theta, first, second, gradient, Rates.of(spec, SEQUENCE, step))
    return theta


@pytest.mark.parametrize("spec", SPECS)
def test_whatever_the_gradients_were_the_weights_are_within_reach(spec: GradientSpec) -> None:
    random, steps = np.random.default_rng(7), spec.inner_steps
    theta = np.concatenate([random.normal(0, scale, 500) for scale in (0, 1e-6, 1, 1e4)]).astype(np.float32)
    ratio = spec.beta1 / spec.beta2 if spec.beta1 and spec.beta2 else 1.0
    for gradients in (
        [random.normal(0, 10.0 ** random.uniform(-25, 0), theta.size).astype(np.float32) for _ in range(steps)],
        [np.sign(random.normal(size=theta.size)).astype(np.float32)] * steps,
        [np.full(theta.size, ratio ** (step - steps), np.float32) for step in range(steps)],  # what moves it most
        [np.full(theta.size, -(10.0 ** (step - steps)), np.float32) for step in range(steps)],
    ):
        for done in range(1, steps + 1):
            assert Reach.of(spec, SEQUENCE, done).covers(theta, moved(spec, theta, gradients[:done]))


def test_plain_descent_is_within_reach_of_its_clip() -> None:
    theta, longest = np.ones(64, np.float32), np.zeros(64, np.float32)
    longest[3] = SGD.clip / 1e6
    reach, rates = Reach.of(SGD, SEQUENCE, 1), Rates.of(SGD, SEQUENCE, 0)
    assert reach.covers(theta, descended(theta, longest, rates))
    assert not reach.covers(theta, descended(theta, longest * np.float32(1.01), rates))


def test_twice_what_the_steps_can_do_is_beyond_reach() -> None:
    spec = SPECS[0]
    theta = np.full(64, 0.02, np.float32)
    steps = moved(spec, theta, [np.ones(64, np.float32)] * 4) - theta
    assert not Reach.of(spec, SEQUENCE, 4).covers(theta, theta + 2 * steps)
    assert not Reach.of(spec, SEQUENCE, 0).covers(theta, theta + steps)
