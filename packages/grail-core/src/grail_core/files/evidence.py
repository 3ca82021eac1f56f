"""Evidence: what a validator measured of a file's sampled rollouts, and its signed Parquet form.

One row a rollout, in the closed form that `parquet_reader` reads (nothing in it is nested): a rollout's alternatives are their
names, one a line in ascending order, and their values, one after the other in that order.

A verdict is a pure function of files, chain and beacon inputs, and evidence; so whoever holds the evidence can compute the
verdict again without a model (`verification.examine.decide`). All values are as measured: float32, never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.parquet_columns import Buffer, ColumnPieces
from grail_core.files.parquet_footer import Column, FileForm, Physical
from grail_core.files.parquet_reader import PieceTable, read_whole
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.proof.alternative_test import REFERENCE
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, MAX_NEW_TOKENS_PROTOCOL_CAP, SKETCH_DIMENSIONS
from grail_core.protocol.types import Digest, Hotkey

F32 = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int32]


class GradeStability(Enum):
    STABLE = "stable"  # one run that agrees with the claim, or three that agree with each other
    UNSTABLE = "unstable"  # runs differ, or one came near a limit: not counted, not trained on, not punished
    INCONCLUSIVE = "inconclusive"  # grading itself failed


@dataclass(frozen=True)
class GradeEvidence:
    """`well_formed` is known to who graded and is no part of what is published: None in evidence that was read."""

    reward: float
    success: bool
    stability: GradeStability
    well_formed: bool | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RolloutEvidence:
    """One sampled rollout with k challenged completion positions.

    `z` [k, 4] are the validator's unrounded sketch values at those positions; `alternatives` the same in float32 under the
    current weights and each alternative's, by name, [m, 4] at the m `alternative_positions` (the k among them), empty where
    the challenge did not draw this rollout for them; `logprob` [k] the unwarped log-probability of the claimed token (nats);
    `margin` [k] of section 4 (logits, clipped at 4).
    """

    group: int
    rollout: int
    grade: GradeEvidence
    positions: npt.NDArray[np.int32]
    z: F32
    logprob: F32
    margin: F32
    alternatives: Mapping[str, F32] = field(default_factory=dict)
    alternative_positions: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class MinerEvidence:
    """All sampled rollouts of one file, in the order sampled: whole groups first, then singles.

    `numerics_class` is the validator's own; `layers` and `hidden_size` are the checkpoint model's, since a calibration
    holds for models of about the sizes it was made on.
    """

    hotkey: Hotkey
    content_digest: Digest
    rollouts: tuple[RolloutEvidence, ...]
    numerics_class: str
    layers: int
    hidden_size: int
    inconclusive: int = 0  # rollouts that could not be measured and were replaced, or not


MAX_EVIDENCE_ROWS = 4096 * 80
"""Miners of a window, and rollouts sampled of one: 64, and what replaces inconclusive ones."""
MAX_EVIDENCE_BYTES = 512 << 20
MAX_ALTERNATIVES = 16
_MAX_VALUES = ALTERNATIVE_POSITIONS * SKETCH_DIMENSIONS * 4

COLUMNS = (
    Column("hotkey", Physical.FIXED, most=32),
    Column("content_digest", Physical.FIXED, most=32),
    Column("numerics_class", Physical.BYTES, most=128),
    Column("layers", Physical.INT32),
    Column("hidden_size", Physical.INT32),
    Column("inconclusive", Physical.INT32),
    Column("g", Physical.INT32),
    Column("r", Physical.INT32),
    Column("judge_reward", Physical.DOUBLE),
    Column("judge_success", Physical.BOOLEAN),
    Column("judge_stability", Physical.BYTES, most=16),
    Column("positions", Physical.BYTES, most=4 * MAX_NEW_TOKENS_PROTOCOL_CAP, item=4),
    Column("z", Physical.BYTES, most=16 * MAX_NEW_TOKENS_PROTOCOL_CAP, item=16),
    Column("logprob", Physical.BYTES, most=4 * MAX_NEW_TOKENS_PROTOCOL_CAP, item=4),
    Column("margin", Physical.BYTES, most=4 * MAX_NEW_TOKENS_PROTOCOL_CAP, item=4),
    Column("alternative_names", Physical.BYTES, most=MAX_ALTERNATIVES * 128),
    Column("alternatives", Physical.BYTES, most=MAX_ALTERNATIVES * _MAX_VALUES, item=16),
    Column("alternative_positions", Physical.BYTES, most=4 * ALTERNATIVE_POSITIONS, item=4),
)
FORM = FileForm(
    columns=COLUMNS,
    metadata=(),
    max_file_bytes=MAX_EVIDENCE_BYTES,
    least_rows=0,
    max_rows=MAX_EVIDENCE_ROWS,
    max_decoded_bytes_per_row=512 << 10,  # every position of the longest answer, and sixteen alternatives
    max_decoded_bytes=2 * MAX_EVIDENCE_BYTES,
    max_page_bytes=8 << 20,
)


def write_evidence(miners: Sequence[MinerEvidence]) -> bytes:
    """Deterministic Parquet bytes; the verdict names their SHA-256."""
    rows = [(miner, rollout, sorted(rollout.alternatives)) for miner in miners for rollout in miner.rollouts]
    values: dict[str, Values] = {
        "hotkey": [bytes(miner.hotkey) for miner, _, _ in rows],
        "content_digest": [bytes(miner.content_digest) for miner, _, _ in rows],
        "numerics_class": [miner.numerics_class.encode() for miner, _, _ in rows],
        "layers": np.array([miner.layers for miner, _, _ in rows], np.int32),
        "hidden_size": np.array([miner.hidden_size for miner, _, _ in rows], np.int32),
        "inconclusive": np.array([miner.inconclusive for miner, _, _ in rows], np.int32),
        "g": np.array([rollout.group for _, rollout, _ in rows], np.int32),
        "r": np.array([rollout.rollout for _, rollout, _ in rows], np.int32),
        "judge_reward": np.array([rollout.grade.reward for _, rollout, _ in rows], np.float64),
        "judge_success": np.array([rollout.grade.success for _, rollout, _ in rows], np.bool_),
        "judge_stability": [rollout.grade.stability.value.encode() for _, rollout, _ in rows],
        "positions": [_bytes(rollout.positions, "<i4") for _, rollout, _ in rows],
        "z": [_bytes(rollout.z, "<f4") for _, rollout, _ in rows],
        "logprob": [_bytes(rollout.logprob, "<f4") for _, rollout, _ in rows],
        "margin": [_bytes(rollout.margin, "<f4") for _, rollout, _ in rows],
        "alternative_names": ["\n".join(names).encode() for _, _, names in rows],
        "alternatives": [b"".join(_bytes(rollout.alternatives[name], "<f4") for name in names) for _, rollout, names in rows],
        "alternative_positions": [_bytes(rollout.alternative_positions, "<i4") for _, rollout, _ in rows],
    }
    return write_parquet(COLUMNS, values, {})


def read_evidence(data: bytes) -> list[MinerEvidence]:
    """Parse evidence in this process; the order of miners and rollouts is the file's.

    Raises:
        ProtocolViolationError: the bytes are not evidence, or exceed a limit.
    """
    return evidence_of(*read_whole(memoryview(data), FORM))


def evidence_of(table: PieceTable, output: Buffer) -> list[MinerEvidence]:
    """The evidence whose pieces lie in `output`, as views of it.

    Raises:
        ProtocolViolationError: values that no evidence has.
        ValueError: the pieces do not fit together.
    """
    rows = _Rows(ColumnPieces(table, COLUMNS, output))
    try:
        return rows.miners(table.rows)
    except (ValueError, KeyError) as error:
        raise ProtocolViolationError(f"the bytes are not evidence: {error}") from error


class _Rows:
    """The columns of an evidence file, and what a row of them says."""

    def __init__(self, pieces: ColumnPieces) -> None:
        self._hotkey, self._digest = pieces.fixed("hotkey", np.uint8), pieces.fixed("content_digest", np.uint8)
        self._numbers = {name: pieces.fixed(name, np.int32) for name in ("layers", "hidden_size", "inconclusive", "g", "r")}
        self._reward = pieces.fixed("judge_reward", np.float64)
        self._success = pieces.fixed("judge_success", np.uint8)
        self._texts = {
            name: pieces.varying(name, np.uint8) for name in ("numerics_class", "judge_stability", "alternative_names")
        }
        self._floats = {name: pieces.varying(name, np.float32) for name in ("z", "logprob", "margin", "alternatives")}
        self._positions = {name: pieces.varying(name, np.int32) for name in ("positions", "alternative_positions")}

    def miners(self, rows: int) -> list[MinerEvidence]:
        found: dict[tuple[bytes, bytes], list[RolloutEvidence]] = {}
        said: dict[tuple[bytes, bytes], tuple[str, int, int, int]] = {}
        for row in range(rows):
            key = (self._hotkey[row].tobytes(), self._digest[row].tobytes())
            layers, hidden, inconclusive = (self._number(name, row) for name in ("layers", "hidden_size", "inconclusive"))
            miner = (self._text("numerics_class", row), layers, hidden, inconclusive)
            if said.setdefault(key, miner) != miner:
                raise ValueError(f"row {row} says otherwise of its miner than the rows before")
            found.setdefault(key, []).append(self._rollout(row))
        return [
            MinerEvidence(Hotkey(hotkey), Digest(digest), tuple(rollouts), *said[hotkey, digest])
            for (hotkey, digest), rollouts in found.items()
        ]

    def _number(self, name: str, row: int) -> int:
        return int(self._numbers[name][row])

    def _text(self, name: str, row: int) -> str:
        return self._texts[name][row].tobytes().decode("utf-8")

    def _rollout(self, row: int) -> RolloutEvidence:
        positions, measured = self._positions["positions"][row], self._positions["alternative_positions"][row]
        return RolloutEvidence(
            group=self._number("g", row),
            rollout=self._number("r", row),
            grade=GradeEvidence(
                float(self._reward[row]), bool(self._success[row]), GradeStability(self._text("judge_stability", row))
            ),
            positions=positions,
            z=self._floats["z"][row].reshape(-1, SKETCH_DIMENSIONS),
            logprob=self._floats["logprob"][row],
            margin=self._floats["margin"][row],
            alternatives=self._alternatives(row, positions, measured),
            alternative_positions=measured,
        )

    def _alternatives(self, row: int, positions: Positions, measured: Positions) -> dict[str, F32]:
        raw, values = self._text("alternative_names", row), self._floats["alternatives"][row]
        if not raw:
            if len(values):
                raise ValueError("alternatives without names")
            return {}
        names = raw.split("\n")
        if names != sorted(set(names)) or "" in names or len(names) > MAX_ALTERNATIVES:
            raise ValueError(f"names of alternatives that are not ascending, or more than {MAX_ALTERNATIVES}")
        if REFERENCE not in names:
            raise ValueError(f"alternatives without {REFERENCE!r}, which they are compared with")
        size = len(measured) * SKETCH_DIMENSIONS
        if len(values) != len(names) * size or not np.isin(positions, measured).all():
            raise ValueError("alternatives at other positions than the evidence says, or without the challenged ones")
        return {
            name: values[index * size : (index + 1) * size].reshape(-1, SKETCH_DIMENSIONS) for index, name in enumerate(names)
        }


def _bytes(values: npt.NDArray[np.generic], dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()
