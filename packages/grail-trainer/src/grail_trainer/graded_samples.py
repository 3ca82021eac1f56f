"""The graded samples of an evaluation, kept in a file as they come, so that one that was interrupted is gone on with.

JSON lines: a head that says what was asked of which weights, then one line a sample. Samples are drawn in blocks of a fixed
size, since a generator's last digits may depend on what it decodes together; only whole blocks are gone on from, so that the
figures are those of an evaluation that was not interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.disk import storage_errors
from grail_core.errors import ConfigurationError

FORMAT = 1


@dataclass(frozen=True)
class GradedSample:
    """`index` counts requests: sample s of problem p is p × samples + s. `concluded`: the grader came to a result."""

    index: int
    success: bool
    well_formed: bool
    reward: float
    tokens: int
    text: str
    concluded: bool = True


class SampleFile:
    """One file; `samples` are what an earlier evaluation left in whole blocks, in order of `index`.

    Args:
        asked: what has to be the same for its samples to be these: canonical-JSON values.
        block: requests drawn together.

    Raises:
        ConfigurationError: the file is of another evaluation, or none of ours.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], *, block: int) -> None:
        self._path = path
        head = {"format": FORMAT, "block": block} | dict(asked)
        with storage_errors(path):
            raw = path.read_bytes() if path.exists() else b""
        lines = raw.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # a write that was cut off
        if lines:
            self._require_same(lines[0], head)
        rows = self._rows(lines[1:])
        self.samples = rows[: len(rows) // block * block]
        whole = b"".join(lines[: 1 + len(self.samples)]) or json.dumps(head).encode() + b"\n"
        with storage_errors(path), path.open("r+b" if path.exists() else "wb") as file:
            file.write(whole)
            file.truncate()

    def add(self, samples: Sequence[GradedSample]) -> None:
        """A block, on the disk when this returns."""
        lines = "".join(json.dumps(dataclasses.asdict(sample)) + "\n" for sample in samples)
        with storage_errors(self._path), self._path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def _require_same(self, line: bytes, head: Mapping[str, Any]) -> None:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._unusable("it begins with no head of ours") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise self._unusable("it begins with no head of ours")
        for name, value in head.items():
            if found.get(name) != value:
                raise self._unusable(f"its samples are of {name} {found.get(name)!r:.100}, these would be of {value!r:.100}")

    def _rows(self, lines: Sequence[bytes]) -> list[GradedSample]:
        rows: list[GradedSample] = []
        for line in lines:
            try:
                row = GradedSample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise self._unusable(f"line {len(rows) + 2} is no sample") from error
            if row.index != len(rows):
                raise self._unusable(f"line {len(rows) + 2} is sample {row.index}, not {len(rows)}")
            rows.append(row)
        return rows

    def _unusable(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"this file cannot be gone on with: {why}", where=str(self._path), hint="name another file, or remove this one"
        )
