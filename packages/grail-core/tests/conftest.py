"""What several tests of core stand on: a clock that they move, and a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grail_core.storage.s3 import S3Store
from tooling.testing.clock import ManualClock
from tooling.testing.s3_server import S3Server, s3_server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def running_s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(running_s3: S3Server) -> S3Server:
    """The server with one empty bucket."""
    running_s3.reset()
    return running_s3


@pytest.fixture
def s3_store(s3: S3Server) -> S3Store:
    return s3.store()
