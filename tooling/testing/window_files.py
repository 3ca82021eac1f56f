"""Window files of made-up rollouts under a made-up header: for whoever needs bytes that are well formed and say nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from grail_core.protocol import RolloutRecord, WindowHeader
from grail_core.protocol.types import Digest, Hotkey, Window

SCHEMA = pa.schema(
    [
        pa.field("g", pa.int32(), nullable=False),
        pa.field("r", pa.int32(), nullable=False),
        pa.field("tokens", pa.binary(), nullable=False),
        pa.field("prompt_length", pa.int32(), nullable=False),
        pa.field("logprobs", pa.binary(), nullable=False),
        pa.field("sketches", pa.binary(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
    ]
)
"""A window file's columns, for another writer."""


def made_rows(seed: int, groups: int = 1, longest: int = 9) -> list[RolloutRecord]:
    """Whole groups of rollouts with 1 … `longest` completion tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        for rollout in range(16):
            prompt, completion = 3, int(rng.integers(1, longest + 1))
            rows.append(
                RolloutRecord(
                    group=group,
                    rollout=rollout,
                    tokens=rng.integers(0, 50_000, prompt + completion).astype(np.int32),
                    prompt_length=prompt,
                    logprobs=-rng.random(completion).astype(np.float32) - np.float32(0.01),
                    sketches=rng.integers(-32767, 32768, 4 * (completion + 1)).astype("<i2").tobytes(),
                    reward=float(rng.random()),
                    success=bool(rng.integers(2)),
                )
            )
    return rows


def made_header(groups: int = 1) -> WindowHeader:
    return WindowHeader(
        protocol_version=1,
        window=Window(60),
        block_hash=b"\1" * 32,
        beacon_round=7,
        beacon_signature=b"\2" * 48,
        hotkey=Hotkey(b"\3" * 32),
        checkpoint_digest=Digest(b"\4" * 32),
        env_digest=Digest(b"\5" * 32),
        policy_digest=Digest(b"\6" * 32),
        groups=groups,
        gaps=0,
        declared=16 * groups,
        merkle_root=Digest(b"\7" * 32),
        proof_class="bf16-sdpa-cpu-transformers",
        generation_class="bf16-sdpa-cpu-transformers",
        software={"grail-core": "0.1.0"},
    )
