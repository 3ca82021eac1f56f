"""A `SmallNetwork` with something to learn: a model that knows the form of an answer, and the trainer that goes on from it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import grail_trainer.tiny.warm_start as warm_start
from grail_core.capabilities import Stage
from grail_core.checkpoints.publish import CheckpointParts
from grail_core.checkpoints.safety import read_model_files
from grail_core.files.shared import put_file
from grail_core.files.verdicts import read_verdict
from grail_core.generation.defaults import sampling_defaults
from grail_core.participant.participant import Participant
from grail_core.protocol import MinerStatus, VerdictBody
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Signature, Window
from grail_core.storage.layout import training_log_key
from grail_envs.sat import SatEnvironment
from grail_envs.sat.teaching import majority_answer
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.publishing.publication import Publisher
from grail_trainer.publishing.training_log import LOG_TAG
from grail_trainer.service import TrainerService
from grail_trainer.start import assemble
from grail_trainer.tiny.init import TinyConfig, create_model
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork
from tooling.testing.speaking import say, scored

ENVIRONMENT = SatEnvironment(3, 4, 5, 6)
GROUPS = range(3)
SETTINGS = HyperParameters(
    GrpoSettings(epochs=1, minibatches=2, kl_coefficient=0.0), OptimiserSettings(learning_rate=1e-3, warmup_steps=12)
)


def learning_model(folder: Path, max_new_tokens: int = 8) -> Path:
    """A model that knows the form of an answer, so that its rollouts earn different rewards."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "stages_for", lambda environment, quick: (Stage(majority_answer, 60, 1e-2, 1e-3),))
        config = TinyConfig(hidden_size=32, context_length=128, max_new_tokens=max_new_tokens, rows=16)
        create_model(ENVIRONMENT, folder, config=config)
    return folder


class LearningNetwork(SmallNetwork):
    """Its first checkpoint is the model's own, published as the trainer does it."""

    def _publish(self, folder: Path, max_tokens: int, end: int) -> CheckpointManifest:
        participant = self.participant("trainer")
        defaults = sampling_defaults(folder)
        parts = CheckpointParts(
            network_id=participant.network_id,
            window=Window(0),
            valid_from=FIRST_WINDOW,
            environment=self.environment.spec,
            policy=defaults.policy,
            end_token_ids=defaults.end_tokens,
            thinking_mode="none",
        )
        masters = Masters.load(folder, OptimiserSettings(learning_rate=0.0))
        return Publisher(participant, read_model_files(folder)).publish_first(parts, masters.published())

    def mine_and_upload(self, name: str, groups: Sequence[int] = GROUPS, window: Window = FIRST_WINDOW) -> bytes:
        data = self.mine(self.mining(name), window, groups)
        upload(self, self.mining(name), name, data, window)
        return data

    def judge(self, window: Window = FIRST_WINDOW) -> list[VerdictBody]:
        """Both validators, from first sight to published verdict."""
        validators = [self.validator("validator-0"), self.validator("validator-1")]
        self.advance_to(window + 30)
        for validator in validators:
            validator.first_sight.sight(window)
        self.advance_to(window + 38)
        bodies = []
        for validator in validators:
            validator.advance(window, threading.Event())
            participant = validator.participant
            verdict = read_verdict(participant.own_store, window, participant.signer.hotkey, participant.network_id)
            assert verdict is not None
            bodies.append(verdict.body)
        return bodies

    def claim(self, name: str, accepted: Mapping[str, bytes], status: MinerStatus = MinerStatus.ACCEPTED) -> None:
        """A verdict that says of these files what the test wants it to, and the files beside it."""
        for data in accepted.values():
            put_file(self.participant(name).own_store, Digest(hashlib.sha256(data).digest()), data)
        say(self, name, scored(self, {miner: (data, status) for miner, data in accepted.items()}))


def service(
    participant: Participant, model: Path, settings_: HyperParameters = SETTINGS, *, without_state: bool = False
) -> TrainerService:
    """A trainer as `run_trainer` assembles it, for a participant of a test."""
    return assemble(participant, model, ENVIRONMENT, lambda manifest: ENVIRONMENT, settings_, without_state=without_state)


def published_log(participant: Participant, window: Window = FIRST_WINDOW) -> dict[str, Any]:
    raw = participant.own_store.get(training_log_key(window), max_bytes=10**7)
    signed = json.loads(raw)
    message = tagged_hash(participant.network_id, LOG_TAG, canonical_json(signed["body"]))
    assert verify(participant.signer.hotkey, message, Signature(bytes.fromhex(signed["signature"])))
    body: dict[str, Any] = signed["body"]
    return body
