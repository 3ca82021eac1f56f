"""A generator made of a server of ours and its client: started when weights are first served, and again when it dies.

A server that was started again draws nothing before it has the weights that were asked for and has said so. What is drawn
depends on prompt, seed and weights alone, so a batch survives the death of its server: what was finished stays, the rest is
asked for again and comes out the same.

Rolling is the client's; a server that cannot be rolled is started anew from the new folder, which costs more and is never a
mixture either. Starts that fail follow one another more and more slowly, and end in an error after a few; so does a batch
whose server dies again and again without finishing anything, since it may be the batch that kills it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from grail_core.disk import storage_errors
from grail_core.errors import EngineError
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.joining import FinishedRow, Joining, JoiningGenerator
from grail_core.generation.options import EngineOptions
from grail_core.generation.policies import policies_of, refuse_penalty, refuse_truncation
from grail_core.generation.rows import require_room
from grail_core.generation.server import EngineServer
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry import get_logger

log = get_logger(__name__)


class EngineClient(JoiningGenerator, Protocol):
    """A generator over HTTP."""

    def adopt(self, weights: ServedWeights) -> None:
        """Take a server that was just started from these weights' folder as serving them, once it says so.

        Raises:
            EngineError: it does not. ProtocolViolationError: as `serve`.
        """
        ...


MakeClient = Callable[[str, str], EngineClient]
"""From a server's URL and its key."""


@dataclass(frozen=True)
class Restarts:
    """How often, and how slowly, a server is started again. Seconds."""

    most: int = 4  # failures one after the other
    first_s: float = 1.0  # before the second start; doubled for each further one
    longest_s: float = 60.0

    def delay(self, failures: int) -> float:
        return 0.0 if failures == 0 else min(self.longest_s, self.first_s * 2 ** (failures - 1))


NORMAL: Final = Restarts()


