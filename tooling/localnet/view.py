"""What a person sees while a localnet runs: a live table on a terminal, else one line per event.

Colour follows the terminal and NO_COLOR. With `--json` the view writes to standard error, so that standard output carries
the summary and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.telemetry.console import PlainConsole
from tooling.localnet.status import NetworkStatus
from tooling.localnet.supervisor import State, SupervisedProcess

STATE_STYLE = {
    State.RUNNING: "green",
    State.RESTARTING: "yellow",
    State.FAILED: "bold red",
    State.DONE: "dim",
    State.STOPPED: "dim",
    State.WAITING: "dim",
}


class View(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def say(self, who: str, text: str, *, style: str = "") -> None:
        """One line about one process, or about the run."""
        ...

    def update(self, status: NetworkStatus, processes: Mapping[str, SupervisedProcess]) -> None:
        """Draw the current state."""
        ...


class LineView:
    """One line per event, with seconds since the start."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, who: str, text: str, *, style: str = "") -> None:
        self._console.print(Text(f"{time.monotonic() - self._start:7.1f}s  {who:<12} {text}", style=style), soft_wrap=True)

    def update(self, status: NetworkStatus, processes: Mapping[str, SupervisedProcess]) -> None:
        return None


class LiveView:
    """A table that stays in place."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._recent: deque[Text] = deque(maxlen=7)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._live.__exit__(None, None, None)

    def say(self, who: str, text: str, *, style: str = "") -> None:
        self._recent.append(Text.assemble((f"{who:<12} ", "dim"), (text, style), overflow="ellipsis", no_wrap=True))
        if not self._live.is_started:
            return
        self._live.refresh()

    def update(self, status: NetworkStatus, processes: Mapping[str, SupervisedProcess]) -> None:
        parts: list[RenderableType] = [
            _head(status, time.monotonic() - self._start),
            _miner_table(status, processes),
            _process_table(status, processes),
            Panel(Group(*self._recent), title="what happened", title_align="left", border_style="dim"),
        ]
        self._live.update(Group(*parts))


def _head(status: NetworkStatus, elapsed: float) -> Panel:
    window, phase = status.phase()
    done = status.windows_judged()
    position = status.block % WINDOW_LENGTH
    bar = "━" * position + "─" * (WINDOW_LENGTH - position)
    reward = "" if status.reward is None else f"{status.reward:.3f}"
    head = Text.assemble(
        (f"block {status.block}", "bold"),
        f"  window {window} ",
        (bar, "cyan"),
        f" {phase}\n{done} of {status.windows} windows judged, {len(status.trained)} trained, {status.published} checkpoints",
        ", mean reward " if reward else "",
        (reward, "bold"),
        (f"  {elapsed:.0f} s", "dim"),
    )
    if status.waits_for:
        head.append(f"\nblocks wait for {status.waits_for}", style="dim")
    return Panel(head, title="GRAIL localnet", title_align="left", border_style="cyan")


def _miner_table(status: NetworkStatus, processes: Mapping[str, SupervisedProcess]) -> Table:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    for name, justify in (("miner", "left"), ("strategy", "left"), ("state", "left"), ("weight", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("last verdict", ratio=1, overflow="ellipsis", no_wrap=True)
    for miner in status.miners.values():
        identity = miner.identity
        weight = "–" if miner.weight is None else f"{100 * miner.weight:.2f} %"
        honest = identity.strategy == "honest"
        table.add_row(
            identity.name,
            Text(identity.strategy, style="" if honest else "red"),
            _state(processes.get(identity.name)),
            weight,
            Text(miner.verdict or miner.last, style="red" if miner.failed and miner.verdict else ""),
        )
    return table


def _process_table(status: NetworkStatus, processes: Mapping[str, SupervisedProcess]) -> Table:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    for name in ("process", "state", "restarts"):
        table.add_column(name, no_wrap=True)
    table.add_column("last", ratio=1, overflow="ellipsis", no_wrap=True)
    miners = {m.identity.name for m in status.miners.values()}
    for name, supervised in processes.items():
        if name not in miners:
            table.add_row(name, _state(supervised), str(supervised.restarts or ""), Text(status.last_event.get(name, "")))
    return table


def _state(supervised: SupervisedProcess | None) -> Text:
    if supervised is None:
        return Text("–", style="dim")
    return Text(supervised.state.value, style=STATE_STYLE[supervised.state])


def open_view(console: PlainConsole) -> View:
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else LineView(console)
