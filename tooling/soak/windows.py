"""The windows of a soak: localnet's, with faults outside by schedule, and every process looked at once in each window."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from typing import Protocol

from grail_core.protocol import WindowTimes
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from tooling.localnet.windows import Windows
from tooling.soak.accounts import VERDICT
from tooling.soak.holdings import Sample, folder_bytes, holdings
from tooling.soak.schedule import Fault


class Outside(Protocol):
    """What the roles reach beyond their machine, and how it is broken."""

    def begin(self, fault: Fault) -> None: ...

    def end(self, fault: Fault) -> None: ...


class SoakWindows(Windows):
    """Set `outside` and `planned` before `run`.

    Attributes:
        samples: one a window, when its first block is there.
        latencies: real seconds from a window's challenge block to a validator's verdict in its bucket, by validator and window.
        told: faults as they were begun, with the seconds since the first window.
    """

    outside: Outside
    planned: list[Fault]

    @property
    def first_window(self) -> int:
        """Raises `ValueError` before there was a checkpoint."""
        if self._status.first_window is None:
            raise ValueError("the run has not begun")
        return self._status.first_window

    def begin(self, outside: Outside, planned: Iterable[Fault]) -> None:
        self.outside, self.planned = outside, list(planned)
        self.samples: list[Sample] = []
        self.latencies: dict[str, dict[int, float]] = {name: {} for name in self._plan.validator_names()}
        self.told: list[tuple[float, Fault]] = []
        self._running: Fault | None = None
        self._challenged: dict[int, float] = {}  # monotonic seconds when its challenge block was seen
        self._read = 0  # events that were looked at

    def read_events(self, *, aloud: bool = True) -> None:
        super().read_events(aloud=aloud)
        if not hasattr(self, "_read"):
            return
        now, news = time.monotonic(), self.events[self._read :]
        self._read = len(self.events)
        for event in news:
            window = event.integer("window")
            if event.name == VERDICT and event.process in self.latencies and window in self._challenged:
                self.latencies[event.process].setdefault(window, now - self._challenged[window])

    def _look(self) -> None:
        super()._look()
        first, block = self._status.first_window, self._status.block
        if first is None or block < first:
            return
        now = time.monotonic()
        index = (block - first) // WINDOW_LENGTH
        for before in (Window(first + (index - 1) * WINDOW_LENGTH), Window(first + (index - 2) * WINDOW_LENGTH)):
            if before >= first and block >= WindowTimes(before, self._network.params).challenge_block:
                self._challenged.setdefault(before, now)
        self._break_and_mend(first, block)
        if index < self._plan.windows and (not self.samples or self.samples[-1].window < index):
            self._sample(index, now)

    def _break_and_mend(self, first: int, block: int) -> None:
        if self._running is not None and block >= self._running.ends(first, WINDOW_LENGTH):
            self.outside.end(self._running)
            self._view.say("soak", f"well again ({self._running})")
            self._running = None
        if self._running is None and self.planned and block >= self.planned[0].begins(first, WINDOW_LENGTH):
            self._running = self.planned.pop(0)
            self.outside.begin(self._running)
            self.told.append((time.monotonic() - (self._began or time.monotonic()), self._running))
            self._view.say("soak", str(self._running), style="yellow")

    def _sample(self, index: int, now: float) -> None:
        processes = self._supervisor.processes
        pids = {name: one.pid for name, one in processes.items() if one.pid is not None}
        folders = {"chain": self._layout.chain.stat().st_size, "logs": folder_bytes(self._layout.logs)}
        for name in pids:
            for kind, place in (("state", self._layout.state_of(name)), ("cache", self._layout.cache(name))):
                if place.is_dir():
                    folders[f"{kind}/{name}"] = folder_bytes(place)
        sample = Sample(index, now - (self._began or now), holdings(pids), folders)
        self.samples.append(sample)
        with (self._layout.root / "samples.jsonl").open("a") as file:  # what was seen of a run that does not end
            file.write(json.dumps(dataclasses.asdict(sample)) + "\n")
