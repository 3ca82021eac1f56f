"""Specs of short rounds for tests of the inner loop and of its replay: three steps of rows of 16 tokens."""

from __future__ import annotations

from dataclasses import replace

from tooling.testing.gradient_specs import TINY

VOCABULARY = 48
SPEC = replace(
    TINY,
    sequence_length=16,
    sequences=1000,
    held_out=10,
    inner_steps=3,
    weight_decay=100_000,
    learning_rates=((0, 4_000_000), (10, 2_000_000)),
)
SGD = replace(SPEC, optimiser="sgd", inner_steps=1, commit="ends", learning_rates=((0, 40_000_000),))
