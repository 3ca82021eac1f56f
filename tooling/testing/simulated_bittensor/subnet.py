"""A small simulated subnet in one process, and adapters over it whose clocks are the chain's: nobody sleeps."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grail_core.chain.base import seconds_of
from grail_core.chain.bittensor.adapter import BittensorChain, Timing
from grail_core.chain.bittensor.connection import READ_SECONDS
from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.chain.development.state import ChainRules
from grail_core.keys import LocalSigner
from tooling.testing.simulated_bittensor.substrate import SimulatedBittensor

NETUID, BLOCK_S, START_MS, FINALITY_LAG = 81, 12, 1_700_000_000_000, 3
STAKE = 5 * 10**9
SILENCE_S = 0.3
"""Real seconds after which an endpoint that says nothing is given up, in tests of just that; others wait as a role does."""


def url_of(name: str) -> str:
    return f"ws://{name}:1"


class SimulatedSubnet:
    """A chain at block 40 with some neurons, the first of which has a permit.

    Args:
        chain: a network's chain with a virtual clock, in place of one made here at `folder`.
    """

    def __init__(
        self,
        folder: Path,
        neurons: Sequence[LocalSigner] = (),
        *,
        rules: ChainRules | None = None,
        chain: LocalChain | None = None,
    ) -> None:
        path = folder / "chain.sqlite"
        self.chain = chain or LocalChain.create(
            path,
            seed="simulated",
            netuid=NETUID,
            block_time_ms=1000 * BLOCK_S,
            genesis_time_ms=START_MS,
            finality_lag=FINALITY_LAG,
            clock=ClockMode.VIRTUAL,
            rules=rules,
        )
        self.world = SimulatedBittensor(self.chain, path)
        self.faults = self.world.faults
        self.slept: list[float] = []
        self._monotonic = 0.0
        if chain is None:
            for signer in neurons:
                self.chain.register(signer)
            if neurons:
                self.chain.stake(neurons[0], STAKE)
            self.chain.advance(40)

    @property
    def timing(self) -> Timing:
        return Timing(
            clock=self.chain.now_ms,
            monotonic=lambda: self._monotonic,
            sleep=self.pass_seconds,
            jitter=lambda: 1.0,
        )

    def adapter(
        self,
        *names: str,
        archives: Sequence[str] = (),
        make_client: Callable[[str], tuple[Any, Any]] | None = None,
        clock: Callable[[], int] | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> BittensorChain:
        """As a role makes one, over nodes of these names. clock: in place of the chain's. read_seconds: real ones."""
        return BittensorChain(
            make_client or self.world.client,
            endpoints=[url_of(name) for name in names or ("primary",)],
            archives=[url_of(name) for name in archives],
            netuid=self.chain.netuid,
            timing=dataclasses.replace(self.timing, clock=clock or self.chain.now_ms, read_seconds=read_seconds),
        )

    def pass_seconds(self, seconds: float) -> None:
        """Time goes on, for the chain and for whoever waits."""
        self.slept.append(seconds)
        self._monotonic += seconds
        self.chain.advance_ms(round(1000 * seconds))

    def advance(self, blocks: int) -> None:
        self.pass_seconds(seconds_of(blocks, self.chain.parameters.block_time_ms))


class PassingStop(threading.Event):
    """A stop whose waiting makes time pass. After `most` waits it is set, so that no test hangs."""

    def __init__(self, subnet: SimulatedSubnet, most: int = 1000, each: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.naps: list[float] = []
        self._subnet, self._most, self._each = subnet, most, each

    def wait(self, timeout: float | None = None) -> bool:
        if self.is_set():
            return True
        self.naps.append(timeout or 0.0)
        if len(self.naps) >= self._most:
            self.set()
        self._subnet.pass_seconds(timeout or 0.0)
        self._each(len(self.naps))
        return self.is_set()
