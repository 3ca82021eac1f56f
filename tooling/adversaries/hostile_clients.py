"""What hostile clients do to a node's sockets: half heads, unfinished bodies, readers that do not read, clients that vanish.

Each is a coroutine over plain sockets, since no HTTP library does such things. They only act; what the node made of it is for
`family_i_clients` to say.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

_PATIENCE_S: Final = 120.0
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
_SMALL_BUFFER: Final = 4096  # of what a client takes that does not read
_AT_ONCE: Final = 100  # connections that are being opened


def request_bytes(port: int, body: Any, token: str) -> bytes:
    """`body`: JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(raw)),
        "Authorization": f"Bearer {token}",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + raw


@asynccontextmanager
async def connections(port: int, sent: Sequence[bytes]) -> AsyncIterator[list[socket.socket]]:
    """One for each of these beginnings, all open while the block lasts; then they vanish, with a reset."""
    opened: list[socket.socket] = []
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(raw: bytes) -> None:
        async with room:
            made = socket.socket()
            opened.append(made)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(made, ("127.0.0.1", port)), _PATIENCE_S)
            await asyncio.wait_for(loop.sock_sendall(made, raw), _PATIENCE_S)

    try:
        await asyncio.gather(*(one(raw) for raw in sent))
        yield opened
    finally:
        for made in opened:
            made.close()


async def status_of(connected: socket.socket) -> int:
    """Of the answer that begins on it; 0 where it was cut before that."""
    begun = b""
    while (found := _STATUS.match(begun)) is None and len(begun) < 64:
        try:
            got = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connected, 32), _PATIENCE_S)
        except OSError:
            return 0
        if not got:
            return 0
        begun += got
    return 0 if found is None else int(found[1])


async def statuses_of(opened: Sequence[socket.socket]) -> Counter[int]:
    return Counter(await asyncio.gather(*(status_of(one) for one in opened)))


async def drip(opened: Sequence[socket.socket], seconds: float) -> None:
    """Read a byte of each now and then."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        for one in opened:
            try:
                one.recv(1)
            except (BlockingIOError, ConnectionError):
                continue
        await asyncio.sleep(0.05)
