"""Fixtures of the case tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tooling.testing.warm_children import Ask, skeleton_server, warm_skeletons, warm_trials


@pytest.fixture(scope="session")
def skeletons() -> Iterator[Ask]:
    """A process that has imported torch, whose children may take a quarter of the memory that one may take."""
    with skeleton_server(max_memory=1 << 30) as ask:
        yield ask


@pytest.fixture(scope="module")
def warm(skeletons: Ask) -> Iterator[None]:
    """Configurations are tried in children that need not import torch."""
    with warm_skeletons(skeletons):
        yield


@pytest.fixture(scope="module")
def warm_prompts() -> Iterator[None]:
    """Templates and tokenizers are tried in children that need not import what they need."""
    with warm_trials():
        yield
