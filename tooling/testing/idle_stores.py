"""Any number of buckets behind one socket that take a request and never serve it: each in the way that its name says."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence

WAYS = ("silent", "dripping", "headers", "resetting")
"""Never answers; one byte a second for ever; announces an object and sends nothing of it; breaks the connection."""

_HEAD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n'


class IdleStores:
    """Listens on `url` from the start until the `with` block ends; a bucket is called `{way}-{anything}`.

    `largest`: what the stores announce of an object. `requests` counts by bucket; `held` are the buckets with a connection that
    was read from and not answered.
    """

    def __init__(self, largest: int = 4096) -> None:
        self.largest = largest
        self.requests: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="idle-stores", daemon=True)

    def __enter__(self) -> IdleStores:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def until_all_held(self, buckets: Sequence[str], seconds: float) -> bool:
        """Whether all of these were waiting for an answer at one and the same moment."""
        with self._changed:
            return self._changed.wait_for(lambda: all(self.held[one] for one in buckets), seconds)

    def until_none_held(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.held.total(), seconds)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())  # whoever is still served then is cut off

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listening)
        await self._over.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            bucket = request.split(b" ", 2)[1].split(b"/")[1].decode()
            self._count(bucket, 1)
            try:
                await self._answer(bucket.partition("-")[0], reader, writer)
            finally:
                self._count(bucket, -1)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the reader has had enough
        finally:
            writer.close()

    async def _answer(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "resetting":
            inner = writer.get_extra_info("socket")
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if way in ("headers", "dripping"):
            writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % self.largest)
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            await asyncio.wait([gone], timeout=1.0)
            if way == "dripping" and not gone.done():
                writer.write(b"s")

    def _count(self, bucket: str, change: int) -> None:
        with self._changed:
            self.held[bucket] += change
            self.requests[bucket] += change > 0
            self._changed.notify_all()
