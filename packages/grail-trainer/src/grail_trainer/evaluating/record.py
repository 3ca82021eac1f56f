"""`evaluations.jsonl` in the trainer's state folder: one line for each checkpoint that was evaluated, in the order they were.

A line is there whole or not at all, whatever instruction the trainer dies at: what a write left without its end is cut off by
the next reader. A checkpoint that has its line gets no second one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grail_core.disk import storage_errors, sync_folder, write_all
from grail_core.errors import DamagedStateError
from grail_core.protocol.manifest import CheckpointManifest

FILE: Final = "evaluations.jsonl"


@dataclass(frozen=True)
class EvaluationRecord:
    """`checkpoint`: the manifest's digest, hex. `window`: the last one learned from. `figures`: as `Evaluation.to_json`."""

    checkpoint: str
    sequence: int
    window: int
    valid_from: int
    seconds: float
    figures: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: CheckpointManifest, figures: Mapping[str, Any], seconds: float) -> EvaluationRecord:
        return cls(
            manifest.digest.hex(), manifest.sequence, manifest.window, manifest.valid_from, round(seconds, 3), dict(figures)
        )

    def to_json(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "figures"}
        return own | dict(self.figures)


class EvaluationFile:
    """The file as its one writer holds it: the trainer, whose state folder is locked.

    Raises:
        DamagedStateError: a line of it is none of ours.
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checkpoints: set[str] = set()
        self.newest: int | None = None  # number of the newest checkpoint that has a line
        with storage_errors(path):
            raw = path.read_bytes() if path.exists() else b""
        self._size = raw.rfind(b"\n") + 1  # what comes behind is a write that was cut off
        for number, line in enumerate(raw[: self._size].splitlines(), 1):
            self._take(line, number)

    def add(self, record: EvaluationRecord) -> bool:
        """On the disk when this returns. False: the checkpoint has its line already."""
        if record.checkpoint in self._checkpoints:
            return False
        line = json.dumps(record.to_json()).encode() + b"\n"
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, self._size)
                os.lseek(descriptor, self._size, os.SEEK_SET)
                write_all(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self._path.parent)
        self._size += len(line)
        self._note(record.checkpoint, record.sequence)
        return True

    def _take(self, line: bytes, number: int) -> None:
        try:
            value = json.loads(line)
            self._note(str(value["checkpoint"]), int(value["sequence"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedStateError(
                "a line of the evaluations is none of ours",
                where=f"{self._path}, line {number}",
                hint="remove that line, or move the file away: a new one is begun, and nothing else is lost",
            ) from error

    def _note(self, checkpoint: str, sequence: int) -> None:
        self._checkpoints.add(checkpoint)
        self.newest = sequence if self.newest is None else max(self.newest, sequence)
