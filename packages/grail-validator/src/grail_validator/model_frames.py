"""What a validator and its model process say to each other: frames of a fixed head, numbers, and nothing that is run.

A frame is the magic, a kind, the job's number and the payload's length; the payload a length, as much JSON and then plain
arrays, end to end. Nothing is pickled. How long an answer is follows from what was asked, to the byte: the side that asks
allocates no more and takes no other (`measured_bytes`, `sketched_bytes`). The side that answers believes its parent.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from grail_core.proof.sketches import Projections, Sketches
from grail_core.proof.work import MeasuredBatch, ProofRow, RolloutMeasurement, RolloutTokens
from grail_core.protocol.constants import MARGIN_CLIP, SKETCH_DIMENSIONS
from grail_core.protocol.policy import GenerationPolicy

MAGIC: Final = b"grailmw1"
HEAD: Final = struct.Struct("<8sBQQ")  # magic, kind, job, bytes of the payload
MAX_TEXT_BYTES: Final = 64 << 10
"""Of an answer that is JSON alone: what was loaded, or what went wrong."""

_LENGTH = struct.Struct("<I")


class Kind(IntEnum):
    READY = 1  # the child has imported what it needs and can use its device
    LOAD = 2
    LOADED = 3
    MEASURE = 4
    MEASURED = 5
    SKETCHES = 6
    SKETCHED = 7
    FAULT = 8  # the job's answer is an error
    HOLD = 9  # a checkpoint, before it is loaded as the window's or compared with it
    HELD = 10


class FrameError(Exception):
    """The other side has gone, is silent, or said what is no answer."""


@dataclass(frozen=True)
class Frame:
    kind: Kind
    job: int
    payload: memoryview

    def json(self) -> dict[str, Any]:
        """Raises FrameError: no JSON object."""
        return unpack(self.payload)[0]


def send(connection: socket.socket, kind: Kind, job: int, payload: Sequence[bytes | memoryview], deadline: float) -> None:
    """Raises FrameError: it was not taken by `deadline` (of the monotonic clock), or there is nobody."""
    size = sum(len(part) for part in payload)
    try:
        for part in (HEAD.pack(MAGIC, kind, job, size), *payload):
            connection.settimeout(_left(deadline))
            connection.sendall(part)
    except TimeoutError:
        raise FrameError("took no more of its work in time") from None
    except OSError as error:
        raise FrameError("ended") from error  # nobody is at the other end


def receive(connection: socket.socket, deadline: float, *, largest: int) -> Frame:
    """The next frame. Raises FrameError: none by `deadline`, no frame at all, or one with a larger payload."""
    magic, kind, job, size = HEAD.unpack(_exactly(connection, HEAD.size, deadline))
    if magic != MAGIC or kind not in set(Kind):
        raise FrameError("said what is no frame")
    if size > largest:
        raise FrameError(f"answered with {size} bytes, at most {largest} answer this")
    return Frame(Kind(kind), job, memoryview(_exactly(connection, size, deadline)))


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    try:
        while view:
            connection.settimeout(_left(deadline))
            got = connection.recv_into(view)
            if not got:
                raise FrameError("ended")
            view = view[got:]
    except TimeoutError:
        raise FrameError("gave no answer in time") from None
    except OSError as error:
        raise FrameError("ended") from error
    return data


def _left(deadline: float) -> float | None:
    """Seconds, for a socket: None waits for ever, and 0 would not wait at all."""
    return None if math.isinf(deadline) else max(1e-3, deadline - time.monotonic())


def pack(told: Mapping[str, Any], *arrays: npt.NDArray[Any]) -> list[bytes | memoryview]:
    text = json.dumps(told).encode()
    return [_LENGTH.pack(len(text)), text, *(np.ascontiguousarray(array).tobytes() for array in arrays)]


def unpack(payload: memoryview) -> tuple[dict[str, Any], memoryview]:
    """What was told, and the arrays' bytes. Raises FrameError."""
    try:
        (size,) = _LENGTH.unpack_from(payload)
        if size > len(payload) - _LENGTH.size:
            raise ValueError("shorter than it says")
        told = json.loads(bytes(payload[_LENGTH.size : _LENGTH.size + size]))
    except (struct.error, ValueError, RecursionError) as error:
        raise FrameError(f"said what cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise FrameError("said what is no JSON object")
    return told, payload[_LENGTH.size + size :]


# --- a proof batch ------------------------------------------------------------------------------------------------------


def ask_measured(batch: Sequence[ProofRow], signs: Projections, policy: GenerationPolicy) -> list[bytes | memoryview]:
    told = {
        "tokens": [len(row.tokens) for row in batch],
        "prompts": [row.prompt_length for row in batch],
        "positions": [len(row.positions) for row in batch],
        "seeds": [row.sampling_seed for row in batch],
        "policy": vars(policy),
        "hidden": signs.shape[1],
    }
    return pack(
        told,
        _joined([row.tokens for row in batch], np.int32),
        _joined([row.positions for row in batch], np.int32),
        signs.astype(np.float32, copy=False),
    )


def asked_measured(payload: memoryview) -> tuple[list[ProofRow], Projections, GenerationPolicy]:
    told, data = unpack(payload)
    take = _Taker(data)
    tokens = take.split(told["tokens"], np.int32)
    positions = take.split(told["positions"], np.int32)
    signs = take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)
    rows = [
        ProofRow(row.tolist(), prompt, tuple(at.tolist()), seed)
        for row, prompt, at, seed in zip(tokens, told["prompts"], positions, told["seeds"], strict=True)
    ]
    return rows, signs, GenerationPolicy(**told["policy"])


