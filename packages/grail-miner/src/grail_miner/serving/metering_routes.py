"""`GET /v1/usage` and `GET /metrics`: what a client used, and what a node can be watched by. Others' figures are nobody's."""

from __future__ import annotations

import re
from dataclasses import asdict
from http import HTTPStatus
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from grail_miner.serving.clients import Client
from grail_miner.serving.error_responses import Handler
from grail_miner.serving.metering import Metering
from grail_miner.serving.metrics import CONTENT_TYPE
from grail_miner.serving.refusals import RefusedRequestError, bad_request
from grail_miner.serving.usage import KEEP_DAYS

_USUAL_DAYS: Final = 31


def client_of(request: Request) -> Client:
    """Whom the edge found to be asking."""
    client: Client = request.state.client
    return client


def metering_routes(metering: Metering) -> list[tuple[str, str, Handler]]:
    """Path, method and handler of each."""

    async def usage(request: Request) -> Response:
        client, days = client_of(request), request.query_params.get("days", str(_USUAL_DAYS))
        if not re.fullmatch(r"[0-9]{1,3}", days) or not 1 <= int(days) <= KEEP_DAYS:
            raise bad_request(f"days: a whole number from 1 to {KEEP_DAYS}", param="days")
        of = None if client.operator else client.name
        rows = await run_in_threadpool(metering.usage.rows, of, days=int(days))
        data = [asdict(row) for row in rows]
        return JSONResponse({"object": "list", "data": data}, headers={"cache-control": "no-store"})

    async def metrics(request: Request) -> Response:
        if not client_of(request).metrics:
            what = "this client may not read the metrics: its entry in the file of clients does not say metrics = true"
            raise RefusedRequestError(HTTPStatus.FORBIDDEN, what, "metrics_not_allowed")
        return Response(metering.metrics.page(), headers={"content-type": CONTENT_TYPE})

    return [("/v1/usage", "GET", usage), ("/metrics", "GET", metrics)]
