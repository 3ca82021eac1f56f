"""Evidence of a round of gradient work: what a validator measured of each revealed file, and its Parquet form.

One row a file, in the closed form that `parquet_reader` reads. Sequences and chunks stand in the order drawn; which they
are follows from seeds and is not said here, where nobody could be believed. Losses are integers, sketches and gradients
float32 as measured, never rounded: with files and the bodies before it a round's body is a function of these numbers
(`protocol.gradient.judging`), and whoever has them judges again without a model. Whether they can be of a file is
told by `verification.gradient.evidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.errors import ProtocolViolationError
from grail_core.files.parquet_columns import Buffer, ColumnPieces
from grail_core.files.parquet_footer import Column, FileForm, Physical
from grail_core.files.parquet_reader import PieceTable, read_whole
from grail_core.files.parquet_writer import Values, write_parquet
from grail_core.proof.round_work import PREVIOUS, Losses, MeasuredSketches, MeasuredStep, Scored
from grail_core.protocol.constants import PROOF_BATCH_SIZE, SKETCH_DIMENSIONS
from grail_core.protocol.types import Digest, Hotkey

F32 = npt.NDArray[np.float32]

MAX_ROUND_EVIDENCE_BYTES: Final = 512 << 20
MAX_ROUND_EVIDENCE_ROWS: Final = 4096
"""Miners of a round."""
MAX_LENGTH: Final = 1 << 16
"""Tokens of a sketched sequence. A spec may have longer ones; their sketches would not fit a file, and none is written."""
MAX_SEQUENCES: Final = 4096
"""Of a scored set: the most that a spec may draw."""
MAX_CHUNKS: Final = 64
MAX_CHUNK: Final = 4096
"""Elements of a drawn chunk."""
NO_STEP: Final = -1


@dataclass(frozen=True, eq=False)
class MinerMeasured:
    """Of one revealed file. What was not measured is None: proof and scores are of checked miners, the step of those whose
    coin fell.

    `numerics_class`: what the sketches were measured in. `common`, `own`: losses before and after on either set. `step`: j of
    the replay; it comes with `replayed`.
    """

    hotkey: Hotkey
    content_digest: Digest
    numerics_class: str
    sketches: MeasuredSketches | None = None
    step: int | None = None
    replayed: MeasuredStep | None = None
    common: Scored | None = None
    own: Scored | None = None


def _numbers(name: str, most: int, width: int = 1) -> Column:
    """Up to `most` values of `width` numbers of four bytes."""
    return Column(name, Physical.BYTES, most=4 * width * most, item=4 * width)


_POSITIONS: Final = PROOF_BATCH_SIZE * MAX_LENGTH
_LOSSES: Final = ("common_before", "common_after", "own_before", "own_after")
COLUMNS: Final = (
    Column("hotkey", Physical.FIXED, most=32),
    Column("content_digest", Physical.FIXED, most=32),
    Column("numerics_class", Physical.BYTES, most=128),
    Column("sketched_rows", Physical.INT32),
    _numbers("z", _POSITIONS, SKETCH_DIMENSIONS),
    _numbers("reference_z", _POSITIONS, SKETCH_DIMENSIONS),
    Column("previous", Physical.BYTES, most=64),
    _numbers("previous_z", len(PREVIOUS) * _POSITIONS, SKETCH_DIMENSIONS),
    Column("step", Physical.INT32),
    _numbers("chunk_sizes", MAX_CHUNKS),
    _numbers("theta", MAX_CHUNKS * MAX_CHUNK),
    _numbers("gradient", MAX_CHUNKS * MAX_CHUNK),
    *(_numbers(name, MAX_SEQUENCES) for name in _LOSSES),
)
FORM: Final = FileForm(
    columns=COLUMNS,
    metadata=(),
    max_file_bytes=MAX_ROUND_EVIDENCE_BYTES,
    least_rows=0,
    max_rows=MAX_ROUND_EVIDENCE_ROWS,
    max_decoded_bytes_per_row=96 << 20,  # sixteen of the longest sequences under five models, and every chunk
    max_decoded_bytes=2 * MAX_ROUND_EVIDENCE_BYTES,
    max_page_bytes=64 << 20,
)


def write_round_evidence(miners: Sequence[MinerMeasured]) -> bytes:
    """Deterministic Parquet bytes; the verdict names their SHA-256.

    Raises:
        ValueError: arrays that no reader takes: of shapes that do not fit together, or more than there is room for.
    """
    rows = [_row(one) for one in miners]
    values: dict[str, Values] = {
        "sketched_rows": np.array([0 if one.sketches is None else len(one.sketches.own) for one in miners], np.int32),
        "step": np.array([NO_STEP if one.step is None else one.step for one in miners], np.int32),
    }
    values |= {column.name: [row[column.name] for row in rows] for column in COLUMNS if column.name not in values}
    data = write_parquet(COLUMNS, values, {})
    if len(data) > MAX_ROUND_EVIDENCE_BYTES or len(rows) > MAX_ROUND_EVIDENCE_ROWS:
        raise ValueError(f"evidence of {len(rows)} files in {len(data)} bytes, at most {MAX_ROUND_EVIDENCE_BYTES} are read")
    return data


def _row(one: MinerMeasured) -> dict[str, bytes]:
    """Every column that holds bytes."""
    _require_whole(one)
    sketches, replayed = one.sketches, one.replayed
    previous = {} if sketches is None else sketches.previous
    names = [name for name in PREVIOUS if name in previous]
    if len(names) != len(previous):
        raise ValueError(f"earlier checkpoints are named {', '.join(PREVIOUS)}")
    losses = dict(zip(_LOSSES, _losses(one), strict=True))
    row = {
        "hotkey": bytes(one.hotkey),
        "content_digest": bytes(one.content_digest),
        "numerics_class": one.numerics_class.encode(),
        "z": b"" if sketches is None else _bytes(sketches.own),
        "reference_z": b"" if sketches is None or sketches.reference is None else _bytes(sketches.reference),
        "previous": "\n".join(names).encode(),
        "previous_z": b"".join(_bytes(previous[name]) for name in names),
        "chunk_sizes": b"" if replayed is None else _bytes(np.array([len(part) for part in replayed.theta], np.int32)),
        "theta": b"" if replayed is None else b"".join(map(_bytes, replayed.theta)),
        "gradient": b"" if replayed is None or replayed.gradient is None else b"".join(map(_bytes, replayed.gradient)),
        **{name: _bytes(values) for name, values in losses.items()},
    }
    for column in COLUMNS:
        if len(row.get(column.name, b"")) > column.most:
            raise ValueError(f"{column.name}: {len(row[column.name])} bytes, evidence has room for {column.most}")
    return row


def _losses(one: MinerMeasured) -> list[Losses]:
    nothing = np.zeros(0, np.int32)
    return [part for s in (one.common, one.own) for part in ((nothing, nothing) if s is None else (s.before, s.after))]


def _require_whole(one: MinerMeasured) -> None:
    """What was measured comes back as it is only where its arrays have the shapes that they must have."""
    if (one.step is None) != (one.replayed is None):
        raise ValueError("a replay has a step, and a step its replay")
    if one.sketches is not None:
        shape = one.sketches.own.shape
        others = [] if one.sketches.reference is None else [one.sketches.reference]
        if len(shape) != 3 or not all(shape) or shape[2] != SKETCH_DIMENSIONS:
            raise ValueError(f"sketches of shape {shape}")
        if any(z.shape != shape for z in (*others, *one.sketches.previous.values())):
            raise ValueError("sketches of other rows under other weights")
    if one.replayed is not None:
        sizes = [len(part) for part in one.replayed.theta]
        gradient = one.replayed.gradient
        if not sizes or not all(sizes) or (gradient is not None and [len(part) for part in gradient] != sizes):
            raise ValueError(f"a gradient at other chunks than {sizes}")
    for scored in (one.common, one.own):
        if scored is not None and (not len(scored.before) or len(scored.before) != len(scored.after)):
            raise ValueError(f"{len(scored.before)} losses before and {len(scored.after)} after")


def read_round_evidence(data: bytes) -> list[MinerMeasured]:
    """Parse evidence in this process; the order of the miners is the file's.

    Raises:
        ProtocolViolationError: the bytes are not evidence, or exceed a limit.
    """
    return round_evidence_of(*read_whole(memoryview(data), FORM))


def round_evidence_of(table: PieceTable, output: Buffer) -> list[MinerMeasured]:
    """The evidence whose pieces lie in `output`, as views of it.

    Raises:
        ProtocolViolationError: values that no evidence has.
        ValueError: the pieces do not fit together.
    """
    rows = _Rows(ColumnPieces(table, COLUMNS, output))
    try:
        found = [rows.miner(row) for row in range(table.rows)]
        if len({one.hotkey for one in found}) != len(found):
            raise ValueError("a hotkey stands twice")
    except ValueError as error:
        raise ProtocolViolationError(f"the bytes are not evidence of a round: {error}") from error
    return found


class _Rows:
    """The columns of an evidence file, and what a row of them says."""

    def __init__(self, pieces: ColumnPieces) -> None:
        self._hotkey, self._digest = pieces.fixed("hotkey", np.uint8), pieces.fixed("content_digest", np.uint8)
        self._count, self._step = pieces.fixed("sketched_rows", np.int32), pieces.fixed("step", np.int32)
        self._texts = {name: pieces.varying(name, np.uint8) for name in ("numerics_class", "previous")}
        self._integers = {name: pieces.varying(name, np.int32) for name in ("chunk_sizes", *_LOSSES)}
        floats = ("z", "reference_z", "previous_z", "theta", "gradient")
        self._floats = {name: pieces.varying(name, np.float32) for name in floats}

    def miner(self, row: int) -> MinerMeasured:
        step, replayed = int(self._step[row]), self._replayed(row)
        if step < NO_STEP or (step == NO_STEP) != (replayed is None):
            raise ValueError(f"step {step} {'without' if replayed is None else 'with'} a replay")
        return MinerMeasured(
            hotkey=Hotkey(self._hotkey[row].tobytes()),
            content_digest=Digest(self._digest[row].tobytes()),
            numerics_class=self._text("numerics_class", row),
            sketches=self._sketches(row),
            step=None if replayed is None else step,
            replayed=replayed,
            common=self._scored("common", row),
            own=self._scored("own", row),
        )

    def _text(self, name: str, row: int) -> str:
        return self._texts[name][row].tobytes().decode("ascii")

    def _sketches(self, row: int) -> MeasuredSketches | None:
        count, own = int(self._count[row]), self._floats["z"][row]
        reference, previous = self._floats["reference_z"][row], self._floats["previous_z"][row]
        names = self._text("previous", row).split("\n") if len(self._texts["previous"][row]) else []
        if names != [name for name in PREVIOUS if name in names]:
            raise ValueError(f"earlier checkpoints that are not named {', '.join(PREVIOUS)}, in this order")
        if not count:
            if len(own) or len(reference) or names or len(previous):
                raise ValueError("sketches of no row")
            return None
        if not 0 < count <= PROOF_BATCH_SIZE or not len(own) or len(own) % (count * SKETCH_DIMENSIONS):
            raise ValueError(f"{len(own)} numbers that are no sketches of {count} rows")
        if len(reference) not in (0, len(own)) or len(previous) != len(names) * len(own):
            raise ValueError("sketches of other rows under other weights")
        shape = (count, len(own) // (count * SKETCH_DIMENSIONS), SKETCH_DIMENSIONS)
        return MeasuredSketches(
            own.reshape(shape),
            reference.reshape(shape) if len(reference) else None,
            {name: previous[at * len(own) : (at + 1) * len(own)].reshape(shape) for at, name in enumerate(names)},
        )

    def _replayed(self, row: int) -> MeasuredStep | None:
        sizes = self._integers["chunk_sizes"][row]
        theta, gradient = self._floats["theta"][row], self._floats["gradient"][row]
        if (sizes < 1).any() or (sizes > MAX_CHUNK).any() or sizes.sum(dtype=np.int64) != len(theta):
            raise ValueError(f"{len(theta)} weights that are not of the chunks that it says")
        if len(gradient) not in (0, len(theta)):
            raise ValueError("a gradient at other places than its weights")
        if not len(sizes):
            return None
        ends = np.cumsum(sizes[:-1])
        return MeasuredStep(np.split(theta, ends), np.split(gradient, ends) if len(gradient) else None)

    def _scored(self, name: str, row: int) -> Scored | None:
        before, after = self._integers[f"{name}_before"][row], self._integers[f"{name}_after"][row]
        if len(before) != len(after):
            raise ValueError(f"{name}: {len(before)} losses before and {len(after)} after")
        return Scored(before, after) if len(before) else None


def _bytes(values: npt.NDArray[np.generic]) -> bytes:
    return np.ascontiguousarray(values, "<i4" if values.dtype == np.int32 else "<f4").tobytes()