_OF_POSITION = 4 * SKETCH_DIMENSIONS + 4 + 8  # bytes: z, log-probability, margin


def measured_bytes(batch: Sequence[ProofRow]) -> int:
    """Of the answer about this batch: how many rows fitted at once, then every row's numbers."""
    return _LENGTH.size + _OF_POSITION * sum(len(row.positions) for row in batch)


def answer_measured(measured: MeasuredBatch) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = [_LENGTH.pack(measured.parts or 0)]
    for one in measured.rollouts:
        parts += [one.z.astype("<f4").tobytes(), one.logprobs.astype("<f4").tobytes(), one.margins.astype("<f8").tobytes()]
    return parts


def measured_of(payload: memoryview, batch: Sequence[ProofRow]) -> MeasuredBatch:
    """The answer about this batch. Raises FrameError: no such answer, or numbers that no measurement has."""
    if len(payload) != measured_bytes(batch):
        raise FrameError(f"answered with {len(payload)} bytes in place of {measured_bytes(batch)}")
    (parts,) = _LENGTH.unpack_from(payload)
    if parts >= len(batch):
        raise FrameError(f"says that it measured {parts} at once of {len(batch)} rows")
    take = _Taker(payload[_LENGTH.size :])
    rollouts = []
    for row in batch:
        count = len(row.positions)
        z, logprobs = take.array((count, SKETCH_DIMENSIONS), np.float32), take.array((count,), np.float32)
        margins = take.array((count,), np.float64)
        rollouts.append(RolloutMeasurement(tuple(row.positions), z, logprobs, margins))
        if rollouts[-1].finite and not ((margins >= 0) & (margins <= MARGIN_CLIP)).all():
            raise FrameError("answered with margins that are none")
    return MeasuredBatch(rollouts, parts or None)


# --- named alternatives -------------------------------------------------------------------------------------------------


def ask_sketches(rows: RolloutTokens, signs: Projections) -> list[bytes | memoryview]:
    told = {
        "tokens": [len(row) for row in rows.tokens],
        "prompts": list(rows.prompt_lengths),
        "positions": [len(at) for at in rows.positions],
        "hidden": signs.shape[1],
    }
    return pack(told, _joined(rows.tokens, np.int32), _joined(rows.positions, np.int32), signs.astype(np.float32, copy=False))


def asked_sketches(payload: memoryview) -> tuple[RolloutTokens, Projections]:
    told, data = unpack(payload)
    take = _Taker(data)
    tokens = [row.tolist() for row in take.split(told["tokens"], np.int32)]
    positions = [tuple(at.tolist()) for at in take.split(told["positions"], np.int32)]
    return RolloutTokens(tokens, told["prompts"], positions), take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)


def sketched_bytes(rows: RolloutTokens, names: Sequence[str]) -> int:
    """Of the answer about these rows: for each of the names one byte a row, whether it has sketches, and all of them."""
    return len(names) * (len(rows.positions) + 4 * SKETCH_DIMENSIONS * sum(len(at) for at in rows.positions))


def answer_sketches(
    found: Sequence[Mapping[str, Sketches]], rows: RolloutTokens, names: Sequence[str]
) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = []
    for name in names:
        parts.append(bytes(name in one for one in found))
        for one, at in zip(found, rows.positions, strict=True):
            z = one.get(name)
            parts.append(np.zeros((len(at), SKETCH_DIMENSIONS), "<f4").tobytes() if z is None else z.astype("<f4").tobytes())
    return parts


def sketches_of(payload: memoryview, rows: RolloutTokens, names: Sequence[str]) -> list[dict[str, Sketches]]:
    """Raises FrameError: no answer about these rows."""
    if len(payload) != sketched_bytes(rows, names):
        raise FrameError(f"answered with {len(payload)} bytes in place of {sketched_bytes(rows, names)}")
    take = _Taker(payload)
    found: list[dict[str, Sketches]] = [{} for _ in rows.positions]
    for name in names:
        there = take.array((len(found),), np.uint8)
        if (there > 1).any():
            raise FrameError("answered with what is neither yes nor no")
        for one, has, at in zip(found, there.tolist(), rows.positions, strict=True):
            z = take.array((len(at), SKETCH_DIMENSIONS), np.float32)
            if has:
                one[name] = z
    return found


class _Taker:
    """Arrays out of bytes, one after the other, each a copy of its own."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def array(self, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
        """Raises FrameError: fewer bytes are left."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(self._data):
            raise FrameError("said less than it announced")
        part, self._data = self._data[:size], self._data[size:]
        return np.frombuffer(part, dtype).reshape(shape).copy()

    def split(self, lengths: Sequence[int], dtype: type[np.generic]) -> list[npt.NDArray[Any]]:
        whole = self.array((sum(lengths),), dtype)
        return np.split(whole, np.cumsum(lengths)[:-1])


def _joined(parts: Sequence[Sequence[int]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0, dtype)
