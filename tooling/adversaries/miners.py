"""Miners that lie, each in one step of the honest miner's own code.

Every class overrides what it lies about and nothing else, so that a reject is about the lie; none looks for faults of its own
before it seals. They live outside the shipped
wheels, and a network is expected to give each of them weight 0 with a reason. `cheating_miner` runs one as a process; what
lies about single rollouts and needs no miner is in `tampering`, what needs a study's models in `deviations`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import numpy as np

from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint
from grail_core.environment import Environment, GradeOutcome, Problem
from grail_core.errors import EngineError, ProtocolViolationError, StorageError
from grail_core.files.window_file import read_window_file
from grail_core.generation.base import Completion, Drawn, GenerationRequest
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.proof.batch import RolloutProof
from grail_core.protocol import Finding, GroupCount, RolloutRecord
from grail_core.protocol.constants import MAX_FILE_BYTES, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import WindowContext
from grail_core.protocol.rollouts.groups import declared_rollouts
from grail_core.storage.layout import window_key
from grail_core.telemetry import get_logger
from grail_miner.groups import Assigned, Group
from grail_miner.mining import Checkpoints, EnvironmentOf, Mining
from tooling.adversaries import STRATEGIES
from tooling.adversaries.deviations.weights import quantised
from tooling.adversaries.tampering import constant_sketches

log = get_logger(__name__)

DRAWS = 4  # of best-of-n
KEEP_SHARE = 0.5  # of skip
_LOOK_AGAIN_S = 0.25  # copy: for the victim's file, which comes shortly before the deadline
_LOOKS = 40


class Dishonest(Mining):
    """Seals whatever it has packed."""

    def own_fault(self, context: WindowContext, prepared: PreparedCheckpoint, data: bytes) -> Finding | None:
        return None


class ZeroSketch(Dishonest):
    """Generates honestly and runs no model for the proof: all sketches and log-probabilities are zero."""

    def prove(
        self, context: WindowContext, prepared: PreparedCheckpoint, prompt: tuple[int, ...], answers: Sequence[Completion]
    ) -> list[RolloutProof]:
        lengths = [len(answer.tokens) for answer in answers]
        return [RolloutProof(constant_sketches(length + 1), np.zeros(length, np.float32)) for length in lengths]


class BestOfN(Dishonest):
    """Draws each rollout four times, three of them with seeds that are not its own, and submits the one that is worth most."""

    def generate(
        self,
        context: WindowContext,
        prepared: PreparedCheckpoint,
        assigned: Sequence[Assigned],
        cancelled: Callable[[], bool],
    ) -> Iterator[Drawn]:
        environment = self.environment_of(context.manifest)
        for place, one in enumerate(assigned):
            seeds = [context.sampling_seed(self.signer.hotkey, one.group, r) for r in range(ROLLOUTS_PER_PROBLEM)]
            requests = [GenerationRequest(one.prompt, seed ^ draw) for seed in seeds for draw in range(DRAWS)]
            drawn = {answer.index: answer.completion for answer in self.generator.generate(requests, cancelled)}
            if len(drawn) < len(requests):
                return  # cancelled
            worth = [self.worth(environment, prepared, one.problem, drawn[i]) for i in range(len(requests))]
            bests = [max(range(i, i + DRAWS), key=worth.__getitem__) for i in range(0, len(requests), DRAWS)]
            for rollout, best in enumerate(bests):
                yield Drawn(place * ROLLOUTS_PER_PROBLEM + rollout, drawn[best])

    def worth(self, environment: Environment, prepared: PreparedCheckpoint, problem: Problem, completion: Completion) -> float:
        """What is selected for: the reward."""
        grade = self.grade(environment, prepared, problem, completion)
        return grade.reward if grade.outcome is GradeOutcome.GRADED else float("-inf")


class Stale(Dishonest):
    """Generates and proves with the checkpoint before the current one, and claims the current one."""

    participant: Participant

    def select_model(self, context: WindowContext) -> PreparedCheckpoint:
        older = list(self.participant.checkpoints.before(context.manifest, 1))
        if not older:
            log.event("cheat_waits", window=context.window, reason="there is no older checkpoint yet")
            return super().select_model(context)
        return self.served(self.checkpoint.at(older[0]))


class EightBit(Dishonest):
    """Generates and proves with the window's weights in 8 bits, one scale per output channel, and claims the exact ones."""

    _rounded: LoadedCheckpoint | None = None

    def select_model(self, context: WindowContext) -> PreparedCheckpoint:
        exact = self.checkpoint.at(context.manifest)
        if not isinstance(exact, LoadedCheckpoint):
            raise EngineError(
                "8-bit weights are made of a model in this process",
                where="GRAIL_PIPELINE_BACKEND",
                hint="this lie is told with the back-end hf",
            )
        if self._rounded is None or self._rounded.manifest.digest != exact.manifest.digest:
            # A copy: the exact weights are stepped to the next checkpoint's by a delta.
            self._rounded = dataclasses.replace(exact, model=quantised(exact.model, 8, None))
        return self.served(self._rounded)


