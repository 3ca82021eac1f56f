"""The routes of a node: signed orders, OpenAI's completions, receipts, and what the node says of itself.

A request is read and admitted and joins the running batch; its receipt is kept before the answer ends, so that no answer is
told whole whose proof is not at hand. Errors of every route have OpenAI's shape. No text of a prompt or an answer is logged: of
an error that nobody expected, its kind and place alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, BinaryIO, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from grail_core.inference.constants import MAX_FEATURES_BYTES
from grail_core.inference.features import NO_SALT
from grail_core.inference.orders import Order
from grail_core.inference.receipts import Receipt, checkpoint_json, read_order
from grail_core.inference.typed_data import order_digest
from grail_core.protocol.policy import GenerationPolicy, read_policy
from grail_core.protocol.reading import parse_json
from grail_miner import __version__
from grail_miner.serving.answering import AdmittedOrder, RefusedOrderError, Served
from grail_miner.serving.clients import Client
from grail_miner.serving.error_responses import Handler, answered, not_routed
from grail_miner.serving.limits import Lease
from grail_miner.serving.metering_routes import client_of, metering_routes
from grail_miner.serving.node import Node
from grail_miner.serving.openai_answers import texts_of, usage_of
from grail_miner.serving.openai_reading import MAX_BODY_BYTES, Asked, read_chat, read_completion, reading_body
from grail_miner.serving.outgoing import Leased, Outgoing
from grail_miner.serving.refusals import RefusedRequestError, bad_request
from grail_miner.serving.streamed import StreamedResponse

WORKFLOWS: Final = ("inference", "training")
_PIECE: Final = 64 << 10  # of a receipt, so that a thousand readers who do not read hold no thousand receipts
_ORDER_TOKENS: Final = 512  # texts, brackets and commas of the body of `/v1/orders`; it has 130


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
        *metering_routes(node.metering),
    ]
    node.metering.metrics.watch_queue(lambda: node.scheduler.pending)
    node.metering.metrics.watch_streams(lambda: routes.open_streams)
    return Starlette(
        routes=[Route(path, answered(handler), methods=[method]) for path, method, handler in listed],
        exception_handlers={HTTPException: not_routed},
    )


class _Routes:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._outgoing = Outgoing(node)
        self._started_s = node.now_s

    @property
    def open_streams(self) -> int:
        return self._outgoing.open_streams

    async def health(self, request: Request) -> Response:
        healthy = self._node.scheduler.healthy
        return JSONResponse({"status": "healthy" if healthy else "unhealthy"}, HTTPStatus.OK if healthy else 503)

    async def info(self, request: Request) -> Response:
        node, answering = self._node, self._node.answering
        offered, hotkey = answering.offered, answering.node.hex()
        checkpoint = next(served.checkpoint for _, served in offered if served is not None)
        return JSONResponse(
            {
                "version": __version__,
                "containers": [
                    {"id": container.hex(), "external": True, "image": "", "description": f"{node.name}: {_about(served)}"}
                    for container, served in offered
                ],
                "pending": {"offchain": node.scheduler.pending, "onchain": 0},
                "workflows": list(WORKFLOWS),
                "grail": {
                    "hotkey": hotkey,
                    "account": hotkey,
                    "container_ids": [container.hex() for container, _ in offered],
                    "checkpoint": None if checkpoint is None else checkpoint_json(checkpoint),
                    "proof_class": answering.proof_class,
                    "generation_class": answering.generation_class,
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
        found = await run_in_threadpool(self._node.receipts.open, digest, token)
        if found is None:
            what = "there is no such receipt, or this is not its token (?token=, the member grail.receipt_token of the answer)"
            raise RefusedRequestError(HTTPStatus.NOT_FOUND, what, "receipt_not_found")
        headers = {"cache-control": "no-store", "content-length": str(os.fstat(found.fileno()).st_size)}
        return StreamingResponse(_pieces_of(found), media_type="application/json", headers=headers)

    async def orders(self, request: Request) -> Response:
        raw = await request.body()
        leased = await run_in_threadpool(self._leased_order, raw, client_of(request))
        receipt = await self._outgoing.receipt(leased, request)
        return Response(await run_in_threadpool(self._order_answer, receipt, leased.order), media_type="application/json")

    async def completions(self, request: Request) -> Response:
        return await self._openai(request, "completions", read_completion)

    async def chat(self, request: Request) -> Response:
        return await self._openai(request, "chat", read_chat)

    async def _openai(self, request: Request, route: str, read: Callable[[bytes], Asked]) -> Response:
        raw = await request.body()
        asked, leased = await run_in_threadpool(self._leased_question, raw, read, route, client_of(request))
        base, chat = str(request.base_url), route == "chat"
        if asked.stream:
            pieces = await self._outgoing.stream(leased, base, chat=chat, include_usage=asked.include_usage)
            return StreamedResponse(pieces)
        receipt = await self._outgoing.receipt(leased, request)
        return JSONResponse(await run_in_threadpool(self._outgoing.answer, receipt, leased.order, base, chat=chat))

    def _leased_question(self, raw: bytes, read: Callable[[bytes], Asked], route: str, client: Client) -> tuple[Asked, Leased]:
        """The order that a question without one determines. It is counted once it is known to be one that is answered: what a
        limit refuses takes no draw."""
        node = self._node
        node.metering.limits.require_room(client, route=route)
        self._outgoing.require_room(client.name)
        asked = read(raw)
        self._require_model(asked.model)
        first = self._admit_unsigned(asked, 0)
        lease = self._lease(client, first, route)
        try:
            if asked.features.seed is not None:
                return asked, Leased(first, lease)
            nonce = node.repeats.count(client.name, order_digest(node.answering.domain, first.order))
            return asked, Leased(first if nonce == 0 else self._admit_unsigned(asked, nonce), lease)
        except BaseException:
            lease.end(0, 0, "failed")
            raise

    def _leased_order(self, raw: bytes, client: Client) -> Leased:
        self._node.metering.limits.require_room(client, route="orders")
        self._outgoing.require_room(client.name)
        order = self._admitted_order(raw)
        return Leased(order, self._lease(client, order, "orders"))

    def _lease(self, client: Client, order: AdmittedOrder, route: str) -> Lease:
        tokens = len(order.prompt) + order.choices * order.limit
        return self._node.metering.limits.begin(client, tokens, route=route)

    def _admit_unsigned(self, asked: Asked, nonce: int) -> AdmittedOrder:
        answering = self._node.answering
        try:
            order = answering.unsigned(asked.features, asked.policy, asked.choices, nonce)
            return answering.admit(order, asked.policy, now_s=self._node.now_s, logprobs=asked.logprobs)
        except RefusedOrderError as error:
            param = "prompt" if asked.features.messages is None else "messages"
            param = error.field if error.code == "engine_cannot_draw" else param
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

    def _order_answer(self, receipt: Receipt, order: AdmittedOrder) -> bytes:
        """Whoever orders gets the receipt at once; it is not kept here."""
        texts = json.dumps(texts_of(receipt, order.asked, order.served.folder)).encode()
        usage = json.dumps(usage_of(receipt)).encode()
        return b'{"receipt":%b,"texts":%b,"usage":%b}' % (receipt.to_bytes(), texts, usage)

    def _require_model(self, name: str) -> None:
        if name != self._node.name:
            what = f"there is no model {name[:80]!r} here; this node serves {self._node.name!r}"
            raise RefusedRequestError(HTTPStatus.NOT_FOUND, what, "model_not_found", "model")

    def _model_object(self) -> dict[str, Any]:
        return {"id": self._node.name, "object": "model", "created": self._started_s, "owned_by": "grail"}


async def _pieces_of(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await run_in_threadpool(file.read, _PIECE):
            yield piece


def _about(served: Served | None) -> str:
    """A container in words."""
    if served is None:
        return "whatever checkpoint the network serves, every answer with its proof"
    model, of_network = served.folder.model, served.checkpoint
    which = "" if of_network is None else f"checkpoint {of_network.sequence} of the network, "
    return f"{which}{model.architecture}, {model.context_length} tokens of context, every answer with its proof"


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
