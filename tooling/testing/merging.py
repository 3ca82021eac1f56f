"""A network of gradient work without models: float32 weights, update files of a seed, and a trainer that merges them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from grail_core.checkpoints.bucket import CheckpointBucket, MinerStores, no_miners
from grail_core.checkpoints.due import complete
from grail_core.checkpoints.publish import publish
from grail_core.gradient.layout import Floats, Layout
from grail_core.gradient.update_file import assemble, sketch_bytes, sketch_rows
from grail_core.keys import LocalSigner
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_trainer.merging.merge import ChosenUpdate, merged_record
from grail_trainer.merging.publication import publish_merged
from tooling.testing.checkpoints import MODEL_FILES, NETWORK_ID, PARAMS, TRAINER, parts_of
from tooling.testing.gradient_states import SHAPES, SPEC, state, update

MINERS = tuple(LocalSigner.from_seed(bytes([number]) * 32) for number in range(41, 47))
CORPUS = "ab" * 32
WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refused())
from grail_trainer.cli import main
main()
"""
"""`grail-trainer` for a child of Python in which neither torch nor Transformers can be imported."""


def update_file(miner: int, round_: int, spec: GradientSpec = SPEC, *, seed: int | None = None) -> ChosenUpdate:
    """What this miner sealed for a round: real streams of numbers from a seed; nobody has signed it."""
    hotkey, batch = MINERS[miner].hotkey, spec.batch_least
    header = canonical_json({"batch": batch, "hotkey": hotkey.hex(), "window": round_})
    sketches = bytes(sketch_bytes(spec, sketch_rows(batch)))
    streams = update(Layout.of(SHAPES, spec), spec, 100 * miner + round_ if seed is None else seed)
    return ChosenUpdate(miner, hotkey, assemble(header, bytes(64), sketches, streams))


@dataclass(frozen=True)
class MergingTrainer:
    """Publishes a chain of merges into a store, a round a window. `cache` is its own copy."""

    store: ObjectStore
    cache: Path
    network_id: Digest = NETWORK_ID
    spec: GradientSpec = SPEC
    miners: MinerStores = no_miners

    @cached_property
    def bucket(self) -> CheckpointBucket:
        return CheckpointBucket(
            self.store, self.cache, trainer=TRAINER.hotkey, network_id=self.network_id, own=True, miners=self.miners
        )

    def publish_first(self) -> CheckpointManifest:
        parts = replace(parts_of(self.network_id, 0, 0), environment=self.spec.environment(CORPUS), uncovered=True)
        return publish(self.bucket, parts, self.first_weights(), MODEL_FILES, TRAINER, PARAMS)

    def first_weights(self) -> dict[str, Floats]:
        return state(Layout.of(SHAPES, self.spec), 7, 0.05)

    def merge(self, number: int, *, completed: bool = True, order: int = 1, updates: int = 3) -> CheckpointManifest:
        """Checkpoint `number` from the updates of round 30 · number. `order`: −1 hands them over backwards."""
        head, round_ = self.bucket.sequence().head, Window(30 * number)
        if head is None:
            raise AssertionError("nothing has been published")
        chosen = [update_file(miner, round_, self.spec) for miner in range(updates)][::order]
        parent = head if head.window != round_ else self.bucket.sequence().stored[-2].manifest
        merged = merged_record(round_, chosen, self.spec, parent_sequence=parent.sequence, dropped=[(9, -5)])
        manifest = publish_merged(self.bucket, parent, chosen, merged, Window(round_ + 30), TRAINER, PARAMS)
        if completed:
            complete(self.bucket)
        return manifest


def arrays_of(weights: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The bits of a state, to be compared."""
    return {name: array.tobytes() for name, array in weights.items()}
