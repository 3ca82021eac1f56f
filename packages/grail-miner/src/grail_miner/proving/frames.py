"""What the miner and its proof workers say to each other, in the frames of `grail_core.child_process.frames`.

A group goes over as int32 tokens and the float32 signs of its projections, to be proved or to be measured as a validator would.
What comes back is as long as the request says, to the byte, and names the weights that it was computed with. No key, no prompt
text, no completion text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from grail_core.child_process import frames
from grail_core.child_process.boot import MAX_REQUEST_BYTES
from grail_core.child_process.faults import ErrorNames
from grail_core.child_process.frames import FrameError, Payload, Taker, joined
from grail_core.errors import CheckpointError, ConfigurationError, StorageError
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.proof.errors import UnprovableError
from grail_core.proof.sketches import Projections
from grail_core.proof.work import ReferenceMeasurement, RolloutMeasurement
from grail_core.protocol.constants import MARGIN_CLIP, PROOF_BATCH_SIZE, SKETCH_DIMENSIONS
from grail_core.protocol.policy import GenerationPolicy
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
_OWN_BYTES: Final = 4 * SKETCH_DIMENSIONS + 4 + 8  # of a position: z, log-probability, margin
_REFERENCE_BYTES: Final = 4 * SKETCH_DIMENSIONS + 5 * 4  # z, log-probability, margin, twin, noise, spread

T_co = TypeVar("T_co", covariant=True)


class Kind(IntEnum):
    READY = 1  # the worker has imported what it needs and can use its device
    LOAD = 2
    LOADED = 3
    PROVE = 4
    PROVED = 5
    MEASURE = 6
    MEASURED = 7
    FAULT = 8  # the job's answer is an error


class Request(Protocol[T_co]):
    """What is asked of rows under one version of the weights."""

    @property
    def payload(self) -> Payload: ...

    @property
    def asks(self) -> Kind: ...

    @property
    def answered_by(self) -> Kind: ...

    @property
    def answer_bytes(self) -> int:
        """Exactly."""
        ...

    def read(self, payload: memoryview) -> T_co:
        """Raises FrameError: no such answer, or one of other weights than were asked for."""
        ...


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
        lengths = _lengths(rows, prompt_lengths)
        told = {"version": version.hex(), "lengths": lengths, "hidden": projections.shape[1]}
        return cls(version, lengths, _bounded(frames.pack(told, _tokens(rows), projections.astype(np.float32, copy=False))))

    @property
    def asks(self) -> Kind:
        return Kind.PROVE

    @property
    def answered_by(self) -> Kind:
        return Kind.PROVED

    @property
    def answer_bytes(self) -> int:
        """Of its answer: the version, then every row's sketches and log-probabilities."""
        completions = sum(tokens - prompt for tokens, prompt in self.lengths)
        return _VERSION_BYTES + _SKETCH_BYTES * (completions + len(self.lengths)) + 4 * completions

    def read(self, payload: memoryview) -> list[RolloutProof]:
        """The answer. Raises FrameError: no such answer, or one of other weights than were asked for."""
        from grail_core.proof.batch import RolloutProof

        take = _answer_of(payload, self.version, self.answer_bytes)
        proofs = []
        for tokens, prompt in self.lengths:
            sketches = take.array((_SKETCH_BYTES * (tokens - prompt + 1),), np.uint8).tobytes()
            proofs.append(RolloutProof(sketches, take.array((tokens - prompt,), np.float32)))
        return proofs


@dataclass(frozen=True)
class Measured:
    """The worker's side of a request to measure: arguments of `grail_core.proof.batch.measure_rollouts`."""

    version: Digest
    rows: list[list[int]]
    prompt_lengths: list[int]
    positions: list[list[int]]
    projections: Projections
    policy: GenerationPolicy
    sampling_seeds: list[int]


