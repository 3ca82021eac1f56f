"""Follows the chain's head: reads its numbers, waits for blocks, and leaves an endpoint whose head stands, lags or lies.

A head that cannot be (`plausibility`) is no head: whoever tells it is left at once, and where nobody tells another there is an
error and no number. Its time is asked for at first sight of an endpoint, every few blocks, where it jumps further than time
allows, and of others before one of them is taken; no other poll costs a second request. What is suspicious besides is `heads`'s
to say. Then every other endpoint that may be asked is asked for the same number, and the one that is furthest is taken if it is
really further. If nobody is, the network itself stands, or this machine's clock is wrong: that is said at once and again ever
more rarely, and the wait goes on until blocks do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from grail_core.chain.bittensor.connection import TRIES, SdkConnection, UnreachableError
from grail_core.chain.bittensor.endpoints import Endpoint
from grail_core.chain.bittensor.heads import FURTHER_BLOCKS, STANDS_BLOCKS, Head, HeadWatch
from grail_core.chain.bittensor.plausibility import Plausibility, numbers_doubt
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from grail_core.telemetry import get_logger

log = get_logger(__name__)

PROBE_SECONDS: Final = 10.0
SHORTEST_BLOCK_S: Final = 0.05
LONGEST_BLOCK_S: Final = 120.0
"""Block times that an endpoint is believed: naps, patience and what can be are reckoned by it."""
LONG_WAIT_BLOCKS: Final = 5
"""How much later than reckoned a block may come before a wait is said to be long; a quarter of the wait comes on top."""


@dataclass(frozen=True)
class Naps:
    """How long to sleep between two looks for a block, in block times: near it, and far from it."""

    shortest: float = 0.25
    longest: float = 1.0  # so that a head that stands is noticed from far away too


NAPS = Naps()


@dataclass(frozen=True)
class _Told:
    """Numbers that an endpoint said and that can be; the best one is always among them."""

    endpoint: Endpoint
    numbers: dict[Head, int]
    asked_ms: int  # the clock before they were asked for
    time_ms: int | None = None  # of the best block, where it was asked for


class HeadFollower:
    """Reads and waits for the best and the finalised block. Threads may share it."""

    def __init__(self, connection: SdkConnection, clock: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._watch, self._plausibility = HeadWatch(clock), Plausibility(clock, monotonic)
        self._lock = threading.Lock()  # of these two, and of who is doubted
        self._looking = threading.Lock()  # one thread at a time asks the others
        self._block_seconds: float | None = None
        self._doubted: set[str] = set()  # URLs of whom it is said already

    def number(self, head: Head) -> Block:
        """The number of the best or of the finalised block, at the endpoint that is in use afterwards.

        Who asks for the finalised block looks at the best one too: that stands some blocks before finality does.

        Raises:
            ChainError: no endpoint answers, or none with a head that can be.
        """
        told = self._believed(head)
        if any(self._left(looked_at, told) for looked_at in told.numbers):
            told = self._believed(head)
        return Block(told.numbers[head])

    def block_seconds(self, at: Endpoint | None = None) -> float:
        """Seconds of a block, by the chain's own constant; asked once, of `at` or of the endpoint in use.

        Raises:
            ChainError: it says none that a role could wait by.
        """
        known = self._block_seconds
        if known is None:
            endpoint, said = (at, self._connection.ask(at, *_BLOCK_TIME)) if at else self._connection.read_at(*_BLOCK_TIME)
            known = float(said)
            if not SHORTEST_BLOCK_S <= known <= LONGEST_BLOCK_S:
                raise ChainError(f"the node says that a block takes {known:g} s", where=endpoint.name)
            self._block_seconds = known
        return known

    def may_exist(self, number: int) -> bool:
        """Whether time has passed for a block of this number since the last head that was seen."""
        block_ms = 1000 * self.block_seconds()
        with self._lock:
            return self._plausibility.fits(number, block_ms)

    def sound_others(self, head: Head = Head.BEST) -> list[_Told]:
        """What every other endpoint says, in their order, that answers with a head that can be. They are asked side by side, so
        that a silent one holds nobody up for longer; `drop_unused` of the connection is the caller's to call."""

        def told(other: Endpoint) -> _Told | None:
            asked_ms = self._clock()
            try:
                asked = _asked(head, with_time=True)
                numbers, time_ms = self._connection.ask(other, f"{head.value} block", asked, limit=PROBE_SECONDS)
                why = numbers_doubt(numbers[Head.BEST], numbers.get(Head.FINALISED)) or self._doubt(numbers, time_ms)
            except UnreachableError:
                return None
            except ChainError as error:
                why = error.what
            if why:
                self._say_doubt(other, why)
                return None
            return _Told(other, numbers, asked_ms, time_ms)

        others = self._connection.endpoints.others()
        with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="chain-probe") as pool:
            return [one for one in pool.map(told, others) if one is not None]

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

    # --- what can be ----------------------------------------------------------------------------------------------------

    def _believed(self, head: Head) -> _Told:
        """What the first endpoint says that can be believed; the others before it are left, for a pause."""
        endpoints, why = self._connection.endpoints, "it did not answer"
        for _ in range(max(TRIES, len(endpoints.every))):
            asked_ms, asked_at, endpoint = self._clock(), endpoints.now(), endpoints.current
            try:
                endpoint, (numbers, _) = self._connection.read_at(f"{head.value} block", _asked(head))
            except UnreachableError:
                raise
            except ChainError as error:
                why = error.what
            else:
                try:
                    time_ms, why = self._time_of_best(endpoint, numbers)
                except UnreachableError:
                    continue  # it is paused for that, and another one in use where there is one
                if not why:
                    with self._lock:
                        self._doubted.discard(endpoint.url)
                    return _Told(endpoint, numbers, asked_ms, time_ms)
            self._block_seconds = None  # it may be this one's word
            self._say_doubt(endpoint, why)
            self._connection.refuse(endpoint, why, asked_at=asked_at)
        raise ChainError(
            f"{head.value} block: no endpoint tells one that can be: {why}",
            where=endpoint.name,
            hint="add an endpoint of another operator to BT_CHAIN_ENDPOINT; set this machine's clock by a time server",
        )

    def _time_of_best(self, endpoint: Endpoint, numbers: dict[Head, int]) -> tuple[int | None, str]:
        """Its Unix milliseconds, where they are due or its number is too high without, and what is wrong with both.

        Raises:
            UnreachableError: the endpoint does not answer.
        """
        best = numbers[Head.BEST]
        why = numbers_doubt(best, numbers.get(Head.FINALISED))
        if why:
            return None, why
        try:
            block_ms = 1000 * self.block_seconds(endpoint)
            with self._lock:
                if not self._watch.age_due(endpoint.url, best) and self._plausibility.fits(best, block_ms):
                    return None, ""
            time_ms = self._connection.ask(endpoint, f"time of block {best}", lambda client, substrate: _time_of(client, best))
        except UnreachableError:
            raise
        except ChainError as error:  # of its own best block
            return None, error.what
        return time_ms, self._doubt(numbers, time_ms)

    def _doubt(self, numbers: dict[Head, int], time_ms: int) -> str:
        block_ms = 1000 * self.block_seconds()
        with self._lock:
            return self._plausibility.doubt(numbers[Head.BEST], time_ms, block_ms)

    def _say_doubt(self, endpoint: Endpoint, why: str) -> None:
        """Once, until its word can be believed."""
        with self._lock:
            if endpoint.url in self._doubted:
                return
            self._doubted.add(endpoint.url)
        log.event("chain_head_doubted", level=logging.WARNING, endpoint=endpoint.name, reason=why[:300])

    # --- what is suspicious ---------------------------------------------------------------------------------------------

    def _suspicion(self, head: Head, told: _Told) -> tuple[int, str]:
        """For how long something has been wrong with a head, and what; no text where nothing is."""
        limit_ms = 1000 * STANDS_BLOCKS * self.block_seconds()
        aged = head is Head.BEST and told.time_ms is not None
        with self._lock:
            rose = self._watch.saw(head, told.endpoint.url, told.numbers[head])
            stands_ms = self._watch.stands_ms(head, told.asked_ms)
            age_ms = self._watch.aged(head, told.time_ms, told.asked_ms) if aged and told.time_ms is not None else 0
            if stands_ms >= limit_ms:
                return stands_ms, "stands"
            if age_ms >= limit_ms:
                return age_ms, "lies back"
            calmed = rose and (aged or head is Head.FINALISED) and self._watch.calm(head)
        if calmed:
            log.event(f"chain_{_WORD[head]}_goes_on", endpoint=told.endpoint.name, block=told.numbers[head])
        return 0, ""

    def _left(self, head: Head, told: _Told) -> bool:
        """Look at a number that an endpoint said; whether another endpoint is in use now because of it."""
        try:
            suspicious_ms, why = self._suspicion(head, told)
            if not why or not self._looking.acquire(blocking=False):
                return False
        except ChainError:  # the block time: the next read's business
            return False
        try:
            return self._look_around(head, told, suspicious_ms, why)
        finally:
            self._looking.release()

    def _look_around(self, head: Head, told: _Told, suspicious_ms: int, why: str) -> bool:
        """Ask the other endpoints, and take the furthest if it is further than this one."""
        endpoint, number = told.endpoint, told.numbers[head]
        block_ms = round(1000 * self.block_seconds())
        with self._lock:
            if not self._watch.look_due(head, block_ms):
                return False
        furthest, its_number = endpoint, number + FURTHER_BLOCKS - 1
        for other in self.sound_others(head):
            if other.numbers[head] > its_number:
                furthest, its_number = other.endpoint, other.numbers[head]
        if self._connection.endpoints.current is endpoint:
            self._say_stands(head, endpoint, number, suspicious_ms, why, furthest)
            self._connection.leave(furthest, f"its {head.value} block {number} {why} {suspicious_ms / 1000:.0f} s")
        self._connection.drop_unused()
        return furthest is not endpoint

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


_BLOCK_TIME: Final = ("block time", lambda client, substrate: client.block_time())
_WORD = {Head.BEST: "head", Head.FINALISED: "finality"}


def _asked(head: Head, *, with_time: bool = False) -> Callable[[Any, Any], Awaitable[tuple[dict[Head, int], int]]]:
    """Numbers, and the Unix milliseconds of the best block where they are wanted, else 0."""

    async def asked(client: Any, substrate: Any) -> tuple[dict[Head, int], int]:
        numbers: dict[Head, int] = {}
        if head is Head.FINALISED:  # first: no honest one is beyond the best block that is read after it
            numbers[head] = int(await client.finalized_block())
        best = numbers[Head.BEST] = int(await client.block())
        return numbers, await _time_of(client, best) if with_time else 0

    return asked


async def _time_of(client: Any, number: int) -> int:
    found = await client.timestamp(block=number)
    milliseconds: int = round(found.timestamp() * 1000)
    return milliseconds


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
