"""The delta codec gives back every bit, in both profiles, and a damaged delta never touches the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.checkpoints.delta import codec, digests
from grail_core.checkpoints.delta.codec import Check, Frame, Profile, apply, decode, encode, read_frames
from grail_core.checkpoints.delta.digests import WeightsIndex, digest_state
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor, raw_state, to_torch
from grail_core.errors import CheckpointError

State = dict[str, RawTensor]
NAMES = ("a", "b.weight", "model.layers.0.w", "model.layers.1.w", "z")
DTYPE_NAMES = ("BF16", "F16", "F32", "I32", "I64", "U8", "BOOL", "F64", "I16", "F8_E4M3")


def random_bits(rng: np.random.Generator, layout: Layout) -> RawTensor:
    """Every pattern, with the awkward ones often: −0.0, NaN payloads, infinities, the largest and smallest."""
    size, dtype = layout.elements, layout.dtype.bits
    bits = rng.integers(0, 2 ** (8 * dtype.itemsize), size, dtype=np.uint64).astype(dtype)
    top = 1 << (8 * dtype.itemsize - 1)
    awkward = np.array([0, top, top - 1, 2 * top - 1, 1, top | 1], np.uint64).astype(dtype)
    pick = rng.random(size) < 0.3
    bits[pick] = rng.choice(awkward, int(pick.sum()))
    return RawTensor(layout, bits)


def changed(rng: np.random.Generator, tensor: RawTensor) -> RawTensor:
    """A few weights a step away, a few anywhere; sometimes none, sometimes all."""
    bits = tensor.bits.copy()
    share = rng.choice([0.0, 0.01, 0.1, 1.0])
    where = rng.random(bits.size) < share
    with np.errstate(over="ignore"):
        bits[where] += rng.integers(0, 3, int(where.sum())).astype(bits.dtype)
    anywhere = rng.random(bits.size) < share / 5
    bits[anywhere] = random_bits(rng, tensor.layout).bits[anywhere]
    return RawTensor(tensor.layout, bits)


def random_shape(rng: np.random.Generator) -> tuple[int, ...]:
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (33, 5), (3, 0, 2), (130, 17), (2, 3, 4, 5)]
    return shapes[rng.integers(len(shapes))]


def random_pair(seed: int) -> tuple[State, State]:
    """Two states: some tensors stay, some change, are added, removed, reshaped, retyped or tied."""
    rng = np.random.default_rng(seed)

    def fresh() -> RawTensor:
        return random_bits(rng, Layout(DTYPES[DTYPE_NAMES[rng.integers(len(DTYPE_NAMES))]], random_shape(rng)))

    base = {name: fresh() for name in NAMES if rng.random() < 0.8}
    new: State = {}
    for name in NAMES:
        draw = rng.random()
        if name in base and draw < 0.75:
            new[name] = changed(rng, base[name])
        elif draw < 0.9:
            new[name] = fresh()
    for state in (base, new):
        if "a" in state and state["a"].bits.size and rng.random() < 0.3:
            state["tied"] = state["a"]
    return raw_state(base), raw_state(new)


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(a[n].layout == b[n].layout and a[n].bits.tobytes() == b[n].bits.tobytes() for n in a)


def ties(state: State) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def copied(state: State) -> State:
    copies = {id(t): RawTensor(t.layout, t.bits.copy()) for t in state.values()}
    return {name: copies[id(tensor)] for name, tensor in state.items()}


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of 256 bytes and frames of 1 KiB, so that small tensors have many of both."""
    patch = pytest.MonkeyPatch()
    for module in (digests, codec):
        patch.setattr(module, "BLOCK_BYTES", 256)
    patch.setattr("grail_core.checkpoints.delta.frames.BLOCK_BYTES", 256)
    patch.setattr(codec, "FRAME_BYTES", 1024)
    yield
    patch.undo()


@pytest.mark.parametrize(
    "seeds",
    [range(500), *(pytest.param(range(start, start + 500), marks=pytest.mark.heavy) for start in (500, 1000, 1500))],
    ids=lambda seeds: f"from {seeds.start}",
)
def test_random_sets_round_trip_bit_for_bit_in_both_profiles(seeds: range) -> None:
    """Five hundred of them; `heavy` has two thousand."""
    for seed in seeds:
        base, new = random_pair(seed)
        for profile in Profile:
            wire = b"".join(frame.to_bytes() for frame in encode(base, new, profile, threads=1))
            made = decode(base, read_frames(wire), threads=1)
            assert same(made, new), (seed, profile)
            assert ties(made) == ties(new), (seed, profile)
            live = copied(base)
            apply(live, partial(read_frames, wire), threads=1)
            assert same(live, new), (seed, profile)
            assert ties(live) == ties(new), (seed, profile)


@settings(max_examples=60)
@given(st.integers(2000, 10**9), st.data())
def test_a_flipped_byte_is_found_before_the_model_changes(seed: int, data: st.DataObject) -> None:
    base, new = random_pair(seed)
    profile = data.draw(st.sampled_from(list(Profile)))
    wire = bytearray(b"".join(frame.to_bytes() for frame in encode(base, new, profile, threads=1)))
    position = data.draw(st.integers(0, len(wire) - 1))
    wire[position] ^= data.draw(st.integers(1, 255))
    live = copied(base)
    try:
        apply(live, lambda: read_frames(bytes(wire)), threads=1)
    except CheckpointError:
        assert same(live, base)
    else:  # a byte that carries no meaning (a hint, the base's root): the result is right all the same
        assert same(live, new)