class SupervisedGenerator:
    """See `Generator`.

    Args:
        make_client: over a server that was started.
        numerics_class: what the header calls `generation_class`; the server is started so that it is.
        folders: where engines find their weights; by default below `options.state_dir`, and none where that is not set.
        spare_tokens: see `RemoteGenerator`.
    """

    def __init__(
        self,
        options: EngineOptions,
        make_client: MakeClient,
        *,
        numerics_class: str,
        server: EngineServer | None = None,
        folders: EngineFolders | None = None,
        restarts: Restarts = NORMAL,
        spare_tokens: int = 0,
    ) -> None:
        self._options, self._make_client, self._numerics_class = options, make_client, numerics_class
        self._server = server if server is not None else EngineServer(options, numerics_class=numerics_class)
        if folders is None and options.state_dir is not None:
            folders = EngineFolders(options.state_dir / "weights")
        self.folders = folders
        self._restarts = restarts
        self._spare_tokens = spare_tokens
        self._client: EngineClient | None = None
        self._wanted: ServedWeights | None = None  # what is drawn with; a server that was started again gets it first
        self._started_as: tuple[object, ...] | None = None  # what the server cannot change while it runs
        self._failures = 0  # since a completion was finished
        self._lock = threading.Lock()  # of `_client` and `_closed`
        self._closed = threading.Event()

    @property
    def numerics_class(self) -> str:
        return self._numerics_class

    @property
    def version(self) -> str | None:
        client = self._client
        return client.version if client is not None and self._server.alive else None

    def serve(self, weights: ServedWeights) -> None:
        """See `Generator.serve`; starts the server where there is none, and anew where it cannot be rolled.

        Raises:
            ConfigurationError: the engine is not there, or not one that this was tried with.
            StorageError: the folder for the engine cannot be written.
        """
        self._check_policy(weights.policy)  # before a server is started for it
        weights = self.folders.stage(weights) if self.folders is not None else weights
        client = self._client
        self._wanted = None
        if client is not None and self.version is not None and self._started_as == _fixed(weights):
            try:
                client.serve(weights)
            except EngineError as error:
                log.event("engine_roll_failed", level=logging.WARNING, reason=error.what, serves=client.version)
            else:
                self._wanted = weights
                return
        self._start(weights)
        self._wanted = weights

    def distrust(self) -> None:
        """See `Generator.distrust`; the server ends at once."""
        self._wanted = None
        self._drop_client()
        self._server.stop()
        log.event("engine_distrusted", level=logging.WARNING, backend=self._options.backend)

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """See `Generator.generate`."""
        weights, pending = self._required(), dict(enumerate(requests))
        for policy in dict.fromkeys(policies_of(requests, weights.policy)):
            self._check_policy(policy)
        while pending and not (cancelled() or self._closed.is_set()):
            client = self._ready(weights)
            asked = list(pending)
            failure: EngineError | None = None
            with contextlib.ExitStack() as stack:
                try:
                    stream = client.generate([pending[index] for index in asked], self._ended(cancelled))
                    if (close := getattr(stream, "close", None)) is not None:
                        stack.callback(close)
                    for drawn in stream:
                        index = asked[drawn.index]
                        if pending.pop(index, None) is None:
                            raise EngineError(f"the engine finished request {index} twice", where=self._server.url)
                        self._failures = 0
                        yield Drawn(index, drawn.completion)
                except EngineError as error:
                    failure = error
            if failure is None and client.version == weights.version and self._server.alive:
                return  # rows that it leaves out are its client's decision: the server does what it should
            if pending and not (cancelled() or self._closed.is_set()):
                self._count_failure(failure, len(pending))

    def require_joinable(self, prompt: int, policy: GenerationPolicy) -> None:
        """See `JoiningGenerator`."""
        self._check_policy(policy)
        require_room(prompt, policy.max_tokens, self._options.max_model_len, self._spare_tokens)

    def joining(self) -> Joining:
        """See `JoiningGenerator`; a server that died, or failed those before, is started again first."""
        return _WatchedRows(self, self._ready(self._required()).joining())

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            client, self._client = self._client, None
        if client is not None:
            client.close()
        self._server.close()
        if self.folders is not None:
            self.folders.close()

    def _required(self) -> ServedWeights:
        if self._wanted is None:
            raise EngineError("no weights are served", where=self._options.backend, hint="serve a checkpoint's weights first")
        return self._wanted

    def _check_policy(self, policy: GenerationPolicy) -> None:
        """Raises: ProtocolViolationError: our server cannot draw by it, as it is started."""
        refuse_penalty(policy, self._options.backend)
        if self._options.native_sampling:  # `launch` leaves our processor out then
            refuse_truncation(policy, self._options.backend)

    def _ended(self, cancelled: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: cancelled() or self._closed.is_set() or not self._server.alive

    def _ready(self, weights: ServedWeights) -> EngineClient:
        """The client, over a server that has these weights and said so."""
        if self._client is None or self.version != weights.version:
            self._start(weights)
        client = self._client
        if client is None:
            raise self._closed_error()
        return client

    def _start(self, weights: ServedWeights) -> None:
        """Start the server with these weights; again and again, but not for ever."""
        while True:
            if self._closed.wait(self._restarts.delay(self._failures)):
                raise self._closed_error()
            self._drop_client()
            try:
                self._server.start(weights)
                client = self._make_client(self._server.url, self._server.api_key)
                with self._lock:
                    if self._closed.is_set():
                        client.close()
                        raise self._closed_error()
                    self._client = client
                client.adopt(weights)
                self._started_as = _fixed(weights)
                return
            except EngineError as error:
                self._drop_client()
                self._server.stop()
                self._failures += 1
                if self._closed.is_set() or self._failures >= self._restarts.most:
                    self._failures = min(self._failures, self._restarts.most - 1)  # one more try for the next window
                    raise
                log.event(
                    "engine_start_failed",
                    level=logging.WARNING,
                    reason=error.what.splitlines()[0],
                    failures=self._failures,
                    next_s=self._restarts.delay(self._failures),
                )
            except BaseException:
                self._drop_client()
                self._server.stop()
                raise

    def _count_failure(self, failure: EngineError | None, unfinished: int) -> None:
        """The server has died, or does not do what it should: end it, and say so. Raises once it is too often."""
        died = not self._server.alive
        error = failure or (self._died() if died else self._error(f"left {unfinished} requests unfinished"))
        self._failures += 1
        log.event(
            "engine_lost",
            level=logging.WARNING,
            died=died,
            reason=error.what,
            unfinished=unfinished,
            failures=self._failures,
        )
        self._drop_client()
        self._server.stop()
        if self._failures >= self._restarts.most:
            self._failures = self._restarts.most - 1
            raise error

    def _died(self) -> EngineError:
        return self._error(f"died; it printed last:\n{self._server.last_lines()}")

    def _error(self, what: str) -> EngineError:
        return EngineError(
            f"the {self._options.backend} server {what}", where=str(self._server.log_file), hint="look at the log"
        )

    def _drop_client(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _closed_error(self) -> EngineError:
        return EngineError("this generator is closed", where=self._options.backend)


class _WatchedRows:
    """`Joining` over a server of ours: where it dies or fails them it is ended, and counted as for a batch."""

    def __init__(self, generator: SupervisedGenerator, rows: Joining) -> None:
        self._generator, self._rows = generator, rows
        self._running: set[int] = set()

    def add(self, id: int, request: GenerationRequest) -> None:
        self._rows.add(id, request)
        self._running.add(id)

    def poll(self, seconds: float) -> list[FinishedRow]:
        try:
            if not self._generator._server.alive:
                raise self._generator._died()
            finished = self._rows.poll(seconds)
            if not self._generator._server.alive:  # rows that its death has cost are not lost for good
                finished = [one for one in finished if one.tokens is not None]
                if not finished:
                    raise self._generator._died()
        except EngineError as error:
            if not self._generator._closed.is_set():
                self._generator._count_failure(error, len(self._running))
            raise
        self._running -= {one.id for one in finished}
        if any(one.tokens is not None for one in finished):
            self._generator._failures = 0
        return finished

    def cancel(self, id: int) -> None:
        self._rows.cancel(id)
        self._running.discard(id)

    def close(self) -> None:
        self._rows.close()


def _fixed(weights: ServedWeights) -> tuple[object, ...]:
    """What engines read when they start and at no other time: a server is rolled among weights that agree in all of it."""
    config = weights.folder / "config.json"
    with storage_errors(config):
        said = config.read_bytes()
    return weights.end_tokens, weights.vocabulary_size, weights.context_length, said
