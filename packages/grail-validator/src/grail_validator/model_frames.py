"""What a validator and its model process say to each other, in the frames of `grail_core.child_process.frames`.

How long an answer is follows from what was asked, to the byte: the side that asks allocates no more and takes no other
(`measured_bytes`; of the comparison with named alternatives, `compare_frames.compared_bytes`).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
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
from grail_core.proof.sketches import Projections
from grail_core.proof.work import AskedAlternatives, MeasuredBatch, ProofRow, ReferenceMeasurement, RolloutMeasurement
from grail_core.protocol.constants import SKETCH_DIMENSIONS
from grail_core.protocol.policy import GenerationPolicy

__all__ = ["HEAD", "MAGIC", "MAX_TEXT_BYTES", "Frame", "FrameError", "pack", "send", "unpack"]


ERRORS: Final[ErrorNames] = {"checkpoint": CheckpointError, "storage": StorageError, "configuration": ConfigurationError}


class Kind(IntEnum):
    READY = 1  # the child has imported what it needs and can use its device
    LOAD = 2
    LOADED = 3
    MEASURE = 4
    MEASURED = 5
    COMPARE = 6
    COMPARED = 7
    FAULT = 8  # the job's answer is an error
    HOLD = 9  # a checkpoint, before it is loaded as the window's or compared with it
    HELD = 10


def receive(connection: socket.socket, deadline: float, *, largest: int) -> Frame[Kind]:
    """As `frames.receive`, of these kinds."""
    return frames.receive(connection, deadline, largest=largest, kinds=Kind)


# --- rows that are looked at ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskedRows:
    """What a job is about. `proof_class`: what the rows' miner declared, in whose attention they are measured; None: the
    model's own. `reference`: whether they are held against float32. `compared`: with what they are; None: all there is."""

    rows: Sequence[ProofRow]
    signs: Projections
    policy: GenerationPolicy
    proof_class: str | None
    reference: bool = True
    compared: AskedAlternatives | None = None


def ask_about(asked: AskedRows) -> Payload:
    """Both jobs, measuring and comparing, are told the same of their rows."""
    rows, compared = asked.rows, asked.compared
    told = {
        "tokens": [len(row.tokens) for row in rows],
        "prompts": [row.prompt_length for row in rows],
        "positions": [len(row.positions) for row in rows],
        "seeds": [row.sampling_seed for row in rows],
        "policy": vars(asked.policy),
        "hidden": asked.signs.shape[1],
        "proof_class": asked.proof_class,
        "reference": asked.reference,
        "compared": None if compared is None else [sorted(compared.sketches), sorted(compared.tokens)],
    }
    return pack(
        told,
        joined([row.tokens for row in rows], np.int32),
        joined([row.positions for row in rows], np.int32),
        asked.signs.astype(np.float32, copy=False),
    )


def asked_about(payload: memoryview) -> AskedRows:
    told, data = unpack(payload)
    take = Taker(data)
    tokens = take.split(told["tokens"], np.int32)
    positions = take.split(told["positions"], np.int32)
    signs = take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)
    rows = [
        ProofRow(row.tolist(), prompt, tuple(at.tolist()), seed)
        for row, prompt, at, seed in zip(tokens, told["prompts"], positions, told["seeds"], strict=True)
    ]
    compared = None if told["compared"] is None else AskedAlternatives(*map(frozenset, told["compared"]))
    return AskedRows(rows, signs, GenerationPolicy(**told["policy"]), told["proof_class"], told["reference"], compared)


# --- a proof batch ------------------------------------------------------------------------------------------------------

_OF_OWN = 4 * SKETCH_DIMENSIONS + 4 + 8  # bytes a position: z, log-probability, margin
_OF_REFERENCE = 4 * SKETCH_DIMENSIONS + 5 * 4  # z, log-probability, margin, twin, noise, spread


def measured_bytes(batch: Sequence[ProofRow], *, reference: bool = True) -> int:
    """Of the answer about this batch: how many rows fitted at once, then every row's numbers."""
    return LENGTH.size + (_OF_OWN + _OF_REFERENCE * reference) * sum(len(row.positions) for row in batch)


def answer_measured(measured: MeasuredBatch, *, reference: bool = True) -> Payload:
    """Raises ValueError: a rollout was measured without the float32 reference that was asked for, or with one that was not."""
    parts: Payload = [LENGTH.pack(measured.parts or 0)]
    for one in measured.rollouts:
        if (one.reference is not None) != reference:
            raise ValueError(f"a rollout was measured with{'out' * reference} the float32 reference")
        parts += [one.z.astype("<f4").tobytes(), one.logprobs.astype("<f4").tobytes(), one.margins.astype("<f8").tobytes()]
        if one.reference is not None:
            parts += [getattr(one.reference, field.name).astype("<f4").tobytes() for field in fields(ReferenceMeasurement)]
    return parts


def measured_of(payload: memoryview, batch: Sequence[ProofRow], *, reference: bool = True) -> MeasuredBatch:
    """The answer about this batch. Raises FrameError: no such answer, or numbers that no measurement has."""
    expected = measured_bytes(batch, reference=reference)
    if len(payload) != expected:
        raise FrameError(f"answered with {len(payload)} bytes in place of {expected}")
    (parts,) = LENGTH.unpack_from(payload)
    if parts >= len(batch):
        raise FrameError(f"says that it measured {parts} at once of {len(batch)} rows")
    take = Taker(payload[LENGTH.size :])
    rollouts = []
    for row in batch:
        count = len(row.positions)
        z, logprobs = take.array((count, SKETCH_DIMENSIONS), np.float32), take.array((count,), np.float32)
        margins = take.array((count,), np.float64)
        beside = _reference(take, count) if reference else None
        rollouts.append(RolloutMeasurement(tuple(row.positions), z, logprobs, margins, beside))
        if not rollouts[-1].possible:
            raise FrameError("answered with numbers that no measurement has")
    return MeasuredBatch(rollouts, parts or None)


def _reference(take: Taker, count: int) -> ReferenceMeasurement:
    """Of one row. One that is not finite says nothing, and is taken as it is: what becomes of its rollout is the checks'."""
    z = take.array((count, SKETCH_DIMENSIONS), np.float32)
    return ReferenceMeasurement(z, *(take.array((count,), np.float32) for _ in range(5)))
