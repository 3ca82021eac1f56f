"""Who may ask: programs of this machine, nothing that only looks like one, and from elsewhere whoever has a client's token.

Who reaches the loopback address and shows no known token is the operator. A reverse proxy makes strangers look like that, and
so does a web page in the operator's browser, which can send requests but not choose their Host, content type or Origin. So all
of these are looked at before anything else; who only forwards bytes and says nothing cannot be told (`loopback = false` in the
file of clients asks everybody for a token). A token is nothing that browsers send by themselves, so with one a request may
come through a proxy, under any Host; pages of another origin are refused all the same. Bodies are read here, with a limit and a
time, whether or not they say their length, so that nothing behind this reads from a stranger.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

from grail_core.errors import ConfigurationError
from grail_miner.serving.clients import OPERATOR, RECEIPT_READER, Client, Clients
from grail_miner.serving.refusals import RefusedRequestError, bad_request

MAX_BODIES: Final = 64
"""Bodies that are read at the same time: with their limit, the memory that they can take. Of one client a quarter of them,
where there are several, so that unfinished ones keep nobody else from asking."""
BODY_SECONDS: Final = 30.0
_DRAINED_BODIES: Final = 8  # so many of the largest are read and thrown away, so that a refusal arrives
_DRAIN_SECONDS: Final = 2.0
_LENGTH_DIGITS: Final = 18
_RECEIPTS: Final = "/v1/receipts/"
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_BEARER: Final = re.compile(r"bearer +([\x21-\x7e]+)", re.IGNORECASE)

_OF_PROXIES: Final = frozenset(
    (
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "fly-client-ip",
    )
)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def listen_address(text: str, *, tokens: bool) -> tuple[str, int]:
    """`127.0.0.1:4000`, `[::1]:4000`, `localhost:4000` or `0.0.0.0:4000` as address and port; port 0 is any free one.

    Args:
        tokens: whether there is a file of clients: without one only loopback listens.

    Raises:
        ConfigurationError: it is no such address, or not a loopback one.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65_535:
        raise ConfigurationError(
            f"{text!r:.80} is no address with a port", where="--listen, or GRAIL_SERVE_LISTEN", hint="say 127.0.0.1:4000"
        )
    host = (found[1] or found[2]).lower()
    if not _is_loopback(host) and not tokens:
        raise ConfigurationError(
            f"{host!r:.80} is not a loopback address, and nothing says who may ask from elsewhere",
            where="--listen, or GRAIL_SERVE_LISTEN",
            hint="listen on 127.0.0.1:4000, or name a file of clients: GRAIL_SERVE_TOKENS or --tokens FILE (grail-miner token)",
        )
    if not _is_loopback(host) and not _is_address(host):
        raise ConfigurationError(
            f"{host!r:.80} is no IP address",
            where="--listen, or GRAIL_SERVE_LISTEN",
            hint="listen on one of this machine's, or on 0.0.0.0:4000",
        )
    return ("127.0.0.1" if host == "localhost" else host), int(found[3])


class Edge:
    """An ASGI application around another: what is refused here never reaches it.

    What is let through has its `Client` in `scope["state"]["client"]`.

    Args:
        max_body: bytes of a request's body. body_seconds: for reading one.
        clients: who may ask from elsewhere; None: nobody, and what an Authorization header says is not looked at.
    """

    def __init__(
        self,
        app: App,
        *,
        max_body: int,
        body_seconds: float = BODY_SECONDS,
        max_bodies: int = MAX_BODIES,
        clients: Clients | None = None,
    ) -> None:
        self._app = app
        self._clients = clients
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._max_bodies = max_bodies
        self._most_each = max_bodies if clients is None else max(1, max_bodies // 4)
        self._reading: Counter[str] = Counter()  # by client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served here")  # uvicorn is told to offer none
        try:
            client = self._client(scope)
            scope.setdefault("state", {})["client"] = client
            body = await self._body(scope, receive, client.name)
        except RefusedRequestError as refused:
            await self._refuse(refused, receive, send)
            return
        if body is None:
            return  # the client has gone
        await self._app(scope, _replayed(body, receive), send)

    def _client(self, scope: Scope) -> Client:
        """Who asks. Raises RefusedRequestError: nobody who may."""
        if self._clients is None:
            _require_local(scope)
            _require_no_page(scope)
            return OPERATOR
        listed, peer = self._clients.now, str((scope.get("client") or ("",))[0])
        known = listed.find(_token(scope), peer)
        if known is None and listed.loopback and _looks_local(scope):
            known = OPERATOR
        if known is None and _shows_a_receipts_token(scope):
            known = RECEIPT_READER
        if known is None:
            raise _unknown_client()
        if known is OPERATOR:
            _require_no_page(scope)
            return known
        _require_no_page(scope, schemes=("http", "https"))
        name = _name_of(_header(scope, b"host") or "localhost")  # HTTP/1.0 may come without
        if not (_is_address(name) or _HOST.fullmatch(name)):  # it will stand in the addresses of receipts
            raise bad_request("the Host is no name or address with or without a port", code="host_invalid")
        if _header(scope, b"x-forwarded-proto") == "https":
            scope["scheme"] = "https"  # of the addresses of receipts in its own answers
        return known

    async def _body(self, scope: Scope, receive: Receive, client: str) -> bytes | None:
        """The whole body; None where the client goes before its end."""
        length = _header(scope, b"content-length")
        if length is not None and (len(length) > _LENGTH_DIGITS or int(length) > self._max_body):  # h11 takes digits alone
            raise self._too_large()
        if scope["method"] in ("GET", "HEAD") and length in (None, "0") and _header(scope, b"transfer-encoding") is None:
            return b""  # others' unfinished bodies keep nobody from asking how the node is
        if self._reading.total() >= self._max_bodies or self._reading[client] >= self._most_each:
            raise RefusedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are being read; try again", "busy", retry_after_s=1
            )
        self._reading[client] += 1
        try:
            async with asyncio.timeout(self._body_seconds):
                return await self._read(receive)
        except TimeoutError:
            raise RefusedRequestError(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {self._body_seconds:g} s", "body_timeout"
            ) from None
        finally:
            self._reading[client] -= 1

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> RefusedRequestError:
        what = f"the body has more than {self._max_body} bytes"
        return RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what, "body_too_large")

    async def _refuse(self, refused: RefusedRequestError, receive: Receive, send: Send) -> None:
        """Send the refusal, and read what the client is still sending for a little while: a connection that ends with bytes
        unread takes the refusal with it."""
        body = refused.body
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [(name.encode(), value.encode()) for name, value in (headers | refused.headers).items()]
        await send({"type": "http.response.start", "status": int(refused.status), "headers": lines})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        left = _DRAINED_BODIES * self._max_body
        try:
            async with asyncio.timeout(min(_DRAIN_SECONDS, self._body_seconds)):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            pass  # it had its answer, and sends nothing more
        await send({"type": "http.response.body", "body": b""})


