"""A model process without a model: it says what the shipped one says, at once, and breaks where it is told to.

A row's sampling seed says what becomes of its batch (`Does`). Run by `grail_validator.model_process.ModelProcess` in place of
its own child: a real process, with the real frames, in a fraction of a second.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from enum import IntEnum
from pathlib import Path
from typing import Final

COMMAND: Final = (sys.executable, "-B", str(Path(__file__).resolve()))
WEIGHTS: Final = ("previous-1", "int8")
SAMPLED: Final = ("temperature x 0.9",)
HIDDEN_SIZE: Final = 8
FACTS: Final = {
    "numerics_class": "bf16-sdpa-cpu-transformers",
    "layers": 1,
    "hidden_size": HIDDEN_SIZE,
    "vocabulary_size": 64,
    "context_length": 64,
}


class Does(IntEnum):
    """What the child does with a batch whose first row has this sampling seed."""

    ANSWER = 0
    ABORT = 1
    EXIT = 2
    HANG = 3
    SAY_NO_FRAME = 4
    SAY_LESS = 5
    SAY_MORE_THAN_THERE_IS = 6
    ANSWER_ANOTHER_JOB = 7
    ANSWER_SOMETHING_ELSE = 8
    GIVE_NO_MARGINS = 9
    MEASURE_MORE_AT_ONCE_THAN_ASKED = 10
    RAISE = 11
    LACK_MEMORY = 12
    MEASURE_ONE_BY_ONE = 13  # no fault: memory held no more
    GIVE_NO_REFERENCE_MARGINS = 14
    LACK_A_FINITE_REFERENCE = 15  # no fault: it says nothing of the rollout


def main() -> None:
    sys.path[:0] = sys.argv[4:]
    from grail_validator import model_frames as frames
    from grail_validator.model_frames import Kind

    connection = socket.socket(fileno=int(sys.argv[1]))
    forever = float("inf")
    told: dict[str, object]
    if sys.argv[2] == "no such device":
        told = {"fault": "configuration", "what": "no such device", "where": "GRAIL_DEVICE", "hint": "cpu"}
        frames.send(connection, Kind.FAULT, 0, frames.pack(told), forever)
        return
    frames.send(connection, Kind.READY, 0, frames.pack({}), forever)
    while True:
        try:
            asked = frames.receive(connection, forever, largest=1 << 28)
        except frames.FrameError:
            return
        if asked.kind is Kind.LOAD:
            told = {"facts": FACTS, "weights": WEIGHTS, "sampled": SAMPLED, "missing": {}}
            frames.send(connection, Kind.LOADED, asked.job, frames.pack(told), forever)
        elif asked.kind is Kind.HOLD:
            frames.send(connection, Kind.HELD, asked.job, frames.pack({}), forever)
        elif asked.kind is Kind.COMPARE:
            _compared(connection, asked)
        else:
            _measured(connection, asked)


def _measured(connection: socket.socket, asked: object) -> None:
    import numpy as np
    import numpy.typing as npt

    from grail_core.proof.work import MeasuredBatch, ReferenceMeasurement, RolloutMeasurement
    from grail_validator import model_frames as frames
    from grail_validator.model_frames import Frame, Kind

    assert isinstance(asked, Frame)
    forever, kind, job = float("inf"), Kind.MEASURED, asked.job
    about = frames.asked_about(asked.payload)
    rows, reference = about.rows, about.reference
    does = Does(rows[0].sampling_seed)
    match does:
        case Does.ABORT:
            os.abort()
        case Does.EXIT:
            os._exit(7)
        case Does.HANG:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Does.SAY_NO_FRAME:
            connection.sendall(b"Traceback (most recent call last):\n" * 10)
            return
        case Does.SAY_MORE_THAN_THERE_IS:
            connection.sendall(frames.HEAD.pack(frames.MAGIC, kind, job, 1 << 40))
            return
        case Does.RAISE:
            told = {"fault": "unforeseen", "what": "ZeroDivisionError", "where": "", "hint": "Traceback …"}
            frames.send(connection, Kind.FAULT, job, frames.pack(told), forever)
            return
        case Does.LACK_MEMORY:
            told = {"fault": "machine", "what": "this machine ran out of memory, twice", "where": "", "hint": ""}
            frames.send(connection, Kind.FAULT, job, frames.pack(told), forever)
            return
        case Does.ANSWER_ANOTHER_JOB:
            job += 1
        case Does.ANSWER_SOMETHING_ELSE:
            kind = Kind.COMPARED
    counts = [len(row.positions) for row in rows]
    parts = {Does.MEASURE_MORE_AT_ONCE_THAN_ASKED: 17, Does.MEASURE_ONE_BY_ONE: 1}.get(does)
    margin = -1.0 if does is Does.GIVE_NO_MARGINS else 0.25
    twin = {Does.GIVE_NO_REFERENCE_MARGINS: -1.0, Does.LACK_A_FINITE_REFERENCE: float("nan")}.get(does, 0.0)

    def numbers(count: int, value: float) -> npt.NDArray[np.float32]:
        return np.full(count, value, np.float32)

    measured = MeasuredBatch(
        [
            RolloutMeasurement(
                tuple(row.positions),
                np.full((count, 4), len(row.tokens), np.float32),
                numbers(count, -0.5),
                np.full(count, margin),
                ReferenceMeasurement(
                    np.full((count, 4), len(row.tokens) + 0.5, np.float32),
                    *(numbers(count, value) for value in (-0.25, 0.125, twin, 0.01, 0.75)),
                )
                if reference
                else None,
            )
            for row, count in zip(rows, counts, strict=True)
        ],
        parts,
    )
    answer = frames.answer_measured(measured, reference=reference)
    frames.send(connection, kind, job, answer[:-1] if does is Does.SAY_LESS else answer, forever)


def _compared(connection: socket.socket, asked: object) -> None:
    """The first row under the reference and its first alternative, the second of which has no number there; the others not."""
    import numpy as np

    from grail_core.proof.work import ComparedRollout, Leads
    from grail_validator import model_frames as frames
    from grail_validator.compare_frames import AlternativeNames, answer_compared
    from grail_validator.model_frames import Frame, Kind

    assert isinstance(asked, Frame)
    rows = frames.asked_about(asked.payload).rows
    found = []
    for at, row in enumerate(rows):
        count = len(row.positions)
        own, other = (np.full(count, value, np.float32) for value in (0.5, -0.5))
        leads = Leads(own, other, np.full(count, 7, np.int32))
        said = {"current": 0.5, "own": 0.51, "previous-1": 0.75}
        z = {name: np.full((count, 4), value, np.float32) for name, value in said.items()}
        told = {"previous-1": leads, SAMPLED[0]: leads}
        noise = np.zeros(count, np.float32) if at else own
        found.append(ComparedRollout(tuple(row.positions), {} if at else z, {} if at else told, noise, noise))
    payload = answer_compared(found, rows, AlternativeNames.told(WEIGHTS, SAMPLED))
    frames.send(connection, Kind.COMPARED, asked.job, payload, float("inf"))


if __name__ == "__main__":
    main()
