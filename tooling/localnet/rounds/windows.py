"""The rounds of one start: `localnet.windows` with the times, tasks and strikes of gradient work."""

from __future__ import annotations

from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.types import Window
from tooling.localnet import chaos
from tooling.localnet.conductor import Need, Task
from tooling.localnet.processes import BEACON
from tooling.localnet.rounds.progress import RoundProgress
from tooling.localnet.rounds.stands import RoundTimetable
from tooling.localnet.rounds.status import SPEC, RoundStatus
from tooling.localnet.setup import TRAINER
from tooling.localnet.status import MinerStatus
from tooling.localnet.windows import Windows


class Rounds(Windows):
    """Nobody ends by itself: a trainer that merges counts rounds in which somebody could be merged."""

    last_of_mining = Task.OPEN

    def _new_status(self) -> RoundStatus:
        plan = self._plan
        return RoundStatus(
            params=self._network.params,
            windows=plan.windows,
            miners={m.hotkey: MinerStatus(m) for m in self._network.miners},
            validators=plan.validator_names(),
            real_time=plan.real_time,
        )

    def _new_progress(self) -> RoundProgress:
        return RoundProgress()

    def _new_timetable(self) -> RoundTimetable:
        return RoundTimetable(
            params=self._network.params,
            chain=self._network.chain.parameters,
            windows=self._plan.windows,
            trainer=TRAINER,
            validators=self._plan.validator_names(),
            miners=tuple(m.name for m in self._network.miners),
            spec=SPEC,
        )

    def _new_strikes(self) -> tuple[chaos.Strike, ...]:
        """A miner between seal and reveal, the beacon relay before the challenge, a validator before the seals are seen, the
        trainer while it reads what was revealed."""
        times = RoundTimes(Window(0), SPEC, self._network.params)
        plan = (
            (self._network.miners[0].name, int(times.deadline_block)),
            (BEACON, int(times.first_sight_end_block)),
            (self._plan.validator_names()[0], int(times.deadline_block) - 1),
            (TRAINER, int(times.reveal_block) + 1),
        )
        latest = max(1, self._plan.windows - 1)
        apart = max(1, -(-len(plan) // latest))
        return tuple(chaos.Strike(name, min(latest, 1 + i // apart), offset) for i, (name, offset) in enumerate(plan))

    def _is_trained(self) -> bool:
        last = self._status.last_window
        return last is not None and Need(TRAINER, Task.TRAIN, Window(last)) in self._progress.done
