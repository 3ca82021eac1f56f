"""The page over HTTP/1.1: one process, bounded connections, and a thread that looks at the source now and then."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from grail_core.errors import ConfigurationError
from grail_core.served_http import TimedConnection, make_room
from grail_core.telemetry import get_logger
from grail_validator.page.app import Page, application

log = get_logger(__name__)

MAX_CONNECTIONS: Final = 256
"""Beyond that uvicorn answers 503 at once."""
REFRESH_SECONDS: Final = 5.0
"""Between two looks at a source."""
LOOKS_SHARE: Final = 20
"""So many times as long as a look took is waited before the next one: a listing of 10,000 windows takes seconds."""
_KEEP_ALIVE_S: Final = 10
_LAST_ANSWERS_S: Final = 5


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; who connects waits until it is served.

    Raises:
        ConfigurationError: it is none of this machine's, or taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # said outright, asyncio sends without waiting
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(MAX_CONNECTIONS)  # at once: a second one on this port would be refused only when it listens
    except (OSError, UnicodeError) as error:
        bound.close()
        raise ConfigurationError(
            f"this address cannot be listened on: {getattr(error, 'strerror', None) or error}",
            where=f"--host {host} --port {port}",
            hint="give another --port (0: any free one), or an address of this machine",
        ) from error
    return bound


def is_loopback(address: str) -> bool:
    """Is an IP address one that only this machine's programs reach?"""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


@contextmanager
def serving(
    page: Page,
    bound: socket.socket,
    stop: threading.Event,
    *,
    refresh_seconds: float = REFRESH_SECONDS,
    http: type[TimedConnection] = TimedConnection,
) -> Iterator[str]:
    """The page at this socket while the block lasts; yields its address. `stop` is set if the server ends by itself."""
    make_room()
    host, port = bound.getsockname()[:2]
    server = uvicorn.Server(
        uvicorn.Config(
            application(page),
            http=http,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
    )
    failed: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:  # in a thread of its own uvicorn leaves the signals alone
        try:
            asyncio.run(server.serve(sockets=[bound]))
        except BaseException as error:  # noqa: BLE001 - raised again below, where it can be told
            failed.append(error)
        finally:
            stop.set()

    def look() -> None:  # a page that nobody looks after any more would show old windows as the newest: it ends
        try:
            look_on()
        except BaseException as error:  # noqa: BLE001 - raised again below, where it can be told
            failed.append(error)
            stop.set()

    def look_on() -> None:
        pause = refresh_seconds
        while not ended.wait(pause):
            before, began = page.board.snapshot.problem, time.monotonic()
            now = page.board.refresh()
            took = 0.0 if now.unfinished and not now.problem else time.monotonic() - began
            pause = max(refresh_seconds, LOOKS_SHARE * took)
            if now.problem != before:
                where = page.board.where if now.problem else ""
                log.event("page_source", readable=not now.problem, reason=now.problem, where=where)

    threads = [threading.Thread(target=target, daemon=True, name=name) for target, name in ((run, "http"), (look, "look"))]
    for thread in threads:
        thread.start()
    try:
        yield f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    finally:
        server.should_exit = True
        ended.set()
        threads[0].join()
    if failed:
        raise failed[0]