@dataclass(frozen=True)
class MeasureRequest:
    """Rows to measure at some completion indices, and the weights to do it with."""

    version: Digest
    positions: tuple[tuple[int, ...], ...]
    payload: Payload

    @classmethod
    def of(
        cls,
        version: Digest,
        rows: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        positions: Sequence[Sequence[int]],
        projections: Projections,
        policy: GenerationPolicy,
        sampling_seeds: Sequence[int],
    ) -> MeasureRequest:
        """
        Raises:
            OutOfVocabularyError, OverlongSequenceError, ValueError: as `GroupRequest.of`; the latter too where positions are
                none of the completions'.
        """
        lengths = _lengths(rows, prompt_lengths)
        for (tokens, prompt), at in zip(lengths, positions, strict=True):
            if any(not 0 <= index < tokens - prompt for index in at):
                raise ValueError(f"a completion of {tokens - prompt} tokens has not all of the positions that are asked for")
        told = {
            "version": version.hex(),
            "lengths": lengths,
            "positions": [len(at) for at in positions],
            "seeds": [int(seed) for seed in sampling_seeds],
            "policy": vars(policy),
            "hidden": projections.shape[1],
        }
        signs = projections.astype(np.float32, copy=False)
        payload = _bounded(frames.pack(told, _tokens(rows), joined(positions, np.int32), signs))
        return cls(version, tuple(tuple(map(int, at)) for at in positions), payload)

    @property
    def asks(self) -> Kind:
        return Kind.MEASURE

    @property
    def answered_by(self) -> Kind:
        return Kind.MEASURED

    @property
    def answer_bytes(self) -> int:
        """Of its answer: the version, whether there is a reference, then every row's numbers and the reference's (or zeros)."""
        return _VERSION_BYTES + 1 + (_OWN_BYTES + _REFERENCE_BYTES) * sum(map(len, self.positions))

    def read(self, payload: memoryview) -> list[RolloutMeasurement]:
        """The answer. Raises FrameError: no such answer, one of other weights, or numbers that no measurement has."""
        take = _answer_of(payload, self.version, self.answer_bytes)
        (referred,) = take.array((1,), np.uint8).tolist()
        if referred > 1:
            raise FrameError("answered with what is neither yes nor no")
        found = []
        for at in self.positions:
            z, logprobs = take.array((len(at), SKETCH_DIMENSIONS), np.float32), take.array((len(at),), np.float32)
            margins = take.array((len(at),), np.float64)
            reference = ReferenceMeasurement(
                take.array((len(at), SKETCH_DIMENSIONS), np.float32),
                *(take.array((len(at),), np.float32) for _ in range(5)),
            )
            found.append(RolloutMeasurement(at, z, logprobs, margins, reference if referred else None))
            if found[-1].finite and not ((margins >= 0) & (margins <= MARGIN_CLIP)).all():
                raise FrameError("answered with margins that are none")
        return found


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


def asked_measured(payload: memoryview) -> Measured:
    """The worker's side of a request to measure."""
    told, data = frames.unpack(payload)
    take = Taker(data)
    rows = [row.tolist() for row in take.split([tokens for tokens, _ in told["lengths"]], np.int32)]
    positions = [at.tolist() for at in take.split(told["positions"], np.int32)]
    signs = take.array((SKETCH_DIMENSIONS, told["hidden"]), np.float32)
    prompts = [prompt for _, prompt in told["lengths"]]
    version, policy = Digest(bytes.fromhex(told["version"])), GenerationPolicy(**told["policy"])
    return Measured(version, rows, prompts, positions, signs, policy, told["seeds"])


def answer_measured(version: Digest, measured: Sequence[RolloutMeasurement]) -> Payload:
    """All of the rows have a reference, or none has."""
    parts: Payload = [version, bytes([all(one.reference is not None for one in measured)])]
    for one in measured:
        parts += [one.z.astype("<f4").tobytes(), one.logprobs.astype("<f4").tobytes(), one.margins.astype("<f8").tobytes()]
        if one.reference is None:
            parts.append(bytes(_REFERENCE_BYTES * len(one.positions)))
        else:
            parts += [getattr(one.reference, field.name).astype("<f4").tobytes() for field in fields(ReferenceMeasurement)]
    return parts


def _lengths(rows: Sequence[Sequence[int]], prompt_lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if not 0 < len(rows) <= PROOF_BATCH_SIZE or len(rows) != len(prompt_lengths):
        raise ValueError(f"a proof batch has 1 to {PROOF_BATCH_SIZE} rows, each with its prompt length, not {len(rows)}")
    for index, (row, length) in enumerate(zip(rows, prompt_lengths, strict=True)):
        if not 1 <= length < len(row):
            raise ValueError(f"row {index}: {len(row)} tokens with a prompt of {length} hold no prompt or no completion")
    return tuple((len(row), int(prompt)) for row, prompt in zip(rows, prompt_lengths, strict=True))


def _tokens(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    try:
        return joined(rows, np.int32)
    except OverflowError as error:
        raise OutOfVocabularyError("a token id that no vocabulary has", where="a row of the group") from error


def _bounded(payload: Payload) -> Payload:
    size = sum(map(len, payload))
    if size > MAX_REQUEST_BYTES:
        raise OverlongSequenceError(f"a group of {size} bytes, at most {MAX_REQUEST_BYTES} are taken", where="a group")
    return payload


def _answer_of(payload: memoryview, version: Digest, size: int) -> Taker:
    """What follows the version. Raises FrameError: of another length, or of another version."""
    if len(payload) != size:
        raise FrameError(f"answered with {len(payload)} bytes in place of {size}")
    if bytes(payload[:_VERSION_BYTES]) != version:
        raise FrameError(f"computed with the weights of {bytes(payload[:4]).hex()}… in place of {version[:4].hex()}…")
    return Taker(payload[_VERSION_BYTES:])
