"""Small gradient work for tests of the codec, files and merge: a spec, layouts, and states of numbers from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from grail_core.gradient.feedback import compress
from grail_core.gradient.layout import Floats, Layout
from grail_core.protocol.gradient.spec import GradientSpec
from tooling.testing.gradient_specs import TINY

SPEC = dataclasses.replace(
    TINY,
    sequence_length=4,
    held_out=64,
    batch_least=1,
    batch_most=2,
    learning_rates=((0, 4_000_000),),
    chunk=64,
    kept=4,
    chunks_drawn=3,
)

SHAPES: tuple[tuple[str, tuple[int, ...]], ...] = (("a", (1,)), ("b.w", (5, 13, 3)), ("c", (64,)), ("d", (130,)))
"""One element, a shorter last chunk, a full one, three dimensions."""


def spec_of(**changes: Any) -> GradientSpec:
    return dataclasses.replace(SPEC, **changes)


def layout_of(shapes: Sequence[tuple[str, tuple[int, ...]]] = SHAPES, spec: GradientSpec = SPEC) -> Layout:
    return Layout.of(shapes, spec)


def state(layout: Layout, seed: int, scale: float = 1e-3) -> dict[str, Floats]:
    """Normal numbers in every tensor."""
    random = np.random.default_rng(seed)
    return {t.name: (random.standard_normal(t.shape) * scale).astype(np.float32) for t in layout.tensors}


def update(layout: Layout, spec: GradientSpec, seed: int, scale: float = 1e-3) -> tuple[bytes, ...]:
    """The streams of an update made of `state`."""
    return compress(layout, spec, state(layout, seed, scale), None)[0]
