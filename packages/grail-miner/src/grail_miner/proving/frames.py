"""What the miner and its proof workers say to each other, in the frames of `grail_core.child_process.frames`.

A group goes over as int32 tokens and the float32 signs of its projections; what comes back is as long as the group says, to the
byte, and names the weights that it was computed with. No key, no prompt text, no completion text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from grail_core.child_process import frames
from grail_core.child_process.boot import MAX_REQUEST_BYTES
from grail_core.child_process.faults import ErrorNames
from grail_core.child_process.frames import FrameError, Payload, Taker, joined
from grail_core.errors import CheckpointError, ConfigurationError, StorageError
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.proof.errors import UnprovableError
from grail_core.proof.sketches import Projections
from grail_core.protocol.constants import PROOF_BATCH_SIZE, SKETCH_DIMENSIONS
from grail_core.protocol.types import Digest

if TYPE_CHECKING:
    from grail_core.proof.batch import RolloutProof

ERRORS: Final[ErrorNames] = {
    "unprovable": UnprovableError,
    "vocabulary": OutOfVocabularyError,
    "overlong": OverlongSequenceError,
    "checkpoint": CheckpointError,
    "storage": StorageError,
    "configuration": ConfigurationError,
}
_SKETCH_BYTES: Final = 2 * SKETCH_DIMENSIONS
_VERSION_BYTES: Final = 32


class Kind(IntEnum):
    READY = 1  # the worker has imported what it needs and can use its device
    LOAD = 2
    LOADED = 3
    PROVE = 4
    PROVED = 5
    FAULT = 8  # the job's answer is an error


@dataclass(frozen=True)
class GroupRequest:
    """One group and the weights to prove it with: those of this manifest, and no others."""

    version: Digest
    lengths: tuple[tuple[int, int], ...]  # tokens of each row, and of its prompt
    payload: Payload

    @classmethod
    def of(
        cls, version: Digest, rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int], projections: Projections
    ) -> GroupRequest:
        """
        Raises:
            OutOfVocabularyError: a token id that no vocabulary has. OverlongSequenceError: more than a worker takes at once.
            ValueError: as many prompt lengths as rows are needed, each within its row.
        """
        if not 0 < len(rows) <= PROOF_BATCH_SIZE or len(rows) != len(prompt_lengths):
            raise ValueError(f"a proof batch has 1 to {PROOF_BATCH_SIZE} rows, each with its prompt length, not {len(rows)}")
        for index, (row, length) in enumerate(zip(rows, prompt_lengths, strict=True)):
            if not 1 <= length < len(row):
                raise ValueError(f"row {index}: {len(row)} tokens with a prompt of {length} hold no prompt or no completion")
        try:
            tokens = joined(rows, np.int32)
        except OverflowError as error:
            raise OutOfVocabularyError("a token id that no vocabulary has", where="a row of the group") from error
        lengths = tuple((len(row), int(prompt)) for row, prompt in zip(rows, prompt_lengths, strict=True))
        told = {"version": version.hex(), "lengths": lengths, "hidden": projections.shape[1]}
        payload = frames.pack(told, tokens, projections.astype(np.float32, copy=False))
        size = sum(map(len, payload))
        if size > MAX_REQUEST_BYTES:
            raise OverlongSequenceError(f"a group of {size} bytes, at most {MAX_REQUEST_BYTES} are taken", where="a group")
        return cls(version, lengths, payload)

    @property
    def answer_bytes(self) -> int:
        """Of its answer: the version, then every row's sketches and log-probabilities."""
        completions = sum(tokens - prompt for tokens, prompt in self.lengths)
        return _VERSION_BYTES + _SKETCH_BYTES * (completions + len(self.lengths)) + 4 * completions


def asked(payload: memoryview) -> tuple[Digest, list[list[int]], list[int], Projections]:
    """The worker's side of a request: version, rows, prompt lengths, projections."""
    told, data = frames.unpack(payload)
    take = Taker(data)
    rows = [row.tolist() for row in take.split([tokens for tokens, _ in told["lengths"]], np.int32)]
    signs = take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)
    return Digest(bytes.fromhex(told["version"])), rows, [prompt for _, prompt in told["lengths"]], signs


def answer_proofs(version: Digest, proofs: Sequence[RolloutProof]) -> Payload:
    parts: Payload = [version]
    for proof in proofs:
        parts += [proof.sketches, proof.logprobs.astype("<f4", copy=False).tobytes()]
    return parts


def proofs_of(payload: memoryview, request: GroupRequest) -> list[RolloutProof]:
    """The answer to a request. Raises FrameError: no such answer, or one of other weights than were asked for."""
    from grail_core.proof.batch import RolloutProof

    if len(payload) != request.answer_bytes:
        raise FrameError(f"answered with {len(payload)} bytes in place of {request.answer_bytes}")
    if bytes(payload[:_VERSION_BYTES]) != request.version:
        raise FrameError(f"proved with the weights of {bytes(payload[:4]).hex()}… in place of {request.version[:4].hex()}…")
    take = Taker(payload[_VERSION_BYTES:])
    proofs = []
    for tokens, prompt in request.lengths:
        sketches = take.array((_SKETCH_BYTES * (tokens - prompt + 1),), np.uint8).tobytes()
        proofs.append(RolloutProof(sketches, take.array((tokens - prompt,), np.float32)))
    return proofs
