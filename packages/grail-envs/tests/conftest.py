"""The sandbox that this machine allows, and the data sets in miniature that lie beside these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from grail_envs.sandbox import GraderPool, SandboxUnavailableError, shared_pool
from grail_envs.sandbox.pool import MATH, PYTHON, Kind


def _pool_or_skip(kind: Kind) -> GraderPool:
    try:
        return shared_pool(kind)
    except SandboxUnavailableError as error:
        pytest.skip(f"no complete sandbox here: {error.what}")


@pytest.fixture(scope="session")
def pool() -> GraderPool:
    return _pool_or_skip(PYTHON)


@pytest.fixture(scope="session")
def math_pool() -> GraderPool:
    return _pool_or_skip(MATH)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """A few rows of every data set, in the form in which it is published."""
    return Path(__file__).parent / "fixtures"
