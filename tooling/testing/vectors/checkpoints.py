"""Vectors of the checkpoint formats, under tests/vectors/checkpoint.

Digests of tensors and states, deltas in both profiles byte for byte, one manifest, and one that announces an upgrade. Another
implementation that reads these deltas, arrives at these roots and accepts this manifest speaks the format of
docs/checkpoints.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from grail_core.checkpoints.delta.codec import Profile, encode
from grail_core.checkpoints.delta.digests import digest_state, tensor_digest
from grail_core.checkpoints.delta.shards import plan_shards, shard_bytes
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor, raw_state
from grail_core.environment import EnvironmentSpec
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import FileRef, ManifestContent, ObjectRef
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.protocol.upgrade import Upgrade, in_force
from tooling import REPOSITORY

FOLDER = REPOSITORY / "tests" / "vectors" / "checkpoint"


def states() -> tuple[dict[str, RawTensor], dict[str, RawTensor]]:
    """A base and a new state: bf16 and fp32 with awkward patterns, one tensor added, one removed, one reshaped, one tied."""

    def tensor(dtype: str, shape: tuple[int, ...], values: list[int]) -> RawTensor:
        return RawTensor(Layout(DTYPES[dtype], shape), np.array(values, DTYPES[dtype].bits))

    ramp = [(0x3C00 + 37 * i) & 0xFFFF for i in range(600)]
    moved = [v + (1 if i % 29 == 0 else 0) - (2 if i % 71 == 3 else 0) for i, v in enumerate(ramp)]
    awkward = [0x0000, 0x8000, 0x7FC1, 0xFF80, 0x0001, 0x8001, 0x7F80, 0x3F80]
    turned = [0x8000, 0x0000, 0x7FC2, 0xFF80, 0x8001, 0x0001, 0x7F80, 0x3F81]
    embedding = tensor("BF16", (40, 15), ramp)
    changed = tensor("BF16", (40, 15), moved)
    base = {
        "embed": embedding,
        "head": embedding,
        "odd": tensor("BF16", (8,), awkward),
        "gone": tensor("U8", (3,), [1, 2, 3]),
        "reshaped": tensor("F32", (2, 2), [0x3F800000, 0, 0x80000000, 0x7FC00001]),
        "step": tensor("I64", (), [41]),
    }
    new = {
        "embed": changed,
        "head": changed,
        "odd": tensor("BF16", (8,), turned),
        "extra": tensor("F16", (2, 0), []),
        "reshaped": tensor("F32", (4,), [0x3F800000, 0, 0x80000000, 0x7FC00001]),
        "step": tensor("I64", (), [42]),
    }
    return raw_state(base), raw_state(new)


def weights_vectors() -> dict[str, Any]:
    """States as bytes, the digest of each tensor, and the root."""
    return {
        name: {
            "tensors": [
                {
                    "name": key,
                    "dtype": tensor.layout.dtype.name,
                    "shape": list(tensor.layout.shape),
                    "bytes": tensor.bits.tobytes().hex(),
                    "blocks_root": digests.index.tensors[key].blocks_root.hex(),
                    "digest": tensor_digest(key, tensor.layout, digests.index.tensors[key].blocks_root).hex(),
                }
                for key, tensor in state.items()
            ],
            "weights_root": digests.root.hex(),
            "index": digests.index.to_bytes().decode(),
        }
        for name, state, digests in ((n, s, digest_state(s)) for n, s in zip(("base", "new"), states(), strict=True))
    }


def delta_vectors() -> dict[str, Any]:
    """The delta from base to new in each profile, frame by frame."""
    base, new = states()
    return {profile.value: [f.to_bytes().hex() for f in encode(base, new, profile, threads=1)] for profile in Profile}


def manifest_vectors() -> dict[str, Any]:
    """A manifest's value, its canonical bytes and its digest (a signature is different each time it is made)."""
    content, shard = manifest_content()
    return {**_digested(content), "shard": shard.hex()}


def manifest_content() -> tuple[ManifestContent, bytes]:
    """What the manifest says, and the shard that it names."""
    base, _ = states()
    distinct = {name: tensor for name, tensor in base.items() if name != "embed"}
    plan = plan_shards({name: tensor.layout for name, tensor in distinct.items()})[0]
    index = digest_state(distinct).index
    content = ManifestContent(
        network_id=Digest(bytes(range(32))),
        trainer=Hotkey(bytes(range(32, 64))),
        sequence=0,
        window=Window(300),
        valid_from=Window(330),
        parent=None,
        base=None,
        architecture="Qwen2ForCausalLM",
        weights_root=index.root,
        index=ObjectRef.of(index.to_bytes()),
        files=(FileRef("config.json", ObjectRef.of(b"{}")),),
        shards=(FileRef(plan.name, ObjectRef.of(shard_bytes(plan, distinct))),),
        deltas=(),
        environment=EnvironmentSpec("sat", 1, {"variables": 5}),
        policy=GenerationPolicy(max_tokens=64, temperature=0.7, top_p=0.95),
        end_token_ids=(2, 7),
        tokenizer_digest=Digest(bytes(32)),
        chat_template_digest=Digest(bytes(32)),
        thinking_mode="native",
        training={"loss": "0.25", "step": 3},
    )
    return content, shard_bytes(plan, distinct)


def _digested(content: ManifestContent) -> dict[str, Any]:
    body = canonical_json(content.to_json())
    return {"body": body.decode(), "digest": tagged_hash(content.network_id, "grail/manifest", body).hex()}


def upgrade_vectors() -> dict[str, Any]:
    """The same manifest with an announcement, what is none, and which announcement is in force where."""
    content, _ = manifest_content()
    two, three, later = Upgrade(2, Block(9000)), Upgrade(3, Block(12_000)), Upgrade(2, Block(12_000))
    sequences: list[list[tuple[int, Upgrade | None]]] = [
        [(30, two)],
        [(30, two), (9000, None)],
        [(30, two), (9030, None)],
        [(30, two), (60, later)],
        [(30, two), (9030, three)],
        [(9300, two)],
    ]
    return {
        "manifest": _digested(replace(content, upgrade=two)),
        "refused": [
            {"version": 1, "block": 9000},
            {"version": 65_536, "block": 9000},
            {"version": 2, "block": 9001},
            {"version": 2, "block": 0},
            {"version": 2, "block": 9000, "why": ""},
            {"version": 2},
            None,
        ],
        "in_force": [
            {
                "ruling": [[start, upgrade and upgrade.to_json()] for start, upgrade in rows],
                "window": window,
                "in_force": (found := in_force([(Window(s), u) for s, u in rows], Window(window))) and found.to_json(),
            }
            for rows in sequences
            for window in (8970, 9000, 9300, 12_000)
        ],
    }


FILES = {"weights": weights_vectors, "delta": delta_vectors, "manifest": manifest_vectors, "upgrade": upgrade_vectors}


def render(name: str) -> bytes:
    return (json.dumps(FILES[name](), indent=1, sort_keys=True) + "\n").encode()
