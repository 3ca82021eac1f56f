"""Requests through the bittensor SDK (11.x) to one endpoint at a time: opened when needed, made anew, another one taken.

The SDK is asynchronous; one private event loop on a daemon thread runs it, and every request has a time limit. Each endpoint
has a client of its own, so that which one answers is known and chosen here (`endpoints`), not inside the SDK. A client is used
once its block 0 is that of the chain that was seen first: an endpoint of another chain is as good as none. Importing this
module does not import the SDK.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from grail_core.chain.bittensor.endpoints import Endpoint, Endpoints
from grail_core.errors import ChainError, ConfigurationError

T = TypeVar("T")
Request = Callable[[Any, Any], Awaitable[T]]
"""What to ask of an SDK client and of the Substrate that it uses."""

READ_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 180.0  # a write returns when its block is final
TRIES: Final = 3  # of a read, on whatever endpoints
PATIENCE_S: Final = 5.0  # that a read waits for the pause of an endpoint to end
REFUSAL_S: Final = 1.0  # that an error takes which asked nobody, so that no caller's loop is a busy one


_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, ConfigurationError)
"""What the SDK, and what reads its values, raise where an answer is none: for an address a `ConfigurationError`."""


class UnreachableError(ChainError):
    """No answer: it may help to ask again."""


class PrunedError(ChainError):
    """The node no longer has the state of that block."""


@dataclass(frozen=True)
class _Session:
    client: Any
    substrate: Any


class SdkConnection:
    """Runs requests on the endpoint in use. Threads may share it.

    Args:
        make_client: a fresh `bittensor.Client` for a URL, and the `bittensor.Substrate` it uses.
        genesis: the hash of block 0 in hexadecimal, where it is known; else that of the first endpoint that answers.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        make_client: Callable[[str], tuple[Any, Any]],
        *,
        genesis: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.endpoints = endpoints
        self.genesis = genesis
        self._make_client, self._sleep, self._read_seconds = make_client, sleep, read_seconds
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: dict[str, _Session] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._closing: set[concurrent.futures.Future[None]] = set()

    def read(self, what: str, request: Request[T], *, limit: float | None = None) -> T:
        """As `read_at`, the answer alone."""
        return self.read_at(what, request, limit=limit)[1]

    def read_at(self, what: str, request: Request[T], *, limit: float | None = None) -> tuple[Endpoint, T]:
        """An idempotent request, asked up to `TRIES` times, after a failure of another endpoint or of this one after its pause.

        Returns:
            Who answered, and what.

        Raises:
            UnreachableError: no endpoint answered, or each is paused for longer than a read waits.
            ChainError: an endpoint answered with an error.
        """
        tries = max(TRIES, len(self.endpoints.every))
        for attempt in range(1, tries + 1):
            pause = self.endpoints.wait_s()
            if pause > PATIENCE_S:
                self._sleep(REFUSAL_S)
                raise self._unreachable(what, f"no endpoint answers; asked again in {pause:.0f} s")
            if pause > 0.0:
                self._sleep(pause)
            endpoint = self.endpoints.current
            try:
                return endpoint, self.ask(endpoint, what, request, limit=limit)
            except UnreachableError:
                if attempt == tries:
                    raise
        raise AssertionError("unreachable")

    def run(self, what: str, request: Request[T], *, limit: float | None = None) -> T:
        """A request, once, on the endpoint in use; it is left if it does not answer."""
        return self.ask(self.endpoints.current, what, request, limit=limit)

    def ask(self, endpoint: Endpoint, what: str, request: Request[T], *, limit: float | None = None) -> T:
        """A request, once, to this endpoint.

        Raises:
            UnreachableError: no answer in time, or no connection, or a refusal of traffic; the endpoint is paused.
            PrunedError, ChainError: it answered with an error.
        """
        import bittensor

        seconds = self._read_seconds if limit is None else limit
        asked_at = self.endpoints.now()

        async def asked() -> T:
            session = await self._session(endpoint)
            return await request(session.client, session.substrate)

        try:
            future = asyncio.run_coroutine_threadsafe(asked(), self._running_loop())
            try:
                answer = future.result(seconds)
            except concurrent.futures.TimeoutError:
                future.cancel()
                raise
        except (bittensor.RpcConnectionError, bittensor.ConnectionNotReady, TimeoutError, OSError, _OtherChainError) as error:
            self._drop(endpoint)
            reason = endpoint.masked(str(error)) or f"no answer within {seconds:.0f} s"
            self.endpoints.failed(endpoint, reason, asked_at=asked_at, wish_s=_wish_s(error))
            raise self._unreachable(what, reason, endpoint) from error
        except bittensor.BittensorError as error:
            self.endpoints.answered(endpoint)
            raise _told(what, error, endpoint) from error
        except _UNREADABLE as error:
            # What the SDK cannot decode is the node's word, or some neuron's that every node repeats: no reason to leave.
            self.endpoints.answered(endpoint)
            raise ChainError(
                f"{what}: the node's answer cannot be read: {type(error).__name__}: {endpoint.masked(str(error))[:200]}",
                where=endpoint.name,
            ) from error
        self.endpoints.answered(endpoint)
        return answer

    def leave(self, chosen: Endpoint, reason: str) -> None:
        """Use another endpoint than the one in use, which answers, but not what it should."""
        left = self.endpoints.current
        self.endpoints.take(chosen, reason)
        if left is not chosen:
            self._drop(left)

    def refuse(self, endpoint: Endpoint, reason: str, *, asked_at: float) -> None:
        """Leave an endpoint whose answer cannot be, for a pause, as one that is silent. asked_at: as in `Endpoints.failed`."""
        self._drop(endpoint)
        self.endpoints.failed(endpoint, reason, asked_at=asked_at)

    def drop_unused(self) -> None:
        """Close the clients of all endpoints but the one in use."""
        for endpoint in self.endpoints.every:
            if endpoint is not self.endpoints.current:
                self._drop(endpoint)

    def close(self) -> None:
        """Close all clients and end the loop's thread; a later request opens both again."""
        with self._lock:
            for endpoint in self.endpoints.every:
                self._drop(endpoint)
            concurrent.futures.wait(self._closing, timeout=5)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    # --- inside ---------------------------------------------------------------------------------------------------------

    async def _session(self, endpoint: Endpoint) -> _Session:
        async with self._opening.setdefault(endpoint.url, asyncio.Lock()):
            known = self._sessions.get(endpoint.url)
            if known is not None:
                return known
            client, substrate = self._make_client(endpoint.url)
            try:
                await client.connect()
                genesis = str(await substrate.block_hash(0))
            except BaseException:
                with contextlib.suppress(Exception):
                    await client.close()
                raise
            if self.genesis is not None and genesis != self.genesis:
                with contextlib.suppress(Exception):
                    await client.close()
                raise _OtherChainError(f"it is of another chain: its block 0 is {genesis[:18]}…, ours {self.genesis[:18]}…")
            self.genesis = genesis
            session = self._sessions[endpoint.url] = _Session(client, substrate)
            return session

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._opening = {}  # a lock belongs to one loop
                threading.Thread(target=_run, args=(self._loop,), name="bittensor", daemon=True).start()
            return self._loop

    def _drop(self, endpoint: Endpoint) -> None:
        """Forget an endpoint's client; it is closed without waiting, since it may be what does not answer."""
        with self._lock:
            session = self._sessions.pop(endpoint.url, None)
            if session is not None and self._loop is not None:
                closing = asyncio.run_coroutine_threadsafe(_close(session.client), self._loop)
                self._closing = {one for one in self._closing if not one.done()} | {closing}

    def _unreachable(self, what: str, reason: str, endpoint: Endpoint | None = None) -> UnreachableError:
        return UnreachableError(
            f"{what}: the chain cannot be reached: {reason}",
            where=(endpoint or self.endpoints.current).name,
            hint="check the network and BT_CHAIN_ENDPOINT",
        )


class _OtherChainError(Exception):
    """An endpoint of another chain."""


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)  # of a connection that never came about the SDK's own go on for a while
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=5))
    finally:
        loop.close()


async def _close(client: Any) -> None:
    with contextlib.suppress(Exception):  # it is broken or unwanted already
        await asyncio.wait_for(client.close(), 5)


def _wish_s(error: BaseException) -> float:
    """For how long an endpoint that refuses traffic wants to be left alone (HTTP's Retry-After, in seconds); 0 unsaid."""
    text = str(getattr(error, "retry_after", None) or "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


def _told(what: str, error: Exception, endpoint: Endpoint) -> ChainError:
    """An error that the chain gave, as ours."""
    if "discarded" in str(error).lower():
        return PrunedError(
            f"{what}: the node has thrown the state of so old a block away",
            where=endpoint.name,
            hint="add an archive node's URL to BT_CHAIN_ENDPOINT, or set BT_NETWORK=finney, which has some",
        )
    return ChainError(f"{what}: {endpoint.masked(str(error))}", where=endpoint.name, hint=remediation(error))


def remediation(error: object) -> str:
    """What the SDK says to do about one of its errors; empty where it says nothing."""
    return str(getattr(error, "remediation", "") or "")
