"""Miners of gradient work that lie, each in one step of the honest miner's own code.

`CHEATS` has the eight of a run of rounds, `VARIANTS` sharper and simpler ones that tests try beside them. Each says which
checks may catch it; tests and tables read it there. Whoever alters what is sent after honest training is seen in the bytes
(`chunks`); the fitted variants make Δ, θ_H and feedback follow from the altered bytes by an invented last step. One that moves
no weight further than the steps can passes checks 1 to 5, and a replay alone sees it, when it draws that step. None looks for
faults of its own before it seals.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grail_core.errors import StorageError
from grail_core.gradient import minifloat
from grail_core.gradient.codec import Sent, decode, pack, quantised
from grail_core.gradient.layout import Layout
from grail_core.gradient.update_file import read_front, sketch_rows, split
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.round_models import RoundModel, RoundModels
from grail_core.proof.errors import UnprovableError
from grail_core.proof.inner import InnerLoop, InnerState, Trained
from grail_core.proof.trained_model import F32, I32, StateArrays
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import update_key
from grail_core.telemetry import get_logger
from grail_miner.gradient.service import GradientMiner
from grail_miner.gradient.state import Feedback, GradientState, Pending
from grail_miner.gradient.training import Compressed, CorpusOf, Training

log = get_logger(__name__)

TIMES = 100
"""scale: what is sent is so many times what was trained."""


@dataclass
class Dishonest(Training):
    """What a liar has beside the honest miner: the network's eyes. `participant` is set when it is made (`Cheat.miner`)."""

    participant: Participant | None = None

    @property
    def eyes(self) -> Participant:
        if self.participant is None:
            raise ValueError("a liar that looks around needs its participant: make it with Cheat.miner")
        return self.participant


# --- less work, other work ---------------------------------------------------------------------------------------------------


class _OneGradient(InnerLoop):
    """Every step follows from the gradient of the first: arithmetic holds, and three of four passes are saved."""

    _first: StateArrays | None = None

    def gradient(self, theta: StateArrays, tokens: I32, step: int) -> StateArrays:
        if self._first is None:
            self._first = super().gradient(theta, tokens, step)
        return self._first


class Lazy(Dishonest):
    """One honest step, and later states invented from its gradient."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        return _OneGradient(model.trained, context.spec, context.sequence).train(model.theta, batches)


class Swap(Dishonest):
    """Sketches of the assigned sequences, and training on others."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        corpus, taste = self.corpus_of(context.manifest.environment), np.random.default_rng(context.round)
        chosen = [taste.integers(context.spec.sequences, size=len(batch)) for batch in batches]
        return super().train(context, model, [np.stack([corpus.sequence(int(i)) for i in rows]) for rows in chosen])


class Stale(Dishonest):
    """Trains and sketches with the checkpoint before, and moves its path so that it starts at the current one."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        trained = super().train(context, self.models.at(self._older(context)), batches)
        start = trained.states[0].theta
        moved = {
            step: InnerState(
                {name: model.theta[name] - (start[name] - state.theta[name]) for name in start}, state.first, state.second
            )
            for step, state in trained.states.items()
        }
        return _ending(model, moved)

    def sketch(self, context: RoundContext, model: RoundModel, first: I32) -> bytes:
        return super().sketch(context, self.models.at(self._older(context)), first)

    def _older(self, context: RoundContext) -> CheckpointManifest:
        return next(iter(self.eyes.checkpoints.before(context.manifest, 1)))


class StaleButSketched(Stale):
    """Stale with the one forward pass of the current checkpoint that the sketches take."""

    def sketch(self, context: RoundContext, model: RoundModel, first: I32) -> bytes:
        return Training.sketch(self, context, self.models.at(context.manifest), first)


class Copy(Dishonest):
    """Trains nothing: what another miner sent in the last round, with Δ and states that lead there in a straight line."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        taken = stolen_update(self.eyes, Window(context.round - context.spec.round_blocks))
        if taken is None:
            raise UnprovableError("there is nothing to copy")
        rows = sketch_rows(UpdateHeader.from_canonical(read_front(taken)[0]).batch)
        return straight(model, context, dense(model.layout, split(taken, model.layout, context.spec, rows).streams))

    def compress(self, context: RoundContext, model: RoundModel, trained: Trained, feedback: Feedback | None) -> Compressed:
        return super().compress(context, model, trained, None)  # its own feedback would be sent with it


