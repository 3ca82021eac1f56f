"""The published vectors of the checkpoint formats are what this implementation writes, and what it reads."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from grail_core.checkpoints.delta.codec import decode, read_frames
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.tensors import RawTensor, check_layout, raw_state
from grail_core.protocol.encoding import encode_part
from grail_core.protocol.merkle import merkle_root
from tooling.testing.vectors.checkpoints import FILES, FOLDER, render


def published(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def state(rows: list[dict[str, Any]]) -> dict[str, RawTensor]:
    made: dict[str, RawTensor] = {}
    for row in rows:
        layout = check_layout(row["name"], row["dtype"], row["shape"])
        made[row["name"]] = RawTensor(layout, np.frombuffer(bytes.fromhex(row["bytes"]), layout.dtype.bits))
    if "head" in made:
        made["head"] = made["embed"]
    return raw_state(made)


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_vectors_are_what_is_written_today(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_bytes() == render(name), "the format changed: python -m tooling.testing.vectors"


@pytest.mark.parametrize("profile", ["fast", "small"])
def test_the_published_deltas_lead_to_the_published_weights(profile: str) -> None:
    weights = published("weights")
    base, new = state(weights["base"]["tensors"]), state(weights["new"]["tensors"])
    wire = b"".join(map(bytes.fromhex, published("delta")[profile]))
    made = decode(base, read_frames(wire))
    assert {n: t.bits.tobytes() for n, t in made.items()} == {n: t.bits.tobytes() for n, t in new.items()}
    assert digest_state(made).root.hex() == weights["new"]["weights_root"]


def test_a_tensor_digest_can_be_made_with_a_hash_function_and_nothing_else() -> None:
    for row in published("weights")["base"]["tensors"]:
        data = bytes.fromhex(row["bytes"])
        blocks = [hashlib.sha256(data[i : i + (4 << 20)]).digest() for i in range(0, len(data), 4 << 20)]
        root = merkle_root(blocks) if blocks else bytes(32)
        parts: list[bytes | int | str] = [
            b"",
            "grail/tensor",
            row["name"],
            row["dtype"],
            len(row["shape"]),
            *row["shape"],
            root,
        ]
        assert hashlib.sha256(b"".join(map(encode_part, parts))).hexdigest() == row["digest"]
