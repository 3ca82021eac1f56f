"""Shells that a reader of a page would have open: lines are typed one after another, and each must end well.

A terminal is a `bash` of its own in a folder, whose variables and working folder last from line to line. What a line prints
goes to a file, of which a failure shows the end. Nothing is typed to a program that asks: its input is empty.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

_LOOK_S: Final = 0.1
_TOLD: Final = 4000  # characters of a terminal's end that a failure shows


class LineFailedError(Exception):
    """A line of a page did not do what the page says: which, and the end of its terminal."""


class Terminal:
    """One shell. Args: name for messages; folder: where it begins, and its record `NAME.txt`; environment: all it inherits."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.record = folder / f"{name}.txt"
        self._lines = 0
        self._running: tuple[int, str] | None = None  # where its output begins, and the line
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self.record.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def type(self, line: str, timeout_s: float) -> None:
        """A line that ends, with 0. Raises LineFailedError: another code, no end in time, or the shell is gone."""
        begun = self._send(line)
        ended = self._waited(rf"\n<line {self._lines} ended ([0-9]+)>\n", begun, line, timeout_s)
        if ended[1] != "0":
            raise LineFailedError(self._told(f"ended with {ended[1]}", line, begun))

    def start(self, line: str, until: str, timeout_s: float) -> None:
        """A line that goes on, until it prints a text. Raises LineFailedError: it ends before, or the text does not come."""
        begun = self._send(line)
        self._running = (begun, line)
        found = self._waited(rf"{re.escape(until)}|\n<line {self._lines} ended [0-9]+>\n", begun, line, timeout_s)
        if found[0] != until:
            self._running = None
            raise LineFailedError(self._told(f"ended before {until!r}", line, begun))

    def wait_for(self, text: str, timeout_s: float) -> None:
        """Until the whole record has a text. Raises LineFailedError: it does not come in time."""
        self._waited(re.escape(text), 0, f"(waiting for {text!r})", timeout_s)

    def interrupt(self, timeout_s: float) -> None:
        """Ctrl-C to what `start` began. Raises LineFailedError: it does not end, or not with 0."""
        if self._running is not None:
            begun, line, self._running = *self._running, None
            os.killpg(self._shell.pid, signal.SIGINT)
            ended = self._waited(rf"\n<line {self._lines} ended ([0-9]+)>\n", begun, line, timeout_s)
            if ended[1] != "0":
                raise LineFailedError(self._told(f"ended with {ended[1]} on Ctrl-C", line, begun))

    def close(self) -> None:
        """End the shell and whatever it runs, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()

    def _send(self, line: str) -> int:
        self._lines += 1
        begun = self.record.stat().st_size
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{{ {line}\n}} < /dev/null; printf '\\n<line {self._lines} ended %s>\\n' $?\n".encode())
        self._shell.stdin.flush()
        return begun

    def _waited(self, pattern: str, begun: int, line: str, timeout_s: float) -> re.Match[str]:
        deadline = time.monotonic() + timeout_s
        while True:
            gone = self._shell.poll() is not None
            found = re.search(pattern, self._since(begun))
            if found is not None:
                return found
            if gone:
                raise LineFailedError(self._told("its shell is gone", line, begun))
            if time.monotonic() > deadline:
                raise LineFailedError(self._told(f"has not come to its end in {timeout_s:.0f} s", line, begun))
            time.sleep(_LOOK_S)

    def _since(self, begun: int) -> str:
        return self.record.read_bytes()[begun:].decode(errors="replace")

    def _told(self, what: str, line: str, begun: int) -> str:
        return f"{self.name}: {line}\n{what}; its last words:\n{self._since(begun)[-_TOLD:]}"
