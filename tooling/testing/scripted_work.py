"""A window's work by script: how long each stage takes, and what goes wrong. The stages that carry it out are the miner's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from grail_core.environment import Grade, Problem
from grail_core.generation.base import Completion, Drawn
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.groups import Answered, Assigned, CompletionRules, Group
from grail_miner.pipeline.stages import WindowClock
from grail_miner.pipeline.work import GroupLostError
from tooling.testing.simulated_threads import SimulatedThreads

END = 9
COMPLETION = Completion((5, END))

Hook = Callable[[str, int], None]
"""Told of a step (`generate`, …) and its group before it is done; may wait or raise."""


def no_hook(step: str, group: int) -> None:
    """Nothing goes wrong."""


@dataclass
class ScriptedWork:
    """A `Work`. Seconds are of one group.

    Args:
        sleep: what a stage does for its seconds. together: a batch's groups are whole all at once, at its end.
        lost: groups that cannot be had, by the step that finds out. hook: called at every step.
    """

    sleep: Callable[[float], None] = lambda seconds: None
    generate_s: float = 0.0
    judge_s: float = 0.0
    prove_s: float = 0.0
    together: bool = False
    lost: dict[int, str] = field(default_factory=dict)
    hook: Hook = no_hook
    log: list[tuple[str, str, int]] = field(default_factory=list)  # begins or ends, the step, its group or first group
    generated: int = 0
    proved: int = 0
    most_between: int = 0  # groups that were generated and not proved

    rules = CompletionRules(GenerationPolicy(max_tokens=4), frozenset({END}), vocabulary_size=16, context_length=64)

    def assign(self, group: int) -> Assigned:
        self._step("assign", group, 0.0)
        return Assigned(group, Problem("scripted", group, None), (1, 2))

    def generate(self, assigned: Sequence[Assigned], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        first = assigned[0].group
        self.log.append(("begins", "generate", first))
        if self.together:
            self.sleep(self.generate_s * len(assigned))
        for place, one in enumerate(assigned):
            if not self.together:
                self.sleep(self.generate_s)
            self.hook("generate", one.group)
            if cancelled():
                return
            self.generated += 1
            self.most_between = max(self.most_between, self.generated - self.proved)
            for rollout in range(ROLLOUTS_PER_PROBLEM):
                yield Drawn(place * ROLLOUTS_PER_PROBLEM + rollout, COMPLETION)
        self.log.append(("ends", "generate", first))

    def judge(self, answered: Answered) -> list[Grade]:
        self._step("judge", answered.assigned.group, self.judge_s)
        return []

    def prove(self, answered: Answered) -> list[RolloutProof]:
        self._step("prove", answered.assigned.group, self.prove_s)
        self.proved += 1
        return []

    def pack(self, answered: Answered, grades: Sequence[Grade], proofs: Sequence[RolloutProof]) -> Group:
        self._step("pack", answered.assigned.group, 0.0)
        return Group(answered.assigned.group, ())

    def order(self) -> dict[tuple[str, str, int], int]:
        """The place of each entry of the log, which has each once."""
        assert max(Counter(self.log).values()) == 1
        return {entry: place for place, entry in enumerate(self.log)}

    def _step(self, name: str, group: int, seconds: float) -> None:
        self.log.append(("begins", name, group))
        self.hook(name, group)
        if self.lost.get(group) == name:
            raise GroupLostError(f"lost at {name}")
        self.sleep(seconds)
        self.log.append(("ends", name, group))


def clock_of(threads: SimulatedThreads, deadline_s: float) -> WindowClock:
    """Chain time that is the threads' own."""
    return WindowClock(lambda: deadline_s - threads.now(), lambda: round(threads.now() * 1000))


def standing_clock() -> WindowClock:
    """Chain time that stands long before the deadline, as localnet's does while its miners work."""
    return WindowClock(lambda: 1e6, lambda: 0)
