"""Gradient work, sections 6 and 8: streams, feedback and roots are the same bytes everywhere, and only those."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.gradient import arrays, codec, kernels, loops, minifloat
from grail_core.gradient.feedback import accumulate, compress, compress_tensor
from grail_core.gradient.layout import Floats, Layout, TensorLayout
from grail_core.gradient.roots import ZERO_ROOT, chunk_digest, digests, is_under, root_of
from tooling.testing import plain_gradient as plain
from tooling.testing.gradient_states import SPEC, layout_of, spec_of, state

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "gradient_codec.json").read_text(encoding="utf-8"))["vectors"]
LOOPS = ("add", "gather", "pack_gaps", "select", "unpack_gaps")


@pytest.fixture(params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same test with numba and without."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LOOPS:
            patch.setattr(loops, name, getattr(kernels if request.param == "compiled" else arrays, name))
        yield


def numbers_of(given: dict[str, Any] | str, size: int) -> Floats:
    """As the vectors' module says."""
    if isinstance(given, str):
        return np.frombuffer(bytes.fromhex(given), "<f4").astype(np.float32)
    words = np.frombuffer(hashlib.shake_256(bytes.fromhex(given["seed"])).digest(4 * size), "<u4").astype(np.int64)
    exponents = given["least"] + (words >> 23 & 0xFF) % given["spread"]
    patterns: npt.NDArray[np.uint32] = (words & 0x807FFFFF | exponents << 23).astype(np.uint32)
    return patterns.view(np.float32)


def a_tensor(size: int, chunk: int = 64, kept: int = 4) -> TensorLayout:
    return TensorLayout("w", (size,), chunk, kept, 0)


@pytest.mark.usefixtures("either_way")
def test_streams_and_what_is_kept_are_those_of_the_published_vectors() -> None:
    for case in VECTORS["streams"]:
        spec = spec_of(chunk=case["chunk"], kept=case["kept"], feedback=case["feedback"])
        layout = Layout.of([("w", tuple(case["shape"]))], spec)
        delta = {"w": numbers_of(case["delta"], layout.size).reshape(case["shape"])}
        feedback = None
        for expected in case["rounds"]:
            (stream,), feedback = compress(layout, spec, delta, feedback)
            assert stream.hex() == expected["stream"], case["about"] or case["shape"]
            assert root_of(layout, feedback).hex() == expected["feedback_after_root"]
            assert codec.pack(codec.decode(stream, layout.tensors[0])) == stream


def test_scales_are_those_of_the_published_vectors() -> None:
    for value, code, units in VECTORS["scales"]:
        assert minifloat.encode(np.array([float.fromhex(value)])).tolist() == [code], value
        assert minifloat.decode(np.array([code], np.uint16)).tolist() == [units]


def test_every_scale_code_is_the_nearest_to_itself_and_rises() -> None:
    codes = np.arange(65536).astype(np.uint16)
    units = minifloat.decode(codes)
    assert units.tolist() == plain.SCALES
    assert (np.diff(units) > 0).all()
    assert (minifloat.encode(units.astype(np.float64) * minifloat.UNIT) == codes).all()
    assert (units.astype(np.float32) == units).all(), "a miner subtracts exactly what it sends"


def test_roots_are_those_of_the_published_vectors() -> None:
    for case in VECTORS["roots"]["cases"]:
        names = [(f"t{i}", (size,)) for i, size in enumerate(case["sizes"])]
        layout = Layout.of(names, spec_of(chunk=case["chunk"]))
        tensors = {n: numbers_of(g, shape[0]) for (n, shape), g in zip(names, case["tensors"], strict=True)}
        tensors["t0"][0] = -0.0
        assert root_of(layout, tensors).hex() == case["root"]


SHAPES = st.sampled_from([1, 2, 63, 64, 65, 128, 150])
SPECS = st.sampled_from([(64, 1), (64, 4), (64, 5), (64, 21), (64, 32), (128, 3), (4096, 64)])
CHOSEN = st.sampled_from([0.0, -0.0, 0.25, -0.25, 2.0**-149, -(2.0**-130), 3e-10, 9.0, -3.4e38])


@pytest.mark.usefixtures("either_way")
@settings(max_examples=40, deadline=None)
@given(SHAPES, SPECS, st.data())
def test_any_numbers_go_there_and_back_as_the_plain_codec_says(size: int, cut: tuple[int, int], data: st.DataObject) -> None:
    tensor = a_tensor(size, *cut)
    few = data.draw(st.lists(CHOSEN | st.floats(-0.125, 0.125, width=32), min_size=1, max_size=12))
    order = data.draw(st.randoms(use_true_random=False))
    values = np.array([order.choice(few) for _ in range(size)], np.float32)
    stream, rest = compress_tensor(values.copy(), tensor)
    assert stream == plain.encoded(values.tolist(), *cut)
    assert tensor.stream_least <= len(stream) <= tensor.stream_most
    sent = codec.decode(stream, tensor)
    full = np.zeros(size, np.int64)
    full[sent.positions()] = sent.decoded()
    assert full.tolist() == plain.decoded(stream, size, *cut)
    assert rest.tolist() == plain.rest(values.tolist(), full.tolist())
    assert sent.norm2 == sum(v * v for v in full.tolist())
    assert codec.pack(sent) == stream


