"""What a validator and its model process say to each other, in the frames of `grail_core.child_process.frames`.

How long an answer is follows from what was asked, to the byte: the side that asks allocates no more and takes no other
(`measured_bytes`, `sketched_bytes`).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

import numpy as np

from grail_core.child_process import frames
from grail_core.child_process.faults import ErrorNames
from grail_core.child_process.frames import (
    HEAD,
    LENGTH,
    MAGIC,
    MAX_TEXT_BYTES,
    Frame,
    FrameError,
    Payload,
    Taker,
    joined,
    pack,
    send,
    unpack,
)
from grail_core.errors import CheckpointError, ConfigurationError, StorageError
from grail_core.proof.sketches import Projections, Sketches
from grail_core.proof.work import MeasuredBatch, ProofRow, RolloutMeasurement, RolloutTokens
from grail_core.protocol.constants import MARGIN_CLIP, SKETCH_DIMENSIONS
from grail_core.protocol.policy import GenerationPolicy

__all__ = ["HEAD", "MAGIC", "MAX_TEXT_BYTES", "Frame", "FrameError", "pack", "send", "unpack"]


ERRORS: Final[ErrorNames] = {"checkpoint": CheckpointError, "storage": StorageError, "configuration": ConfigurationError}


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


def receive(connection: socket.socket, deadline: float, *, largest: int) -> Frame[Kind]:
    """As `frames.receive`, of these kinds."""
    return frames.receive(connection, deadline, largest=largest, kinds=Kind)


# --- a proof batch ------------------------------------------------------------------------------------------------------


def ask_measured(batch: Sequence[ProofRow], signs: Projections, policy: GenerationPolicy) -> Payload:
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
        joined([row.tokens for row in batch], np.int32),
        joined([row.positions for row in batch], np.int32),
        signs.astype(np.float32, copy=False),
    )


def asked_measured(payload: memoryview) -> tuple[list[ProofRow], Projections, GenerationPolicy]:
    told, data = unpack(payload)
    take = Taker(data)
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
    return LENGTH.size + _OF_POSITION * sum(len(row.positions) for row in batch)


def answer_measured(measured: MeasuredBatch) -> Payload:
    parts: Payload = [LENGTH.pack(measured.parts or 0)]
    for one in measured.rollouts:
        parts += [one.z.astype("<f4").tobytes(), one.logprobs.astype("<f4").tobytes(), one.margins.astype("<f8").tobytes()]
    return parts


def measured_of(payload: memoryview, batch: Sequence[ProofRow]) -> MeasuredBatch:
    """The answer about this batch. Raises FrameError: no such answer, or numbers that no measurement has."""
    if len(payload) != measured_bytes(batch):
        raise FrameError(f"answered with {len(payload)} bytes in place of {measured_bytes(batch)}")
    (parts,) = LENGTH.unpack_from(payload)
    if parts >= len(batch):
        raise FrameError(f"says that it measured {parts} at once of {len(batch)} rows")
    take = Taker(payload[LENGTH.size :])
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


def ask_sketches(rows: RolloutTokens, signs: Projections) -> Payload:
    told = {
        "tokens": [len(row) for row in rows.tokens],
        "prompts": list(rows.prompt_lengths),
        "positions": [len(at) for at in rows.positions],
        "hidden": signs.shape[1],
    }
    return pack(told, joined(rows.tokens, np.int32), joined(rows.positions, np.int32), signs.astype(np.float32, copy=False))


def asked_sketches(payload: memoryview) -> tuple[RolloutTokens, Projections]:
    told, data = unpack(payload)
    take = Taker(data)
    tokens = [row.tolist() for row in take.split(told["tokens"], np.int32)]
    positions = [tuple(at.tolist()) for at in take.split(told["positions"], np.int32)]
    return RolloutTokens(tokens, told["prompts"], positions), take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)


def sketched_bytes(rows: RolloutTokens, names: Sequence[str]) -> int:
    """Of the answer about these rows: for each of the names one byte a row, whether it has sketches, and all of them."""
    return len(names) * (len(rows.positions) + 4 * SKETCH_DIMENSIONS * sum(len(at) for at in rows.positions))


def answer_sketches(found: Sequence[Mapping[str, Sketches]], rows: RolloutTokens, names: Sequence[str]) -> Payload:
    parts: Payload = []
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
    take = Taker(payload)
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
