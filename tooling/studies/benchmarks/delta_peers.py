"""What others publish between checkpoints, written from their descriptions, to be measured beside our codec.

Each peer encodes one flat array of bf16 patterns against another and gives it back. None of them hashes anything. They use
numpy and zstandard as their authors do; nothing is slowed down on purpose.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zstandard

Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Peer:
    name: str
    encode: Callable[[Bits, Bits], bytes]
    decode: Callable[[Bits, bytes], Bits]


def _compress(data: bytes | memoryview, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def _decompress(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def _sparse_encode(base: Bits, new: Bits) -> bytes:
    """Indices (int32) and new values of changed weights in a safetensors file, not compressed."""
    places = np.flatnonzero(base != new).astype(np.int32)
    values = new[places]
    split = places.nbytes
    header = {
        "indices": {"dtype": "I32", "shape": [places.size], "data_offsets": [0, split]},
        "values": {"dtype": "BF16", "shape": [places.size], "data_offsets": [split, split + values.nbytes]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + places.tobytes() + values.tobytes()


def _sparse_decode(base: Bits, data: bytes) -> Bits:
    (length,) = struct.unpack_from("<Q", data)
    count = (len(data) - 8 - length) // 6
    places = np.frombuffer(data, np.int32, count, 8 + length)
    new = base.copy()
    new[places] = np.frombuffer(data, np.uint16, count, 8 + length + 4 * count)
    return new


def _indexed_encode(base: Bits, new: Bits) -> bytes:
    """Differences of indices (int32) and new values, each through zstd."""
    places = np.flatnonzero(base != new).astype(np.int32)
    gaps = _compress(np.diff(places, prepend=np.int32(0)).astype(np.int32).data, 3)
    return struct.pack("<I", len(gaps)) + gaps + _compress(new[places].data, 3)


def _indexed_decode(base: Bits, data: bytes) -> Bits:
    (length,) = struct.unpack_from("<I", data)
    places = np.cumsum(np.frombuffer(_decompress(data[4 : 4 + length]), np.int32))
    new = base.copy()
    new[places] = np.frombuffer(_decompress(data[4 + length :]), np.uint16)
    return new


def _xor_encode(base: Bits, new: Bits) -> bytes:
    return _compress((base ^ new).data, 1)


def _xor_decode(base: Bits, data: bytes) -> Bits:
    return base ^ np.frombuffer(_decompress(data), np.uint16)


def _full_encode(base: Bits, new: Bits) -> bytes:
    return _compress(new.data, 1)


def _full_decode(base: Bits, data: bytes) -> Bits:
    return np.frombuffer(_decompress(data), np.uint16).copy()


PEERS = (
    Peer("sparse_safetensors", _sparse_encode, _sparse_decode),
    Peer("index_value_zstd", _indexed_encode, _indexed_decode),
    Peer("xor_zstd1", _xor_encode, _xor_decode),
    Peer("full_zstd", _full_encode, _full_decode),
)
