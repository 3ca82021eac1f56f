"""The routes of the page: each answer has an ETag, and a bound on its work and time.

Nothing is written anywhere, and no request waits for the source but those of old windows and of downloads, which are read
within `sources`' times. Pages are made in a few threads at a time and kept until the source changes. Who may ask, and the
headers of every answer, are the edge's (`edge`).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from grail_core.errors import ConfigurationError, GrailError, StorageError
from grail_core.files.verdicts import RefusedVerdictError
from grail_core.keys import from_ss58
from grail_core.pages.parts import card
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_core.protocol.types import Hotkey, Window
from grail_core.telemetry import get_logger
from grail_core.text import printable
from grail_validator.page.board import Board
from grail_validator.page.checkpoint_page import Manifests, checkpoints_page
from grail_validator.page.edge import Edge
from grail_validator.page.explain_page import explain_page
from grail_validator.page.health import health
from grail_validator.page.layout import Facts, Query, document, words
from grail_validator.page.metrics import exposition
from grail_validator.page.miner_page import miner_page
from grail_validator.page.proof_page import proof_page
from grail_validator.page.scoreboard import scoreboard
from grail_validator.page.sources import PIECE
from grail_validator.page.window_pages import window_page, windows_page

AT_ONCE: Final = 4
"""Pages that are made side by side, and as many downloads beside them."""
MAX_WAITING: Final = 128
"""Requests that wait for their turn; beyond that the answer is 503 at once."""
DOWNLOAD_SECONDS: Final = 600.0
KEPT_PAGES: Final = 256
KEPT_BYTES: Final = 32 << 20

T = TypeVar("T")
log = get_logger(__name__)


@dataclass
class Page:
    """What the routes answer from. `loopback`: only this machine's programs may ask, under this machine's names."""

    facts: Facts
    board: Board
    manifests: Manifests
    loopback: bool
    _kept: OrderedDict[tuple[int, str, Query], str] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def made(self, path: str, query: Query, make: Callable[[], str | None]) -> str | None:
        """A page of this moment, made once for all who ask before the source changes."""
        key = (self.board.snapshot.number, path, query)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        html = make()
        if html is not None:
            with self._lock:
                self._bytes += len(html) - len(self._kept.pop(key, ""))
                self._kept[key] = html
                while len(self._kept) > KEPT_PAGES or self._bytes > KEPT_BYTES:
                    self._bytes -= len(self._kept.popitem(last=False)[1])
        return html


def application(page: Page) -> ASGIApp:
    """Everything, behind the edge."""
    routes = _Routes(page)
    listed: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/", routes.scoreboard),
        ("/windows", routes.windows),
        ("/windows/{window}", routes.window),
        ("/windows/{window}/verdict.json", routes.verdict),
        ("/windows/{window}/evidence.parquet", routes.evidence),
        ("/windows/{window}/{hotkey}", routes.explain),
        ("/miners/{hotkey}", routes.miner),
        ("/proof", routes.proof),
        ("/checkpoints", routes.checkpoints),
        ("/metrics", routes.metrics),
        ("/healthz", routes.healthz),
    ]
    app = Starlette(
        routes=[Route(path, handler, methods=["GET"]) for path, handler in listed],
        exception_handlers={HTTPException: routes.refused, GrailError: routes.failed},
    )
    app.router.redirect_slashes = False
    return Edge(app, loopback=page.loopback)


class _Routes:
    def __init__(self, page: Page) -> None:
        self._page = page
        self._making = anyio.CapacityLimiter(AT_ONCE)
        self._reading = anyio.CapacityLimiter(AT_ONCE)  # a slow store keeps nobody from what is in memory
        self._sending = anyio.CapacityLimiter(AT_ONCE)
        self.downloads = 0

    async def scoreboard(self, request: Request) -> Response:
        return await self._html(request, lambda query: scoreboard(self._page.facts, self._page.board.snapshot, query))

    async def windows(self, request: Request) -> Response:
        page = self._page
        return await self._html(request, lambda query: windows_page(page.facts, page.board, query), keep=False, reads=True)

    async def window(self, request: Request) -> Response:
        page, window = self._page, _window(request)
        return await self._html(
            request, lambda query: window_page(page.facts, page.board, window, query), keep=False, reads=True
        )

    async def explain(self, request: Request) -> Response:
        window, hotkey = _window(request), _hotkey(request)

        def make(query: Query) -> str | None:
            board = self._page.board
            if window not in board.snapshot.windows:
                return None
            return explain_page(self._page.facts, board, board.verdict(window), hotkey, query)

        return await self._html(request, make, reads=True)

    async def miner(self, request: Request) -> Response:
        hotkey = _hotkey(request)
        return await self._html(request, lambda query: miner_page(self._page.facts, self._page.board.snapshot, hotkey, query))

    async def proof(self, request: Request) -> Response:
        return await self._html(request, lambda query: proof_page(self._page.facts, self._page.board.snapshot, query))

    async def checkpoints(self, request: Request) -> Response:
        page = self._page
        return await self._html(
            request, lambda query: checkpoints_page(page.facts, page.board.snapshot, page.manifests, query), keep=False
        )

    async def metrics(self, request: Request) -> Response:
        text = await self._made(lambda: exposition(self._page.board))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4", headers={"cache-control": "no-store"})

    async def healthz(self, request: Request) -> Response:
        well, told = health(self._page.board, self._page.facts.rule)
        headers = {"cache-control": "no-store"}
        return Response(json.dumps(told) + "\n", 200 if well else 503, headers, "application/json")

    async def verdict(self, request: Request) -> Response:
        window = self._listed(_window(request))
        raw = await self._made(lambda: self._page.board.source.verdict(window), reads=True)
        digest = hashlib.sha256(raw).hexdigest()
        headers = {"etag": f'"{digest}"', **_attachment(f"verdict-{window}.json")}
        if (unchanged := _unchanged(request, headers)) is not None:
            return unchanged
        if len(raw) <= PIECE or request.method == "HEAD":
            return Response(raw, 200, headers, "application/json")
        self._take_turn()
        pieces = iter([raw[at : at + PIECE] for at in range(0, len(raw), PIECE)])
        headers["content-length"] = str(len(raw))
        return _Download(self, self._sent(pieces, digest), headers, "application/json")

    async def evidence(self, request: Request) -> Response:
        """Its last bytes are sent once the whole has the digest that the verdict names; else the connection is cut."""
        window = self._listed(_window(request))
        named = await self._made(lambda: self._page.board.verdict(window).evidence_digest, reads=True)
        if named is None:
            raise HTTPException(404, f"the verdict of window {window} names no evidence")
        headers = {"etag": f'"{named.hex()}"', **_attachment(f"evidence-{window}.parquet")}
        if (unchanged := _unchanged(request, headers)) is not None:
            return unchanged
        self._take_turn()  # before it is read: a ledger's is read whole, and may have half a gigabyte
        answered = False
        try:
            found = await self._made(lambda: self._page.board.source.evidence(window), reads=True)
            if found is None:
                raise HTTPException(404, f"the verdict of window {window} names evidence that does not lie here (any more)")
            headers["content-length"] = str(found.size)
            if request.method == "HEAD":
                return Response(None, 200, headers, "application/vnd.apache.parquet")
            answered = True
            return _Download(self, self._sent(found.content, named.hex()), headers, "application/vnd.apache.parquet")
        finally:
            if not answered:
                self.downloads -= 1

    def _take_turn(self) -> None:
        """One of the few whose content is held; `_Download` gives it back."""
        if self.downloads >= AT_ONCE:
            raise HTTPException(503, "as many downloads as may be are running", {"retry-after": "60"})
        self.downloads += 1

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            return PlainTextResponse("only GET and HEAD are answered here\n", 405, {"allow": "GET, HEAD"})
        return self._fault(error.status_code, str(error.detail), dict(error.headers or {}))

    async def failed(self, request: Request, error: Exception) -> Response:
        """A source that cannot be read now: that much of the page is missing, and it says so."""
        assert isinstance(error, GrailError)
        code = 404 if isinstance(error, RefusedVerdictError) else 503
        return self._fault(code, error.what, {} if code == 404 else {"retry-after": "10"})

    def _fault(self, code: int, what: str, headers: dict[str, str]) -> Response:
        title = "Not here" if code == 404 else "Not now" if code == 503 else "Not so"
        body = card("", "", f'<p class="said">{words(what)}</p>')
        html = document(self._page.facts, self._page.board.snapshot, at="", title=title, body_html=body)
        return Response(html, code, {"cache-control": "no-store", **headers}, "text/html; charset=utf-8")

    def _listed(self, window: Window) -> Window:
        if window not in self._page.board.snapshot.windows:
            raise HTTPException(404, f"there is no verdict of window {window}")
        return window

    async def _html(
        self, request: Request, make: Callable[[Query], str | None], *, keep: bool = True, reads: bool = False
    ) -> Response:
        """A page; `keep` it where the snapshot alone decides what is on it. `reads`: as of `_made`."""
        query, path = Query.read(request.query_params), _path(request)
        kept = partial(self._page.made, path, query, lambda: make(query))
        html = await self._made(kept if keep else lambda: make(query), reads=reads)
        if html is None:
            raise HTTPException(404, f"nothing lies here under {printable(path, 160)}")
        digest = hashlib.blake2b(html.encode(), digest_size=16).hexdigest()
        headers = {"etag": f'"{digest}"'}
        return _unchanged(request, headers) or Response(html, 200, headers, "text/html; charset=utf-8")

    async def _made(self, make: Callable[[], T], *, reads: bool = False) -> T:
        """In a thread; `reads`: it may wait for the source. Who would have to wait behind too many is told so."""
        limiter = self._reading if reads else self._making
        if limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise HTTPException(503, "too many ask at once: try again in a moment", {"retry-after": "2"})
        return await anyio.to_thread.run_sync(make, limiter=limiter)

    async def _sent(self, pieces: Iterator[bytes], named: str) -> AsyncIterator[bytes]:
        sum_, held = hashlib.sha256(), b""
        while piece := await anyio.to_thread.run_sync(next, pieces, b"", limiter=self._sending):
            sum_.update(piece)
            if held:
                yield held
            held = piece
        if sum_.hexdigest() != named:
            raise StorageError("what lies there is not the evidence that the verdict names")
        if held:
            yield held


class _Download(StreamingResponse):
    """One that has its turn; who takes it too slowly is cut off."""

    def __init__(self, routes: _Routes, content: AsyncIterator[bytes], headers: dict[str, str], media_type: str) -> None:
        super().__init__(content, 200, headers, media_type)
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.fail_after(DOWNLOAD_SECONDS):
                await super().__call__(scope, receive, send)
        except (GrailError, TimeoutError) as error:  # an answer that has begun can only be cut
            log.event("page_download_cut", reason=str(error) or "it was taken too slowly")
        finally:
            self._routes.downloads -= 1


def _path(request: Request) -> str:
    """As it was routed. `request.url` is made with the Host header, which is anybody's text, and a kept page has this name."""
    return str(request.scope["path"])


def _unchanged(request: Request, headers: dict[str, str]) -> Response | None:
    asked = request.headers.get("if-none-match", "")[:4096]
    return Response(None, 304, headers) if headers["etag"] in re.split(r"\s*,\s*", asked.replace("W/", "")) else None


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


def _window(request: Request) -> Window:
    text = request.path_params["window"]
    number = int(text) if re.fullmatch("0|[1-9][0-9]{0,15}", text) else -1
    if not 0 <= number <= MAX_JSON_INTEGER:
        raise HTTPException(404, f"{printable(text, 40)} is no window: a window is named by its first block")
    if number % WINDOW_LENGTH:
        inside = number - number % WINDOW_LENGTH
        raise HTTPException(404, f"windows are multiples of {WINDOW_LENGTH}: block {number} is in window {inside}")
    return Window(number)


def _hotkey(request: Request) -> Hotkey:
    text = request.path_params["hotkey"]
    try:
        return from_ss58(text[:64])
    except ConfigurationError:
        raise HTTPException(404, f"{printable(text, 64)} is no hotkey (SS58)") from None
