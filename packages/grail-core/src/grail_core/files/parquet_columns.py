"""Between our strict Parquet reader and NumPy: the output's pieces as arrays, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from grail_core.files.parquet_footer import Column
from grail_core.files.parquet_reader import Piece, PieceTable

Buffer = bytes | bytearray | memoryview | mmap
Number = TypeVar("Number", np.int32, np.float32, np.float64, np.uint8)


@dataclass(frozen=True)
class BinaryColumn(Generic[Number]):
    """Variable-length values of one column: `values[offsets[i]:offsets[i + 1]]` is row i."""

    values: npt.NDArray[Number]
    offsets: npt.NDArray[np.int64]

    def __getitem__(self, index: int) -> npt.NDArray[Number]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


class ColumnPieces:
    """The columns of a table as views of the reader's output, every length compared with what it must be.

    The output may come from another process; what does not fit together is a ValueError. The numbers are little-endian, as
    those of every machine this runs on.
    """

    def __init__(self, table: PieceTable, columns: Sequence[Column], output: Buffer) -> None:
        if not len(table.values) == len(table.lengths) == len(columns):
            raise ValueError(f"{len(table.values)} columns were read, not {len(columns)}")
        self._rows = table.rows
        self._size = len(output)
        self._output = output
        self._columns = {
            column.name: (column, values, lengths)
            for column, values, lengths in zip(columns, table.values, table.lengths, strict=True)
        }

    def fixed(self, name: str, dtype: type[Number]) -> npt.NDArray[Number]:
        """[rows] of a column of fixed width, or [rows, width] where `dtype` is a byte and a value is several."""
        column, values, _ = self._columns[name]
        array = self._view(values, dtype)
        if values.size != self._rows * column.width:
            raise ValueError(f"column {name}: {values.size} bytes for {self._rows} rows")
        return array if column.width == np.dtype(dtype).itemsize else array.reshape(self._rows, column.width)

    def varying(self, name: str, dtype: type[Number]) -> BinaryColumn[Number]:
        column, values, lengths = self._columns[name]
        if lengths is None or lengths.size != 4 * self._rows:
            raise ValueError(f"column {name}: not one length a row")
        sizes = np.frombuffer(self._output, "<u4", self._rows, self._inside(lengths)).astype(np.int64)
        item = np.dtype(dtype).itemsize
        offsets = np.zeros(self._rows + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        if offsets[-1] != values.size or (self._rows and (sizes.max() > column.most or (sizes % item).any())):
            raise ValueError(f"column {name}: lengths that its values do not have")
        return BinaryColumn(self._view(values, dtype), offsets // item)

    def _view(self, piece: Piece, dtype: type[Number]) -> npt.NDArray[Number]:
        item = np.dtype(dtype).itemsize
        if piece.size % item:
            raise ValueError(f"{piece.size} bytes are no multiple of {item}")
        if not piece.size:
            return np.empty(0, dtype)
        return np.frombuffer(self._output, dtype, piece.size // item, self._inside(piece))

    def _inside(self, piece: Piece) -> int:
        if piece.start < 0 or piece.size < 0 or piece.start + piece.size > self._size:
            raise ValueError(f"a piece of {piece.size} bytes at {piece.start} in {self._size}")
        return piece.start
