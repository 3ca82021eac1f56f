"""What a miner of gradient work has in its bucket, put before the real checks: for tests of single lies.

The network's clock is driven by hand: `Courtroom.play` takes miners through one round, and `findings` holds what lies in a
bucket then against checks 1 to 7. A challenge may be another than the chain's, since a file is fixed before any: so a lie that
only one drawn step shows is tried with that step drawn.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.gradient import opening, update_file
from grail_core.gradient.merge import merge
from grail_core.keys import ss58
from grail_core.proof.calibration import Shape
from grail_core.protocol.context import Challenge, challenge_seed
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.seal import MAX_GRADIENT_SEAL_BYTES, GradientSeal
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.verification.gradient.files import Round, Sealer, StoredObject, examine_file
from grail_core.verification.gradient.measure import RoundScene, opened_step, sketches_of, step_of
from grail_core.verification.gradient.model_checks import proof_findings, replay_findings
from grail_core.verification.gradient.seal import read_round_seal
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.service import GradientMiner
from grail_miner.gradient.state import Feedback, GradientState, Pending
from tooling.adversaries.gradient_miners import Cheat
from tooling.testing.gradient_network import GradientNetwork


@dataclass(frozen=True)
class Played:
    """One miner's round: what it kept, what it began with, and what lies in its bucket."""

    miner: GradientMiner
    pending: Pending
    feedback: Feedback | None
    seal: StoredObject
    update: StoredObject
    opening: StoredObject


@dataclass
class Courtroom:
    """A `GradientNetwork` of the preset `tiny`, with as many miners as there are names."""

    network: GradientNetwork

    def miner(self, name: str, cheat: Cheat | None = None) -> GradientMiner:
        """The participant's miner, honest or with a lie."""
        if cheat is None:
            return self.network.miner(name)
        participant = self.network.participant(name)
        state = GradientState(participant.state.root / "gradient")
        return cheat.miner(participant, self.network.models, lambda spec: Bytes1(), state, 4)

    def play(self, first: Window, miners: Mapping[str, GradientMiner]) -> tuple[RoundContext, Challenge, dict[str, Played]]:
        """A round from its seed until its files are settled; the clock stands after V."""
        network, stop = self.network, threading.Event()
        network.advance_to(first + 1)
        context = network.round(first)
        before = {name: one.state.feedback() for name, one in miners.items()}
        pending = {}
        for name, one in miners.items():
            made = one.prepare(context, stop)
            if made is None or not one.seal(context, made):
                raise AssertionError(f"{name} has no work in round {first}")
            pending[name] = made
        network.advance_to(context.times.first_sight_end_block + 1)
        for name, one in miners.items():
            one.reveal(context, pending[name])
        network.advance_to(context.times.challenge_block)
        challenge = network.challenge(context)
        for name, one in miners.items():
            one.open(context, challenge, pending[name])
        network.advance_to(context.times.reveal_block + 1)
        for one in miners.values():
            one.settle(context)
        return (
            context,
            challenge,
            {name: Played(one, pending[name], before[name], *self._stored(one, context)) for name, one in miners.items()},
        )

    def merge(self, context: RoundContext, played: Played) -> None:
        """The next checkpoint, of one miner's update alone."""
        network, model = self.network, self.network.models.at(context.manifest)
        trainer = network.participant("trainer")
        file = update_file.split(played.pending.update, model.layout, context.spec, 4)
        weights = dict(merge(model.theta, [file.streams], model.layout, context.spec.outer_rate(context.sequence)))
        manifest = context.manifest
        parts = CheckpointParts(
            network_id=trainer.network_id,
            window=context.round,
            valid_from=context.times.next_round,
            environment=manifest.environment,
            policy=manifest.policy,
            end_token_ids=manifest.end_token_ids,
            thinking_mode=manifest.thinking_mode,
        )
        files = read_model_files(network.root / "gradient-model")
        publish(trainer.own_checkpoints, parts, weights, files, trainer.signer, network.params)

    def findings(self, context: RoundContext, challenge: Challenge, played: Played) -> list[Finding]:
        """Of checks 1 to 7, everything found; those that need no opening stop where one rejects."""
        network, model = self.network, self.network.models.at(context.manifest)
        hotkey = played.miner.training.signer.hotkey
        uid = next(one.uid for one in network.participant("trainer").miners_at(context.round) if one.hotkey == hotkey)
        seal = read_round_seal(played.seal.data or b"", hotkey, context, model.layout)
        if not isinstance(seal, GradientSeal):
            return seal
        reveal_ms = network.block_time_ms(context.times.reveal_block)
        held = Round(context, challenge, model.layout, model.theta, reveal_ms)
        feedback = played.feedback.root if played.feedback else None
        examined = examine_file(held, Sealer(uid, hotkey, seal, feedback), played.update, played.opening)
        if examined.revealed is None:
            return list(examined.findings)
        scene = RoundScene(context, model.theta, model.layout, model.trained, model.policy, Bytes1())
        step = opened_step(model.layout, examined.revealed, model.theta)
        found = [] if step is None else replay_findings(context, model.layout, step, step_of(scene, examined.revealed, step))
        shape = Shape(model.policy.layers, model.policy.hidden_size)
        return [*found, *proof_findings(examined.revealed, sketches_of(scene, examined.revealed), pair=None, shape=shape)]

    def challenged(
        self, context: RoundContext, challenge: Challenge, played: Played, times: int = 1
    ) -> Iterator[tuple[int, Challenge, Played]]:
        """The same sealed file with each step drawn so many times: the step, a challenge that draws it, its opening."""
        digest = Digest(hashlib.sha256(played.pending.update).digest())
        left = Counter(dict.fromkeys(range(context.spec.inner_steps), times))
        for salt in count():
            if not left.total():
                return
            other = replace(challenge, block_hash=hashlib.sha256(b"%d" % salt).digest())
            step = draws.replayed_step(context.spec, challenge_seed(context.window, other, digest))
            if step is not None and left[step]:
                left[step] -= 1
                data = played.miner.training.open(context, other, played.pending, played.feedback)
                yield step, other, replace(played, opening=StoredObject(data, played.seal.stored_at_ms))

    def _stored(self, miner: GradientMiner, context: RoundContext) -> Iterator[StoredObject]:
        store, own, round_ = miner.participant.own_store, ss58(miner.training.signer.hotkey), context.round
        layout = self.network.models.at(context.manifest).layout
        limits = (
            (seal_key(own, round_), MAX_GRADIENT_SEAL_BYTES),
            (update_key(own, round_), update_file.most_bytes(layout, context.spec)),
            (opening_key(own, round_), opening.most_bytes(layout, context.spec)),
        )
        for key, most in limits:
            info, data = store.read(key, max_bytes=most)
            yield StoredObject(data, info.stored_at_ms)


def rejecting(findings: list[Finding]) -> set[str]:
    """The checks that reject."""
    return {one.check for one in findings if one.outcome is Outcome.REJECT}
