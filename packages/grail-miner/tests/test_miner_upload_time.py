"""The chain is asked once a block when an upload must begin, and one that is silent meanwhile costs nothing."""

from __future__ import annotations

import pytest

from grail_core.errors import ChainError
from grail_miner.upload_time import UploadTime

BLOCK_MS = 12_000


class Chain:
    def __init__(self) -> None:
        self.now_ms, self.at_ms, self.asked, self.silent = 0, 360_000, 0, False

    def ask(self) -> int:
        self.asked += 1
        if self.silent:
            raise ChainError("no connection")
        return self.at_ms


@pytest.fixture
def chain() -> Chain:
    return Chain()


def upload_time(chain: Chain) -> UploadTime:
    return UploadTime(lambda: chain.now_ms, chain.ask, BLOCK_MS)


def test_it_is_asked_once_a_block_however_often_somebody_looks(chain: Chain) -> None:
    time = upload_time(chain)
    for chain.now_ms in range(0, 48_000, 100):
        assert time.seconds_left() == (360_000 - chain.now_ms) / 1000
    assert chain.asked == 4


def test_a_better_estimate_is_taken(chain: Chain) -> None:
    time = upload_time(chain)
    time.seconds_left()
    chain.now_ms, chain.at_ms = 12_000, 372_000
    assert time.seconds_left() == 360.0


def test_a_chain_that_is_silent_leaves_the_last_estimate_and_is_asked_again_a_block_later(chain: Chain) -> None:
    time = upload_time(chain)
    time.seconds_left()
    chain.silent = True
    for chain.now_ms in range(0, 24_000, 1_000):
        assert time.seconds_left() == (360_000 - chain.now_ms) / 1000
    assert chain.asked == 2
    chain.silent, chain.now_ms, chain.at_ms = False, 24_000, 348_000
    assert time.seconds_left() == 324.0


def test_a_chain_that_never_answered_is_no_estimate(chain: Chain) -> None:
    chain.silent = True
    with pytest.raises(ChainError):
        upload_time(chain).seconds_left()


def test_in_the_last_two_blocks_nothing_is_waited_for(chain: Chain) -> None:
    time = upload_time(chain)
    time.seconds_left()
    chain.now_ms, chain.silent = 336_000, True
    assert time.seconds_left() == 24.0
    assert chain.asked == 1
