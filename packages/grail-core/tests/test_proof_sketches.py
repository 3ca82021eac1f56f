"""Sketches bind a run of the model: hostile bytes are refused, honest ones survive rounding, and zeros never pass."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.model.errors import ProofError
from grail_core.proof.errors import MalformedSketchError, UnprovableError
from grail_core.proof.sketches import (
    differences,
    parse_sketches,
    projections,
    quantise,
    sketch,
    sketch_plain,
)
from grail_core.protocol import RolloutRecord
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, POSITION_ERROR_WINSOR
from grail_core.protocol.randomness import Randomness
from tooling.testing.hostile_sketches import fuzzed

GOLDEN_SKETCH = "001800f000f0000800f80000001000f800f000f8000800f0"
RANDOMNESS = Randomness(b"n" * 32)


def signs(d: int) -> np.ndarray:
    return projections(RANDOMNESS, b"w" * 32, d)


def test_projections_are_the_protocols_bits() -> None:
    w = signs(20)
    assert w.shape == (4, 20)
    assert set(np.unique(w)) == {-1.0, 1.0}
    for j in range(4):
        assert w[j].tolist() == RANDOMNESS.sketch_bits(b"w" * 32, j, 20).tolist()
    # The coefficient belongs to the dimension: a wider model's projection begins alike.
    assert np.array_equal(signs(40)[:, :20], w)
    assert not np.array_equal(projections(RANDOMNESS, b"x" * 32, 20), w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [0.5, 1.0, 100.0])
def test_sketches_are_scale_free_unit_normals_and_both_paths_agree(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = (torch.randn(601, 257, generator=generator) * scale).to(dtype)
    z = sketch(hidden, signs(257))
    assert z.dtype == np.float32
    assert z.shape == (601, 4)
    assert np.abs(z - sketch_plain(hidden.float().numpy(), signs(257))).max() < 1e-5
    assert abs(float(z.std()) - 1) < 0.06
    assert abs(float(z.mean())) < 0.08


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_state_that_is_zero_or_not_finite_is_unprovable(bad: float, dtype: torch.dtype) -> None:
    hidden = torch.ones(3, 64, dtype=dtype)
    hidden[1] = bad
    with pytest.raises(UnprovableError):
        sketch(hidden, signs(64))


def test_rounding_is_half_even_clamped_and_eight_bytes_a_position() -> None:
    z = np.array([[0.5 / 4096, 1.5 / 4096, -0.5 / 4096, -1.5 / 4096], [8.0, -8.0, 100.0, -100.0]], dtype=np.float32)
    data = quantise(z)
    assert len(data) == 16
    assert np.frombuffer(data, "<i2").tolist() == [0, 2, 0, -2, 32767, -32767, 32767, -32767]
    # The measured value is clipped to the same range, so a state beyond it still matches itself.
    assert np.abs(differences(parse_sketches(data, 2), z)).max() < 1e-3
    with pytest.raises(UnprovableError):
        quantise(np.array([[np.nan, 0, 0, 0]], dtype=np.float32))


@given(z=st.lists(st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4), min_size=1, max_size=20))
def test_quantising_costs_at_most_half_a_step(z: list[list[float]]) -> None:
    measured = np.array(z, dtype=np.float32)
    parsed = parse_sketches(quantise(measured), len(z))
    assert np.abs(differences(parsed, measured)).max() <= 0.5 / 4096 + 1e-7


@given(data=st.binary(max_size=80), positions=st.integers(0, 12))
@settings(max_examples=300)
def test_hostile_bytes_parse_or_raise_one_typed_error(data: bytes, positions: int) -> None:
    try:
        parsed = parse_sketches(data, positions)
    except ProofError:
        assert len(data) != 8 * positions or b"\x00\x80" in data
    else:
        assert parsed.shape == (positions, 4)
        assert int(parsed.min(initial=0)) > -32768
        assert parsed.astype("<i2").tobytes() == data


def test_thousands_of_fuzzed_inputs_parse_or_raise_the_one_typed_error() -> None:
    counts = {True: 0, False: 0}
    for thing, positions in fuzzed(5000, seed=5):
        well_formed = _well_formed(thing, positions)
        try:
            parsed = parse_sketches(thing, positions)
        except MalformedSketchError:
            assert not well_formed
        else:
            assert well_formed
            assert parsed.shape == (positions, 4)
            assert parsed.astype("<i2").tobytes() == thing
        counts[well_formed] += 1
    assert min(counts.values()) > 500


def test_a_rollouts_record_exists_exactly_where_its_fuzzed_sketches_parse() -> None:
    refused = 0
    for thing, positions in fuzzed(4000, seed=6):
        if positions > MAX_NEW_TOKENS_PROTOCOL_CAP + 1:
            continue
        # Right but for its sketches: a prompt of one token, a completion of `positions` − 1.
        try:
            RolloutRecord(
                group=0,
                rollout=0,
                tokens=np.zeros(positions, np.int32),
                prompt_length=1,
                logprobs=np.full(positions - 1, -1, np.float32),
                sketches=cast(bytes, thing),
                reward=0.0,
                success=False,
            )
        except ValueError as error:
            assert str(error).startswith("sketches: ")  # noqa: PT017 - refusing and accepting are both right, by turns
            assert not _well_formed(thing, positions)
            refused += 1
        else:
            assert _well_formed(thing, positions)
    assert 100 < refused < 3900


def _well_formed(data: object, positions: int) -> bool:
    if not isinstance(data, bytes | memoryview):
        return False
    return len(data) == 8 * positions and not (np.frombuffer(data, "<i2") == -32768).any()


@pytest.mark.parametrize("thing", [None, 3, "ÿ" * 8, [0] * 8, bytearray(8), np.zeros(8, np.uint8)])
def test_numbers_where_bytes_belong_are_refused(thing: object) -> None:
    with pytest.raises(MalformedSketchError, match="are bytes"):
        parse_sketches(thing, 1)


def test_the_reserved_value_is_refused() -> None:
    with pytest.raises(MalformedSketchError, match="reserved"):
        parse_sketches(np.array([0, 0, -32768, 0], dtype="<i2").tobytes(), 1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("tail", ["normal", "cauchy"])
@pytest.mark.parametrize("constant", [0, 1, 4096, -32767])
def test_constant_sketches_are_far_off_at_every_hidden_state_scale(scale: float, tail: str, constant: int) -> None:
    generator = np.random.default_rng(3)
    states = generator.normal(size=(64, 256)) if tail == "normal" else generator.standard_cauchy(size=(64, 256))
    z = sketch(torch.tensor(states * scale, dtype=torch.float32).to(torch.bfloat16), signs(256))
    forged = parse_sketches(np.full((64, 4), constant, dtype="<i2").tobytes(), 64)
    assert float(np.sqrt(np.minimum(np.square(differences(forged, z)).mean(axis=1), POSITION_ERROR_WINSOR**2).mean())) > 0.31


def test_golden_sketch_of_states_whose_arithmetic_is_exact() -> None:
    # Sixteen equal magnitudes: the norm is 4 times one of them, every z a multiple of 1/4, so any order of sums agrees.
    states = np.where((np.arange(16) * 7 + np.arange(3)[:, None]) % 5 < 2, 2.0, -2.0).astype(np.float32)
    data = quantise(sketch(torch.from_numpy(states).to(torch.bfloat16), signs(16)))
    assert data.hex() == GOLDEN_SKETCH
