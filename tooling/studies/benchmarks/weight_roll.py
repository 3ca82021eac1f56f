"""What a window's first block waits for: a weight roll with and without the checkpoint made ready ahead.

    python -m tooling.studies.benchmarks.weight_roll      seconds, as JSON; minutes

A model of 230 MB in bf16, of which one weight in fifty changes; bucket and cache on one disk. Generator and prover do the least
that an engine and a proof worker do: each reads all weights once from its folder, which is the floor. Manifests are verified,
deltas decoded and weights hashed as a miner does it. Medians of five rolls, with the least and the most.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.engine_folder import EngineFolders
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.manifest import CheckpointManifest
from grail_miner.weight_roll import WeightRoll
from tooling.testing.models.tiny_qwen2 import BYTES, save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.next_checkpoint import NextCheckpoints

ROLLS = 5
_CHANGED = 0.02
_SHAPE = replace(BYTES, hidden=1024, layers=12, heads=16, key_value_heads=8)


class _Reader:
    """Reads a folder's weights once, and nothing else."""

    numerics_class = proof_class = "none"
    slots = 1

    def __init__(self) -> None:
        self.version: str | None = None

    def serve(self, weights: ServedWeights) -> None:
        _read(weights.folder)
        self.version = weights.version

    def load(self, checkpoint: PreparedCheckpoint) -> None:
        _read(checkpoint.folder)

    def distrust(self) -> None:
        self.version = None

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        raise NotImplementedError("nothing is drawn here")

    def prove(
        self, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> list[RolloutProof]:
        raise NotImplementedError("nothing is proved here")

    def measure(self, *asked: Any) -> list[RolloutMeasurement]:
        raise NotImplementedError("nothing is measured here")

    def close(self) -> None: ...


def measure() -> dict[str, float]:
    """Seconds of `WeightRoll.at`, without and with the checkpoint ready; of reading the weights; and their megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = save_byte_model(root / "model", _SHAPE)
        network = Network(root, miners=1, validators=0, model=model)
        network.advance_to(FIRST_WINDOW + 1)
        checkpoints = NextCheckpoints(network)
        roll = WeightRoll(
            network.participant("miner-0").checkpoints, _Reader(), _Reader(), folders=EngineFolders(root / "engine")
        )
        try:
            roll.at(network.manifest)
            here, ahead = [], []
            for _ in range(ROLLS):
                manifest = _next(checkpoints)
                here.append(_timed(lambda manifest=manifest: roll.at(manifest)))  # type: ignore[misc]
                manifest = _next(checkpoints)
                roll.ahead(manifest)
                while manifest.digest not in roll.ready():
                    threading.Event().wait(0.05)
                ahead.append(_timed(lambda manifest=manifest: roll.at(manifest)))  # type: ignore[misc]
            reading = [_timed(lambda: _read(model)) for _ in range(ROLLS)]
        finally:
            roll.close()
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    figures = {"roll.weights_mb": size / 1e6}
    for name, seconds in (("roll.seconds", here), ("roll.ahead_seconds", ahead), ("roll.floor_seconds", reading)):
        figures |= {name: statistics.median(seconds), f"{name}.least": min(seconds), f"{name}.most": max(seconds)}
    return figures


def _next(checkpoints: NextCheckpoints) -> CheckpointManifest:
    """Published, with its making out of the way."""

    def changed(tensor: Tensor) -> Tensor:
        return torch.where(torch.rand(tensor.shape) < _CHANGED, tensor * 1.01, tensor)

    return checkpoints.publish(changed)


def _read(folder: Path) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            while opened.read(8 << 20):
                pass


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
