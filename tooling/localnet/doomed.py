"""The shipped validator, which SIGKILLs itself at a drawn line of every other window.

`python -m tooling.localnet.doomed FOLDER SEED`: the command `grail-validator run` under a trace function that counts the lines
of its own code which run between two first sights, in all threads: those of the ledger, of judging, of files and checkpoints,
of proofs. What only waits (chain, beacon, clock) is left out, or most deaths would be in a poll. How many lines a window has is
known from the one before, so that the draw is even over the work of a window. The same seed draws the same shares; the line
itself is as reproducible as the threads' interleaving.

After some deaths, as drawn, it stays away until the next window's first sight is over, and so has to say that it missed it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import grail_core
import grail_validator
from grail_core.disk import write_atomically
from grail_core.participant.deployment import open_chain
from grail_core.participant.settings import load_settings
from grail_core.protocol import WindowTimes
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Block, Window

DEATHS, LINES = "deaths.jsonl", "lines.json"
_FIRST_GUESS = 20_000  # lines of a window, where none was counted yet
_LATEST = 0.9  # of a window's lines: one that has fewer than the one before dies all the same
_AWAY_EVERY = 4  # deaths
_CORE, _VALIDATOR = (str(Path(str(package.__file__)).parent) for package in (grail_core, grail_validator))
_ROOMS = (
    _VALIDATOR,
    *(
        f"{_CORE}/{room}"
        for room in ("checkpoints", "database.py", "disk.py", "file_cache.py", "files", "proof", "protocol", "storage")
    ),
    f"{_CORE}/verification",
)
_WAITING = {("service.py", "run"), ("first_sight.py", "run"), ("bucket_sight.py", "look")}
"""Functions of these rooms that poll: how often depends on the machine."""


@dataclass(frozen=True)
class Death:
    """One kill. `line`: which one of the window's lines, out of about `of`; `at`: file, number and function of it."""

    window: Window
    line: int
    of: int
    at: str
    away: bool

    @property
    def last_block_away(self) -> Block:
        """The last one of the next window's first sight, if it stays away; else none."""
        following = Window(self.window + WINDOW_LENGTH)
        return WindowTimes(following, LOCALNET).first_sight_end_block if self.away else Block(0)


def deaths_in(folder: Path) -> tuple[Death, ...]:
    """Those of a run so far, in their order."""
    try:
        lines = (folder / DEATHS).read_text().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(Death(**{**one, "window": Window(one["window"])}) for one in map(json.loads, lines))


def drawn(seed: int, window: Window) -> tuple[float, bool] | None:
    """The share of its lines after which this window's life ends, and whether it stays away then; None: it lives on."""
    index = window // WINDOW_LENGTH
    if index % 2 == 0:
        return None
    away = random.Random(f"{seed} away").randrange(_AWAY_EVERY)
    return _LATEST * random.Random(f"{seed} {window}").random(), (index // 2) % _AWAY_EVERY == away


class Doom:
    """Counts, and kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._struck = {death.window for death in deaths_in(folder)}
        self._window: Window | None = None
        self._lines, self._die_at, self._of = 0, -1, self._lines_of_a_window()
        self._traced: dict[CodeType, bool] = {}
        self._lock = threading.Lock()

    def install(self) -> None:
        threading.settrace(self._call)
        sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        traced = self._traced.get(code)
        if traced is None:
            traced = self._traced[code] = _is_work(code)
        if not traced:
            return None
        if code.co_name == "sight" and code.co_filename.endswith("first_sight.py"):
            self._begin(Window(frame.f_locals["window"]))
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            with self._lock:
                self._lines += 1
                if self._lines == self._die_at and self._window is not None:
                    self._die(frame, self._window)
        return self._line

    def _begin(self, window: Window) -> None:
        with self._lock:
            if self._window is not None and self._window != window:
                self._of = self._lines
                write_atomically(self._folder / LINES, json.dumps(self._lines).encode())
            share = None if window in self._struck else drawn(self._seed, window)
            self._window, self._lines = window, 0
            self._die_at = -1 if share is None else 1 + int(share[0] * self._of)

    def _die(self, frame: FrameType, window: Window) -> None:
        chosen = drawn(self._seed, window)
        place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        death = Death(window, self._lines, self._of, place, chosen is not None and chosen[1])
        descriptor = os.open(self._folder / DEATHS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, json.dumps(asdict(death)).encode() + b"\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def _lines_of_a_window(self) -> int:
        try:
            return int(json.loads((self._folder / LINES).read_bytes()))
        except FileNotFoundError:
            return _FIRST_GUESS


def _is_work(code: CodeType) -> bool:
    return code.co_filename.startswith(_ROOMS) and (Path(code.co_filename).name, code.co_name) not in _WAITING


def main(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    before = deaths_in(folder)
    if before and before[-1].away:
        chain = open_chain(load_settings())
        chain.wait_for_block(Block(before[-1].last_block_away + 1), stop=threading.Event())
    from grail_validator.cli import main as validator

    sys.argv = ["grail-validator", "run"]
    Doom(folder, seed).install()
    validator()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
