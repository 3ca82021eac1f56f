"""Evidence: what a validator measured of a file's sampled rollouts, and its signed Parquet form.

One row a rollout, in the closed form that `parquet_reader` reads (nothing in it is nested): what was measured under named
alternatives are their names, one a line in ascending order, and their values, one after the other in that order.

A verdict is a pure function of files, chain and beacon inputs, and evidence; so whoever holds the evidence can compute the
verdict again without a model (`verification.examine.decide`). All values are as measured: float32, never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.parquet_columns import Buffer, ColumnPieces
from grail_core.files.parquet_footer import Column, FileForm, Physical
from grail_core.files.parquet_reader import PieceTable, read_whole
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.proof.work import YARDSTICKS, ComparedRollout, Leads, ReferenceMeasurement
from grail_core.protocol.constants import ALTERNATIVE_POSITIONS, MAX_NEW_TOKENS_PROTOCOL_CAP, SKETCH_DIMENSIONS
from grail_core.protocol.types import Digest, Hotkey

F32 = npt.NDArray[np.float32]


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

    `z` [k, 4] are the validator's unrounded sketch values at those positions; `logprob` [k] the unwarped log-probability of
    the claimed token (nats); `margin` [k] of section 4 (logits, clipped at 4). `reference` are the same positions under the
    same weights in float32, None where whoever measured has no such copy; `compared` what the named alternatives would have
    given, None where the challenge did not draw this rollout for them.
    """

    group: int
    rollout: int
    grade: GradeEvidence
    positions: npt.NDArray[np.int32]
    z: F32
    logprob: F32
    margin: F32
    reference: ReferenceMeasurement | None = None
    compared: ComparedRollout | None = None


@dataclass(frozen=True)
class MinerEvidence:
    """All sampled rollouts of one file, in the order sampled: whole groups first, then singles.

    `numerics_class` is what it was measured in (`numerics.measuring_class`); `layers` and `hidden_size` are the checkpoint
    model's, since a calibration holds for models of about the sizes it was made on.
    """

    hotkey: Hotkey
    content_digest: Digest
    rollouts: tuple[RolloutEvidence, ...]
    numerics_class: str
    layers: int
    hidden_size: int
    inconclusive: int = 0  # rollouts without a grade (replaced, or not), or without a finite reference


MAX_EVIDENCE_ROWS = 4096 * 80
"""Miners of a window, and rollouts sampled of one: 64, and what replaces inconclusive ones."""
MAX_EVIDENCE_BYTES = 512 << 20
MAX_ALTERNATIVES = 16
"""That a rollout is compared with; the yardsticks are none."""
_MAX_SKETCHED = MAX_ALTERNATIVES + len(YARDSTICKS)
_MAX_NAMES = _MAX_SKETCHED * 128
_REFERENCE = ("logprobs", "margins", "twins", "noise", "spread")
"""Numbers that the reference gives at each position, beside its sketch."""


