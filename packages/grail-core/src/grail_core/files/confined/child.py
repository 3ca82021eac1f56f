"""The confined child: one file in, plain buffers out, then it ends. It is started by `opening` and by nobody else.

Descriptors: 0 is the file, 1 a pipe for what the child says, and the one named in the job takes the output. It says READY when
its limits hold and before it has looked at one byte of the file; then one line of JSON. Its exit code says how it went.
It imports the standard library, zstd and this folder's reader, no NumPy and no Arrow.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import resource
import sys
from pathlib import Path
from typing import Any, NoReturn

from grail_core.files.parquet_footer import Column, FileForm, Physical
from grail_core.files.parquet_reader import Piece, PieceTable, read_pieces
from grail_core.files.parquet_thrift import RefusedParquetError

READY = b"ready\n"
DONE, REFUSED, OUT_OF_MEMORY, RAISED = 0, 3, 4, 5
"""Exit codes. Whatever else ends the child is a death."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the parent asks for. Bytes and seconds; `output` is a descriptor."""

    form: FileForm
    output: int
    max_address_space: int
    max_processor_seconds: int
    max_output_bytes: int

    def to_json(self) -> str:
        value = dataclasses.asdict(self)
        value["form"]["metadata"] = [name.decode() for name in self.form.metadata]
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str) -> Job:
        value = json.loads(text)
        form = value.pop("form")
        columns = tuple(Column(**{**one, "physical": Physical(one["physical"])}) for one in form.pop("columns"))
        metadata = tuple(name.encode() for name in form.pop("metadata"))
        codecs = tuple(form.pop("codecs"))
        return cls(FileForm(columns=columns, metadata=metadata, codecs=codecs, **form), **value)


def main() -> NoReturn:
    """Confine, say so, read, answer."""
    job = Job.from_json(sys.argv[1])
    _confine(job)
    _write(1, READY)
    try:
        code, answer = _read(job)
    except RefusedParquetError as error:
        code, answer = REFUSED, {"refused": error.what[:1000]}
    except MemoryError:
        code, answer = OUT_OF_MEMORY, {}
    except Exception as error:  # noqa: BLE001 - the parent decides what an unexpected one means
        code, answer = RAISED, {"raised": ascii(f"{type(error).__name__}: {error}")[:500]}
    answer["peak_bytes"] = _peak_bytes()
    _write(1, json.dumps(answer).encode())
    os._exit(code)


def _confine(job: Job) -> None:
    """Limits that the kernel holds. macOS does not enforce an address space: there only time and output are limited."""
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (job.max_processor_seconds, job.max_processor_seconds + 1),
        resource.RLIMIT_FSIZE: (job.max_output_bytes, job.max_output_bytes),
        resource.RLIMIT_NOFILE: (16, 16),
    }
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = (job.max_address_space, job.max_address_space)
    for kind, values in limits.items():
        resource.setrlimit(kind, values)


def _read(job: Job) -> tuple[int, dict[str, Any]]:
    size = os.fstat(0).st_size
    data = memoryview(mmap.mmap(0, size, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    table = read_pieces(data, job.form, lambda piece: _write(job.output, piece))
    return DONE, answer_of(table)


def answer_of(table: PieceTable) -> dict[str, Any]:
    return {
        "rows": table.rows,
        "metadata": {name.hex(): value.hex() for name, value in table.metadata.items()},
        "values": [[piece.start, piece.size] for piece in table.values],
        "lengths": [piece and [piece.start, piece.size] for piece in table.lengths],
    }


def table_of(answer: dict[str, Any]) -> PieceTable:
    """The parent's reading of it. Raises ValueError, TypeError, KeyError or AttributeError on anything else."""
    return PieceTable(
        rows=int(answer["rows"]),
        metadata={bytes.fromhex(name): bytes.fromhex(value) for name, value in answer["metadata"].items()},
        values=tuple(Piece(int(start), int(size)) for start, size in answer["values"]),
        lengths=tuple(Piece(int(piece[0]), int(piece[1])) if piece else None for piece in answer["lengths"]),
    )


def _write(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _peak_bytes() -> int:
    """The most memory that was resident, mapped file included; 0 where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
