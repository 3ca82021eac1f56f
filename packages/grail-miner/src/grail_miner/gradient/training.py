"""One round of gradient work, step by step: batches, train, compress, sketch, commit, seal, open.

Every step is a method that takes what it needs and returns a value, so that each can be replaced alone: adversaries in the
test suite replace whatever they lie about. The service around it owns time, chain, store and what must survive a kill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

import grail_core
from grail_core.corpus import Corpus
from grail_core.gradient import opening, opening_writing
from grail_core.gradient.feedback import compress
from grail_core.gradient.layout import Layout
from grail_core.gradient.roots import ZERO_ROOT, root_of, step_root
from grail_core.gradient.update_file import assemble, body_digest, read_front, sketch_rows
from grail_core.participant.round_models import RoundModel, RoundModels
from grail_core.proof.inner import InnerState, Trained, train_round
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.round_sketches import round_sketches
from grail_core.proof.trained_model import I32, StateArrays
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.context import Challenge, challenge_seed
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.assignment import Assignment
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.records import UpdateHeader, update_header_digest
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GRADIENT, GRADIENT_VERSION, GradientSpec
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest
from grail_miner.gradient.state import Arrays, Feedback, Pending

CorpusOf = Callable[[EnvironmentSpec], Corpus]
"""The corpus that a manifest names."""


@dataclass(frozen=True)
class Compressed:
    """What is sent, and what is left of it. `before`: the feedback that went in, None at a new start."""

    streams: tuple[bytes, ...]
    before: Feedback | None
    rest: StateArrays


@dataclass
class Training:
    """The honest way."""

    signer: Signer
    models: RoundModels
    corpus_of: CorpusOf
    software: dict[str, str] = field(default_factory=lambda: {"grail-core": grail_core.__version__})

    def select_model(self, context: RoundContext) -> RoundModel:
        """The round's own checkpoint. Errors: CheckpointError."""
        return self.models.at(context.manifest)

    def batches(self, context: RoundContext, uid: int, batch: int) -> list[I32]:
        """int32 [b, L] for each inner step: the sequences that this UID owns in this round.

        Raises:
            EnvironmentUnavailableError: the corpus is not here.
        """
        corpus = self.corpus_of(context.manifest.environment)
        assignment = Assignment(context.spec, context.network_id, context.window_seed)
        steps = range(context.spec.inner_steps)
        return [np.stack([corpus.sequence(index) for index in assignment.batch(uid, step, batch)]) for step in steps]

    def train(self, context: RoundContext, model: RoundModel, batches: Sequence[I32]) -> Trained:
        """H inner steps. Errors: UnprovableError where a number is not finite."""
        return train_round(model.trained, model.theta, batches, context.spec, context.sequence)

    def compress(self, context: RoundContext, model: RoundModel, trained: Trained, feedback: Feedback | None) -> Compressed:
        """What is sent of Δ and of what earlier rounds left unsent."""
        streams, rest = compress(model.layout, context.spec, trained.delta, feedback.error if feedback else None)
        return Compressed(streams, feedback, rest)

    def sketch(self, context: RoundContext, model: RoundModel, first: I32) -> bytes:
        """Sketches of the first step's first sequences under the bf16 cast of θ_T."""
        rows = first[: sketch_rows(len(first))]
        return round_sketches(model.policy, rows, context.window_seed, context.randomness)

    def header(
        self,
        context: RoundContext,
        model: RoundModel,
        uid: int,
        batches: Sequence[I32],
        trained: Trained,
        compressed: Compressed,
        body: Digest,
    ) -> UpdateHeader:
        """What the hotkey signs: the work's names and counts, and the roots of everything that it computed."""
        window, spec, layout = context.window, context.spec, model.layout
        batch = len(batches[0])
        moments, steps = _committed(layout, spec, trained)
        return UpdateHeader(
            protocol_version=PROTOCOL_VERSION,
            gradient_version=GRADIENT_VERSION,
            window=context.round,
            block_hash=window.block_hash,
            beacon_round=window.beacon.round if window.beacon else 0,
            beacon_signature=window.beacon.signature if window.beacon else None,
            hotkey=self.signer.hotkey,
            uid=uid,
            checkpoint_digest=window.checkpoint_digest,
            env_digest=window.env_digest,
            batch=batch,
            declared=spec.inner_steps * batch,
            body_digest=body,
            delta_root=Digest(root_of(layout, trained.delta)),
            theta_end_root=Digest(root_of(layout, trained.end.theta)),
            moment_end_roots=moments,
            step_roots=steps,
            feedback_before=compressed.before.root if compressed.before else Digest(ZERO_ROOT),
            feedback_after=Digest(root_of(layout, compressed.rest)),
            proof_class=numerics_class_of(model.policy),
            software=self.software,
        )

    def work(self, context: RoundContext, uid: int, batch: int, feedback: Feedback | None) -> Pending:
        """A round's whole work: from the assigned slice to file and seal.

        Raises:
            CheckpointError, EnvironmentUnavailableError, UnprovableError, MachineFaultError: there is none.
        """
        model = self.select_model(context)
        batches = self.batches(context, uid, batch)
        trained = self.train(context, model, batches)
        compressed = self.compress(context, model, trained, feedback)
        sketches = self.sketch(context, model, batches[0])
        body = Digest(body_digest(sketches, compressed.streams))
        header = self.header(context, model, uid, batches, trained, compressed, body)
        raw = header.canonical()
        signature = self.signer.sign(update_header_digest(context.network_id, raw))
        update = assemble(raw, signature, sketches, compressed.streams)
        after = Feedback(context.round, header.feedback_after, dict(compressed.rest))
        return Pending(context.round, self.seal(context, header, update).encode(), update, _kept(trained), after)

    def seal(self, context: RoundContext, header: UpdateHeader, update: bytes) -> GradientSeal:
        """The promise that fixes an update file."""
        digest, promised = Digest(hashlib.sha256(update).digest()), header.seal_header()
        message = GradientSeal.message(context.network_id, GRADIENT, promised, digest, len(update))
        return GradientSeal(GRADIENT, promised, digest, len(update), self.signer.sign(message))

    def open(self, context: RoundContext, challenge: Challenge, pending: Pending, feedback: Feedback | None) -> bytes:
        """The opening that the challenge asks of a sealed file.

        Args:
            feedback: what the file was made with.
        """
        model, spec = self.select_model(context), context.spec
        digest = Digest(hashlib.sha256(pending.update).digest())
        seed = challenge_seed(context.window, challenge, digest)
        drawn = draws.opened(spec, seed, model.layout.chunks)
        asked = opening.Asked(context.round, self.signer.hotkey, digest, drawn.chunks, drawn.step)
        states = _states(pending.steps)
        header = UpdateHeader.from_canonical(read_front(pending.update)[0])
        return opening_writing.write_opening(
            asked,
            model.layout,
            spec,
            delta=_vector(pending.steps, "delta", 0),
            theta_end=states[spec.inner_steps].theta,
            feedback=feedback.error if feedback and header.feedback_before != ZERO_ROOT else None,
            feedback_after=pending.after.error,
            replay=_replay(states, drawn.step, spec),
        )