class Skip(Dishonest):
    """Submits only the better half of its groups, far more gaps than the protocol allows."""

    def pack(self, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[Group]) -> bytes:
        by_success = sorted(groups, key=lambda g: -fmean(float(record.success) + 1e-3 * record.reward for record in g.rollouts))
        kept = sorted(by_success[: max(1, int(len(groups) * KEEP_SHARE))], key=lambda g: g.group)
        if kept[-1].group + 1 - len(kept) <= 1 and len(kept) > 1:  # by chance a prefix: leave out more
            kept = kept[-1:]
        return pack_without_rules(self, context, prepared, kept)


class Copy(Dishonest):
    """Mines next to nothing, reads another miner's file as soon as it lies there, and signs its rollouts as its own."""

    packs_early = False  # the victim's file comes shortly before the deadline

    participant: Participant

    def produce_groups(self, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[int]) -> list[Group]:
        return super().produce_groups(context, prepared, groups) if 0 in groups else []

    def pack(self, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[Group]) -> bytes:
        for _ in range(_LOOKS):
            stolen = self._steal(context)
            if stolen:
                return pack_without_rules(self, context, prepared, stolen)  # the victim may be a liar itself
            time.sleep(_LOOK_AGAIN_S)
        return super().pack(context, prepared, groups)

    def _steal(self, context: WindowContext) -> list[Group]:
        for neuron in self.participant.chain.metagraph(context.times.first_block).neurons:
            if neuron.hotkey == self.signer.hotkey or neuron.commitment is None:
                continue
            try:
                store = self.participant.directory.open(neuron.commitment)
                key = window_key(ss58(neuron.hotkey), context.window)
                info = store.head(key)
                if info is None:
                    continue
                file = read_window_file(store.get(key, max_bytes=MAX_FILE_BYTES, if_match=info.etag))
            except (StorageError, ProtocolViolationError, ValueError):
                continue
            log.event("file_copied", window=context.window, victim=ss58(neuron.hotkey))
            by_group: dict[int, list[RolloutRecord]] = {}
            for record in file.table.records():
                by_group.setdefault(record.group, []).append(record)
            return [Group(group, tuple(records)) for group, records in sorted(by_group.items())]
        return []


def pack_without_rules(mining: Mining, context: WindowContext, prepared: PreparedCheckpoint, groups: Sequence[Group]) -> bytes:
    """A well-formed, signed window file of any groups, whatever the gap rule says of them."""
    records = [record for group in groups for record in group.rollouts]
    span, n = groups[-1].group + 1, len(groups)
    gaps = span - n
    counted = GroupCount(n, span, gaps, gaps, declared_rollouts(n, gaps))
    return mining.bind(context, prepared, records, counted)


MINERS: dict[str, type[Mining]] = dict(zip(STRATEGIES, (ZeroSketch, BestOfN, Stale, Skip, Copy, EightBit), strict=True))
"""Every dishonest miner by the name that the command line has for it."""


def mining_factory(strategy: str) -> Callable[[Participant, Checkpoints, EnvironmentOf, int], Mining]:
    """A `MiningFactory` (see `grail_miner.start`) for one strategy."""
    kind = MINERS[strategy]

    def make(participant: Participant, checkpoint: Checkpoints, environment_of: EnvironmentOf, groups_per_batch: int) -> Mining:
        mining = kind(participant.signer, checkpoint, environment_of, groups_per_batch)
        if isinstance(mining, Stale | Copy):
            mining.participant = participant
        return mining

    return make