def _numbers(name: str, most: int, width: int = 1) -> Column:
    """Up to `most` values of `width` numbers of four bytes."""
    return Column(name, Physical.BYTES, most=4 * width * most, item=4 * width)


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
    _numbers("positions", MAX_NEW_TOKENS_PROTOCOL_CAP),
    _numbers("z", MAX_NEW_TOKENS_PROTOCOL_CAP, SKETCH_DIMENSIONS),
    _numbers("logprob", MAX_NEW_TOKENS_PROTOCOL_CAP),
    _numbers("margin", MAX_NEW_TOKENS_PROTOCOL_CAP),
    _numbers("reference_z", MAX_NEW_TOKENS_PROTOCOL_CAP, SKETCH_DIMENSIONS),
    *(_numbers(f"reference_{name}", MAX_NEW_TOKENS_PROTOCOL_CAP) for name in _REFERENCE),
    _numbers("compared_positions", ALTERNATIVE_POSITIONS),
    _numbers("compared_noise", ALTERNATIVE_POSITIONS),
    _numbers("compared_spread", ALTERNATIVE_POSITIONS),
    Column("sketched_under", Physical.BYTES, most=_MAX_NAMES),
    _numbers("compared_z", _MAX_SKETCHED * ALTERNATIVE_POSITIONS, SKETCH_DIMENSIONS),
    Column("drawn_under", Physical.BYTES, most=_MAX_NAMES),
    _numbers("lead_own", MAX_ALTERNATIVES * ALTERNATIVE_POSITIONS),
    _numbers("lead_other", MAX_ALTERNATIVES * ALTERNATIVE_POSITIONS),
    _numbers("lead_rival", MAX_ALTERNATIVES * ALTERNATIVE_POSITIONS),
)
FORM = FileForm(
    columns=COLUMNS,
    metadata=(),
    max_file_bytes=MAX_EVIDENCE_BYTES,
    least_rows=0,
    max_rows=MAX_EVIDENCE_ROWS,
    max_decoded_bytes_per_row=1 << 20,  # every position of the longest answer, and sixteen alternatives
    max_decoded_bytes=2 * MAX_EVIDENCE_BYTES,
    max_page_bytes=8 << 20,
)


def write_evidence(miners: Sequence[MinerEvidence]) -> bytes:
    """Deterministic Parquet bytes; the verdict names their SHA-256."""
    rows = [(miner, rollout) for miner in miners for rollout in miner.rollouts]
    values: dict[str, Values] = {
        "hotkey": [bytes(miner.hotkey) for miner, _ in rows],
        "content_digest": [bytes(miner.content_digest) for miner, _ in rows],
        "numerics_class": [miner.numerics_class.encode() for miner, _ in rows],
        "layers": np.array([miner.layers for miner, _ in rows], np.int32),
        "hidden_size": np.array([miner.hidden_size for miner, _ in rows], np.int32),
        "inconclusive": np.array([miner.inconclusive for miner, _ in rows], np.int32),
        "g": np.array([rollout.group for _, rollout in rows], np.int32),
        "r": np.array([rollout.rollout for _, rollout in rows], np.int32),
        "judge_reward": np.array([rollout.grade.reward for _, rollout in rows], np.float64),
        "judge_success": np.array([rollout.grade.success for _, rollout in rows], np.bool_),
        "judge_stability": [rollout.grade.stability.value.encode() for _, rollout in rows],
        "positions": [_bytes(rollout.positions, "<i4") for _, rollout in rows],
        "z": [_bytes(rollout.z, "<f4") for _, rollout in rows],
        "logprob": [_bytes(rollout.logprob, "<f4") for _, rollout in rows],
        "margin": [_bytes(rollout.margin, "<f4") for _, rollout in rows],
        "reference_z": [b"" if one.reference is None else _bytes(one.reference.z, "<f4") for _, one in rows],
        **{
            f"reference_{name}": [
                b"" if one.reference is None else _bytes(getattr(one.reference, name), "<f4") for _, one in rows
            ]
            for name in _REFERENCE
        },
        **_written([one.compared for _, one in rows]),
    }
    return write_parquet(COLUMNS, values, {})


