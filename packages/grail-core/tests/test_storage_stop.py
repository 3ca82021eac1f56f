"""Whoever waits for a store that says nothing more ends when it is told to stop, and asks no further."""

from __future__ import annotations

import threading

import pytest

from grail_core.errors import StorageError
from grail_core.storage.s3 import S3Store
from grail_core.storage.time_limits import StoreLimits, at_most, seconds_left
from tooling.testing.s3_server import ANYONE, BUCKET
from tooling.testing.scripted_server import RawAnswer, ScriptedServer

HEAD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\n'
STARTS = {"nothing": b"", "headers": HEAD, "a body": HEAD + b"Content-Length: 9000\r\n\r\nx"}


@pytest.mark.parametrize("start", STARTS)
def test_a_stop_ends_the_wait_for_a_store_that_has_all_the_time_of_the_world(start: str) -> None:
    with ScriptedServer(RawAnswer(STARTS[start], b"", -1, pause_s=10**6)) as server:
        store = S3Store(server.url, BUCKET, ANYONE, limits=StoreLimits(answer_s=10**6, idle_s=10**6))
        stop, ended = threading.Event(), list[StorageError]()

        def ask() -> None:
            with at_most(10**6, stop=stop):
                assert seconds_left() > 0
                try:
                    store.get("x", max_bytes=9000)
                except StorageError as error:
                    ended.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not server.requests:
            asking.join(0.01)
        stop.set()
        asking.join(60)
        assert len(ended) == 1
        assert server.requests == 1  # nor is it asked again
