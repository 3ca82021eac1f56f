"""The validator's ledger without a disk: the same calls, the same answers (tested), for runs of thousands of windows.

It outlives the process that writes it, as the file does; each call happens whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from grail_core.protocol import Adopted, MinerWindow, VerdictBody
from grail_core.protocol.constants import (
    NUMERICS_CLASS_WINDOWS,
    SCORE_MEMORY_WINDOWS,
    UNIQUE_HISTORY_WINDOWS,
    WINDOW_LENGTH,
)
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.verification.header import Classes
from grail_validator.cases import Measured, Memory, Sighting, WindowStage
from grail_validator.ledger import MAX_CRASHES_FORGIVEN, PublishedFiles, WorkBegun


@dataclass
class _Work:
    crashes: int = 0
    running: bool = False
    hotkey: Hotkey | None = None
    given_up: set[Hotkey] = field(default_factory=set)


@dataclass
class MemoryLedger:
    """As `grail_validator.ledger.Ledger`."""

    stages: dict[Window, WindowStage] = field(default_factory=dict)
    _sightings: dict[Window, dict[Hotkey, Sighting]] = field(default_factory=lambda: defaultdict(dict))
    _files: dict[Window, PublishedFiles] = field(default_factory=dict)
    _scores: dict[Hotkey, dict[Window, MinerWindow]] = field(default_factory=lambda: defaultdict(dict))
    _scored: set[Window] = field(default_factory=set)
    _adopted: dict[Window, Hotkey] = field(default_factory=dict)
    _untold: set[Window] = field(default_factory=set)
    _counted: dict[Hotkey, dict[Window, frozenset[Digest]]] = field(default_factory=lambda: defaultdict(dict))
    _classes: dict[Hotkey, tuple[Classes, Window]] = field(default_factory=dict)
    _work: dict[Window, _Work] = field(default_factory=dict)
    _measured: dict[Window, dict[Hotkey, Measured]] = field(default_factory=lambda: defaultdict(dict))
    _weights_block: Block | None = None
    _began: Window | None = None

    def stage(self, window: Window) -> WindowStage:
        return self.stages.get(window, WindowStage.UNSEEN)

    def record_sighting(self, window: Window, sighting: Sighting) -> None:
        self._sightings[window].setdefault(sighting.hotkey, sighting)

    def record_sightings(self, window: Window, rest: Iterable[Sighting]) -> None:
        if window in self.stages:
            return
        self.stages[window] = WindowStage.SIGHTED
        for sighting in rest:
            self._sightings[window].setdefault(sighting.hotkey, sighting)

    def sightings(self, window: Window) -> list[Sighting] | None:
        return None if self.stage(window) is WindowStage.UNSEEN else self.sightings_so_far(window)

    def sightings_so_far(self, window: Window) -> list[Sighting]:
        return [sighting for _, sighting in sorted(self._sightings[window].items())]

    def begin_work(self, window: Window) -> WorkBegun:
        work = self._work.setdefault(window, _Work())
        hopeless = False
        if work.running:
            work.crashes += 1
            if work.crashes > MAX_CRASHES_FORGIVEN and work.hotkey is not None:
                work.given_up.add(work.hotkey)
            hopeless = work.crashes > MAX_CRASHES_FORGIVEN and work.hotkey is None
        work.running, work.hotkey = True, None
        return WorkBegun(frozenset(work.given_up), hopeless)

    def note_work(self, window: Window, hotkey: Hotkey | None) -> None:
        if window in self._work:
            self._work[window].hotkey = hotkey

    def end_work(self, window: Window) -> None:
        if window in self._work:
            self._work[window].running, self._work[window].hotkey = False, None

    def record_measured(self, window: Window, measured: Measured) -> None:
        self._measured[window][measured.verdict.hotkey] = measured

    def measured(self, window: Window) -> dict[Hotkey, Measured]:
        return dict(self._measured.get(window, {}))

    def record_judged(
        self,
        window: Window,
        body: VerdictBody,
        files: PublishedFiles,
        counted: Mapping[Hotkey, Sequence[Digest]],
        classes: Mapping[Hotkey, Classes],
    ) -> None:
        if self.stages.get(window, WindowStage.SIGHTED) is not WindowStage.SIGHTED:
            raise ValueError(f"window {window} was judged before")
        self.stages[window], self._files[window] = WindowStage.JUDGED, files
        self._insert_scores(body)
        for hotkey, identities in counted.items():
            self._counted[hotkey][window] = frozenset(identities)
        for hotkey, names in classes.items():
            if hotkey not in self._classes or self._classes[hotkey][0] != names:
                self._classes[hotkey] = (names, window)
        self._untold.clear()
        for part in (self._work, self._measured, self._sightings):
            for old in [at for at in part if at <= window]:
                del part[old]
        self._forget(window)

    def _forget(self, window: Window) -> None:
        oldest = window - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH
        for identities_by_window in self._counted.values():
            while identities_by_window and (at := next(iter(identities_by_window))) <= oldest:
                del identities_by_window[at]
        for entries in self._scores.values():
            while entries and (at := next(iter(entries))) <= window - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH:
                del entries[at]
        self._files.pop(Window(window - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH), None)

    def _insert_scores(self, body: VerdictBody) -> None:
        for miner in body.miners:
            entries = self._scores[miner.hotkey]
            if body.window in entries:
                raise ValueError(f"window {body.window} would be counted twice")
            late = bool(entries) and next(reversed(entries)) > body.window
            entries[body.window] = miner.miner_window(body.window)
            if late:
                self._scores[miner.hotkey] = dict(sorted(entries.items()))
        if body.miners:
            self._scored.add(body.window)

    def record_published(self, window: Window) -> None:
        self.stages[window] = WindowStage.PUBLISHED
        self._files[window] = PublishedFiles(self._files[window].verdict, b"")

    def files(self, window: Window) -> PublishedFiles | None:
        return self._files.get(window)

    def record_beginning(self, current: Window) -> Window:
        if self._began is None:
            self._began = min([current, *self.stages])
        return self._began

    def last_judged(self) -> Window | None:
        return max((window for window, stage in self.stages.items() if stage is not WindowStage.SIGHTED), default=None)

    def unfinished(self) -> list[Window]:
        return sorted(window for window, stage in self.stages.items() if stage is WindowStage.JUDGED)

    def history(self, before: Window) -> dict[Hotkey, list[MinerWindow]]:
        oldest = before - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH
        found = {
            hotkey: [entry for window, entry in entries.items() if oldest <= window < before]
            for hotkey, entries in self._scores.items()
        }
        return {hotkey: entries for hotkey, entries in sorted(found.items()) if entries}

    def unremembered(self, before: Window) -> list[Window]:
        oldest = max(0, before - SCORE_MEMORY_WINDOWS * WINDOW_LENGTH)
        known = self._scored | self._adopted.keys()
        return [Window(window) for window in range(oldest, before, WINDOW_LENGTH) if window not in known]

    def adopt_scores(self, body: VerdictBody, validator: Hotkey) -> bool:
        if body.window in self._scored or body.window in self._adopted:
            return False
        if any(self._adopted[window] != validator for window in self._untold):
            return False
        self._adopted[body.window] = validator
        self._untold.add(body.window)
        self._insert_scores(body)
        return True

    def untold(self) -> Adopted | None:
        windows = sorted(self._untold)
        return Adopted(self._adopted[windows[-1]], windows[0], windows[-1]) if windows else None

    def counted(self, hotkey: Hotkey, before: Window) -> Collection[Digest]:
        oldest = before - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH
        found = self._counted.get(hotkey, {})
        return frozenset().union(*(identities for window, identities in found.items() if oldest <= window < before))

    def known_classes(self, hotkey: Hotkey, window: Window) -> Classes | None:
        names, since = self._classes.get(hotkey, (None, Window(0)))
        return None if names is None or window - since >= NUMERICS_CLASS_WINDOWS * WINDOW_LENGTH else names

    def memory(self, window: Window, hotkeys: Iterable[Hotkey]) -> Memory:
        hotkeys = tuple(hotkeys)
        classes = {hotkey: self.known_classes(hotkey, window) for hotkey in hotkeys}
        return Memory(
            history=self.history(window),
            counted={hotkey: self.counted(hotkey, window) for hotkey in hotkeys},
            classes={hotkey: names for hotkey, names in classes.items() if names is not None},
        )

    def weights_block(self) -> Block | None:
        return self._weights_block

    def record_weights(self, block: Block) -> None:
        self._weights_block = block