def _written(compared: Sequence[ComparedRollout | None]) -> dict[str, Values]:
    """The columns of what was compared."""
    nothing = ComparedRollout((), {}, {}, np.zeros(0, np.float32), np.zeros(0, np.float32))
    rows = [one if one is not None else nothing for one in compared]
    return {
        "compared_positions": [_bytes(np.asarray(one.positions, np.int32), "<i4") for one in rows],
        "compared_noise": [_bytes(one.noise, "<f4") for one in rows],
        "compared_spread": [_bytes(one.spread, "<f4") for one in rows],
        "sketched_under": ["\n".join(sorted(one.z)).encode() for one in rows],
        "compared_z": [b"".join(_bytes(one.z[name], "<f4") for name in sorted(one.z)) for one in rows],
        "drawn_under": ["\n".join(sorted(one.leads)).encode() for one in rows],
        "lead_own": [b"".join(_bytes(one.leads[name].own, "<f4") for name in sorted(one.leads)) for one in rows],
        "lead_other": [b"".join(_bytes(one.leads[name].other, "<f4") for name in sorted(one.leads)) for one in rows],
        "lead_rival": [b"".join(_bytes(one.leads[name].rival, "<i4") for name in sorted(one.leads)) for one in rows],
    }


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
            name: pieces.varying(name, np.uint8)
            for name in ("numerics_class", "judge_stability", "sketched_under", "drawn_under")
        }
        integers = ("positions", "compared_positions", "lead_rival")
        self._integers = {name: pieces.varying(name, np.int32) for name in integers}
        self._floats = {
            column.name: pieces.varying(column.name, np.float32)
            for column in COLUMNS
            if column.physical is Physical.BYTES and column.item > 1 and column.name not in integers
        }

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
        return RolloutEvidence(
            group=self._number("g", row),
            rollout=self._number("r", row),
            grade=GradeEvidence(
                float(self._reward[row]), bool(self._success[row]), GradeStability(self._text("judge_stability", row))
            ),
            positions=self._integers["positions"][row],
            z=self._sketches("z", row),
            logprob=self._floats["logprob"][row],
            margin=self._floats["margin"][row],
            reference=self._reference(row),
            compared=self._compared(row),
        )

    def _sketches(self, name: str, row: int) -> F32:
        return self._floats[name][row].reshape(-1, SKETCH_DIMENSIONS)

    def _reference(self, row: int) -> ReferenceMeasurement | None:
        found = ReferenceMeasurement(
            self._sketches("reference_z", row), *(self._floats[f"reference_{name}"][row] for name in _REFERENCE)
        )
        if len({len(value) for value in vars(found).values()}) != 1:
            raise ValueError("a reference at other positions for one of its numbers than for another")
        return found if len(found.z) else None

    def _compared(self, row: int) -> ComparedRollout | None:
        positions = self._integers["compared_positions"][row]
        m = len(positions)
        noise, spread = self._floats["compared_noise"][row], self._floats["compared_spread"][row]
        weights, samplings = self._names("sketched_under", row), self._names("drawn_under", row)
        z, rival = self._sketches("compared_z", row), self._integers["lead_rival"][row]
        own, other = self._floats["lead_own"][row], self._floats["lead_other"][row]
        if len(noise) != m or len(spread) != m or len(z) != len(weights) * m:
            raise ValueError("a comparison at other positions than it says")
        if not len(own) == len(other) == len(rival) == len(samplings) * m:
            raise ValueError("leads at other positions than the comparison's")
        if not m:
            if weights or samplings:
                raise ValueError("a comparison at no position")
            return None
        if weights and not YARDSTICKS.issubset(weights):
            raise ValueError(
                f"sketches of alternatives without {' and '.join(sorted(YARDSTICKS))}, which they are compared with"
            )
        return ComparedRollout(
            tuple(positions.tolist()),
            {name: z[at * m : (at + 1) * m] for at, name in enumerate(weights)},
            {
                name: Leads(own[at * m : (at + 1) * m], other[at * m : (at + 1) * m], rival[at * m : (at + 1) * m])
                for at, name in enumerate(samplings)
            },
            noise,
            spread,
        )

    def _names(self, column: str, row: int) -> list[str]:
        raw = self._text(column, row)
        names = raw.split("\n") if raw else []
        if names != sorted(set(names)) or "" in names or len(names) > _MAX_SKETCHED:
            raise ValueError(f"names of alternatives that are not ascending, or more than {MAX_ALTERNATIVES}")
        return names


def _bytes(values: npt.NDArray[np.generic], dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()