@pytest.mark.usefixtures("either_way")
def test_the_worst_places_need_exactly_the_most_bytes_that_are_allowed() -> None:
    tensor = a_tensor(2 * 64 + 40)
    ends = np.concatenate([[*range(60, 64), *range(60, 64), 38, 39]]).astype(np.uint16)
    values = np.ones(tensor.size, np.float32)
    assert len(codec.encode(values, ends, tensor)) <= tensor.stream_most
    spread = a_tensor(64, kept=1)
    assert len(codec.encode(np.ones(64, np.float32), np.array([63], np.uint16), spread)) == spread.stream_most


def test_a_number_that_is_not_finite_makes_no_update_and_no_root() -> None:
    layout = layout_of()
    for wrong in (np.nan, np.inf, -np.inf):
        broken = state(layout, 1)
        broken["d"][100] = wrong
        with pytest.raises(ValueError, match=r"d: a value of chunk 1 is not finite"):
            compress(layout, SPEC, broken, None)
        with pytest.raises(ValueError, match=r"d: a number of chunk 1 is not finite"):
            root_of(layout, broken)
    large = {name: np.full_like(values, 3e38) for name, values in state(layout, 1).items()}
    with pytest.raises(ValueError, match="is not finite"):
        compress(layout, SPEC, large, large)


def test_feedback_carries_what_was_not_sent_and_fades_by_beta() -> None:
    layout, delta = layout_of(), state(layout_of(), 3)
    _, first = compress(layout, SPEC, delta, None)
    streams, second = compress(layout, SPEC, delta, first)
    for tensor, stream in zip(layout.tensors, streams, strict=True):
        values = tensor.flat(delta[tensor.name])
        sums = plain.accumulated(values.tolist(), tensor.flat(first[tensor.name]).tolist(), SPEC.feedback)
        assert accumulate(values, tensor.flat(first[tensor.name]), SPEC).tolist() == sums
        assert stream == plain.encoded(sums, SPEC.chunk, SPEC.kept)
        assert tensor.flat(second[tensor.name]).tolist() == plain.rest(
            sums, plain.decoded(stream, tensor.size, SPEC.chunk, SPEC.kept)
        )


def test_arrays_of_another_checkpoint_are_refused_by_name() -> None:
    layout, good = layout_of(), state(layout_of(), 1)
    with pytest.raises(ValueError, match=r"c: the tensor is missing"):
        compress(layout, SPEC, {n: v for n, v in good.items() if n != "c"}, None)
    with pytest.raises(ValueError, match=r"'z': no tensor of this checkpoint"):
        root_of(layout, good | {"z": good["c"]})
    with pytest.raises(ValueError, match=r"b\.w: float64"):
        root_of(layout, good | {"b.w": good["b.w"].astype(np.float64)})
    with pytest.raises(ValueError, match=r"b\.w: float32\[13, 5, 3\]"):
        root_of(layout, good | {"b.w": good["b.w"].reshape(13, 5, 3)})


