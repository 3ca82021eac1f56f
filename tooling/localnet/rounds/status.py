"""What is known about a running localnet of gradient work, for the view: rounds for windows, merges for training."""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.types import Block, Window
from grail_trainer.gradient_presets import PRESETS
from tooling.localnet.events import Event
from tooling.localnet.processes import PRESET
from tooling.localnet.status import MinerStatus, NetworkStatus

SPEC = PRESETS[PRESET]


@dataclass
class RoundStatus(NetworkStatus):
    """`trained`: rounds that were merged or that nobody could be merged in."""

    merged: int = 0  # updates, in the last merge

    def times(self, round_: int) -> RoundTimes:
        return RoundTimes(Window(round_), SPEC, self.params)

    def judging_begins(self, window: Window) -> Block:
        return self.times(window).checkpoint_block

    def miners_are_done(self) -> bool:
        last = self.last_window
        return last is not None and self.block > self.times(last).reveal_block

    def phase(self) -> tuple[int, str]:
        round_ = self.block - self.block % SPEC.round_blocks
        if self.first_window is None or round_ < self.first_window:
            return round_, "waiting for the first round"
        if not self.in_run(round_):
            return round_, "the last round is over"
        times = self.times(round_)
        phases = (
            (times.seed_beacon_block, "waiting for the seed beacon"),
            (times.deadline_block, "training"),
            (times.first_sight_end_block + 1, "sight of seals"),
            (times.challenge_block, "revealing"),
            (times.reveal_block, "opening what the challenge drew"),
            (times.checkpoint_block, "sight of files, merging"),
        )
        return round_, next((said for until, said in phases if self.block < until), "judging")

    # --- one method per event the roles write -----------------------------------------------------------------------

    def _on_round_trained(self, event: Event) -> str:
        line = f"round {event.text('window')}: {event.text('declared')} sequences, {event.integer('bytes') or 0:,} bytes"
        if (miner := self._miner_of(event.process)) is not None:
            miner.last = line
        return line

    def _on_round_void(self, event: Event) -> str:
        return f"round {event.text('window')} is void: {event.text('reason')}"

    def _on_round_sight_missed(self, event: Event) -> str | None:
        if not self.in_run(event.integer("window")):
            return None
        return f"round {event.text('window')}: sight of {event.text('of') or 'it'} missed {event.text('reason')}".rstrip()

    def _on_round_miner_judged(self, event: Event) -> None:
        miner = self.miners.get(event.text("hotkey"))
        if miner is None or event.process != self.validators[0]:
            return
        status = event.text("status")
        miner.failed += status == "failed"
        miner.accepted += status == "accepted"
        rank = event.integer("rank")
        miner.verdict = event.text("reason") or (status if rank is None else f"{status}, rank {rank}")

    def _on_round_judged(self, event: Event) -> str:
        failed = event.integer("failed") or 0
        return (
            f"round {event.text('window')} judged: {event.text('sealed')} seals, {event.text('checked')} checked, "
            f"{failed} failed ({event.number('seconds_verify') or 0.0:.1f} s)"
        )

    def _on_round_not_scored(self, event: Event) -> str | None:
        return self._on_window_not_scored(event)

    def _on_merge_published(self, event: Event) -> str:
        self.published += 1
        self.merged = event.integer("updates") or 0
        self.trained.add(event.integer("round") or 0)
        updates = "1 update" if self.merged == 1 else f"{self.merged} updates"
        return f"merged {updates} of round {event.text('round')}: checkpoint {event.text('sequence')}"

    def _on_update_not_merged(self, event: Event) -> str:
        miner = self.miners.get(event.text("hotkey"))
        who = "an unknown miner" if miner is None else miner.identity.name
        return f"round {event.text('window')}: {who} is not merged: {event.text('reason')}"

    def _on_round_not_merged(self, event: Event) -> str:
        if (round_ := event.integer("window")) is not None:
            self.trained.add(round_)
        return f"round {event.text('window')} not merged: {event.text('reason')}"

    def _miner_of(self, process: str) -> MinerStatus | None:
        return next((miner for miner in self.miners.values() if miner.identity.name == process), None)
