"""One evaluation in a process of its own: `grail-trainer evaluate` with this process's settings, and with the least priority.

What it takes of processors is what the trainer leaves; where memory runs out it goes first; and it ends with the trainer,
however that ends. Its samples are kept in a folder, so that one that was ended goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from grail_core.errors import GrailError
from grail_core.text import printable
from grail_trainer.evaluation_settings import EvaluationSettings

LEAST_PRIORITY: Final = 19
_MOST_SAID: Final = 1 << 16
"""Bytes that are read of what it printed: the figures of one environment are below 4 KiB."""
_NOT_PASSED: Final = ("TORCHELASTIC_", "ROLE_", "GROUP_", "MASTER_")
_SECRET: Final = re.compile(r"^BT_PW_|PASSWORD|SECRET|TOKEN|API_KEY|MNEMONIC|PRIVATE", re.IGNORECASE)
_READ: Final = "R2_READ_SECRET_ACCESS_KEY"  # committed on chain, for everybody
_WRITE: Final = {"R2_WRITE_ACCESS_KEY_ID": "R2_READ_ACCESS_KEY_ID", "R2_WRITE_SECRET_ACCESS_KEY": _READ}
_NOT_PASSED_NAMES: Final = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"})


class EvaluationFailedError(GrailError):
    """The child ended without figures."""


class EvaluationChild:
    """Started when made.

    Args:
        checkpoint: as `--checkpoint` takes it. keep: folder for the graded samples.

    Raises:
        EvaluationFailedError: this machine starts no process.
    """

    def __init__(self, checkpoint: str, settings: EvaluationSettings, keep: Path) -> None:
        asked = {"checkpoint": checkpoint, "problems": settings.evaluate_problems, "samples": settings.evaluate_samples}
        options = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
        program = [sys.executable, "-P", "-m", "grail_trainer.evaluating.program", "evaluate", "--json", "--keep", str(keep)]
        try:
            self._printed, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                [*program, *options],
                stdin=subprocess.PIPE,  # never written to: when it is closed, the child ends
                stdout=self._printed,
                stderr=self._said,
                env=child_environment(os.environ, settings.evaluate_device),
                start_new_session=True,  # a terminal's Ctrl-C is the trainer's to heed
            )
        except OSError as error:
            raise EvaluationFailedError(f"no process could be started: {error.strerror}") from error
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, LEAST_PRIORITY)

    @property
    def pid(self) -> int:
        return self._process.pid

    def figures(self) -> dict[str, Any]:
        """What it came to, as `Evaluation.to_json`; waits for its end.

        Raises:
            EvaluationFailedError: it ended otherwise; with what it said.
        """
        code = self._process.wait()
        with self._printed, self._said:
            printed, said = _lines(self._printed), _lines(self._said)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if code != 0:
            raise EvaluationFailedError(f"it ended with {_how(code)}{_told(said)}")
        try:
            value: dict[str, Any] = dict(json.loads(printed[-1]))
        except (IndexError, ValueError, TypeError) as error:
            raise EvaluationFailedError("it printed no figures") from error
        if not {"env_id", "success", "success_error"} <= value.keys():
            raise EvaluationFailedError("what it printed is no evaluation")
        return value

    def kill(self) -> None:
        """From any thread: whoever waits for its figures learns that it ended."""
        self._process.kill()


def child_environment(own: Mapping[str, str], device: str) -> dict[str, str]:
    """This process's settings without anybody's secrets and without its rank. An evaluation reads buckets and writes none:
    where the key that writes is in the environment, it is given the one that reads in its place."""
    passed = {
        name: value
        for name, value in own.items()
        if name not in _NOT_PASSED_NAMES and not name.startswith(_NOT_PASSED) and (name == _READ or not _SECRET.search(name))
    }
    reading = {write: own.get(read, "") for write, read in _WRITE.items() if write in own}
    return passed | reading | {"GRAIL_DEVICE": device, "HF_HUB_OFFLINE": "1"}


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_SAID))
    return [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _how(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {-code}"


def _told(said: list[str]) -> str:
    """The error that a command of ours prints last with --json, or the last line of whatever else."""
    if not said:
        return ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(said[-1])
        return f": {error['what']}" + (f" ({error['where']})" if error["where"] else "")
    return f": {printable(said[-1], 300)}"
