"""What a parent and its child say to each other: frames of a fixed head, numbers, and nothing that is run.

A frame is the magic, a kind, the job's number and the payload's length; the payload a length, as much JSON and then plain
arrays, end to end. Nothing is pickled. How long an answer is follows from what was asked: the side that asks allocates no more
and takes no other. The side that answers believes its parent. Kinds are each role's own.
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
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

K = TypeVar("K", bound=IntEnum)
Payload: TypeAlias = list[bytes | memoryview]
"""Parts, sent one after the other."""

MAGIC: Final = b"grailmw1"
HEAD: Final = struct.Struct("<8sBQQ")  # magic, kind, job, bytes of the payload
LENGTH: Final = struct.Struct("<I")
MAX_TEXT_BYTES: Final = 64 << 10
"""Of an answer that is JSON alone: what was loaded, or what went wrong."""


class FrameError(Exception):
    """The other side has gone, is silent, or said what is no answer."""


@dataclass(frozen=True)
class Frame(Generic[K]):
    kind: K
    job: int
    payload: memoryview

    def json(self) -> dict[str, Any]:
        """Raises FrameError: no JSON object."""
        return unpack(self.payload)[0]


def send(connection: socket.socket, kind: IntEnum, job: int, payload: Payload, deadline: float) -> None:
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


def receive(connection: socket.socket, deadline: float, *, largest: int, kinds: type[K]) -> Frame[K]:
    """The next frame. Raises FrameError: none by `deadline`, no frame at all, or one with a larger payload."""
    magic, kind, job, size = HEAD.unpack(_exactly(connection, HEAD.size, deadline))
    if magic != MAGIC or kind not in set(kinds):
        raise FrameError("said what is no frame")
    if size > largest:
        raise FrameError(f"answered with {size} bytes, at most {largest} answer this")
    return Frame(kinds(kind), job, memoryview(_exactly(connection, size, deadline)))


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


def pack(told: Mapping[str, Any], *arrays: npt.NDArray[Any]) -> Payload:
    """A payload: its length, as much JSON, and the arrays' bytes end to end."""
    text = json.dumps(told).encode()
    return [LENGTH.pack(len(text)), text, *(np.ascontiguousarray(array).tobytes() for array in arrays)]


def unpack(payload: memoryview) -> tuple[dict[str, Any], memoryview]:
    """What was told, and the arrays' bytes. Raises FrameError."""
    try:
        (size,) = LENGTH.unpack_from(payload)
        if size > len(payload) - LENGTH.size:
            raise ValueError("shorter than it says")
        told = json.loads(bytes(payload[LENGTH.size : LENGTH.size + size]))
    except (struct.error, ValueError, RecursionError) as error:
        raise FrameError(f"said what cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise FrameError("said what is no JSON object")
    return told, payload[LENGTH.size + size :]


class Taker:
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


def joined(parts: Sequence[Sequence[int]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """All parts end to end, none of them may be there."""
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.zeros(0, dtype)
