"""Gradient work: what a validator remembers between rounds, all of it from verdict bodies.

`GradientMemory` is a value: `after` a body it is the next one, so a ledger keeps bodies and folds them, and a validator without
history folds another's. The last 36 give everything; of fewer, ratings, failures and feedback are complete (a body's standings
carry them) and volume counts the rounds that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from grail_core.protocol.gradient.scores import MEMORY_ROUNDS, MinerRound, Standing, volume
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.selection import Candidate
from grail_core.protocol.types import Hotkey, Window
from grail_core.protocol.verdicts import WindowStatus


@dataclass(frozen=True)
class HotkeyMemory:
    """Of one hotkey: its standing after the last round, and the last 36 rounds that it took part in, in ascending order."""

    standing: Standing = field(default_factory=Standing)
    rounds: tuple[MinerRound, ...] = ()


@dataclass(frozen=True)
class GradientMemory:
    """Of all hotkeys. `stranger` is what one is taken for that was never met."""

    hotkeys: Mapping[Hotkey, HotkeyMemory] = field(default_factory=dict)
    stranger: HotkeyMemory = field(default_factory=HotkeyMemory)
    last: Window | None = None  # the round of the last body

    def with_files_missed(self) -> GradientMemory:
        """Of a validator that has not seen rounds after the last one: whose files came meanwhile, of hotkeys that it never met
        too, it does not know."""
        hotkeys = {h: replace(known, standing=replace(known.standing, feedback=None)) for h, known in self.hotkeys.items()}
        stranger = replace(self.stranger, standing=replace(self.stranger.standing, feedback=None))
        return GradientMemory(hotkeys, stranger, self.last)

    def of(self, hotkey: Hotkey) -> HotkeyMemory:
        return self.hotkeys.get(hotkey, self.stranger)

    def candidate(self, spec: GradientSpec, window: Window, hotkey: Hotkey, declared: int) -> Candidate:
        """What decides how likely a sealed miner is to be checked in this round."""
        known = self.of(hotkey)
        _, _, supported = volume(spec, known.rounds, window)
        return Candidate(declared, supported, known.standing.failing(window), spec.assigned)

    def after(self, body: GradientVerdictBody, spec: GradientSpec) -> GradientMemory:
        """Memory after one more round. Who is not registered, in none of the last 36 rounds and not unpaid is forgotten.

        Args:
            spec: of that round.

        Raises:
            ValueError: the body is of no later round.
        """
        if self.last is not None and body.window <= self.last:
            raise ValueError(f"round {body.window} is not after {self.last}, the last that is remembered")
        oldest = body.window - (MEMORY_ROUNDS - 1) * spec.round_blocks
        rows = {miner.hotkey: miner for miner in body.miners} if body.status is WindowStatus.SCORED else {}
        standings = {hotkey: body.standings[uid] for uid, hotkey in body.hotkeys.items()}
        found: dict[Hotkey, HotkeyMemory] = {}
        for hotkey in self.hotkeys.keys() | standings.keys():
            known, row = self.of(hotkey), rows.get(hotkey)
            rounds = tuple(one for one in known.rounds if one.window >= oldest)
            if row is not None:
                rounds = (*rounds, row.miner_round(body.window))
            standing = standings.get(hotkey, known.standing)
            if hotkey in standings or rounds or standing.failing(body.window):
                found[hotkey] = HotkeyMemory(standing, rounds)
        return GradientMemory(found, self.stranger, body.window)