def _committed(layout: Layout, spec: GradientSpec, trained: Trained) -> tuple[tuple[Digest, Digest] | None, tuple[Digest, ...]]:
    """`moment_end_roots` and `step_roots` of section 7."""
    if not spec.committed_steps:
        return None, ()
    end = trained.end
    moments = Digest(root_of(layout, end.first)), Digest(root_of(layout, end.second))
    roots = [
        Digest(step_root(*(root_of(layout, vector) for vector in (state.theta, state.first, state.second))))
        for state in (trained.states[step] for step in range(1, spec.committed_steps + 1))
    ]
    return moments, tuple(roots)


def _kept(trained: Trained) -> Arrays:
    """What an opening needs of the inner states, by names that a file can have. θ_0 is the checkpoint."""
    arrays = {f"delta/0/{name}": value for name, value in trained.delta.items()}
    for step, state in trained.states.items():
        if step:
            for kind, vector in (("theta", state.theta), ("first", state.first), ("second", state.second)):
                arrays |= {f"{kind}/{step}/{name}": value for name, value in vector.items()}
    return arrays


def _vector(arrays: Arrays, kind: str, step: int) -> Arrays:
    prefix = f"{kind}/{step}/"
    return {name.removeprefix(prefix): arrays[name] for name in sorted(arrays, key=str.encode) if name.startswith(prefix)}


def _states(arrays: Arrays) -> dict[int, InnerState]:
    steps = {int(name.split("/", 2)[1]) for name in arrays if name.startswith("theta/")}
    return {step: InnerState(*(_vector(arrays, kind, step) for kind in ("theta", "first", "second"))) for step in steps}


def _replay(states: dict[int, InnerState], step: int | None, spec: GradientSpec) -> opening_writing.Replay | None:
    if step is None or spec.optimiser == "sgd":
        return None
    return opening_writing.Replay(_opened(states[step]) if step else None, _opened(states[step + 1]))


def _opened(state: InnerState) -> opening_writing.InnerState:
    return opening_writing.InnerState(state.theta, state.first, state.second)