@settings(max_examples=60)
@given(st.binary(max_size=400), st.booleans())
def test_hostile_bytes_are_refused_with_a_typed_error(noise: bytes, magic: bool) -> None:
    base, _ = random_pair(1)
    live = copied(base)
    with pytest.raises(CheckpointError):
        apply(live, lambda: read_frames((b"GRLD\x01" if magic else b"") + noise), threads=1)
    assert same(live, base)


@settings(max_examples=80)
@given(st.integers(0, 500), st.data())
def test_a_payload_of_noise_is_refused_or_does_not_match(seed: int, data: st.DataObject) -> None:
    base, new = random_pair(seed)
    frames = list(encode(base, new, data.draw(st.sampled_from(list(Profile))), threads=1))
    if len(frames) < 2:
        return
    which = data.draw(st.integers(1, len(frames) - 1))
    noise = data.draw(st.binary(max_size=200))
    changes = data.draw(st.integers(0, 2**32 - 1))
    frames[which] = dataclasses.replace(frames[which], payload=noise, changes=changes)
    live = copied(base)
    if frames[which].payload == noise and same_result(base, frames, new):
        return
    with pytest.raises(CheckpointError):
        apply(live, lambda: iter(frames), threads=1)
    assert same(live, base)


def same_result(base: State, frames: list[Frame], new: State) -> bool:
    try:
        return same(decode(base, iter(frames), threads=1), new)
    except CheckpointError:
        return False


def test_a_wrong_base_is_named_by_its_tensor() -> None:
    layout = Layout(DTYPES["BF16"], (64, 64))
    rng = np.random.default_rng(5)
    base = {name: random_bits(rng, layout) for name in ("first", "second", "third")}
    new = {n: RawTensor(layout, np.where(np.arange(4096) % 50 == 0, t.bits ^ 1, t.bits)) for n, t in base.items()}
    frames = list(encode(base, new, Profile.SMALL))
    live = copied(base)
    live["second"].bits[17] ^= 4
    before = copied(live)
    with pytest.raises(CheckpointError, match="tensor second is not what this delta starts from"):
        apply(live, lambda: iter(frames))
    assert same(live, before)


def test_a_base_that_differs_only_where_nothing_changes_is_found_too() -> None:
    base, new = random_pair(3)
    extra = RawTensor(Layout(DTYPES["F32"], (8,)), np.arange(8, dtype=np.uint32))
    base, new = {**base, "untouched": extra}, {**new, "untouched": extra}
    frames = list(encode(base, new, Profile.FAST))
    live = copied(base)
    live["untouched"].bits[3] ^= 1
    before = copied(live)
    with pytest.raises(CheckpointError, match="a tensor it leaves alone is another"):
        apply(live, lambda: iter(frames))
    assert same(live, before)


def test_several_threads_make_the_same_bytes_as_one() -> None:
    base, new = random_pair(11)
    for profile in Profile:
        wires = [b"".join(f.to_bytes() for f in encode(base, new, profile, threads=n)) for n in (1, 4)]
        assert wires[0] == wires[1]
        assert same(decode(base, read_frames(wires[0]), threads=4), new)


def test_torch_tensors_are_views_and_tied_ones_stay_tied() -> None:
    weight = torch.randn(5, 3, dtype=torch.bfloat16)
    raw = raw_state({"embed": weight, "head": weight, "scalar": torch.tensor(3.5), "flags": torch.tensor([True, False])})
    assert raw["embed"] is raw["head"]
    weight[0, 0] = float("nan")
    assert to_torch(raw["head"]).isnan()[0, 0]
    assert to_torch(raw["scalar"]).shape == ()
    assert to_torch(raw["flags"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"../../etc/passwd": torch.zeros(1)}, "a tensor's name"),
        ({"w": torch.zeros(4, 4).t()[1:]}, "no raw form"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "no raw form"),
        ({"w": (t := torch.zeros(8))[:6], "v": t[4:]}, "share a part of their memory"),
    ],
)
def test_tensors_that_have_no_plain_bits_are_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        raw_state(state)


def test_the_weights_root_binds_names_types_shapes_and_bytes() -> None:
    bits = np.arange(12, dtype=np.uint16)
    roots = {
        digest_state({name: RawTensor(Layout(DTYPES[dtype], shape), data)}).root
        for name, dtype, shape, data in (
            ("w", "BF16", (12,), bits),
            ("v", "BF16", (12,), bits),
            ("w", "F16", (12,), bits),
            ("w", "BF16", (3, 4), bits),
            ("w", "BF16", (12,), bits + np.uint16(1)),
        )
    }
    assert len(roots) == 5


def test_an_index_reads_back_and_a_changed_one_is_refused() -> None:
    state, _ = random_pair(8)
    index = digest_state(state).index
    raw = index.to_bytes()
    assert WeightsIndex.from_bytes(raw, expected_root=index.root, where="index") == index
    for position in range(0, len(raw), 5):
        broken = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(CheckpointError):
            WeightsIndex.from_bytes(broken, expected_root=index.root, where="index")


def test_skipping_the_checks_is_only_for_who_checks_the_whole_afterwards() -> None:
    base, new = random_pair(21)
    frames = list(encode(base, new, Profile.SMALL))
    for check in Check:
        assert same(decode(base, iter(frames), check=check), new)
