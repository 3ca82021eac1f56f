"""Follows the chain's head: reads its numbers, waits for blocks, and goes to another endpoint when the head stands or lags.

What is suspicious is `heads`'s to say. Then every other endpoint that may be asked is asked for the same number, and the one
that is furthest is taken if it is really further. If nobody is, the network itself stands, or this machine's clock is wrong:
that is said at once and again ever more rarely, and the wait goes on until blocks do. A head is an endpoint's word, here as
everywhere: one that invents blocks far ahead is believed until it is asked for one of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from grail_core.chain.bittensor.connection import SdkConnection
from grail_core.chain.bittensor.endpoints import Endpoint
from grail_core.chain.bittensor.heads import FURTHER_BLOCKS, STANDS_BLOCKS, Head, HeadWatch
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from grail_core.telemetry import get_logger

log = get_logger(__name__)

PROBE_SECONDS: Final = 10.0
LONGEST_BLOCK_S: Final = 120.0  # that an endpoint is believed: naps and patience are reckoned by it
LONG_WAIT_BLOCKS: Final = 5
"""How much later than reckoned a block may come before a wait is said to be long; a quarter of the wait comes on top."""


@dataclass(frozen=True)
class Naps:
    """How long to sleep between two looks for a block, in block times: near it, and far from it."""

    shortest: float = 0.25
    longest: float = 1.0  # so that a head that stands is noticed from far away too


NAPS = Naps()


class HeadFollower:
    """Reads and waits for the best and the finalised block. Threads may share it."""

    def __init__(self, connection: SdkConnection, clock: Callable[[], int]) -> None:
        self._connection, self._clock = connection, clock
        self._watch = HeadWatch(clock)
        self._lock = threading.Lock()  # of the watch
        self._looking = threading.Lock()  # one thread at a time asks the others
        self._block_seconds: float | None = None

    def number(self, head: Head) -> Block:
        """The number of the best or of the finalised block, at the endpoint that is in use afterwards.

        Who asks for the finalised block looks at the best one too: that stands some blocks before finality does.
        """
        asked_ms = self._clock()
        said = self._connection.read(f"{head.value} block", _asked(head))
        endpoint = self._connection.endpoints.current
        for looked_at, number in said.items():
            if self._left(looked_at, endpoint, number, asked_ms):
                return Block(self._connection.read(f"{head.value} block", _asked(head))[head])
        return Block(said[head])

    def block_seconds(self) -> float:
        """Seconds of a block, by the chain's own constant.

        Raises:
            ChainError: it says none that a role could wait by.
        """
        if self._block_seconds is None:
            seconds = float(self._connection.read("block time", lambda client, substrate: client.block_time()))
            if not 0.0 < seconds <= LONGEST_BLOCK_S:
                raise ChainError(
                    f"the node says that a block takes {seconds:g} s", where=self._connection.endpoints.current.name
                )
            self._block_seconds = seconds
        return self._block_seconds

    def wait(self, number: Block, *, stop: threading.Event, head: Head) -> bool:
        """Sleep until the head has reached a block; False if `stop` was set first. Says so when that takes long."""
        allowed_ms: float | None = None
        began_ms = self._clock()
        while True:
            waited_ms = self._clock() - began_ms
            seen = self.number(head)
            missing = number - seen
            if missing <= 0:
                return True
            seconds = self.block_seconds()
            if allowed_ms is None:
                allowed_ms = 1000 * seconds * (missing + LONG_WAIT_BLOCKS + missing / 4)
            elif waited_ms > allowed_ms:
                allowed_ms = 2.0 * waited_ms
                _say_long(head, number, seen, waited_ms, self._connection.endpoints.current)
            nap = min(max((missing - 1) * 0.9, NAPS.shortest), NAPS.longest)
            if stop.wait(nap * seconds):
                return False

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _suspicion(self, head: Head, endpoint: Endpoint, number: int, asked_ms: int) -> tuple[int, str]:
        """For how long something has been wrong with a head, and what; no text where nothing is."""
        limit_ms = 1000 * STANDS_BLOCKS * self.block_seconds()
        with self._lock:
            rose = self._watch.saw(head, endpoint.name, number)
            stands_ms, age_due = self._watch.stands_ms(head, asked_ms), self._watch.age_due(head)
        if stands_ms >= limit_ms:
            return stands_ms, "stands"
        age_ms = 0
        if age_due:
            timestamp_ms = self._timestamp_ms(number)
            with self._lock:
                age_ms = self._watch.aged(head, timestamp_ms, asked_ms)
        if age_ms >= limit_ms:
            return age_ms, "lies back"
        with self._lock:
            calmed = rose and (age_due or head is Head.FINALISED) and self._watch.calm(head)
        if calmed:
            log.event(f"chain_{_WORD[head]}_goes_on", endpoint=endpoint.name, block=number)
        return 0, ""

    def _timestamp_ms(self, number: int) -> int:
        found = self._connection.read(f"time of block {number}", lambda client, substrate: client.timestamp(block=number))
        milliseconds: int = round(found.timestamp() * 1000)
        return milliseconds

    def _left(self, head: Head, endpoint: Endpoint, number: int, asked_ms: int) -> bool:
        """Look at a number that an endpoint said; whether another endpoint is in use now because of it."""
        try:
            suspicious_ms, why = self._suspicion(head, endpoint, number, asked_ms)
        except ChainError:  # the number is there: that something more could not be read is the next read's business
            return False
        if not why or not self._looking.acquire(blocking=False):
            return False
        try:
            return self._look_around(head, endpoint, number, suspicious_ms, why)
        finally:
            self._looking.release()

    def _look_around(self, head: Head, endpoint: Endpoint, number: int, suspicious_ms: int, why: str) -> bool:
        """Ask the other endpoints, and take the furthest if it is further than this one."""
        block_ms = round(1000 * self.block_seconds())
        with self._lock:
            if not self._watch.look_due(head, block_ms):
                return False
        furthest, its_number = endpoint, number + FURTHER_BLOCKS - 1
        for other, said in self._said_by_others(head):
            if said > its_number:
                furthest, its_number = other, said
        if self._connection.endpoints.current is endpoint:
            self._say_stands(head, endpoint, number, suspicious_ms, why, furthest)
            self._connection.leave(furthest, f"its {head.value} block {number} {why} {suspicious_ms / 1000:.0f} s")
        self._connection.drop_unused()
        return furthest is not endpoint

    def _said_by_others(self, head: Head) -> list[tuple[Endpoint, int]]:
        """The number at every other endpoint that answers, asked side by side: a silent one holds nobody up for longer."""

        def said(other: Endpoint) -> int | None:
            with suppress(ChainError):
                return self._connection.ask(other, f"{head.value} block", _asked(head), limit=PROBE_SECONDS)[head]
            return None

        others = self._connection.endpoints.others()
        with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="chain-probe") as pool:
            return [(other, number) for other, number in zip(others, pool.map(said, others), strict=True) if number is not None]

    def _say_stands(self, head: Head, endpoint: Endpoint, number: int, ms: int, why: str, taken: Endpoint) -> None:
        with self._lock:
            due = self._watch.say_due(head, ms)
        if due or taken is not endpoint:
            log.event(
                f"chain_{_WORD[head]}_stands" if why == "stands" else "chain_head_old",
                level=logging.ERROR if taken is endpoint else logging.WARNING,
                endpoint=endpoint.name,
                block=number,
                seconds=round(ms / 1000),
                taken="none is further" if taken is endpoint else taken.name,
            )


_WORD = {Head.BEST: "head", Head.FINALISED: "finality"}


def _asked(head: Head) -> Callable[[Any, Any], Awaitable[dict[Head, int]]]:
    async def asked(client: Any, substrate: Any) -> dict[Head, int]:
        if head is Head.BEST:
            return {head: int(await client.block())}
        return {head: int(await client.finalized_block()), Head.BEST: int(await client.block())}

    return asked


def _say_long(head: Head, number: Block, seen: Block, waited_ms: int, endpoint: Endpoint) -> None:
    log.event(
        "chain_wait_long",
        level=logging.WARNING,
        awaited=number,
        head=head.value,
        block=seen,
        seconds=round(waited_ms / 1000),
        endpoint=endpoint.name,
    )
