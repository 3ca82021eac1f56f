"""Fixtures of the case tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tooling.testing.warm_skeletons import warm_skeletons


@pytest.fixture(scope="module")
def warm() -> Iterator[None]:
    """Configurations are tried in children that need not import torch; with a quarter of the memory that one may take."""
    with warm_skeletons(max_memory=1 << 30):
        yield
