"""Groups to prove, and checkpoints to prove them with, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.checkpoints.pinned_table import shipped
from grail_core.model.described import ModelDescription
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import Projections
from grail_core.proof.work import RolloutMeasurement
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from tooling.testing import plain_window as plain


def prepared(folder: Path, weights_of: Path | None = None) -> PreparedCheckpoint:
    """A folder with a manifest that names its weights' root, or that of another folder's weights."""
    manifest = plain.manifest(Digest(bytes(32)), digest_state(map_weights(weights_of or folder)).root)
    described = ModelDescription.of({"config.json": (folder / "config.json").read_bytes()})
    return PreparedCheckpoint(manifest, folder, PromptRenderer(folder, "none"), described, shipped())


def group(seed: int, vocabulary: int) -> tuple[list[list[int]], list[int]]:
    """Sixteen rows of one prompt, of different lengths."""
    draw = np.random.default_rng(seed)
    prompt = draw.integers(0, vocabulary, 5).tolist()
    rows = [prompt + draw.integers(0, vocabulary, 4 + 3 * index).tolist() for index in range(16)]
    return rows, [len(prompt)] * len(rows)


def signs(hidden: int) -> Projections:
    return np.where(np.random.default_rng(7).random((4, hidden)) < 0.5, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Measuring:
    """Arguments of `measure_rollouts` about a group: positions of each row are none, one, every second one, or all."""

    rows: list[list[int]]
    prompt_lengths: list[int]
    positions: list[list[int]]
    projections: Projections
    policy: GenerationPolicy
    sampling_seeds: list[int]

    @classmethod
    def of(cls, seed: int, vocabulary: int, hidden: int) -> Measuring:
        rows, prompts = group(seed, vocabulary)
        lengths = [len(row) - prompt for row, prompt in zip(rows, prompts, strict=True)]
        positions = [list([(), (n - 1,), range(0, n, 2), range(n)][index % 4]) for index, n in enumerate(lengths)]
        seeds = [2**63 - 1 - index for index in range(len(rows))]
        return cls(rows, prompts, positions, signs(hidden), GenerationPolicy(64, temperature=0.8, top_k=40), seeds)


def measured_bytes(measured: Sequence[RolloutMeasurement]) -> list[tuple[tuple[int, ...], bytes, bytes, bytes, list[bytes]]]:
    """The last are the reference's, where there is one."""
    return [
        (
            one.positions,
            one.z.tobytes(),
            one.logprobs.tobytes(),
            one.margins.tobytes(),
            [] if one.reference is None else [value.tobytes() for value in vars(one.reference).values()],
        )
        for one in measured
    ]


def bytes_of(proofs: Sequence[RolloutProof]) -> list[tuple[bytes, bytes]]:
    return [(proof.sketches, proof.logprobs.tobytes()) for proof in proofs]
