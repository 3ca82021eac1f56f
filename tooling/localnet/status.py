"""What is known about a running localnet, for the view and for the decision that it is over.

`NetworkStatus` folds the roles' events; it holds no truth of its own. What counts at the end is read again from signed
verdicts, manifests and the chain by `collect.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Window
from tooling.localnet.events import Event
from tooling.localnet.report.facts import MinerIdentity


@dataclass
class MinerStatus:
    identity: MinerIdentity
    weight: float | None = None
    last: str = ""  # what it did last
    verdict: str = ""  # what was said of its last judged window
    failed: int = 0
    accepted: int = 0


@dataclass
class NetworkStatus:
    """`first_window` is None until the first checkpoint is published."""

    params: NetworkParameters
    windows: int
    miners: dict[str, MinerStatus]  # by ss58
    validators: tuple[str, ...]
    real_time: bool = False  # blocks come by the wall clock
    block: int = 0
    first_window: int | None = None
    judged: dict[str, set[int]] = field(default_factory=dict)  # validator → windows of the run whose verdict is published
    missed: dict[str, dict[int, str]] = field(default_factory=dict)
    trained: set[int] = field(default_factory=set)
    published: int = 0  # checkpoints
    reward: float | None = None
    success: float | None = None
    last_event: dict[str, str] = field(default_factory=dict)  # process → text
    activity: int = 0  # events so far; a run without new ones has come to a stop
    waits_for: str = ""  # what a virtual clock stands for

    @property
    def last_window(self) -> int | None:
        return None if self.first_window is None else self.first_window + WINDOW_LENGTH * (self.windows - 1)

    def in_run(self, window: int | None) -> bool:
        first, last = self.first_window, self.last_window
        return window is not None and first is not None and last is not None and first <= window <= last

    def windows_judged(self) -> int:
        """Windows of the run with a verdict from every validator."""
        sets = [self.judged.get(v, set()) for v in self.validators]
        return len(set.intersection(*sets)) if sets else 0

    def miners_are_done(self) -> bool:
        last = self.last_window
        return last is not None and self.block >= WindowTimes(Window(last), self.params).deadline_block

    def judging_begins(self, window: Window) -> Block:
        return WindowTimes(window, self.params).challenge_block

    def windows_are_done(self) -> bool:
        return self.first_window is not None and self.windows_judged() >= self.windows

    def phase(self) -> tuple[int, str]:
        """The running window and what happens in it, in words."""
        window = window_of(self.block)
        if self.first_window is None or window < self.first_window:
            return window, "waiting for the first checkpoint"
        times = WindowTimes(window, self.params)
        if not self.in_run(window):
            return window, "the last window is being judged"
        if self.block < times.seed_beacon_block:
            return window, "waiting for the seed beacon"
        before = WindowTimes(Window(window - WINDOW_LENGTH), self.params) if self.in_run(window - WINDOW_LENGTH) else None
        if before and self.block <= before.first_sight_end_block:
            return window, f"mining; first sight of window {before.window}"
        if before and self.block <= before.challenge_block:
            return window, f"mining; window {before.window} awaits its challenge"
        return window, "mining"

    def apply(self, event: Event) -> str | None:
        """Take one event in. Returns a line for people, None for events of no interest to them."""
        self.activity += 1
        handler = getattr(self, f"_on_{event.name}", None)
        line: str | None = handler(event) if handler else None
        if line:
            self.last_event[event.process] = line
        return line

    def set_weights(self, shares: Mapping[int, float]) -> None:
        """Shares of all weight by UID, as read from the chain."""
        for miner in self.miners.values():
            miner.weight = shares.get(miner.identity.uid, 0.0) if shares else None

    # --- one method per event the roles write -----------------------------------------------------------------------

    def _on_checkpoint_published(self, event: Event) -> str:
        self.published += 1
        return (
            f"published checkpoint {event.text('sequence')} for window {event.text('valid_from')}"
            f"{_sized(' (', event, 'bytes', ')')}"
        )

    def _on_window_mined(self, event: Event) -> str:
        spare = event.number("seconds_to_spare")
        text = (
            f"window {event.text('window')}: {event.text('rollouts')} rollouts in {event.text('groups')} groups, "
            f"mean reward {event.number('reward_mean') or 0.0:.3f}"
        )
        for miner in self.miners.values():
            if miner.identity.name == event.process:
                miner.last = f"{event.text('rollouts')} rollouts in window {event.text('window')}"
        return text + (f", {spare:.1f} s before the deadline" if self.real_time and spare is not None else "")

    def _on_window_skipped(self, event: Event) -> str | None:
        if not self.in_run(event.integer("window")):
            return None  # before the first checkpoint, or after the last window
        return f"window {event.text('window')} skipped: {event.text('reason')}"

    def _on_window_empty(self, event: Event) -> str | None:
        if not self.in_run(event.integer("window")):
            return None
        return f"window {event.text('window')}: nothing mined: {event.text('reason')}"

    def _on_miner_judged(self, event: Event) -> None:
        miner = self.miners.get(event.text("hotkey"))
        if miner is None or event.process != self.validators[0]:
            return
        status, reason = event.text("status"), event.text("reason")
        miner.failed += status == "failed"
        miner.accepted += status == "accepted"
        miner.verdict = reason or f"{status}, {event.text('unique_valid')} counted"

    def _on_verdict_published(self, event: Event) -> None:
        window = event.integer("window")
        if window is not None and self.in_run(window):
            self.judged.setdefault(event.process, set()).add(window)

    def _on_window_judged(self, event: Event) -> str:
        failed = event.integer("failed") or 0
        return (
            f"window {event.text('window')} judged: {event.text('announced')} seals, {event.text('checked')} files with "
            f"{event.text('rollouts_checked')} rollouts checked, {failed} {'miner' if failed == 1 else 'miners'} failed"
            f"{_sized(' (', event, 'seconds_verify', ' s)')}"
        )

    def _on_window_not_scored(self, event: Event) -> str | None:
        window = event.integer("window")
        if not self.in_run(window):
            return None
        assert window is not None
        self.missed.setdefault(event.process, {})[window] = event.text("reason")
        return f"window {window} {event.text('status')}: {event.text('reason')}"

    def _on_weights_sent(self, event: Event) -> str:
        return f"weights sent after block {event.text('block')}"

    def _on_weights_not_on_chain(self, event: Event) -> str:
        return f"weights sent after block {event.text('sent_at')} are not on the chain at block {event.text('block')}"

    def _on_window_trained(self, event: Event) -> str:
        window = event.integer("window")
        if window is not None:
            self.trained.add(window)
        self.reward = event.number("reward_mean") if event.number("reward_mean") is not None else self.reward
        self.success = event.number("success_mean") if event.number("success_mean") is not None else self.success
        reward = event.number("reward_mean")
        return f"trained on window {event.text('window')}: {event.text('groups')} groups" + (
            f", mean reward {reward:.3f}" if reward is not None else ""
        )

    def _on_window_not_trained(self, event: Event) -> str:
        return f"window {event.text('window')} not trained on: {event.text('reason')}"


def _sized(before: str, event: Event, name: str, after: str) -> str:
    value = event.number(name)
    if value is None:
        return ""
    return f"{before}{value:,.1f}{after}" if isinstance(event.fields[name], float) else f"{before}{value:,.0f}{after}"
