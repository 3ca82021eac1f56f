"""What the page knows: the newest windows in short, read in the background, so that no visitor waits for a ledger or a store.

`refresh` looks at the source and makes a new `Snapshot`; it raises nothing, since a source that is gone is something to show
and not a reason to stop showing what was read before. Of the newest MEMORY windows a record each is kept, of older ones those
that somebody looked at last. Whose verdicts these are is said by the source, or by the newest verdict: what another validator
or network signed is named and not counted.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

from grail_core.clock import WallClock, wall_clock_ms
from grail_core.errors import GrailError
from grail_core.files.verdicts import AnyVerdict, RefusedVerdictError
from grail_core.keys import ss58
from grail_core.protocol import WindowStatus
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.text import printable
from grail_validator.page.records import MinerRecord, Unread, WindowRecord, decode, record_of
from grail_validator.page.sources import Source

MEMORY: Final = SCORE_MEMORY_WINDOWS
OLDER: Final = 128
"""Records of older windows that are kept."""
REFRESH_SECONDS: Final = 20.0
"""That one refresh reads verdicts for; the rest is read by the next."""
Record = WindowRecord | Unread
Seen = tuple[WindowRecord, MinerRecord]


@dataclass(frozen=True)
class Snapshot:
    """Everything of one moment. `windows` are all that are listed, ascending; `memory` the newest of them, read."""

    number: int = 0
    read_at_ms: int = 0
    problem: str = "nothing has been read yet"
    windows: tuple[Window, ...] = ()
    memory: Mapping[Window, Record] = field(default_factory=dict)
    validator: Hotkey | None = None
    network_id: Digest | None = None
    newest_since_ms: int | None = None  # since when the newest window is the newest, as far as this page saw

    @cached_property
    def records(self) -> tuple[WindowRecord, ...]:
        """Those of the memory that are verdicts of this validator and network, oldest first."""
        return tuple(one for _, one in sorted(self.memory.items()) if isinstance(one, WindowRecord))

    @cached_property
    def newest(self) -> WindowRecord | None:
        """The newest window that was scored: what the scoreboard is of."""
        return next((one for one in reversed(self.records) if one.status is WindowStatus.SCORED and one.hotkeys), None)

    @cached_property
    def histories(self) -> Mapping[Hotkey, Sequence[Seen]]:
        """What every hotkey did in the memory, oldest first."""
        found: dict[Hotkey, list[Seen]] = {}
        for record in self.records:
            for miner in record.miners:
                found.setdefault(miner.hotkey, []).append((record, miner))
        return found

    @cached_property
    def unread(self) -> tuple[Unread, ...]:
        return tuple(one for _, one in sorted(self.memory.items()) if isinstance(one, Unread))

    @property
    def unfinished(self) -> bool:
        """Is some of the memory still to be read?"""
        return any(one.again for one in self.unread)

    @cached_property
    def gaps(self) -> tuple[tuple[Window, Window], ...]:
        """Runs of windows of the memory that have no verdict, both ends included. Rounds span several windows: beside them a
        gap is what is longer than the shortest way from one to the next."""
        kept = sorted(self.memory)
        steps = [b - a for a, b in pairwise(kept)]
        rounds = any(one.is_round for one in self.records)
        usual = min(steps, default=WINDOW_LENGTH) if rounds else WINDOW_LENGTH
        return tuple((Window(a + usual), Window(b - WINDOW_LENGTH)) for a, b in pairwise(kept) if b - a > usual)

    def following(self, window: Window) -> Window | None:
        return next((one for one in self.windows if one > window), None)

    def before(self, window: Window) -> Window | None:
        return next((one for one in reversed(self.windows) if one < window), None)


class Board:
    """The page's memory. `refresh` is one thread's; everything else any thread's."""

    def __init__(self, source: Source, *, validator: Hotkey | None = None, now_ms: WallClock = wall_clock_ms) -> None:
        self.source, self.now_ms = source, now_ms
        self._asked = validator
        self.where = ""
        """Of the source's last fault, for this machine's log: a path or an address is nothing for the page."""
        self._snapshot = Snapshot()
        self._kept: OrderedDict[Window, tuple[str, Record]] = OrderedDict()
        self._whole: OrderedDict[Window, tuple[str, AnyVerdict]] = OrderedDict()
        self._stamps: Mapping[Window, str] = {}
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # one at a time: the largest verdict takes seconds, and memory beside its 32 MiB

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def refresh(self, *, seconds: float = REFRESH_SECONDS) -> Snapshot:
        """Look at the source. What cannot be read leaves the snapshot as it was, but for `problem`."""
        before = self._snapshot
        try:
            stamps = self.source.listed()
            owner = self.source.owner
        except GrailError as error:
            self.where = error.where
            return self._take(before, problem=error.what)
        if not stamps and before.windows:  # a folder or device that has gone lists nothing, and says so of no file
            return self._take(before, problem="nothing is listed there any more")
        listed_before, self._stamps = self._stamps, stamps
        windows = tuple(sorted(stamps))
        until = time.monotonic() + seconds
        memory = {window: self._read(window, until) for window in reversed(windows[-MEMORY:])}
        validator, network = self._whose(owner, memory)
        memory = {window: _of(record, validator, network) for window, record in memory.items()}
        since = before.newest_since_ms
        if windows[-1:] != before.windows[-1:]:  # a later one has come, or this is another state of the source
            since = self.now_ms() if before.windows and windows[-1:] > before.windows[-1:] else None
        changed = (stamps, memory, "") != (listed_before, dict(before.memory), before.problem)
        self._snapshot = Snapshot(
            number=before.number + changed,
            read_at_ms=self.now_ms(),
            problem="",
            windows=windows,
            memory=memory,
            validator=validator,
            network_id=network,
            newest_since_ms=since,
        )
        self._forget()
        return self._snapshot

    def record(self, window: Window, until: float) -> Record | None:
        """A window in short, read now if it must be; None where nothing is listed of it."""
        known = self._snapshot.memory.get(window)
        if known is not None:
            return known
        if window not in self._stamps:
            return None
        found = self._read(window, until)
        return _of(found, self._snapshot.validator, self._snapshot.network_id)

    def verdict(self, window: Window) -> AnyVerdict:
        """A whole verdict of this validator and network; the last few are kept.

        Raises:
            StorageError: it cannot be read. RefusedVerdictError: it is none, or another's.
        """
        verdict, snapshot = self._any_verdict(window), self._snapshot
        problem = _foreign(verdict.validator, verdict.body.network_id, snapshot.validator, snapshot.network_id)
        if problem:
            raise RefusedVerdictError(problem)
        return verdict

    def _any_verdict(self, window: Window) -> AnyVerdict:
        stamp = self._stamps.get(window, "")
        with self._lock:
            kept = self._whole.get(window)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        raw = self.source.verdict(window)
        with self._decoding:
            verdict = decode(raw, window)
        with self._lock:
            self._whole[window] = (stamp, verdict)
            while len(self._whole) > 2:
                self._whole.popitem(last=False)
        return verdict

    def age_ms(self) -> int | None:
        """How long ago the newest window was worked on or came: by its last seal, or since this page saw it come."""
        snapshot = self._snapshot
        newest = max(snapshot.memory, default=None)
        record = None if newest is None else snapshot.memory[newest]
        stored = record.stored_at_ms if isinstance(record, WindowRecord) else None
        times = [one for one in (stored, snapshot.newest_since_ms) if one is not None and one <= self.now_ms()]
        return self.now_ms() - max(times) if times else None

    def _take(self, before: Snapshot, *, problem: str) -> Snapshot:
        text = printable(problem, 300)
        number = before.number + (text != before.problem)
        self._snapshot = Snapshot(
            number,
            before.read_at_ms,
            text,
            before.windows,
            before.memory,
            before.validator,
            before.network_id,
            before.newest_since_ms,
        )
        return self._snapshot

    def _read(self, window: Window, until: float) -> Record:
        stamp = self._stamps.get(window, "")
        with self._lock:
            kept = self._kept.get(window)
            if kept is not None:
                self._kept.move_to_end(window)
        if kept is not None and kept[0] == stamp and not (isinstance(kept[1], Unread) and kept[1].again):
            return kept[1]
        if time.monotonic() > until:
            return Unread(window, "not read yet", again=True)
        found = self._recorded(window)
        with self._lock:
            self._kept[window] = (stamp, found)
        self._forget()
        return found

    def _recorded(self, window: Window) -> Record:
        try:
            raw = self.source.verdict(window)
            with self._decoding:
                return record_of(decode(raw, window), raw)
        except RefusedVerdictError as error:
            return Unread(window, printable(error.what, 300))
        except GrailError as error:
            return Unread(window, printable(error.what, 300), again=True)

    def _whose(
        self, owner: tuple[Hotkey, Digest] | None, memory: Mapping[Window, Record]
    ) -> tuple[Hotkey | None, Digest | None]:
        if owner is not None:
            return owner
        for _, record in sorted(memory.items(), reverse=True):
            if isinstance(record, WindowRecord) and self._asked in (None, record.validator):
                return record.validator, record.network_id
        return self._asked, None

    def _forget(self) -> None:
        """Of older windows, all but those looked at last; as soon as they are too many, since the next refresh may be far."""
        with self._lock:
            if len(self._kept) <= MEMORY + OLDER:
                return
            newest = set(sorted(self._stamps)[-MEMORY:])
            older = [window for window in self._kept if window not in newest]
            for window in older[: max(0, len(older) - OLDER)]:
                del self._kept[window]


def _of(record: Record, validator: Hotkey | None, network: Digest | None) -> Record:
    """What is not this validator's, of this network, is named and not counted."""
    if isinstance(record, Unread):
        return record
    problem = _foreign(record.validator, record.network_id, validator, network)
    return Unread(record.window, problem) if problem else record


def _foreign(signer: Hotkey, named: Digest, validator: Hotkey | None, network: Digest | None) -> str:
    """Whose a verdict is, where it is not this validator's of this network; else ""."""
    if validator is not None and signer != validator:
        return f"signed by {ss58(signer)}, another validator"
    if validator is not None and network is not None and named != network:
        return f"a verdict of another network (id {named.hex()[:16]}…)"
    return ""
