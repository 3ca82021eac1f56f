"""What a miner may put in place of sketches: a few chosen inputs, and as many seeded random ones as asked for.

Each input goes with the number of positions that the row claims. The chosen ones are all malformed; of the random ones some
are well-formed by chance or on purpose, so that accepting is tested beside refusing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from grail_core.protocol.constants import SKETCH_BYTES_PER_POSITION

LONGEST = 70_000  # bytes of a random input
_RESERVED = b"\x00\x80"  # −32768, little-endian

Hostile = tuple[object, int]


def chosen() -> Iterator[Hostile]:
    """Other types, wrong lengths, the reserved value early, late and everywhere; every one is malformed."""
    rng = np.random.default_rng(1)
    for positions in (2, 33, 1025, 8193):
        good = rng.integers(-32767, 32767, 4 * positions).astype("<i2")
        late, early = good.copy(), good.copy()
        late[-1] = early[0] = -32768
        yield late.tobytes(), positions
        yield early.tobytes(), positions
        yield np.full_like(good, -32768).tobytes(), positions
        for wrong in (good.tobytes()[:-1], good.tobytes() + b"\0", b"", bytes(350), good.tolist(), good, None, 1.5, "ÿ" * 64):
            yield wrong, positions


def fuzzed(count: int, seed: int) -> Iterator[Hostile]:
    """Random bytes and types, and honest sketches with bits flipped, reserved values put in, ends cut off and bytes added."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Callable[[np.random.Generator], Hostile], ...] = (
        _random_bytes,
        _random_bytes_of_the_right_length,
        _flipped_bits,
        _reserved_values,
        _truncated,
        _extended,
        _other_type,
    )
    for kind in rng.integers(len(kinds), size=count):
        yield kinds[kind](rng)


def _random_bytes(rng: np.random.Generator) -> Hostile:
    return rng.bytes(int(rng.integers(LONGEST + 1))), _positions(rng)


def _random_bytes_of_the_right_length(rng: np.random.Generator) -> Hostile:
    positions = _positions(rng)
    return rng.bytes(SKETCH_BYTES_PER_POSITION * positions), positions


def _flipped_bits(rng: np.random.Generator) -> Hostile:
    data, positions = _honest(rng)
    for bit in rng.integers(8 * len(data), size=int(rng.integers(1, 9))):
        data[bit // 8] ^= 1 << int(bit % 8)
    return bytes(data), positions


def _reserved_values(rng: np.random.Generator) -> Hostile:
    data, positions = _honest(rng)
    # At an even place it is the reserved value, at an odd one it may be anything.
    for at in rng.integers(len(data) - 1, size=int(rng.integers(1, 9))):
        data[at : at + 2] = _RESERVED
    return bytes(data), positions


def _truncated(rng: np.random.Generator) -> Hostile:
    data, positions = _honest(rng)
    return bytes(data[: int(rng.integers(len(data)))]), positions


def _extended(rng: np.random.Generator) -> Hostile:
    data, positions = _honest(rng)
    return bytes(data) + rng.bytes(int(rng.integers(1, 65))), positions


def _other_type(rng: np.random.Generator) -> Hostile:
    data, positions = _honest(rng)
    numbers = np.frombuffer(data, "<i2")
    others: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: bool(rng.integers(2)),
        lambda: int(rng.integers(2**62)) << 4096,
        lambda: float(rng.normal()),
        lambda: float("nan"),
        lambda: data.decode("latin-1"),
        lambda: data,
        lambda: memoryview(data),
        lambda: numbers,
        lambda: numbers.reshape(-1, 4),
        numbers.tolist,
        lambda: tuple(data[:64]),
        lambda: {"sketches": bytes(data)},
        lambda: np.bytes_(data),
        lambda: np.float32(rng.normal()),
        lambda: [bytes(data)],
        object,
    )
    return others[int(rng.integers(len(others)))](), positions


def _honest(rng: np.random.Generator) -> tuple[bytearray, int]:
    """Quantised unit normals, as sketches are."""
    positions = _positions(rng)
    values = np.rint(4096 * rng.standard_normal(4 * positions, dtype=np.float32)).clip(-32767, 32767)
    return bytearray(values.astype("<i2").tobytes()), positions


def _positions(rng: np.random.Generator) -> int:
    """2 to LONGEST / 8, short ones as often as long ones."""
    return int(2 ** rng.uniform(1, np.log2(LONGEST / SKETCH_BYTES_PER_POSITION)))
