"""The routes of a node: signed orders, OpenAI's completions, receipts, and what the node says of itself.

A request is read and admitted and joins the running batch; its receipt is kept before the answer ends, so that no answer is
told whole whose proof is not at hand. Errors of every route have OpenAI's shape. No text of a prompt or an answer is logged: of
an error that nobody expected, its kind and place alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.inference.constants import MAX_FEATURES_BYTES
from grail_core.inference.features import NO_SALT
from grail_core.inference.orders import Order
from grail_core.inference.receipts import Receipt, read_order
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.policy import GenerationPolicy, read_policy
from grail_core.protocol.reading import parse_json
from grail_miner import __version__
from grail_miner.serving.answering import AdmittedOrder, Answering, RefusedOrderError
from grail_miner.serving.error_responses import ClientGoneError, Handler, answered, fault, not_routed, shutting_down
from grail_miner.serving.openai_answers import Kept, chat_object, completion_object, fingerprint_of, texts_of, usage_of
from grail_miner.serving.openai_reading import MAX_BODY_BYTES, Asked, read_chat, read_completion, reading_body
from grail_miner.serving.openai_streams import StreamHead, error_event
from grail_miner.serving.receipt_store import ReceiptStore
from grail_miner.serving.refusals import RefusedRequestError, bad_request
from grail_miner.serving.repeats import LOOPBACK, Repeats
from grail_miner.serving.scheduler import QueueFullError, Scheduler, ShuttingDownError, Ticket
from grail_miner.serving.streamed import StreamedResponse
from grail_miner.serving.text_stream import TextStream

WORKFLOWS: Final = ("inference", "training")
_ORDER_TOKENS: Final = 512  # texts, brackets and commas of the body of `/v1/orders`; it has 130


@dataclass(frozen=True)
class Node:
    """What the routes are made of. `name`: of the model, as clients ask for it."""

    answering: Answering
    scheduler: Scheduler
    receipts: ReceiptStore
    repeats: Repeats
    name: str
    clock: WallClock = wall_clock_ms

    @property
    def now_s(self) -> int:
        return self.clock() // 1000


def application(node: Node) -> Starlette:
    """Everything behind the edge."""
    routes = _Routes(node)
    listed: list[tuple[str, str, Handler]] = [
        ("/health", "GET", routes.health),
        ("/info", "GET", routes.info),
        ("/v1/models", "GET", routes.models),
        ("/v1/models/{name:path}", "GET", routes.model),
        ("/v1/receipts/{digest}", "GET", routes.receipt),
        ("/v1/orders", "POST", routes.orders),
        ("/v1/completions", "POST", routes.completions),
        ("/v1/chat/completions", "POST", routes.chat),
    ]
    return Starlette(
        routes=[Route(path, answered(handler), methods=[method]) for path, method, handler in listed],
        exception_handlers={HTTPException: not_routed},
    )


class _Routes:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._started_s = node.now_s

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy"})

    async def info(self, request: Request) -> Response:
        node, answering = self._node, self._node.answering
        container, hotkey = answering.container_id.hex(), answering.node.hex()
        served = answering.folder.model
        about = f"{node.name}: {served.architecture}, {served.context_length} tokens of context, every answer with its proof"
        return JSONResponse(
            {
                "version": __version__,
                "containers": [{"id": container, "external": True, "image": "", "description": about}],
                "pending": {"offchain": node.scheduler.pending, "onchain": 0},
                "workflows": list(WORKFLOWS),
                "grail": {
                    "hotkey": hotkey,
                    "account": hotkey,
                    "container_ids": [container],
                    "proof_class": answering.numerics_class,
                    "generation_class": answering.numerics_class,
                    "gas_price": 0,
                    "network": answering.network.params.name,
                    "genesis_hash": answering.network.genesis_hash.hex(),
                },
            }
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        self._require_model(request.path_params["name"])
        return JSONResponse(self._model_object())

    async def receipt(self, request: Request) -> Response:
        digest, token = request.path_params["digest"], request.query_params.get("token", "")
        found = await run_in_threadpool(self._node.receipts.get, digest, token)
        if found is None:
            what = "there is no such receipt, or this is not its token (?token=, the member grail.receipt_token of the answer)"
            raise RefusedRequestError(HTTPStatus.NOT_FOUND, what, "receipt_not_found")
        return Response(found, media_type="application/json", headers={"cache-control": "no-store"})

    async def orders(self, request: Request) -> Response:
        raw = await request.body()
        order = await run_in_threadpool(self._admitted_order, raw)
        receipt = await self._receipt_of(order, request)
        return Response(await run_in_threadpool(self._order_answer, receipt, order), media_type="application/json")

    async def completions(self, request: Request) -> Response:
        return await self._openai(request, read_completion, chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._openai(request, read_chat, chat=True)

    async def _openai(self, request: Request, read: Callable[[bytes], Asked], *, chat: bool) -> Response:
        raw = await request.body()
        asked, order = await run_in_threadpool(self._admitted_question, raw, read)
        base = str(request.base_url)
        if asked.stream:
            return StreamedResponse(self._stream(order, base, chat=chat, include_usage=asked.include_usage))
        receipt = await self._receipt_of(order, request)
        return JSONResponse(await run_in_threadpool(self._kept_answer, receipt, order, base, chat=chat))

    def _stream(self, order: AdmittedOrder, base: str, *, chat: bool, include_usage: bool) -> AsyncIterator[bytes]:
        """The pieces of an answer. The order is taken at once, so that what is refused is refused with a status."""
        node = self._node
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        ticket = self._submitted(order, lambda: _tell(loop, arrived))
        head = StreamHead(
            chat=chat,
            id=f"{'chatcmpl' if chat else 'cmpl'}-{order.seeds.request_digest.hex()[:32]}",
            model=node.name,
            created=node.now_s,
            fingerprint=fingerprint_of(order.container_id),
            include_usage=include_usage,
        )
        return self._pieces(ticket, head, arrived, base)

    async def _pieces(self, ticket: Ticket, head: StreamHead, arrived: asyncio.Event, base: str) -> AsyncIterator[bytes]:
        order = ticket.order
        texts = [self._text_stream(order) for _ in range(order.choices)]
        told = [0] * order.choices  # tokens that were fed to each
        ends = frozenset(self._node.answering.folder.model.end_token_ids)
        try:
            for piece in head.opening(order.choices):
                yield piece
            while not ticket.receipt.done():
                await arrived.wait()
                arrived.clear()
                for index, text in enumerate(texts):
                    fresh = ticket.tokens(index)[told[index] :]
                    told[index] += len(fresh)
                    shown = text.feed([token for token in fresh if token not in ends])
                    if shown:
                        yield head.text(index, shown)
            answer = await run_in_threadpool(self._kept_answer, ticket.receipt.result(), order, base, chat=head.chat)
            for choice in answer["choices"]:
                rest = texts[choice["index"]].rest(choice["message"]["content"] if head.chat else choice["text"])
                if rest:
                    yield head.text(choice["index"], rest)
            for piece in head.ending(answer):
                yield piece
        except ShuttingDownError:
            yield error_event(shutting_down())
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told, and the log has no text of a request
            yield error_event(fault(error, "stream"))
        finally:
            self._node.scheduler.cancel(ticket)

    def _text_stream(self, order: AdmittedOrder) -> TextStream:
        renderer = self._node.answering.folder.renderer
        before = "" if order.asked.messages is None else renderer.decode_completion((), order.asked.messages)
        return TextStream(renderer.decode, before)

    def _admitted_question(self, raw: bytes, read: Callable[[bytes], Asked]) -> tuple[Asked, AdmittedOrder]:
        """The order that a question without one determines. It is counted once it is known to be one that is answered."""
        node, asked = self._node, read(raw)
        self._require_model(asked.model)
        first = self._admit_unsigned(asked, 0)
        if asked.features.seed is not None:
            return asked, first
        nonce = node.repeats.count(LOOPBACK, order_digest(node.answering.domain, first.order))
        return asked, first if nonce == 0 else self._admit_unsigned(asked, nonce)

    def _admit_unsigned(self, asked: Asked, nonce: int) -> AdmittedOrder:
        answering = self._node.answering
        try:
            order = answering.unsigned(asked.features, asked.policy, asked.choices, nonce)
            return answering.admit(order, asked.policy, now_s=self._node.now_s, logprobs=asked.logprobs)
        except RefusedOrderError as error:
            param = "prompt" if asked.features.messages is None else "messages"
            raise bad_request(error.what, param=param, code=error.code) from None

    def _admitted_order(self, raw: bytes) -> AdmittedOrder:
        sent = reading_body(lambda: _sent_order(raw))
        try:
            return self._node.answering.admit(
                sent.order,
                sent.policy,
                salt=sent.salt,
                features=sent.features,
                now_s=self._node.now_s,
                logprobs=sent.logprobs,
            )
        except RefusedOrderError as error:
            raise bad_request(error.what, param=error.field or None, code=error.code) from None

    async def _receipt_of(self, order: AdmittedOrder, request: Request) -> Receipt:
        """Wait for it; a client that goes meanwhile takes its order out of the queue and the batch."""
        ticket = self._submitted(order, None)
        try:
            return await _unless_gone(ticket, request)
        except ShuttingDownError:
            raise shutting_down() from None
        finally:
            self._node.scheduler.cancel(ticket)

    def _submitted(self, order: AdmittedOrder, notify: Callable[[], None] | None) -> Ticket:
        try:
            return self._node.scheduler.submit(order, notify)
        except QueueFullError as error:
            what = "as many requests wait as may (GRAIL_SERVE_MAX_QUEUE); try again"
            raise RefusedRequestError(
                HTTPStatus.TOO_MANY_REQUESTS, what, "queue_full", retry_after_s=error.retry_after_s
            ) from None
        except ShuttingDownError:
            raise shutting_down() from None

    def _kept_answer(self, receipt: Receipt, order: AdmittedOrder, base: str, *, chat: bool) -> dict[str, Any]:
        """OpenAI's object of an answer whose receipt is kept from now on."""
        node = self._node
        digest = receipt.answer_digest(order.seeds)
        token = node.receipts.put(digest, receipt.to_bytes())
        kept = Kept(digest.hex(), f"{base}v1/receipts/{digest.hex()}", token)
        answer_object = chat_object if chat else completion_object
        return answer_object(receipt, order.asked, node.answering.folder, kept, model=node.name, created=node.now_s)

    def _order_answer(self, receipt: Receipt, order: AdmittedOrder) -> bytes:
        """Whoever orders gets the receipt at once; it is not kept here."""
        texts = json.dumps(texts_of(receipt, order.asked, self._node.answering.folder)).encode()
        usage = json.dumps(usage_of(receipt)).encode()
        return b'{"receipt":%b,"texts":%b,"usage":%b}' % (receipt.to_bytes(), texts, usage)

    def _require_model(self, name: str) -> None:
        if name != self._node.name:
            what = f"there is no model {name[:80]!r} here; this node serves {self._node.name!r}"
            raise RefusedRequestError(HTTPStatus.NOT_FOUND, what, "model_not_found", "model")

    def _model_object(self) -> dict[str, Any]:
        return {"id": self._node.name, "object": "model", "created": self._started_s, "owned_by": "grail"}


@dataclass(frozen=True)
class _SentOrder:
    order: Order
    policy: GenerationPolicy
    salt: bytes
    features: bytes | None  # None: they lie in the order
    logprobs: bool


def _sent_order(raw: bytes) -> _SentOrder:
    """The body of `/v1/orders`. Raises ValueError with the path."""
    m = parse_json(raw, most=MAX_BODY_BYTES, tokens=_ORDER_TOKENS).members("order", "policy", "features", "logprobs")
    given = None if m["features"].value is None else m["features"].members("salt", "body")
    return _SentOrder(
        order=read_order(m["order"]),
        policy=read_policy(m["policy"].members(*GenerationPolicy.__dataclass_fields__)),
        salt=NO_SALT if given is None else given["salt"].raw(32),
        features=None if given is None else given["body"].base64(MAX_FEATURES_BYTES),
        logprobs=m["logprobs"].flag(),
    )


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
