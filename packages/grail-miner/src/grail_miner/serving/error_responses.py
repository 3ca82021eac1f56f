"""Every way in which a route can fail, as a response of OpenAI's shape.

Of an error that nobody expected, its kind and its place are logged and nothing else: its words may hold a prompt.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from grail_core.errors import DiskFullError, EngineError, MachineFaultError, is_out_of_memory
from grail_core.proof.errors import UnprovableError
from grail_core.telemetry import get_logger
from grail_miner.serving.refusals import RefusedRequestError
from grail_miner.serving.scheduler import RowFailedError

log = get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_ENGINE_RETRY_S: Final = 5
_CLIENT_GONE: Final = 499  # nobody reads it; what other servers write down for it


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


def answered(handler: Handler) -> Handler:
    """The handler with every error as a response."""

    async def with_errors(request: Request) -> Response:
        try:
            return await handler(request)
        except RefusedRequestError as refused:
            return _response(refused)
        except ClientGoneError:
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one answer, and the log no text of a request
            return _response(fault(error, str(getattr(request.scope.get("route"), "path", ""))))

    return with_errors


async def not_routed(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: no such route, or no such method there."""
    status = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return _response(RefusedRequestError(status, "this method is not served here", "method_not_allowed"))
    return _response(
        RefusedRequestError(status, "there is no such route; `grail-miner serve --help` says what is served", "not_found")
    )


def shutting_down() -> RefusedRequestError:
    what = "this node is stopping; ask another, or later"
    return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, what, "shutting_down", retry_after_s=30)


def fault(error: Exception, route: str) -> RefusedRequestError:
    """A failure of ours, logged."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    at = f"{frame[0].filename}:{frame[0].lineno}" if frame else ""
    log.event("request_failed", route=route, error=type(error).__name__, at=at)
    if isinstance(error, UnprovableError):
        what = "no proof could be made of the answer, so it is not given"
        return RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, what, "unprovable")
    if isinstance(error, RowFailedError):
        return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), "row_failed", retry_after_s=_ENGINE_RETRY_S)
    if isinstance(error, EngineError):
        what = "the engine behind this node does not answer as it should; try again later"
        return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, what, "engine_failed", retry_after_s=_ENGINE_RETRY_S)
    if isinstance(error, MachineFaultError | DiskFullError) or is_out_of_memory(error):
        what = "this machine could not compute or keep the answer; try a shorter request, or later"
        return RefusedRequestError(HTTPStatus.SERVICE_UNAVAILABLE, what, "machine_fault")
    what = "this node failed at the request; its log says where"
    return RefusedRequestError(HTTPStatus.INTERNAL_SERVER_ERROR, what, "internal_error")


def _response(refused: RefusedRequestError) -> Response:
    return Response(refused.body, refused.status, refused.headers, media_type="application/json")