def test_layouts_count_chunks_over_tensors_and_refuse_another_order() -> None:
    layout = layout_of([("a", (65,)), ("b", (0, 4)), ("c", (2, 64))])
    assert [(t.first_chunk, t.chunks, t.values) for t in layout.tensors] == [(0, 2, 5), (2, 0, 0), (2, 2, 8)]
    assert [(t.name, c) for t, c in map(layout.place, range(4))] == [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    _, empty, _ = compress(layout, SPEC, state(layout, 1), None)[0]
    assert empty == bytes(4), "of a tensor without elements the length of its unary part is sent"
    for sizes in ([("b", (1,)), ("a", (1,))], [("a", (1,)), ("a", (1,))], [("a", (0,))], []):
        with pytest.raises(ValueError, match=r"order|at least one"):
            layout_of(sizes)
    with pytest.raises(ValueError, match="no chunk 4 among 4"):
        layout.place(4)


def wrong_streams() -> Iterator[tuple[str, bytes, str]]:
    """Streams of a tensor of 130 elements, 9 values in 3 chunks, with one thing wrong each."""
    tensor = a_tensor(130)
    rising = np.arange(130, dtype=np.float32)
    good = codec.encode(rising, codec.select(rising, tensor), tensor)
    values, index = 2 * 3 + 2, 2 * 3 + 2 + 4  # where the length of the unary part and the remainders begin
    remainders = index + -(-9 * tensor.remainder_bits // 8)

    def changed(at: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + len(new) :]

    tail = len(good) - remainders
    yield "shorter than any", good[: tensor.stream_least - 1], r"\$stream: \d+ bytes, \d+ to \d+ are"
    yield "longer than any", good + bytes(tensor.stream_most), r"\$stream: \d+ bytes, \d+ to \d+ are"
    yield "signs padded with ones", changed(values - 1, bytes([good[values - 1] | 1])), r"\$stream\.values: bits behind"
    yield "a length of four billion", changed(values, b"\xff" * 4), r"\$stream\.indices: a unary part of 4294967295 bytes"
    yield "remainders padded", changed(remainders - 1, bytes([good[remainders - 1] | 1])), r"\$stream\.indices: bits behind"
    yield "too many ones", changed(remainders, b"\xff" * tail), r"\$stream\.indices: (more than 9 values|value \d lies)"
    yield "too few ones", changed(remainders, bytes(tail)), r"\$stream\.indices: 0 values, of the layout's 9"
    yield (
        "a byte behind",
        bytes(good[:values]) + bytes([tail + 1, 0, 0, 0]) + bytes(good[index:]) + b"\0",
        "bytes behind the last",
    )
    yield "outside its chunk", changed(remainders, b"\x00\x00" + b"\xff" * (tail - 2)), r"value 0 lies outside its chunk"


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("stream", "message"), [pytest.param(s, m, id=i) for i, s, m in wrong_streams()])
def test_a_stream_that_breaks_a_rule_is_refused_with_its_path(stream: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(stream, a_tensor(130))


@pytest.mark.usefixtures("either_way")
def test_refusing_the_worst_stream_takes_no_more_memory_than_the_tensor() -> None:
    tensor = a_tensor(1 << 18, 4096, 64)
    ends = tensor.stream_most - tensor.unary_most
    values = np.ones(tensor.size, np.float32)
    good = codec.encode(values, codec.select(values, tensor), tensor)
    front = good[: 2 * tensor.chunks + tensor.values // 8] + tensor.unary_most.to_bytes(4, "little")
    for filler in (b"\x00", b"\xff", b"\x01"):
        bomb = front + good[len(front) : ends] + filler * tensor.unary_most
        with pytest.raises(ValueError, match="indices"):
            codec.decode(bomb, tensor)  # compiled before memory is counted
        tracemalloc.start()
        with pytest.raises(ValueError, match="indices"):
            codec.decode(bomb, tensor)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * tensor.size, "as integers"


def test_hostile_unary_parts_are_told_alike_with_and_without_numba() -> None:
    rng = random.Random(5)
    for _ in range(300):
        size, (chunk, kept) = rng.choice([1, 64, 100, 200]), rng.choice([(64, 4), (64, 32), (64, 1)])
        tensor = a_tensor(size, chunk, kept)
        r = tensor.remainder_bits
        remainders = np.frombuffer(rng.randbytes((tensor.values * r + 7) // 8), np.uint8)
        dense = rng.choice([0x00, 0x11, 0xFF])
        unary = np.frombuffer(bytes(rng.randrange(256) & rng.randrange(256) | dense for _ in range(rng.randrange(9))), np.uint8)
        found = [np.zeros(tensor.values, np.uint16) for _ in range(2)]
        told = [
            way.unpack_gaps(remainders, unary, size, chunk, kept, r, places)
            for way, places in zip((kernels, arrays), found, strict=True)
        ]
        assert tuple(told[0]) == told[1]
        if told[1][0] == 0:
            assert (found[0] == found[1]).all()


def test_a_chunk_is_shown_by_its_path_and_zeros_have_no_tree() -> None:
    layout = layout_of()
    vector = state(layout, 2)
    found = digests(layout, vector)
    for number, path in enumerate(found.paths(range(layout.chunks))):
        digest = chunk_digest(layout.chunk_of(vector, number))
        assert is_under(found.root, digest, number, layout, path)
        assert not is_under(found.root, digest, (number + 1) % layout.chunks, layout, path)
        assert not is_under(ZERO_ROOT, digest, number, layout, path)
    zeros = {name: np.zeros_like(values) for name, values in vector.items()}
    zeros["c"][3] = -0.0
    assert root_of(layout, zeros) == bytes(32) == plain.root([[0.0]], 64)
    assert digests(layout, zeros).paths([0, 1]) == ((), ())


WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numba", "torch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from grail_core.gradient import arrays, loops
from tooling.testing.gradient_states import SPEC, layout_of, update
assert loops.select is arrays.select
print([stream.hex() for stream in update(layout_of(), SPEC, 7)])
"""


def test_without_numba_the_same_bytes_come_out() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    layout = layout_of()
    assert done.stdout.strip() == str([stream.hex() for stream in compress(layout, SPEC, state(layout, 7), None)[0]])
