"""From an admitted order to what its client gets, whole or streamed: nothing is told whole whose receipt is not kept.

Whatever becomes of a request, its lease ends with what was used, before the answer ends: a client that goes has used the tokens
that were drawn for it until then, and its order leaves the queue and the batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from grail_core.inference.receipts import Receipt
from grail_miner.serving.answering import AdmittedOrder
from grail_miner.serving.error_responses import ClientGoneError, fault, shutting_down
from grail_miner.serving.limits import Lease
from grail_miner.serving.node import Node
from grail_miner.serving.openai_answers import Kept, chat_object, completion_object, fingerprint_of
from grail_miner.serving.openai_streams import StreamHead, error_event
from grail_miner.serving.refusals import RefusedRequestError
from grail_miner.serving.scheduler import ModelGoneError, QueueFullError, ShuttingDownError
from grail_miner.serving.text_stream import TextStream
from grail_miner.serving.tickets import Ticket


@dataclass(frozen=True)
class Leased:
    """An admitted order and its place within its client's limits."""

    order: AdmittedOrder
    lease: Lease


class Outgoing:
    """Of one node. Used by the event loop's thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.open_streams = 0

    async def receipt(self, leased: Leased, request: Request) -> Receipt:
        """Wait for it.

        Raises:
            RefusedRequestError, ClientGoneError, and what drawing and proving raise.
        """
        ticket, outcome = None, "failed"
        try:
            ticket = self._submitted(leased)
            receipt = await _unless_gone(ticket, request)
            outcome = "answered"
            return receipt
        except RefusedRequestError:
            outcome = "unavailable"
            raise
        except ShuttingDownError:
            outcome = "unavailable"
            raise shutting_down() from None
        except ClientGoneError:
            outcome = "gone"
            raise
        finally:
            await self._end(leased, ticket, outcome)

    def answer(self, receipt: Receipt, order: AdmittedOrder, base: str, *, chat: bool) -> dict[str, Any]:
        """OpenAI's object of an answer whose receipt is kept from now on. Writes a file.

        Args:
            base: the address under which the client reaches this node, with a slash at its end.
        """
        node = self._node
        digest = receipt.answer_digest(order.seeds)
        token = node.receipts.put(digest, receipt.to_bytes())
        kept = Kept(digest.hex(), f"{base}v1/receipts/{digest.hex()}", token)
        answer_object = chat_object if chat else completion_object
        return answer_object(receipt, order.asked, order.served.folder, kept, model=node.name, created=node.now_s)

    async def stream(self, leased: Leased, base: str, *, chat: bool, include_usage: bool) -> AsyncIterator[bytes]:
        """The pieces of an answer, once its order was taken.

        Raises:
            RefusedRequestError: it was not.
        """
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            ticket = self._submitted(leased, lambda: _tell(loop, arrived))
        except BaseException:
            await self._end(leased, None, "unavailable")
            raise
        head = StreamHead(
            chat=chat,
            id=f"{'chatcmpl' if chat else 'cmpl'}-{leased.order.seeds.request_digest.hex()[:32]}",
            model=self._node.name,
            created=self._node.now_s,
            fingerprint=fingerprint_of(leased.order.model_digest),
            include_usage=include_usage,
        )
        pieces = self._pieces(leased, ticket, head, arrived, base)
        await anext(pieces)  # begun: only then its end is, too, where the client goes before it was sent anything
        return pieces

    async def _pieces(
        self, leased: Leased, ticket: Ticket, head: StreamHead, arrived: asyncio.Event, base: str
    ) -> AsyncIterator[bytes]:
        order, outcome = leased.order, "gone"
        texts = [self._text_stream(order) for _ in range(order.choices)]
        self.open_streams += 1
        try:
            yield b""
            for piece in head.opening(order.choices):
                yield piece
            async for piece in self._texts(ticket, texts, head, arrived):
                yield piece
            answer = await run_in_threadpool(self.answer, ticket.receipt.result(), order, base, chat=head.chat)
            outcome = "answered"
            await self._end(leased, ticket, outcome)  # before the end is told: whoever asks then finds it counted
            for choice in answer["choices"]:
                rest = texts[choice["index"]].rest(choice["message"]["content"] if head.chat else choice["text"])
                if rest:
                    yield head.text(choice["index"], rest)
            for piece in head.ending(answer):
                yield piece
        except ShuttingDownError:
            outcome = "unavailable"
            yield error_event(shutting_down())
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told, and the log has no text of a request
            outcome = "failed"
            yield error_event(fault(error, "stream"))
        finally:
            self.open_streams -= 1
            await self._end(leased, ticket, outcome)

    async def _texts(
        self, ticket: Ticket, texts: list[TextStream], head: StreamHead, arrived: asyncio.Event
    ) -> AsyncIterator[bytes]:
        """What becomes certain of each choice, until the receipt or an error is there."""
        told = [0] * len(texts)  # tokens that were fed to each
        ends = frozenset(ticket.order.served.folder.model.end_token_ids)
        while not ticket.receipt.done():
            await arrived.wait()
            arrived.clear()
            for index, text in enumerate(texts):
                fresh = ticket.tokens(index)[told[index] :]
                told[index] += len(fresh)
                shown = text.feed([token for token in fresh if token not in ends])
                if shown:
                    yield head.text(index, shown)

    def _text_stream(self, order: AdmittedOrder) -> TextStream:
        renderer = order.served.folder.renderer
        before = "" if order.asked.messages is None else renderer.thinking_opened(order.asked.messages)
        return TextStream(renderer.decode, before, order.asked.stop)

    def require_room(self, client: str) -> None:
        """Refuse, as taking an order would, before anything of the request is counted. Raises RefusedRequestError."""
        if not self._node.scheduler.has_room(client):
            raise _queue_full(1)

    def _submitted(self, leased: Leased, notify: Any = None) -> Ticket:
        try:
            return self._node.scheduler.submit(leased.order, notify, client=leased.lease.client.name)
        except QueueFullError as error:
            raise _queue_full(error.retry_after_s) from None
        except ModelGoneError:
            what = "the network went on to another checkpoint at this moment; ask again"
            raise RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, what, "checkpoint_changed", retry_after_s=1) from None
        except ShuttingDownError:
            raise shutting_down() from None

    async def _end(self, leased: Leased, ticket: Ticket | None, outcome: str) -> None:
        """Nobody waits for it any more, and what it took is counted; once."""
        prompt = drawn = 0
        if ticket is not None:
            self._node.scheduler.cancel(ticket)
            drawn = ticket.drawn
            prompt = len(leased.order.prompt) if ticket.begun else 0
        ending = asyncio.ensure_future(run_in_threadpool(leased.lease.end, prompt, drawn, outcome))
        await asyncio.shield(ending)  # a connection that ends cancels what waits, and this must not be lost


def _queue_full(retry_after_s: int) -> RefusedRequestError:
    what = "as many requests wait as may (GRAIL_SERVE_MAX_QUEUE); try again"
    return RefusedRequestError(HTTPStatus.TOO_MANY_REQUESTS, what, "queue_full", retry_after_s=retry_after_s)


async def _unless_gone(ticket: Ticket, request: Request) -> Receipt:
    receipt = asyncio.wrap_future(ticket.receipt)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        both: tuple[asyncio.Future[Any], ...] = (receipt, gone)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not receipt.done():
            raise ClientGoneError
        return receipt.result()
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _tell(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    """From the scheduler's thread. A loop that has ended has nobody to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(arrived.set)
