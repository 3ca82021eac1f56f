"""Reads of one block's data: of the endpoint in use, of an archive where that threw it away, of another where it is broken.

An endpoint may tell its numbers right and answer nothing else, for days. What it answers with an error, or with what no sound
node gives, is asked of the others, of those with a head that can be, and the first that can answer is in use from then on.
Where nobody can, the chain or some neuron on it is what no node can answer, and nobody is left for that.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar, cast

from grail_core.chain.bittensor.connection import PrunedError, Request, SdkConnection, UnreachableError
from grail_core.chain.bittensor.endpoints import Endpoint
from grail_core.chain.bittensor.following import HeadFollower
from grail_core.chain.bittensor.heads import Head
from grail_core.errors import ChainError
from grail_core.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")
ELSEWHERE_SECONDS: Final = 20.0
"""At the least between two times that the others are asked for what the endpoint in use cannot answer."""


class StateReader:
    """Threads may share it.

    Args:
        open_archives: a connection whose endpoints keep old blocks; opened when one is wanted.
        monotonic: seconds.
    """

    def __init__(
        self,
        connection: SdkConnection,
        follower: HeadFollower,
        open_archives: Callable[[], SdkConnection],
        monotonic: Callable[[], float],
    ) -> None:
        self._connection, self._follower = connection, follower
        self._open_archives, self._monotonic = open_archives, monotonic
        self._archive: SdkConnection | None = None
        self._lock = threading.Lock()
        self._elsewhere_at = float("-inf")

    def read(
        self,
        what: str,
        number: int,
        request: Request[T],
        *,
        lacks: Callable[[T], bool] = lambda answer: False,
        broken: Callable[[T], bool] = lambda answer: False,
    ) -> T:
        """A read of one block's data.

        Args:
            lacks: whether an answer says that the node does not have the block; of one that it should have, archives are asked.
            broken: whether an answer is none that a sound node gives; as of one that is an error, others are asked.

        Raises:
            UnreachableError, PrunedError, ChainError: no endpoint answers, no archive has it, nobody can answer.
        """
        try:
            answer = self._sound_answer(what, request, broken)
            if not lacks(answer) or number > self._follower.number(Head.FINALISED):
                return answer
            missing = PrunedError(
                f"{what}: the node no longer has it",
                where=self._connection.endpoints.current.name,
                hint="add an archive node's URL to BT_CHAIN_ENDPOINT, or set BT_NETWORK=finney, which has some",
            )
        except PrunedError as error:
            missing = error
        with self._lock:
            archive = self._archive = self._archive or self._open_archives()
        in_use = self._connection.endpoints.current.url
        for endpoint in archive.endpoints.every:
            if endpoint.url == in_use or archive.endpoints.wait_s(endpoint) > 0.0:
                continue
            try:
                answer = archive.ask(endpoint, what, request)
            except ChainError as error:
                log.event("chain_archive_failed", level=logging.WARNING, endpoint=endpoint.name, reason=error.what)
                continue
            if not lacks(answer):
                return answer
        raise missing

    def close(self) -> None:
        with self._lock:
            if self._archive is not None:
                self._archive.close()

    def _sound_answer(self, what: str, request: Request[T], broken: Callable[[T], bool]) -> T:
        """Of the endpoint in use, or of the one that then is. Where nobody can answer the first answer, or error, stands."""
        endpoint, answer, failure = self._connection.endpoints.current, None, None
        try:
            endpoint, answer = self._connection.read_at(what, request)
            if not broken(answer):
                return answer
        except (UnreachableError, PrunedError):
            raise
        except ChainError as error:
            failure = error
        reason = "no answer that a sound node gives" if failure is None else failure.what
        elsewhere = self._elsewhere(what, request, broken, endpoint, reason)
        if elsewhere:
            return elsewhere[0]
        if failure is not None:
            raise failure
        return cast(T, answer)

    def _elsewhere(
        self, what: str, request: Request[T], broken: Callable[[T], bool], endpoint: Endpoint, reason: str
    ) -> list[T]:
        """The answer of the first other endpoint that can, which takes the place of `endpoint`; none where nobody can, or all
        were asked just now."""
        now = self._monotonic()
        with self._lock:
            if now - self._elsewhere_at < ELSEWHERE_SECONDS or not self._connection.endpoints.others():
                return []
            self._elsewhere_at = now
        try:
            for other in self._follower.sound_others():
                with contextlib.suppress(ChainError):
                    answer = self._connection.ask(other.endpoint, what, request)
                    if not broken(answer):
                        if self._connection.endpoints.current is endpoint:
                            self._connection.leave(other.endpoint, f"another one can answer what it cannot: {reason}")
                        return [answer]
        finally:
            self._connection.drop_unused()
        return []
