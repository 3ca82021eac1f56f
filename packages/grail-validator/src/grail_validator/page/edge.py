"""Who may ask, and what every answer carries: everything that is refused before a page is made.

Only GET and HEAD are answered. On loopback the Host header is looked at, so that no page of elsewhere reads this one under a
name of its own (DNS rebinding). No browser applies, loads or runs anything but the style sheet that stands in the page.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grail_validator.page.layout import STYLE_DIGEST

MAX_ADDRESS: Final = 1024
"""Bytes of a path with its query; the longest link of a page has some 200."""
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; "
    f"style-src 'sha256-{STYLE_DIGEST}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Edge:
    """What is refused here reaches nothing else; what is answered has the headers of every answer."""

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served here")  # uvicorn is told to offer none

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, headed)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD are answered here\n", 405, {"allow": "GET, HEAD"})
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS:
            return PlainTextResponse("the address is longer than any of this page\n", 414)
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if self._loopback and not (len(hosts) == 1 and is_local(hosts[0])):
            return PlainTextResponse("this page answers under localhost, 127.0.0.1 or [::1] alone\n", 421)
        if _from_elsewhere(dict(scope["headers"])):
            return PlainTextResponse("no page of elsewhere loads a part of this one\n", 403)
        return None


def _from_elsewhere(headers: dict[bytes, bytes]) -> bool:
    """Is it a browser that loads this for another site's page, which could neither show nor read it, but would cost its making?
    A link that is followed from there is none."""
    return headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-dest") != b"document"


def is_local(host: str) -> bool:
    """Is a Host header one under which a program of this machine asks this machine?"""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:]{2,45})\]|([A-Za-z0-9.-]{1,64}))(?::[0-9]{1,5})?", host)
    if found is None:
        return False
    name = found[1] or found[2].lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
