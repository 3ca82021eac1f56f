"""A validator's page at a real socket, and a client that asks it as a browser does: for tests of whoever looks at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Hotkey
from grail_core.served_http import TimedConnection
from grail_core.storage.filesystem import FilesystemStore
from grail_validator.page.app import Page
from grail_validator.page.board import Board
from grail_validator.page.checkpoint_page import Manifests
from grail_validator.page.layout import Facts
from grail_validator.page.serving import bind, serving
from grail_validator.page.sources import BucketSource, Source
from tooling.testing.published_verdicts import RULE


def page_of(
    source: Source,
    *,
    rule: NetworkParameters | None = RULE,
    loopback: bool = True,
    cache: Path | None = None,
    validator: Hotkey | None = None,
    now_ms: WallClock = wall_clock_ms,
) -> Page:
    """Refreshed once, as `serve` does before it listens."""
    board = Board(source, validator=validator, now_ms=now_ms)
    board.refresh()
    trainer = None if rule is None else rule.trainer_hotkey
    return Page(Facts(source.what, "localnet", rule), board, Manifests(cache, trainer), loopback)


def folder_source(folder: Path) -> BucketSource:
    return BucketSource(FilesystemStore.reading(folder), "the published verdicts in a folder")


@contextmanager
def listening(page: Page, *, http: type[TimedConnection] = TimedConnection) -> Iterator[str]:
    """Its address, without the slash at its end. It looks at its source when a test refreshes its board, and not before."""
    with bind("127.0.0.1", 0) as bound, serving(page, bound, threading.Event(), refresh_seconds=3600, http=http) as url:
        yield url.rstrip("/")
