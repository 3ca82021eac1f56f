"""A sequence of checkpoints without a model: a trainer that publishes a few raw weights, and who can say which they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from grail_core.checkpoints.manifests import CheckpointSequence, list_manifests
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.environment import EnvironmentSpec
from grail_core.keys import LocalSigner
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import LOCALNET, NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore

NETWORK_ID = Digest(b"\x09" * 32)
TRAINER = LocalSigner.from_seed(b"\x05" * 32)
PARAMS = replace(LOCALNET, trainer_hotkey=TRAINER.hotkey)
_CONFIG = {"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 1, "hidden_size": 32}
MODEL_FILES = {"config.json": json.dumps(_CONFIG).encode(), "tokenizer.json": b"{}"}
"""The least that a checkpoint must carry beside its weights."""


def weights(number: int) -> dict[str, RawTensor]:
    """The weights of checkpoint `number`: two bf16 tensors [64, 32]; consecutive ones differ in 2 % of the weights."""
    bits = np.random.default_rng(0).integers(0, 2**16, 4096).astype(np.uint16)
    for step in range(1, number + 1):
        where = np.random.default_rng(step).random(4096) < 0.02
        bits = bits ^ where.astype(np.uint16)
    layout = Layout(DTYPES["BF16"], (64, 32))
    return {"a": RawTensor(layout, bits[:2048].copy()), "b": RawTensor(layout, bits[2048:].copy())}


def holds_weights(folder: Path, number: int) -> bool:
    """Whether a checkpoint's folder has exactly the weights of checkpoint `number`."""
    found, expected = map_weights(folder), weights(number)
    return found.keys() == expected.keys() and all((found[n].bits == expected[n].bits).all() for n in expected)


def parts_of(network_id: Digest, window: int, valid_from: int) -> CheckpointParts:
    """What a manifest says beside the weights, where a test does not care."""
    return CheckpointParts(
        network_id=network_id,
        window=Window(window),
        valid_from=Window(valid_from),
        environment=EnvironmentSpec("sat", 1),
        policy=GenerationPolicy(max_tokens=8),
        end_token_ids=(0,),
        thinking_mode="native",
    )


def first_window(number: int) -> Window:
    """The window from which checkpoint `number` is in force: the first one at once, others two windows after they were made."""
    return Window(30 * number + (60 if number else 0))


def bucket_of(store: ObjectStore, cache: Path | CheckpointCache, network_id: Digest = NETWORK_ID) -> CheckpointBucket:
    """The kit's trainer's checkpoints in a store, as a process that knows nothing of them yet opens them."""
    return CheckpointBucket(store, cache, trainer=TRAINER.hotkey, network_id=network_id)


@dataclass(frozen=True)
class WeightsTrainer:
    """Publishes `weights` into a bucket, one checkpoint a window. `cache` is the trainer's own copy; `calibration` and
    `uncovered` are what it says of the table that they pin. `objects_after`: manifests before shards and parts."""

    store: ObjectStore
    cache: Path
    network_id: Digest = NETWORK_ID
    params: NetworkParameters = PARAMS
    calibration: bytes | None = None
    uncovered: bool = False
    objects_after: bool = False

    def publish(self, number: int, state: Mapping[str, RawTensor] | None = None) -> CheckpointManifest:
        """Checkpoint `number`, with its own weights unless `state` is given."""
        parts = replace(
            parts_of(self.network_id, 30 * number, first_window(number)),
            calibration=self.calibration,
            uncovered=self.uncovered,
        )
        state = weights(number) if state is None else state
        bucket = bucket_of(self.store, self.cache, self.network_id)
        return publish(bucket, parts, state, MODEL_FILES, TRAINER, self.params, objects_after=self.objects_after)

    def view(self) -> CheckpointSequence:
        return list_manifests(self.store, trainer_hotkey=TRAINER.hotkey, network_id=self.network_id)

    def head(self) -> CheckpointManifest:
        """The newest checkpoint in the bucket; an AssertionError where there is none."""
        head = self.view().head
        if head is None:
            raise AssertionError("nothing has been published")
        return head