# --- other bytes -------------------------------------------------------------------------------------------------------------


class Altered(Dishonest):
    """Honest training, and other values in the file than follow from it."""

    def alter(self, sent: Sent, noise: np.random.Generator) -> Sent:
        raise NotImplementedError

    def compress(self, context: RoundContext, model: RoundModel, trained: Trained, feedback: Feedback | None) -> Compressed:
        honest = super().compress(context, model, trained, feedback)
        return replace(honest, streams=self.altered(context, model.layout, honest.streams))

    def altered(self, context: RoundContext, layout: Layout, streams: Sequence[bytes]) -> tuple[bytes, ...]:
        noise = np.random.default_rng(context.round)
        pairs = zip(streams, layout.tensors, strict=True)
        return tuple(pack(self.alter(decode(stream, tensor), noise)) for stream, tensor in pairs)


class Noise(Altered):
    """Random values of the honest size, at random places."""

    def alter(self, sent: Sent, noise: np.random.Generator) -> Sent:
        size = float(minifloat.decode(sent.scales).mean()) * minifloat.UNIT
        return quantised((noise.standard_normal(sent.tensor.size) * size).astype(np.float32), sent.tensor)


class Flip(Altered):
    """Every sign turned: the update climbs."""

    def alter(self, sent: Sent, noise: np.random.Generator) -> Sent:
        return replace(sent, negative=1 - sent.negative)


class Scale(Altered):
    """A hundred times what was trained."""

    def alter(self, sent: Sent, noise: np.random.Generator) -> Sent:
        larger = minifloat.decode(sent.scales).astype(np.float64) * (TIMES * minifloat.UNIT)
        return replace(sent, scales=minifloat.encode(larger))


class Fitted(Altered):
    """The altered values with an invented last step that leads to them, and a new start of the feedback."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        honest = super().train(context, model, batches)
        streams = self.altered(context, model.layout, Training.compress(self, context, model, honest, None).streams)
        delta, last = dense(model.layout, streams), max(honest.states)
        end = replace(honest.states[last], theta={name: model.theta[name] - delta[name] for name in model.theta})
        return _ending(model, {**honest.states, last: end})

    def compress(self, context: RoundContext, model: RoundModel, trained: Trained, feedback: Feedback | None) -> Compressed:
        return Training.compress(self, context, model, trained, None)


class FittedNoise(Fitted, Noise):
    pass


class FittedFlip(Fitted, Flip):
    pass


class FittedScale(Fitted, Scale):
    pass


# --- another time ------------------------------------------------------------------------------------------------------------


class FromSecondRound(GradientMiner):
    """Has nothing to lie with in the network's first round, and stays away."""

    def prepare(self, context: RoundContext, stop: threading.Event) -> Pending | None:
        if context.sequence:
            return super().prepare(context, stop)
        log.event("window_skipped", window=context.round, reason="there is nothing to lie with yet")
        return None


class Late(GradientMiner):
    """Seals and opens in time, and reveals after V: for the driver of a virtual clock, when the round is settled."""

    def reveal(self, context: RoundContext, pending: Pending) -> bool:
        self._kept = pending
        log.event("round_withheld", window=context.round)
        return True

    def settle(self, context: RoundContext) -> None:
        if self._now_ms() > self._time(context.times.reveal_block):
            super().reveal(context, self._kept)
            super().settle(context)


class JunkSeal(Dishonest):
    """Trains nothing and seals a digest of nothing, to choose the bytes when others' lie open."""

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        return straight(model, context, {name: np.zeros_like(value) for name, value in model.theta.items()})

    def seal(self, context: RoundContext, header: UpdateHeader, update: bytes) -> GradientSeal:
        junk, promised = Digest(hashlib.sha256(b"to be chosen").digest()), header.seal_header()
        message = GradientSeal.message(context.network_id, GRADIENT, promised, junk, len(update))
        return GradientSeal(GRADIENT, promised, junk, len(update), self.signer.sign(message))


class CopyWhenRevealed(GradientMiner):
    """Reveals the bytes of the first other miner that has revealed in this round."""

    def reveal(self, context: RoundContext, pending: Pending) -> bool:
        taken = stolen_update(self.participant, context.round)
        return super().reveal(context, pending if taken is None else replace(pending, update=taken))


