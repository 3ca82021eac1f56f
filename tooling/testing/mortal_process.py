"""A process that forks a role as often as it is asked to: what asks for lives, and what is said about how they ended.

The forking process makes a network once; each life of a role is a fork of it over a copy of that network, killed where it is
told to be. Questions and answers are lines: JSON in, the status that the life ended with out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar


class MortalProcess:
    """The forking process's handle. `root`: an empty folder for the network and its copies."""

    def __init__(self, root: Path, process: subprocess.Popen[str]) -> None:
        self._root, self._process, self._copies = root, process, 0

    def fresh(self) -> Path:
        """A copy of the network in which nobody has lived."""
        self._copies += 1
        copied = self._root / f"copy-{self._copies}"
        shutil.copytree(self._root / "network", copied)
        return copied

    def _killed(self, **asked: Any) -> bool:
        """One life; True if it was killed, False if it came to its end. What raises in it is an AssertionError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or status == 0, f"it ended with status {status} ({asked})"
        return killed


Handle = TypeVar("Handle", bound=MortalProcess)


@contextmanager
def forking(module: str, root: Path, handle: Callable[[Path, subprocess.Popen[str]], Handle]) -> Iterator[Handle]:
    """`python -m module`, once its network is made; it ends with its input."""
    (root / "network").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, str(root / "network")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said == "ready\n", f"no network could be made: {said!r}"
        yield handle(root, process)
    finally:
        process.stdin.close()
        process.wait()
