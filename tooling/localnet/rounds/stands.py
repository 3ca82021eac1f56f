"""How far the chain may go in rounds of gradient work: the sibling of `conductor.Timetable`.

    START ─► OPEN T ─► SEALS ─► REVEAL ─► CHALLENGE ─► FILES ─► JUDGE ─► OPEN T+P ─► … ─► REST

Miners train and seal at OPEN, validators see the seals in the last block in which a sight counts, updates go up only after it,
openings at the challenge; the trainer merges in the last block of the second sight, before the checkpoint is due; validators
judge once it was due, since whom it merged is checked too. The next round begins when all of it is done: what it is merged by
and paid for does not depend on how fast a machine is.
"""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.chain.base import blocks_in
from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Block, Window
from tooling.localnet.conductor import Known, Need, Stand, Task, Timetable


@dataclass(frozen=True)
class RoundTimetable(Timetable):
    """The stands of a run of `windows` rounds."""

    spec: GradientSpec

    def stands(self, known: Known, around_ms: int | None = None) -> tuple[Stand, ...]:
        """As of `Timetable`; a round's own are all of its round."""
        first = known.first_window
        names = (self.trainer, *self.validators, *self.miners)
        stands = [Stand("start", 0, tuple(Need(name, Task.START) for name in names))]
        if first is None:
            return tuple(stands)
        last = self.windows - 1
        here = 0 if around_ms is None else min(self._index_at(first, around_ms), last)
        chosen = range(self.windows) if around_ms is None else range(max(0, here - 1), min(last, here + 1) + 1)
        for index in chosen:
            stands += self._round(Window(first + index * self.spec.round_blocks))
        if chosen[-1] == last:
            # Weights that were sent at the last stand are in a final block here.
            judged = self._times(Window(first + last * self.spec.round_blocks)).checkpoint_block
            rest = Block(judged + self.chain.finality_lag + 2 + self.chain.rules.reveal_blocks)
            stands.append(Stand("rest", max(stands[-1].at_ms, self._final_ms(rest))))
        return tuple(stands)

    def _index_at(self, first: Window, chain_ms: int) -> int:
        block = blocks_in((chain_ms - self.chain.genesis_time_ms) / 1000, self.chain.block_time_ms)
        return max(0, (block - first) // self.spec.round_blocks)

    def _times(self, round_: Window) -> RoundTimes:
        return RoundTimes(round_, self.spec, self.params)

    def _round(self, round_: Window) -> tuple[Stand, ...]:
        times = self._times(round_)

        def needs(task: Task, names: tuple[str, ...]) -> tuple[Need, ...]:
            return tuple(Need(name, task, round_) for name in names)

        challenge = max(self._round_ms(times.challenge_block), self._final_ms(times.challenge_block))
        merge = needs(Task.TRAIN, (self.trainer,))
        return (
            Stand("open", self._round_ms(times.seed_beacon_block), needs(Task.MINE, self.miners)),
            Stand("seals", self._block_ms(times.first_sight_end_block), needs(Task.SIGHT, self.validators)),
            Stand("reveal", self._block_ms(Block(times.first_sight_end_block + 1)), needs(Task.REVEAL, self.miners)),
            Stand("challenge", challenge, needs(Task.OPEN, self.miners)),
            Stand(
                "files",
                self._block_ms(times.second_sight_end_block),
                (*needs(Task.SIGHT_FILES, self.validators), *merge),
            ),
            Stand(
                "judge",
                self._final_ms(times.checkpoint_block),
                (*needs(Task.JUDGE, self.validators), *needs(Task.WEIGH, self.validators), *merge),
            ),
        )
