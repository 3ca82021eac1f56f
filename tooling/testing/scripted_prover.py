"""A proof worker without a model: it says what the shipped one says, at once, and breaks where it is told to.

The first token of a group says what becomes of it (`Does`), a file in the checkpoint's folder what becomes of loading that:
`wait_while_loading`, `exit_while_loading`, `say_another_root`. Run by `grail_miner.proving.processes.ProcessProver` in place of
its own child: a real process, with the real frames, in a fraction of a second. What it does it writes into LOG in that folder,
one line each: its process id, then `loading` or `proving` and what it was told to do.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from enum import IntEnum
from pathlib import Path
from typing import Final

COMMAND: Final = (sys.executable, "-B", str(Path(__file__).resolve()))
LOG: Final = "groups.txt"


class Does(IntEnum):
    """What the worker does with a group that begins with this token."""

    ANSWER = 0
    ABORT = 1
    EXIT = 2
    SAY_NO_FRAME = 3
    SAY_LESS = 4
    ANSWER_ANOTHER_JOB = 5
    ANSWER_SOMETHING_ELSE = 6
    PROVE_WITH_OTHER_WEIGHTS = 7
    LACK_MEMORY = 8
    RAISE = 9
    ABORT_ONCE = 10  # the first worker that gets it ends, the next one answers
    WAIT = 11  # until somebody puts a file `go` beside the log, or kills it
    HAVE_NO_PROOF = 12


def main() -> None:
    sys.path[:0] = sys.argv[4:]
    from grail_core.child_process import frames as transport
    from grail_miner.proving.frames import Kind

    connection = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    forever = float("inf")
    transport.send(connection, Kind.READY, 0, transport.pack({}), forever)
    folder = Path("/")
    while True:
        try:
            asked = transport.receive(connection, forever, largest=1 << 28, kinds=Kind)
        except transport.FrameError:
            return
        if asked.kind is Kind.LOAD:
            told = transport.unpack(asked.payload)[0]
            folder = Path(told["folder"])
            _loaded(connection, asked.job, folder, told["version"])
        else:
            _proved(connection, asked.job, asked.payload, folder)


def _loaded(connection: socket.socket, job: int, folder: Path, version: str) -> None:
    from grail_core.child_process import frames as transport
    from grail_miner.proving.frames import Kind

    _note(folder, "loading")
    if (folder / "exit_while_loading").exists():
        os._exit(9)
    if (folder / "wait_while_loading").exists():
        _wait(folder)
    root = "00" * 32 if (folder / "say_another_root").exists() else None
    told = {"version": version, "root": root, "class": "bf16-sdpa-cpu-transformers"}
    transport.send(connection, Kind.LOADED, job, transport.pack(told), float("inf"))


def _proved(connection: socket.socket, job: int, payload: memoryview, folder: Path) -> None:
    from grail_core.child_process import frames as transport
    from grail_miner.proving import frames
    from grail_miner.proving.frames import Kind

    version, rows, prompts, _ = frames.asked(payload)
    does, kind, forever = Does(rows[0][0]), Kind.PROVED, float("inf")
    before = (folder / LOG).read_text() if (folder / LOG).exists() else ""
    _note(folder, f"proving {does.name}")
    match does:
        case Does.ABORT:
            os.abort()
        case Does.ABORT_ONCE if f"proving {does.name}" not in before:
            os.abort()
        case Does.EXIT:
            os._exit(7)
        case Does.WAIT:
            _wait(folder)
        case Does.SAY_NO_FRAME:
            connection.sendall(b"Traceback (most recent call last):\n" * 10)
            return
        case Does.LACK_MEMORY | Does.RAISE | Does.HAVE_NO_PROOF:
            name = {Does.LACK_MEMORY: "machine", Does.RAISE: "unforeseen", Does.HAVE_NO_PROOF: "unprovable"}[does]
            told = {"fault": name, "what": f"said as {name}", "where": "row 3", "hint": ""}
            transport.send(connection, Kind.FAULT, job, transport.pack(told), forever)
            return
        case Does.ANSWER_ANOTHER_JOB:
            job += 1
        case Does.ANSWER_SOMETHING_ELSE:
            kind = Kind.LOADED
        case Does.PROVE_WITH_OTHER_WEIGHTS:
            version = type(version)(bytes(32))
    answer: transport.Payload = [version]
    for row, prompt in zip(rows, prompts, strict=True):
        completion = len(row) - prompt
        answer += [bytes([row[-1] % 256]) * (8 * (completion + 1)), bytes(4 * completion)]
    transport.send(connection, kind, job, answer[:-1] if does is Does.SAY_LESS else answer, forever)


def _note(folder: Path, what: str) -> None:
    with (folder / LOG).open("a") as file:
        file.write(f"{os.getpid()} {what}\n")


def _wait(folder: Path) -> None:
    while not (folder / "go").exists():
        time.sleep(0.005)


if __name__ == "__main__":
    main()
