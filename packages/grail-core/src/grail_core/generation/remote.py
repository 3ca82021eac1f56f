"""What SGLang's and vLLM's generators have in common: one engine behind HTTP, whose weights are known or nothing is drawn.

`version` is what this generator brought about and has seen confirmed. It is None from the moment at which a change of weights
may have begun until the engine has said that it is whole, so that whatever is cut off in between, nothing is drawn. Every batch
begins with a look at the engine's own label, and every answer must name it: a server that was started again in between has
lost the label, and with it our trust.

A label is a label, not a checksum, and whoever can reach the server can put another on it. Servers that we start listen on the
loopback device alone. Of a server at another address one trusts its operator, the network between, and that nobody else loads
weights into it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grail_core.errors import EngineError
from grail_core.generation.answers import MAX_VERSION_TEXT, EngineAnswer, UnusableAnswerError, member, read_object
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.drawing import Drawing
from grail_core.generation.http import MAX_CONTROL_BYTES, Ask, EngineHttp, RefusedError, TransientError
from grail_core.generation.joining import JoiningRows
from grail_core.generation.options import EngineOptions
from grail_core.generation.policies import refuse_penalty
from grail_core.generation.row_requests import MAX_LOST_IN_A_ROW, RETRY_S, RowRequests, kind_of, no_engine
from grail_core.generation.rows import Row, RowRules, WrongWeightsError, make_rows, require_room
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.reading import Node
from grail_core.telemetry import get_logger

log = get_logger(__name__)

ROW_S = 900.0
"""For one row: two and a half windows of subnet 81. The deadline of the window comes first (`cancelled`)."""

LOAD_S = 600.0
"""For loading weights: 100 GB at 170 MB/s."""

CONTROL_S = 30.0
ABORT_S = 5.0
_CONTROL_CONNECTIONS = 4


class RemoteGenerator(ABC):
    """A `Generator` over one engine's HTTP.

    Args:
        url: http(s)://HOST:PORT. options: how the engine is run, wherever it was started.
        numerics_class: what the header says that drew the tokens. api_key: what the engine was started with, if anything.

    Raises:
        ConfigurationError: the address is none; see `http.checked_url`.
    """

    spare_tokens = 0
    """What the engine's context length must have beyond prompt and completion."""

    def __init__(
        self,
        url: str,
        options: EngineOptions,
        *,
        numerics_class: str,
        api_key: str | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._options = options
        self._numerics_class = numerics_class
        self._retry_s = retry_s
        self._http = EngineHttp(url, connections=options.max_concurrent + _CONTROL_CONNECTIONS, api_key=api_key)
        self._weights: ServedWeights | None = None
        self.asked_again = 0
        """Answers, of all that was drawn so far, that could not be used: their rows were asked for again."""

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def numerics_class(self) -> str:
        return self._numerics_class

    @property
    def version(self) -> str | None:
        return None if self._weights is None else self._weights.version

    def serve(self, weights: ServedWeights) -> None:
        """Roll the engine to these weights, whatever it has; see `base.Generator.serve`.

        Loads them even if the label is right already, unless it was this generator that put them there: what a label of
        somebody else's stands for cannot be known from here. Requests in flight are aborted.
        """
        self.check_policy(weights.policy)
        held = self._weights
        if held is not None and held.version == weights.version and self._confirmed(weights.version):
            self._weights = weights
            return
        self._weights = None
        try:
            if self._roll(weights, held):
                self._weights = weights
                return
            self._weights = held
        except (TransientError, UnusableAnswerError) as error:
            raise self._failed(f"the roll to {weights.version[:16]}… broke off: {error}") from error
        except RefusedError as error:
            raise no_engine(self.url, error) from error
        raise self._failed(f"the engine did not take {weights.version[:16]}… and still serves what it had")

    def distrust(self) -> None:
        self._weights = None  # a label that is right is not asked for any more: `serve` loads

    def adopt(self, weights: ServedWeights) -> None:
        """Take the engine as serving these weights without loading them: for who has just started it from their folder.

        Raises:
            EngineError: its label is another. ProtocolViolationError: as `serve`.
        """
        self.check_policy(weights.policy)
        self._weights = None
        try:
            self._label_started(weights.version)
            if self._reported() != weights.version:
                raise self._failed("the engine was started with other weights than these")
        except (TransientError, UnusableAnswerError) as error:
            raise self._failed(f"the engine does not say what it serves: {error}") from error
        except RefusedError as error:
            raise no_engine(self.url, error) from error
        self._weights = weights

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """See `base.Generator.generate`. Prompts and policies are looked at in the call, the engine with the first row."""
        weights = self._known()
        rows = make_rows(requests, weights, self._options.max_model_len, self.spare_tokens)
        for policy in dict.fromkeys(row.policy for row in rows):
            self.check_policy(policy)
        return self._draw(weights, rows, cancelled)

    def require_joinable(self, prompt: int, policy: GenerationPolicy) -> None:
        """See `joining.JoiningGenerator`."""
        self.check_joining_policy(policy)
        require_room(prompt, policy.max_tokens, self._options.max_model_len, self.spare_tokens)

    def joining(self) -> JoiningRows:
        """See `joining.JoiningGenerator`."""
        weights = self._known()
        self._require_confirmed(weights)

        def make_row(index: int, request: GenerationRequest) -> Row:
            (row,) = make_rows([request], weights, self._options.max_model_len, self.spare_tokens)
            self.check_joining_policy(row.policy)
            return replace(row, index=index)

        return JoiningRows(
            self._http,
            self._row_requests(weights, MAX_LOST_IN_A_ROW, in_words=kind_of),
            make_row=make_row,
            abort=self._abort,
            concurrent=self._options.max_concurrent,
            told=lambda error: self._mixed(weights, error) if isinstance(error, WrongWeightsError) else error,
            current=lambda: self.version == weights.version,
        )

    def close(self) -> None:
        self._http.close()

    def check_policy(self, policy: GenerationPolicy) -> None:
        """Raises: ProtocolViolationError: the engine cannot draw by it."""
        refuse_penalty(policy, self.url)

    def check_joining_policy(self, policy: GenerationPolicy) -> None:
        """Raises: ProtocolViolationError: the engine cannot draw by it beside rows of any other policy."""
        self.check_policy(policy)

    def _draw(self, weights: ServedWeights, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        if not rows or cancelled():
            return
        self._require_confirmed(weights)
        requests = self._row_requests(weights, len(rows))
        drawing = Drawing(self._http, requests, rows, abort=self._abort, concurrent=self._options.max_concurrent)
        drawing.start()
        try:
            while (drawn := drawing.next(cancelled)) is not None:
                if self.version != weights.version:
                    break
                yield drawn
        finally:
            drawing.stop()
            if requests.asked_again:
                self.asked_again += requests.asked_again
                log.event("rows_asked_again", times=requests.asked_again, rows=len(rows), why=requests.why_again, url=self.url)
            failure = drawing.failure
            if isinstance(failure, WrongWeightsError):
                failure = self._mixed(weights, failure)
        if cancelled() or self._http.closed:
            return
        if failure is not None:
            raise failure
        if self.version != weights.version:
            raise EngineError("other weights are served since these rows were asked for", where=self.url)

    def _row_requests(self, weights: ServedWeights, most_lost: int, in_words: Callable[[Exception], str] = str) -> RowRequests:
        return RowRequests(
            self._http,
            RowRules(weights.version, weights.end_tokens, weights.vocabulary_size),
            ask_row=lambda row, so_far, request_id: self._ask_row(weights, row, so_far, request_id),
            request_ids=lambda: f"grail-{uuid.uuid4().hex}",
            most_lost=most_lost,
            retry_s=self._retry_s,
            in_words=in_words,
        )

    def _known(self) -> ServedWeights:
        """What is served. Raises: EngineError: nobody knows."""
        if self._weights is None:
            raise EngineError("the engine serves no weights that are known", where=self.url, hint="call serve first")
        return self._weights

    def _require_confirmed(self, weights: ServedWeights) -> None:
        """Raises: EngineError: the engine does not say that it serves these; if it says others, they are not known any more."""
        if not self._confirmed(weights.version):
            self._weights = None
            raise self._failed(f"the engine does not serve {weights.version[:16]}… any more")

    def _mixed(self, weights: ServedWeights, error: WrongWeightsError) -> EngineError:
        """The engine drew with others than these: what it serves is not known any more."""
        if self.version == weights.version:
            self._weights = None
        return self._failed(f"the engine serves other weights than {weights.version[:16]}…: {error}")

    def _confirmed(self, version: str) -> bool:
        """Does the engine itself say that it serves this? EngineError where it says nothing."""
        try:
            return self._reported() == version
        except (TransientError, UnusableAnswerError) as error:
            raise self._failed(f"the engine does not say what it serves: {error}") from error
        except RefusedError as error:
            raise no_engine(self.url, error) from error

    def _failed(self, what: str) -> EngineError:
        hint = "does it run there? look into the engine's own log; started again it is loaded anew"
        return EngineError(what, where=self.url, hint=hint)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = CONTROL_S) -> Node:
        """The JSON object that a control request answers with. Raises as `EngineHttp.call`, and UnusableAnswerError."""
        return read_object(self._http.call(Ask(method, path, body, seconds)), most=MAX_CONTROL_BYTES)

    def _send(self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = CONTROL_S) -> None:
        """A control request whose 2xx says all there is to say. Raises as `EngineHttp.call`."""
        self._http.call(Ask("POST", path, body, seconds))

    @staticmethod
    def _flag(node: Node, name: str) -> bool:
        """A member of an answer. Raises: UnusableAnswerError."""
        try:
            return member(node, name).flag()
        except ValueError as error:
            raise UnusableAnswerError(f"no {name} that can be read: {error}") from error

    @staticmethod
    def _text(node: Node, name: str) -> str:
        """A member of an answer. Raises: UnusableAnswerError."""
        try:
            return member(node, name).text(MAX_VERSION_TEXT)
        except ValueError as error:
            raise UnusableAnswerError(f"no {name} that can be read: {error}") from error

    async def _abort_by(self, asks: Sequence[Ask]) -> None:
        """Send these at once; what cannot be said is logged and let go: the closed connection says it too."""
        said = await asyncio.gather(*(self._http.ask(ask) for ask in asks), return_exceptions=True)
        for failure in said:
            if isinstance(failure, TransientError | RefusedError):
                log.event("abort_failed", level=logging.DEBUG, why=str(failure), url=self.url)
            elif isinstance(failure, BaseException):
                raise failure

    @abstractmethod
    async def _abort(self, request_ids: Sequence[str]) -> None:
        """Tell the engine that nobody waits for these, whose connections are closed by now."""

    @abstractmethod
    def _reported(self) -> str:
        """The label of the engine's weights. Raises as `_call`."""

    @abstractmethod
    def _label_started(self, version: str) -> None:
        """Put this label on a server that was just started, where that cannot be done at its start."""

    @abstractmethod
    def _roll(self, weights: ServedWeights, held: ServedWeights | None) -> bool:
        """Bring the engine to `weights`. True: confirmed. False: refused, and it is certain that it serves `held` as before.

        Raises:
            EngineError, TransientError, UnusableAnswerError, RefusedError: nobody knows what it serves now.
        """

    @abstractmethod
    async def _ask_row(self, weights: ServedWeights, row: Row, so_far: tuple[int, ...], request_id: str) -> EngineAnswer:
        """One request of a row that has `so_far` already. Raises as `EngineHttp.ask`, and UnusableAnswerError."""