# --- what they share ---------------------------------------------------------------------------------------------------------


def stolen_update(participant: Participant, round_: Window) -> bytes | None:
    """What the first other hotkey with a file of the round has revealed."""
    for neuron in sorted(participant.miners_at(round_), key=lambda one: one.uid):
        if neuron.hotkey == participant.signer.hotkey or neuron.commitment is None:
            continue
        try:
            store = participant.directory.open(neuron.commitment)
            key = update_key(ss58(neuron.hotkey), round_)
            info = store.head(key)
            if info is not None:
                return store.get(key, max_bytes=info.size, if_match=info.etag)
        except StorageError:
            continue
    return None


def dense(layout: Layout, streams: Sequence[bytes | memoryview]) -> StateArrays:
    """What streams say, as arrays with zeros between."""
    found: StateArrays = {}
    for stream, tensor in zip(streams, layout.tensors, strict=True):
        sent, values = decode(stream, tensor), np.zeros(tensor.size, np.float32)
        values[sent.positions()] = sent.decoded() * minifloat.UNIT
        found[tensor.name] = values.reshape(tensor.shape)
    return found


def straight(model: RoundModel, context: RoundContext, delta: StateArrays) -> Trained:
    """States that lead from θ_0 to θ_0 − Δ in equal steps, with moments as one gradient along Δ would leave them."""
    steps = context.spec.inner_steps
    states = {0: InnerState.start(dict(model.theta), context.spec)}
    for step in range(1, steps + 1):
        share = np.float32(step / steps)
        states[step] = InnerState(
            {name: value - delta[name] * share for name, value in model.theta.items()},
            {name: value * share for name, value in delta.items()},
            {name: value * value * share for name, value in delta.items()},
        )
    return _ending(model, states)


def _ending(model: RoundModel, states: dict[int, InnerState]) -> Trained:
    """With the Δ that a reader finds: θ_0 less the committed end, rounded once."""
    end: dict[str, F32] = states[max(states)].theta
    return Trained(states, {name: model.theta[name] - end[name] for name in end})


# --- by name -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cheat:
    """A liar. `caught_by`: the checks of which one rejects it. `every_round`: in each round, or only where a false step is
    drawn."""

    name: str
    says: str
    caught_by: tuple[str, ...]
    training: type[Training] = Training
    service: type[GradientMiner] = GradientMiner
    every_round: bool = True

    def miner(
        self, participant: Participant, models: RoundModels, corpus_of: CorpusOf, state: GradientState, batch: int | None
    ) -> GradientMiner:
        """The production miner's service over this liar's training."""
        training = self.training(participant.signer, models, corpus_of)
        if isinstance(training, Dishonest):
            training.participant = participant
        return self.service(participant, training, state, batch)


CHEATS: dict[str, Cheat] = {
    one.name: one
    for one in (
        Cheat("lazy", "one honest step of four, later states invented", ("replay",), Lazy, every_round=False),
        Cheat("swap", "sketches its own sequences, trains on others", ("replay",), Swap),
        Cheat("stale", "trains the checkpoint before", ("proof", "replay"), Stale, FromSecondRound),
        Cheat("copy", "last round's bytes of another, states forged to fit", ("replay", "chunks"), Copy, FromSecondRound),
        Cheat("noise", "random values after honest training", ("chunks",), Noise),
        Cheat("flip", "the signs turned after honest training", ("chunks",), Flip),
        Cheat("scale", "a hundred times what was trained", ("chunks",), Scale),
        Cheat("late", "reveals after V", ("file",), service=Late),
    )
}
"""The eight of a run of rounds."""

VARIANTS: dict[str, Cheat] = {
    one.name: one
    for one in (
        Cheat("stale-sketched", "stale, with sketches of the current one", ("replay",), StaleButSketched, FromSecondRound),
        Cheat("junk-seal", "seals junk, reveals another's bytes", ("file",), JunkSeal, CopyWhenRevealed),
        Cheat("noise-fitted", "noise, and an invented last step", ("chunks",), FittedNoise),
        Cheat("flip-fitted", "turned signs, and an invented last step", ("replay",), FittedFlip, every_round=False),
        Cheat("scale-fitted", "a hundred times, and an invented last step", ("chunks",), FittedScale),
    )
}
"""Others that tests try."""
