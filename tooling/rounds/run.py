"""A whole run: rounds one after the other, the loss of each checkpoint, and what is known of everybody at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LOSS_SCALE
from grail_core.proof.trained_model import StateArrays
from grail_core.protocol.findings import Outcome
from grail_core.protocol.gradient.assignment import Assignment
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.scores import Standing
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.types import Digest, Window
from grail_core.protocol.verdicts import WindowStatus
from grail_envs.corpus.bytes_1 import SEQUENCES, Bytes1
from grail_trainer.gradient_presets import TINY
from tooling.rounds.kills import EVERY, Deaths
from tooling.rounds.plan import Part, Plan
from tooling.rounds.reference import Reference, reference
from tooling.rounds.strangers import joined_from_anchor, joined_from_updates, merged_again
from tooling.rounds.world import Played, World

HELD_OUT = 256
"""Sequences that nobody is ever assigned, whose mean loss a curve shows."""
JOIN_AFTER = 25
"""Rounds, or the last one of a shorter run."""


@dataclass(frozen=True)
class Row:
    """What a round's verdict says of a miner. `caught_by`: the first check that rejects, "" where none does."""

    status: str
    caught_by: str
    reason: str
    rank: int | None


@dataclass(frozen=True)
class Line:
    """One round. `loss`: held-out, of the checkpoint that it made. `alike`: all validators have one body."""

    number: int
    loss: float
    status: WindowStatus
    merged: tuple[str, ...]
    rows: dict[str, Row]
    alike: bool
    weights_root: Digest | None


@dataclass(frozen=True)
class Root:
    """Weights that somebody computed without the trainer, against what its manifest says."""

    what: str
    found: Digest
    said: Digest

    @property
    def equal(self) -> bool:
        return self.found == self.said


@dataclass
class Finished:
    """A run. `first_loss` is of the checkpoint before all rounds; `cpu` seconds by phase."""

    plan: Plan
    first_loss: float = 0.0
    lines: list[Line] = field(default_factory=list)
    bodies: list[GradientVerdictBody] = field(default_factory=list)
    uids: dict[str, int] = field(default_factory=dict)
    roots: list[Root] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    reference: Reference | None = None

    @property
    def losses(self) -> list[float]:
        return [self.first_loss, *(line.loss for line in self.lines)]

    @property
    def seconds(self) -> float:
        """CPU of the network itself: without the curve and what it is compared with."""
        return sum(spent for phase, spent in self.cpu.items() if phase not in ("curve", "reference", "strangers"))

    def standing(self, name: str) -> Standing:
        return self.bodies[-1].standings[self.uids[name]]

    def power(self, name: str) -> int:
        return self.bodies[-1].powers[self.uids[name]]

    def weight(self, name: str) -> int:
        return self.bodies[-1].weights.get(self.uids[name], 0)

    def caught(self, part: Part) -> tuple[str, int]:
        """The check that rejects a miner first and the number of that round; ("", 0) where none does."""
        hits = ((line.rows[part.name].caught_by, line.number) for line in self.lines if part.name in line.rows)
        return next(((check, number) for check, number in hits if check), ("", 0))


def run(plan: Plan, folder: Path, say: Callable[[Plan, Line], None]) -> Finished:
    """Play a plan in an empty folder. `say` is told every round."""
    deaths = Deaths(plan.seed) if plan.kill else None
    world = World(plan, folder)
    done = Finished(plan, uids=world.uids, cpu=world.cpu)
    rows = np.stack([Bytes1().sequence(SEQUENCES + i) for i in range(HELD_OUT)])

    def held_out(weights: StateArrays) -> float:
        model = world.network.models.at(world.network.manifest).trained
        model.set(weights)
        return float(sequence_losses(model, rows).mean() / LOSS_SCALE)

    contexts: list[RoundContext] = []
    if deaths is not None:
        world.reaper = deaths
    start = dict(world.network.models.at(world.network.manifest).theta)
    with world.spent("curve"):
        done.first_loss = held_out(start)
    for number in range(1, plan.rounds + 1):
        if deaths is not None:
            deaths.begin_round(number)
        played = world.play(Window(TINY.round_blocks * number))
        contexts.append(played.context)
        with world.spent("strangers"):
            _repeat(world, played, number, done)
        done.lines.append(_line(world, played, number, held_out))
        done.bodies.append(played.bodies[0])
        say(plan, done.lines[-1])
    done.deaths = deaths.deaths if deaths is not None else []
    with world.spent("reference"):
        if plan.reference:
            batches = _batches(plan, world, contexts)
            model = world.network.models.at(world.network.manifest).trained
            done.reference = reference(model, start, batches, TINY, held_out)
    return done


def _repeat(world: World, played: Played, number: int, done: Finished) -> None:
    """What strangers compute: after a round with deaths its merge, and once the weights as late joiners get them."""
    manifest = played.manifest
    if manifest is None:
        return
    plan = world.plan
    if plan.kill and number % EVERY == 0:
        done.roots.append(Root(f"merge of round {number}", merged_again(world, played.context), manifest.weights_root))
    if plan.joiners and number == min(JOIN_AFTER, plan.rounds):
        for what, join in (
            ("the newest anchor", joined_from_anchor),
            ("the first checkpoint and updates", joined_from_updates),
        ):
            done.roots.append(Root(f"joined after round {number} from {what}", join(world, manifest), manifest.weights_root))


def _line(world: World, played: Played, number: int, held_out: Callable[[StateArrays], float]) -> Line:
    names = {uid: name for name, uid in world.uids.items()}
    body = played.bodies[0]
    rows = {}
    for miner in body.miners:
        if miner.uid in names:
            caught = next((one.check for one in miner.findings if one.outcome is Outcome.REJECT), "")
            rows[names[miner.uid]] = Row(miner.status.value, caught, miner.reason, miner.score.rank if miner.score else None)
    participant = world.network.participant("trainer")
    with world.spent("curve"):
        ahead = participant.checkpoints.valid_at(played.context.times.next_round)
        loss = held_out(dict(world.network.models.at(ahead).theta))
    return Line(
        number,
        loss,
        body.status,
        tuple(names[uid] for uid in played.merged),
        rows,
        len({one.digest() for one in played.bodies}) == 1,
        None if played.manifest is None else played.manifest.weights_root,
    )


def _batches(plan: Plan, world: World, contexts: list[RoundContext]) -> list[np.ndarray]:
    """All honest miners' rows of every inner step together."""
    corpus, found = Bytes1(), []
    for context in contexts:
        assignment = Assignment(context.spec, context.network_id, context.window_seed)
        for step in range(context.spec.inner_steps):
            indices = [
                i for part in plan.parts if part.honest for i in assignment.batch(world.uids[part.name], step, part.batch)
            ]
            found.append(np.stack([corpus.sequence(index) for index in indices]))
    return found
