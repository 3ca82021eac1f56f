"""One token array, one row, one digest; a header that says nothing unsigned; receipts for single rollouts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import (
    RolloutRecord,
    WindowHeader,
    header_digest,
    merkle_path,
    merkle_root,
    rollout_digest,
    rollout_digests,
    verify_merkle_path,
    without_negative_zero,
)
from grail_core.protocol.reading import Json

NETWORK = bytes(range(32))


def make_row(prompt_length: int = 3, completion_length: int = 4, **changes: Any) -> RolloutRecord:
    fields: dict[str, Any] = {
        "group": 5,
        "rollout": 2,
        "tokens": np.arange(prompt_length + completion_length, dtype=np.int32),
        "prompt_length": prompt_length,
        "logprobs": np.linspace(-3, 0, completion_length, dtype=np.float32),
        "sketches": np.arange(4 * (completion_length + 1), dtype="<i2").tobytes(),
        "reward": 0.5,
        "success": True,
    }
    return RolloutRecord(**(fields | changes))


def make_header(**changes: Any) -> WindowHeader:
    fields: dict[str, Any] = {
        "protocol_version": 1,
        "window": 300,
        "block_hash": bytes([1]) * 32,
        "beacon_round": 77,
        "beacon_signature": bytes([2]) * 48,
        "hotkey": bytes([3]) * 32,
        "checkpoint_digest": bytes([4]) * 32,
        "env_digest": bytes([5]) * 32,
        "policy_digest": bytes([6]) * 32,
        "groups": 40,
        "gaps": 1,
        "declared": 16 * 30,
        "merkle_root": bytes([7]) * 32,
        "proof_class": "bf16-sdpa-cpu-transformers",
        "generation_class": "bf16-eager-cpu-transformers",
        "software": {"torch": "2.13.0"},
    }
    return WindowHeader(**(fields | changes))


def reference_digest(network: bytes, row: RolloutRecord) -> bytes:
    """Section 8 from its text."""
    fields = [
        network,
        b"grail/row",
        struct.pack(">q", row.group),
        struct.pack(">q", row.rollout),
        b"".join(struct.pack("<i", token) for token in row.tokens.tolist()),
        struct.pack(">q", row.prompt_length),
        b"".join(struct.pack("<f", value) for value in row.logprobs.tolist()),
        row.sketches,
        struct.pack("<d", row.reward),
        bytes([row.success]),
    ]
    return hashlib.sha256(b"".join(len(f).to_bytes(4, "big") + f for f in fields)).digest()


@given(
    st.integers(0, 2**31 - 1), st.integers(0, 15), st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**32), st.booleans()
)
@settings(max_examples=40)
def test_a_row_digest_covers_every_field_as_section_8_says(
    group: int, rollout: int, prompt: int, completion: int, seed: int, success: bool
) -> None:
    rng = np.random.default_rng(seed)
    row = RolloutRecord(
        group,
        rollout,
        rng.integers(0, 2**31, prompt + completion, dtype=np.int32),
        prompt,
        without_negative_zero(-rng.random(completion)),
        rng.integers(-32767, 32768, (completion + 1, 4), dtype=np.int16).tobytes(),
        float(rng.random()),
        success,
    )
    assert rollout_digest(NETWORK, row) == reference_digest(NETWORK, row)


def test_every_field_and_the_network_change_the_digest() -> None:
    row = make_row()
    swapped = row.tokens.copy()
    swapped[[5, 6]] = swapped[[6, 5]]
    other_logprobs = row.logprobs.copy()
    other_logprobs[1] = np.nextafter(other_logprobs[1], np.float32(0), dtype=np.float32)
    changed = [
        dataclasses.replace(row, group=6),
        dataclasses.replace(row, rollout=3),
        dataclasses.replace(row, tokens=swapped),
        dataclasses.replace(row, logprobs=other_logprobs),
        dataclasses.replace(row, sketches=bytes(row.sketches[:-1]) + b"\x01"),
        dataclasses.replace(row, reward=0.25),
        dataclasses.replace(row, success=False),
        make_row(prompt_length=4, completion_length=3, sketches=row.sketches[:32], logprobs=row.logprobs[:3]),
    ]
    digests = [rollout_digest(NETWORK, row), rollout_digest(bytes(32), row), *rollout_digests(NETWORK, changed)]
    assert len(set(digests)) == 2 + len(changed)


def test_a_view_into_a_larger_array_hashes_like_a_copy() -> None:
    whole = np.arange(100, dtype=np.int32)
    row = make_row(tokens=whole[10:17])
    assert rollout_digest(NETWORK, row) == rollout_digest(NETWORK, make_row(tokens=whole[10:17].copy()))
    whole.flags.writeable = False
    assert rollout_digest(NETWORK, make_row(tokens=whole[10:17])) == rollout_digest(NETWORK, row)


NAN, INF = float("nan"), float("inf")
F32 = np.float32


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"group": -1}, "group"),
        ({"group": 2**31}, "group"),
        ({"rollout": 16}, "rollout"),
        ({"rollout": -1}, "rollout"),
        ({"tokens": [1, 2, 3, 4, 5, 6, 7]}, "tokens"),
        ({"tokens": np.arange(7, dtype=np.int64)}, "tokens"),
        ({"tokens": np.arange(14, dtype=np.int32)[::2]}, "tokens"),
        ({"tokens": np.zeros((7, 1), dtype=np.int32)}, "tokens"),
        ({"tokens": np.array([0, 1, 2, -3, 4, 5, 6], dtype=np.int32)}, "tokens"),
        ({"tokens": np.arange(3, dtype=np.int32)}, "tokens"),
        ({"tokens": np.zeros(0, dtype=np.int32)}, "tokens"),
        ({"tokens": np.zeros(8192 + 4, dtype=np.int32)}, "tokens"),
        ({"prompt_length": 0}, "prompt_length"),
        ({"prompt_length": 4097}, "prompt_length"),
        ({"prompt_length": -5}, "prompt_length"),
        ({"logprobs": np.zeros(5, dtype=F32)}, "logprobs"),
        ({"logprobs": np.zeros(4, dtype=np.float64)}, "logprobs"),
        ({"logprobs": np.array([0, NAN, 0, 0], dtype=F32)}, "logprobs"),
        ({"logprobs": np.array([0, -INF, 0, 0], dtype=F32)}, "logprobs"),
        ({"logprobs": np.array([0, -0.0, 0, 0], dtype=F32)}, "logprobs"),
        ({"sketches": b""}, "sketches"),
        ({"sketches": bytes(39)}, "sketches"),
        ({"sketches": bytes(41)}, "sketches"),
        ({"sketches": bytearray(40)}, "sketches"),
        ({"sketches": [0] * 20}, "sketches"),
        ({"sketches": bytes(38) + b"\x00\x80"}, "sketches"),
        ({"reward": NAN}, "reward"),
        ({"reward": INF}, "reward"),
        ({"reward": -0.0}, "reward"),
        ({"reward": 1}, "reward"),
        ({"success": 1}, "success"),
    ],
)
def test_a_malformed_row_cannot_exist(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make_row(**changes)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_a_writer_can_always_get_rid_of_negative_zero(values: list[float]) -> None:
    row = make_row(logprobs=without_negative_zero(values))
    assert row.logprobs.tolist() == [0.0 if value == 0 else value for value in values]


def test_a_row_shows_its_parts() -> None:
    row = make_row()
    assert row.completion_length == 4
    assert row.prompt.tolist() == [0, 1, 2]
    assert row.completion.tolist() == [3, 4, 5, 6]
    assert row.sketch_values().shape == (5, 4)


# ---- header


def test_a_header_reads_back_and_its_digest_covers_every_field() -> None:
    header = make_header()
    assert WindowHeader.from_canonical(header.canonical()) == header
    changes: dict[str, Any] = {
        "window": 330,
        "block_hash": bytes(32),
        "beacon_round": 78,
        "beacon_signature": bytes(48),
        "hotkey": bytes(32),
        "checkpoint_digest": bytes(32),
        "env_digest": bytes(32),
        "policy_digest": bytes(32),
        "merkle_root": bytes(32),
        "proof_class": "other",
        "generation_class": "other",
        "software": {},
    }
    digests = {header_digest(NETWORK, make_header(**{name: value})) for name, value in changes.items()}
    digests |= {
        header_digest(NETWORK, make_header(groups=41, declared=16 * 31)),
        header_digest(NETWORK, make_header(gaps=2, declared=16 * 20)),
    }
    digests |= {header_digest(NETWORK, header), header_digest(bytes(32), header)}
    assert len(digests) == len(changes) + 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"protocol_version": 2}, "protocol_version"),
        ({"window": 301}, "301 is no window"),
        ({"block_hash": b"x"}, "block_hash"),
        ({"hotkey": "0" * 32 + "0"}, "hotkey"),
        ({"beacon_round": 0}, "beacon_round"),
        ({"beacon_signature": None}, "beacon_round"),
        ({"beacon_signature": bytes(47)}, "beacon_signature"),
        ({"groups": 0, "declared": 0}, "groups"),
        ({"groups": 376, "declared": 16 * 366}, "groups"),
        ({"declared": 640}, "declared"),
        ({"declared": 16 * 39}, "declared"),
        ({"gaps": -1, "declared": 16 * 50}, "declared"),
        ({"gaps": 5, "declared": -160}, "declared"),
        ({"proof_class": ""}, "proof_class"),
        ({"generation_class": ""}, "generation_class"),
        ({"generation_class": "x" * 129}, "generation_class"),
        ({"software": {str(i): "" for i in range(33)}}, "software"),
        ({"software": {"x": "y" * 129}}, "software"),
    ],
)
def test_a_malformed_header_cannot_exist(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}"):
        make_header(**changes)


def test_a_header_with_more_gaps_than_groups_pay_for_declares_nothing() -> None:
    assert make_header(gaps=4, declared=0).declared == 0
    assert make_header(groups=375, gaps=0, declared=6000).classes == (
        "bf16-sdpa-cpu-transformers",
        "bf16-eager-cpu-transformers",
    )


def test_one_header_has_one_byte_form() -> None:
    header = make_header()
    loose = json.dumps(header.to_json()).encode()
    assert loose != header.canonical()
    with pytest.raises(ValueError, match="canonical"):
        WindowHeader.from_canonical(loose)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(WindowHeader)])
@pytest.mark.parametrize("value", [None, True, -1, 2**60, "", "zz", [], {"a": 1}, "0" * 64])
def test_a_header_with_a_foreign_value_is_refused_with_its_path_or_is_well_formed(name: str, value: Json) -> None:
    document = make_header().to_json() | {name: value}
    try:
        again = WindowHeader.from_json(document).to_json()
    except ValueError as error:
        assert str(error).startswith("$header")  # noqa: PT017 - either outcome is right, neither is expected
    else:
        assert again == document


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\$header"):
        WindowHeader.from_canonical(raw)


def test_an_oversized_header_is_refused_before_decoding() -> None:
    with pytest.raises(ValueError, match="at most 16384"):
        WindowHeader.from_canonical(b"[" * 20_000)


# ---- Merkle


def leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(str(i).encode()).digest() for i in range(count)]


@given(st.integers(1, 70), st.data())
@settings(max_examples=60)
def test_a_path_proves_its_leaf_and_no_other(count: int, data: st.DataObject) -> None:
    digests = leaves(count)
    root = merkle_root(digests)
    index = data.draw(st.integers(0, count - 1))
    path = merkle_path(digests, index)
    assert verify_merkle_path(root, digests[index], index, count, path)
    other = data.draw(st.integers(0, count - 1))
    if other != index:
        assert not verify_merkle_path(root, digests[other], index, count, path)
        assert not verify_merkle_path(root, digests[index], other, count, path)
    assert not verify_merkle_path(root, digests[index], index, count, (*path, bytes(32)))
    assert not verify_merkle_path(bytes(32), digests[index], index, count, path)
    if path:
        assert not verify_merkle_path(root, digests[index], index, count, path[:-1])


def test_lists_that_differ_have_roots_that_differ() -> None:
    a, b, c = leaves(3)
    lists = [[a], [b], [a, b], [b, a], [a, a], [a, b, c], [a, b, c, c], [a, b, b], [a, b, c, a], [merkle_root([a, b]), c]]
    assert len({merkle_root(digests) for digests in lists}) == len(lists)


def test_an_inner_node_is_no_leaf() -> None:
    digests = leaves(4)
    root, left = merkle_root(digests), merkle_root(digests[:2])
    assert not verify_merkle_path(root, left, 0, 2, [merkle_root(digests[2:])])
    assert merkle_root([left, merkle_root(digests[2:])]) != root


@pytest.mark.parametrize(
    ("digest", "index", "count", "path"),
    [(bytes(31), 0, 1, []), (bytes(32), -1, 1, []), (bytes(32), 1, 1, []), (bytes(32), 0, 0, []), (bytes(32), 0, 2, [b"x"])],
)
def test_a_malformed_path_is_false_not_an_error(digest: bytes, index: int, count: int, path: list[bytes]) -> None:
    assert verify_merkle_path(bytes(32), digest, index, count, path) is False


def test_a_tree_has_leaves_of_32_bytes() -> None:
    for wrong in ([], [b"short"]):
        with pytest.raises(ValueError):
            merkle_root(wrong)
    with pytest.raises(ValueError):
        merkle_path(leaves(2), 2)
