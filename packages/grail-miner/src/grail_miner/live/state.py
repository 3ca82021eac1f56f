"""What the live view knows: what events have said, what the service has in hand, what the chain answered. Nothing is drawn.

Everything is kept for the last windows alone, so that a miner that runs for months shows as much as one that runs for an hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from grail_core.telemetry.logs import Value
from grail_miner.pipeline.progress import Progress

WINDOWS_SHOWN: Final = 5
RATE_SECONDS: Final = 20.0
"""What a rate is taken over: a batch of groups that end together is more than one look."""

TICKING: Final = frozenset({"groups_begun", "batch_generated", "batch_cancelled"})
"""Events that the picture shows as they come; every other one is a line above it, as it is without a picture."""

_OUTCOMES: Final = {
    "window_mined": "mined",
    "window_skipped": "skipped",
    "window_empty": "empty",
    "window_left": "left",
    "window_withheld": "withheld",
    "window_already_mined": "done before",
    "upload_failed": "not uploaded",
}
_ENGINE_FAULTS: Final = frozenset({"engine_lost", "engine_start_failed"})


@dataclass(frozen=True)
class Outcome:
    """How a window ended. `good`: its file and its seal are stored."""

    window: int
    what: str
    why: str
    good: bool


@dataclass
class Heard:
    """What the events of this run have said."""

    hotkey: str = ""
    uid: int | None = None
    network: str = ""
    backend: str = ""
    proofs: str = ""
    engine_starts: int = 0
    engine_trouble: str = ""  # its last, until it has started again
    workers_replaced: int = 0
    rolled_in: float | None = None  # seconds of the last weight roll
    uploaded_bytes: int = 0  # of the last window
    upload_seconds: float = 0.0
    windows: deque[Outcome] = field(default_factory=lambda: deque(maxlen=WINDOWS_SHOWN))

    def take(self, name: str, fields: Mapping[str, Value]) -> None:
        """One event. What it does not know, or fields of another type, are passed over."""
        if name == "miner_started":
            self.hotkey, self.network = _text(fields, "hotkey"), _text(fields, "network")
            self.backend, self.proofs = _text(fields, "backend"), _text(fields, "proofs")
            uid = fields.get("uid")
            self.uid = uid if isinstance(uid, int) else None
        elif name == "engine_started":
            self.engine_starts, self.engine_trouble = self.engine_starts + 1, ""
        elif name in _ENGINE_FAULTS:
            self.engine_trouble = _text(fields, "reason").partition("\n")[0]
        elif name == "proof_worker_replaced":
            self.workers_replaced += 1
        elif name == "weights_rolled":
            self.rolled_in = _number(fields, "seconds")
        elif name in _OUTCOMES:
            self._end_of_window(name, fields)

    def _end_of_window(self, name: str, fields: Mapping[str, Value]) -> None:
        why = _text(fields, "reason")
        if name == "window_mined":
            self.uploaded_bytes = int(_number(fields, "bytes") or 0)
            self.upload_seconds = _number(fields, "seconds_upload") or 0.0
            why = (
                f"{fields.get('groups')} groups, reward {_number(fields, 'reward_mean') or 0.0:.3f},"
                f" {_number(fields, 'seconds_to_spare') or 0.0:.0f} s to spare"
            )
        elif name == "window_withheld":
            why = f"own check `{_text(fields, 'check')}`: {why}"
        window = fields.get("window")
        if isinstance(window, int):
            self.windows.append(Outcome(window, _OUTCOMES[name], why, good=name in ("window_mined", "window_already_mined")))


class Rate:
    """Of a count that grows, over the last `RATE_SECONDS`. A count that falls is a new window's."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def look(self, at: float, count: float) -> float | None:
        """Per second, None before there are two looks. `at`: seconds of a clock that does not go back."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at, count))
        while len(self._seen) > 2 and self._seen[1][0] <= at - RATE_SECONDS:
            self._seen.popleft()
        first_at, first = self._seen[0]
        return (count - first) / (at - first_at) if at > first_at else None


@dataclass(frozen=True)
class Rates:
    """Per second, of finished completions' tokens and of groups; None before they are known."""

    tokens: float | None = None
    generated: float | None = None
    judged: float | None = None
    proved: float | None = None


@dataclass(frozen=True)
class ChainNow:
    """What the chain answered last. `seconds_to_deadline` is negative once it has passed."""

    block: int
    window: int
    window_block: int  # blocks of the window that are there, 0 to WINDOW_LENGTH - 1
    seconds_to_deadline: float


@dataclass(frozen=True)
class Sample:
    """What the miner's own check says of finished groups of the running window."""

    window: int
    groups: int
    fault: str  # empty: a validator's checks of every row pass


@dataclass(frozen=True)
class Scene:
    """All that is drawn, at one moment."""

    heard: Heard
    window: int | None
    doing: str
    serves: str  # the version of the weights that the generator draws with; empty: none
    progress: Progress | None
    rates: Rates
    chain: ChainNow | None
    chain_trouble: str
    sample: Sample | None


def _text(fields: Mapping[str, Value], name: str) -> str:
    value = fields.get(name)
    return "" if value is None else str(value)


def _number(fields: Mapping[str, Value], name: str) -> float | None:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) else None
