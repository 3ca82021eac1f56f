"""Where the inputs of the vectors come from, and how values are written."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from grail_core.protocol.reading import Json


class Source:
    """Inputs of one file: the SHAKE-256 stream of its name, consumed in order."""

    def __init__(self, name: str) -> None:
        self._stream = hashlib.shake_256(f"grail vectors {name}".encode()).digest(1 << 20)
        self._at = 0

    def bytes(self, size: int = 32) -> bytes:
        self._at += size
        return self._stream[self._at - size : self._at]

    def below(self, n: int) -> int:
        return int.from_bytes(self.bytes(8), "big") % n


def part_json(part: bytes | int | str) -> Json:
    if isinstance(part, bytes):
        return {"bytes": part.hex()}
    return {"integer": str(part)} if isinstance(part, int) else {"text": part}


def float_text(value: np.float64 | npt.NDArray[np.float64]) -> str:
    return f"{float(value):.12g}"
