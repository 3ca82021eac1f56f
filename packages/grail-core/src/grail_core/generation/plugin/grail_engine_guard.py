"""vLLM asks for its key on /v1 alone, and not where weights are reloaded: this asks on every path but /health.

Loaded into the engine by `--middleware`. Whoever is on this machine could otherwise call what VLLM_SERVER_DEV_MODE opens, and
so could any web page in a browser here. Imports nothing of ours.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class EngineGuard:
    """An ASGI middleware. Raises KeyError or ValueError, and so ends the engine's start, where there is no key."""

    def __init__(self, app: _Application) -> None:
        key = os.environ["VLLM_API_KEY"]
        if not key:
            raise ValueError("VLLM_API_KEY is empty")
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and scope["path"] != "/health" and not self._knows(scope):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server belongs to a miner"})
            return
        await self._app(scope, receive, send)

    def _knows(self, scope: _Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and secrets.compare_digest(given[0], self._wanted)
