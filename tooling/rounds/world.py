"""The services of a run and the order in which a round's blocks call them.

seed → prepare, seal → D → sight of seals → reveal → challenge → open → V → settle, sight of files → merge, publish → verdict.
Every call is one of a shipped service; the clock moves between them. Seconds of CPU are counted by phase.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grail_core.errors import GrailError
from grail_core.participant.lead_body import LeadBody
from grail_core.protocol.context import Challenge
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.service import GradientMiner
from grail_miner.gradient.state import GradientState
from grail_trainer.gradient_presets import TINY
from grail_trainer.merging.service import Aggregator
from grail_validator.gradient.service import GradientValidator
from tooling.adversaries.gradient_miners import CHEATS
from tooling.rounds.plan import Plan
from tooling.testing.gradient_network import GradientNetwork

Reaper = Callable[[str, Callable[[], object], Callable[[], None]], None]
"""Carries out a step of a service by its name; what may kill it there starts the service again by the second call."""


def never(step: str, work: Callable[[], object], again: Callable[[], None]) -> None:
    """Nobody is killed."""
    work()


class RoundFailedError(GrailError):
    """A service did not do what a round asks of it."""


@dataclass(frozen=True)
class Played:
    """One round, over. `merged`: UIDs; `bodies`: of each validator, in order of their names."""

    context: RoundContext
    manifest: CheckpointManifest | None
    merged: tuple[int, ...]
    bodies: tuple[GradientVerdictBody, ...]


@dataclass
class World:
    """A network with its services. `network` is made here; `uids` are of the miners, by their names in the plan."""

    plan: Plan
    root: Path
    network: GradientNetwork = field(init=False)
    cpu: dict[str, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        plan = self.plan
        with self.spent("network"):
            self.network = GradientNetwork(
                self.root,
                TINY,
                seed=plan.seed,
                miners=len(plan.parts),
                validators=plan.validators,
                chain=f"rounds-{plan.seed}",
            )
        self._miners = {part.name: self._miner(i) for i, part in enumerate(plan.parts)}
        self.validators = [self.network.validator(f"validator-{i}") for i in range(plan.validators)]
        self.aggregator: Aggregator = self.network.aggregator()
        self.reaper: Reaper = never
        by_hotkey = {neuron.hotkey: neuron.uid for neuron in self.network.chain.metagraph().neurons}
        self.uids = {name: by_hotkey[miner.training.signer.hotkey] for name, miner in self._miners.items()}

    def play(self, first: Window) -> Played:
        """One round from its seed to its verdicts.

        Raises:
            RoundFailedError: a service had nothing for it.
        """
        network = self.network
        network.advance_to(first + 1)
        context = network.round(first)
        self._mine(context)
        network.advance_to(context.times.first_sight_end_block + 1)
        for miner, pending in self._pending:
            miner.reveal(context, pending)
        network.advance_to(context.times.challenge_block)
        challenge = network.challenge(context)
        lead = self.aggregator.lead(context)
        with self.spent("open"):
            for miner, pending in self._pending:
                miner.open(context, challenge, pending)
        network.advance_to(context.times.reveal_block + 1)
        with self.spent("settle"):
            for miner, _ in self._pending:
                miner.settle(context)
        self._each("sight files", lambda validator: validator.sights.sight_files(context))
        with self.spent("merge"):
            self.reaper("merge", lambda: self._merge(context, challenge, lead), self._new_aggregator)
        manifest = self.network.participant("trainer").own_checkpoints.sequence().head
        if manifest is not None and manifest.window != context.round:
            manifest = None
        network.advance_to(context.times.next_round)
        self._each("judge", lambda validator: validator.advance(context.window, self.stop))
        return Played(context, manifest, _merged(manifest), tuple(self._body(context, v) for v in self.validators))

    def _merge(self, context: RoundContext, challenge: Challenge, lead: LeadBody | None) -> None:
        self.aggregator.aggregate(context, challenge, lead)
        self.aggregator.complete()

    def _each(self, step: str, work: Callable[[GradientValidator], object]) -> None:
        """Of the validators in turn; the first is the one that may be killed."""
        with self.spent("sight" if step.startswith("sight") else step):
            self.reaper(step, lambda: work(self.validators[0]), self._new_validator)
            for validator in self.validators[1:]:
                work(validator)

    def _new_aggregator(self) -> None:
        self.aggregator = self.network.aggregator()

    def _new_validator(self) -> None:
        self.validators[0] = self.network.validator("validator-0")

    def _mine(self, context: RoundContext) -> None:
        """Up to the sight of seals."""
        self._pending = []
        with self.spent("mine"):
            for part in self.plan.working:
                miner = self._miners[part.name]
                pending = miner.prepare(context, self.stop)
                if pending is None and not part.honest:
                    continue  # nothing to lie with yet
                if pending is None or not miner.seal(context, pending):
                    raise RoundFailedError(f"{part.name} has no update", where=f"round {context.round}")
                self._pending.append((miner, pending))
        self.network.advance_to(context.times.deadline_block + 1)
        self._each("sight seals", lambda validator: validator.sights.sight_seals(context))

    @staticmethod
    def _body(context: RoundContext, validator: GradientValidator) -> GradientVerdictBody:
        files = validator.ledger.rounds.files(context.round)
        if files is None:
            raise RoundFailedError("a validator has no verdict", where=f"round {context.round}")
        return SignedGradientVerdict.decode(files.verdict).body

    def _miner(self, place: int) -> GradientMiner:
        part, name = self.plan.parts[place], f"miner-{place}"
        if part.honest:
            return self.network.miner(name, batch=part.batch)
        participant = self.network.participant(name)
        state = GradientState(participant.state.root / "gradient")
        return CHEATS[part.strategy].miner(participant, self.network.models, lambda spec: Bytes1(), state, part.batch)

    @contextmanager
    def spent(self, phase: str) -> Iterator[None]:
        """Counts seconds of this process's CPU."""
        begun = time.process_time()
        try:
            yield
        finally:
            self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - begun


def _merged(manifest: CheckpointManifest | None) -> tuple[int, ...]:
    return () if manifest is None else tuple(one.uid for one in Merged.from_json(dict(manifest.training)).merged)
