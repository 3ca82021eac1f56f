"""`page`: how long a validator's page takes over 10,000 published verdicts, those of its memory of 256 miners each.

    hatch run bench page          a table
    hatch run bench page --json   one flat object

Verdicts are signed and lie in a folder laid out like a bucket; pages are asked over HTTP, each for the first time (`first`) and
once more. `page.look_s` is what the background thread does before the first page, `page.look_again_s` when nothing changed.
Wall time, one process; the load average is told beside it.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import httpx

from grail_core.keys import ss58
from grail_core.protocol.constants import WINDOW_LENGTH
from tooling.testing.published_verdicts import PlayedNetwork, publish
from tooling.testing.served_page import folder_source, listening, page_of

WINDOWS: Final = 10_000
OF_THE_MEMORY: Final = 72
MINERS, FEW = 256, 16


def measure() -> dict[str, float]:
    """Every figure of the benchmark, by its key."""
    figures: dict[str, float] = {}
    newest = PlayedNetwork(miners=MINERS, fails={WINDOW_LENGTH * (WINDOWS - 5): [3]})
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for verdict in PlayedNetwork(miners=FEW).play(WINDOWS - OF_THE_MEMORY):
            publish(folder, verdict, None)
        size = 0
        for verdict in newest.play(OF_THE_MEMORY, first=WINDOW_LENGTH * (WINDOWS - OF_THE_MEMORY)):
            publish(folder, verdict, None)
            size = len(verdict.encode())
        figures["page.verdict_kb"] = size / 1000
        started = time.monotonic()
        page = page_of(folder_source(folder))
        figures["page.look_s"] = time.monotonic() - started
        figures["page.look_again_s"] = _seconds(lambda: page.board.refresh())
        hotkey = ss58(newest.hotkey(3))
        paths = {
            "scoreboard": "/",
            "windows": "/windows",
            "windows_older": "/windows?page=100",
            "window": f"/windows/{WINDOW_LENGTH * (WINDOWS - 1)}",
            "explain": f"/windows/{WINDOW_LENGTH * (WINDOWS - 5)}/{hotkey}",
            "miner": f"/miners/{ss58(newest.hotkey(1))}",
            "proof": "/proof",
            "metrics": "/metrics",
        }
        with listening(page) as url, httpx.Client(base_url=url, timeout=120) as client:
            for name, path in paths.items():
                figures[f"page.{name}_first_s"] = _seconds(partial(client.get, path))
                figures[f"page.{name}_s"] = _seconds(partial(client.get, path))
    figures["page.most_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {"page.load_average": os.getloadavg()[0]}


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started