def _require_local(scope: Scope) -> None:
    """Raises RefusedRequestError: it does not come from a program of this machine, or a proxy stands in between."""
    client = scope.get("client")
    if client is None or not _is_loopback(str(client[0])):
        raise _foreign("only programs of this machine are served", "peer_not_local")
    for raw, _ in scope["headers"]:
        name = raw.decode("latin-1").replace("_", "-")
        if name in _OF_PROXIES or name.startswith(("x-forwarded", "x-original-forwarded")):
            raise _foreign(f"the header {name} says that a proxy stands in between; proxied requests are not served", "proxied")
    host = _header(scope, b"host")
    if host is None or not _is_loopback(_name_of(host)):
        raise _foreign("the Host is not a loopback address or localhost", "host_not_local")
    if scope["http_version"] == "1.0":  # of proxies that say nothing of themselves; no client of ours speaks it
        raise _foreign("HTTP/1.0 is what proxies speak; proxied requests are not served", "proxied")


def _looks_local(scope: Scope) -> bool:
    try:
        _require_local(scope)
    except RefusedRequestError:
        return False
    return True


def _require_no_page(scope: Scope, *, schemes: tuple[str, ...] = ("http",)) -> None:
    """Raises RefusedRequestError: a web page of another origin asks, or what only one would send.

    Args:
        schemes: under which pages of our own Host may come: behind a proxy that speaks TLS also https.
    """
    site = _header(scope, b"sec-fetch-site")
    if site is not None and site.lower() not in ("same-origin", "none"):
        raise _foreign("pages of another origin are not served", "foreign_origin")
    origin, host = _header(scope, b"origin"), _header(scope, b"host")
    if origin is not None and origin.lower() not in {f"{scheme}://{host}".lower() for scheme in schemes}:
        raise _foreign("pages of another origin are not served", "foreign_origin")
    if scope["method"] not in ("GET", "HEAD"):
        kind = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _foreign("the content type must be application/json", "content_type")


def _token(scope: Scope) -> str:
    """Of the Authorization header; "" where there is none."""
    found = _BEARER.fullmatch((_header(scope, b"authorization") or "").strip())
    return "" if found is None else found[1]


def _shows_a_receipts_token(scope: Scope) -> bool:
    """A receipt has a token of its own, that came with the answer: whoever was given both reads it, a client or not."""
    return scope["method"] == "GET" and str(scope["path"]).startswith(_RECEIPTS) and b"token=" in scope["query_string"]


def _unknown_client() -> RefusedRequestError:
    return RefusedRequestError(
        HTTPStatus.UNAUTHORIZED,
        "a client's token is needed (Authorization: Bearer TOKEN); this request has none that is known and taken from there",
        "invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def _foreign(message: str, code: str) -> RefusedRequestError:
    return RefusedRequestError(HTTPStatus.FORBIDDEN, message, code)


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for found, value in scope["headers"] if found == name), None)


def _name_of(host: str) -> str:
    """Of a Host header, without its port; nothing of one that is none."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/@]+))(?::[0-9]{1,5})?", host.strip())
    return "" if found is None else found[1] or found[2]


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then what comes: that the client goes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
