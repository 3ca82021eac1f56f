"""The live view of `grail-miner run`: threads of its own, which look at the service and draw what they see.

The miner waits for none of them: it hands its log lines to a queue, and a terminal that is held (Ctrl-S), a chain that hangs or
a picture that cannot be drawn cost the picture. What fails is said once, lines go to the terminal again, and mining goes on.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.live import Live
from rich.text import Text

from grail_core.errors import ChainError, GrailError
from grail_core.protocol import best_prefix, window_of
from grail_core.telemetry import get_logger
from grail_core.telemetry.console import PlainConsole
from grail_core.telemetry.logs import Value, fields_of, take_terminal
from grail_miner.live.picture import picture
from grail_miner.live.state import TICKING, ChainNow, Heard, Rate, Rates, Sample, Scene
from grail_miner.service import InHand, MinerService

log = get_logger(__name__)

LOOK_SECONDS: Final = 0.5
_END_SECONDS: Final = 3.0  # for the last picture; a terminal that takes nothing keeps its thread, which holds nobody up
_MOST_LINES: Final = 1_000  # that wait for the terminal; the oldest give way, and are in the log file


class LiveView:
    """See the module. `start` once, `close` in the end, both from one thread.

    Args:
        about: the fields of the event `miner_started`, which was logged before there was a picture.
    """

    def __init__(
        self, console: PlainConsole, service: MinerService, about: Mapping[str, Value], *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._console, self._look_seconds = console, look_seconds
        self._eyes = Eyes(service)
        self._lines = _Lines()
        self._lines.heard.take("miner_started", about)
        self._give_back: Callable[[], None] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="live view", daemon=True)

    def start(self) -> bool:
        """False, and nothing was done, where the terminal gets JSON lines."""
        self._give_back = take_terminal(self._lines)
        if self._give_back is None:
            return False
        threading.Thread(target=self._eyes.ask_chain, args=(self._ended,), name="live view: chain", daemon=True).start()
        self._thread.start()
        return True

    def close(self) -> None:
        """Take the picture away; every line that was logged is on the terminal then, unless that takes none."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)
        self._stop_taking()

    def _draw(self) -> None:
        """The thread's work; raises nothing."""
        live = Live(console=self._console, auto_refresh=False, transient=True)
        try:
            with live:
                while not self._ended.wait(self._look_seconds):
                    self._lines.print_to(self._console)
                    live.update(picture(self._scene()), refresh=True)
                self._lines.print_to(self._console)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is no reason to mine no more
            self._stop_taking()
            with contextlib.suppress(Exception):
                live.stop()
            log.event("view_lost", level=logging.WARNING, reason=f"{type(error).__name__}: {error}")

    def _scene(self) -> Scene:
        if self._lines.trouble is not None:
            raise self._lines.trouble
        return self._eyes.scene(self._lines.heard, time.monotonic())

    def _stop_taking(self) -> None:
        """The terminal is the log's again; what nobody printed yet is printed by whoever comes here first."""
        if self._give_back is not None:
            self._give_back()
        for line in self._lines.rest():
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stderr)


class _Lines(logging.Handler):
    """Takes what is logged: events are heard, lines wait until they are printed above the picture. Waits for no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = Heard()
        self.trouble: Exception | None = None
        self._waiting: deque[str] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = fields_of(record)
            if fields is not None:
                self.heard.take(record.getMessage(), fields)
            if fields is None or record.getMessage() not in TICKING:
                self._waiting.append(self.format(record))
        except Exception as error:  # noqa: BLE001 - who logs is not to end of it; the view tells it and goes
            self.trouble = self.trouble or error

    def rest(self) -> Iterator[str]:
        while True:
            try:
                yield self._waiting.popleft()
            except IndexError:
                return

    def print_to(self, console: PlainConsole) -> None:
        for line in self.rest():
            console.print(Text(line), soft_wrap=True)


@dataclass
class Eyes:
    """What can be seen of a service from another thread."""

    service: MinerService
    chain: ChainNow | None = None
    chain_trouble: str = ""

    def __post_init__(self) -> None:
        self._tokens, self._generated, self._judged, self._proved = Rate(), Rate(), Rate(), Rate()
        self._sample: Sample | None = None

    def scene(self, heard: Heard, at: float) -> Scene:
        """`at`: seconds of a clock that does not go back."""
        hand = self.service.hand
        progress = None
        if hand is not None and hand.pipeline is not None:
            with contextlib.suppress(ChainError):  # the chain's own reader says so
                progress = hand.pipeline.progress()
            self._look_at_a_sample(hand)
        rates = Rates()
        if progress is not None:
            rates = Rates(
                self._tokens.look(at, progress.tokens),
                self._generated.look(at, progress.generated),
                self._judged.look(at, progress.judged),
                self._proved.look(at, progress.proved),
            )
        return Scene(
            heard=heard,
            window=None if hand is None else hand.window,
            doing="" if hand is None else hand.doing,
            serves=self.service.mining.generator.version or "",
            progress=progress,
            rates=rates,
            chain=self.chain,
            chain_trouble=self.chain_trouble,
            sample=self._sample,
        )

    def _look_at_a_sample(self, hand: InHand) -> None:
        """The first finished groups of each window, as a file of their own that never leaves this process: a fault that every
        row has is seen while there is time to look for it, and not when the window is over."""
        if hand.context is None or hand.prepared is None or hand.pipeline is None:
            return
        if self._sample is not None and self._sample.window == hand.window:
            return
        groups = hand.pipeline.whole_groups()
        groups = groups[: best_prefix([group.group for group in groups])]
        if not groups:
            return
        mining = self.service.mining
        try:
            fault = mining.own_fault(hand.context, hand.prepared, mining.pack(hand.context, hand.prepared, groups))
            told = "" if fault is None else f"{fault.check}: {fault.detail or ''}"
        except GrailError as error:
            told = f"nothing, since it cannot be looked at: {error.what}"
        self._sample = Sample(hand.window, len(groups), told)

    def ask_chain(self, ended: threading.Event) -> None:
        """A thread's work: the chain once a block at most, its clock between. What it leaves open is shown and asked again."""
        participant = self.service.participant
        block_ms = participant.params.block_time_ms
        asked_at: float | None = None
        block, block_at_ms = 0, 0
        while not ended.is_set():
            try:
                now = time.monotonic()
                if asked_at is None or now - asked_at >= block_ms / 1000:
                    head = participant.chain.current_block()
                    block_at_ms, block, asked_at = participant.chain.block(head).timestamp_ms, head, now
                window = window_of(block)
                blocks_left = participant.times(window).deadline_block - block
                left_ms = block_at_ms + blocks_left * block_ms - participant.chain.now_ms()
                self.chain = ChainNow(block, window, block - window, left_ms / 1000)
                self.chain_trouble = ""
            except Exception as error:  # noqa: BLE001 - a reader of the view's own: whatever it is, it is shown
                self.chain_trouble = f"{type(error).__name__}: {getattr(error, 'what', error)}"
            ended.wait(LOOK_SECONDS)


@contextmanager
def live_view(wanted: bool, service: MinerService, about: Mapping[str, Value]) -> Iterator[None]:
    """A picture on standard error meanwhile, unless that is no terminal that can move its cursor, or nobody wants it."""
    console = PlainConsole(stderr=True)
    view = LiveView(console, service, about) if wanted and console.is_terminal and not console.is_dumb_terminal else None
    started = view is not None and view.start()
    try:
        yield
    finally:
        if view is not None and started:
            view.close()
