"""Readings to W&B, by way of a child process: nothing of wandb is in the role, which waits for none of it.

What the child does not take in time is dropped and counted: QUEUE points wait at most. At the end of a role the child gets
CLOSE_S seconds and is then killed with all that it has started. The key goes to it over a pipe.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from grail_core.errors import ConfigurationError
from grail_core.telemetry.logs import get_logger
from grail_core.telemetry.metrics.following import Reading

log = get_logger(__name__)

QUEUE: Final = 1_000
CLOSE_S: Final = 5.0
_KILLED_S: Final = 2.0
_MODULE: Final = "grail_core.telemetry.metrics.wandb_child"
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_KEPT_TOO: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_MAX_ANSWER: Final = 4_096


@dataclass(frozen=True)
class WandbRun:
    """What a run is. `folder`: where wandb writes; `config`: what is told of the role."""

    role: str
    project: str
    entity: str
    mode: str  # online, offline
    folder: Path
    key: str = field(default="", repr=False)
    config: Mapping[str, str | int] = field(default_factory=dict)


class WandbSink:
    """`dropped`: points that nobody took.

    Raises:
        ConfigurationError: wandb is not installed, or its process cannot be started.
    """

    name = "wandb"

    def __init__(self, run: WandbRun) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigurationError(
                "wandb is not installed", where="GRAIL_MONITORING_BACKEND", hint="pip install grail-core[wandb]"
            )
        self.dropped, self._closing = 0, False
        self._totals: dict[str, float] = {}
        self._points: queue.Queue[bytes | None] = queue.Queue(QUEUE)
        about = {
            "role": run.role,
            "project": run.project,
            "entity": run.entity,
            "mode": run.mode,
            "folder": str(run.folder),
            "key": run.key,
            "config": dict(run.config),
        }
        self._key = run.key
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            self._child = _started(run.folder)
        except OSError as error:
            raise ConfigurationError(f"wandb's process cannot be started: {error.strerror}", where=str(run.folder)) from None
        self._points.put_nowait(_line(about))
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._writer = threading.Thread(target=self._write, args=(self._child.stdin,), name="wandb", daemon=True)
        self._writer.start()
        threading.Thread(target=self._hear, args=(self._child.stdout,), name="wandb-answers", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def take(self, readings: Sequence[Reading]) -> None:
        point: dict[str, float] = {}
        for one in readings:
            for labels, value in one.values.items():
                key = "/".join((one.metric.name, *labels))
                if one.metric.kind == "counter":
                    value = self._totals[key] = self._totals.get(key, 0.0) + value
                point[key] = value
        try:
            self._points.put_nowait(_line(point))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        self._closing, until = True, time.monotonic() + CLOSE_S
        with contextlib.suppress(queue.Full):
            self._points.put_nowait(None)
        try:
            self._child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.event("monitoring_left", backend=self.name, reason=f"it did not end within {CLOSE_S:.0f} s")
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, and all of it with it
            os.killpg(self._child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a disk that hangs does not end even then
            self._child.wait(_KILLED_S)
        if self.dropped:
            log.event("monitoring_dropped", backend=self.name, points=self.dropped)

    def _write(self, pipe: IO[bytes]) -> None:
        try:
            with pipe:
                while (point := self._points.get()) is not None:
                    pipe.write(point)
                    pipe.flush()
        except OSError:
            pass  # the child has ended: `_hear` says so

    def _hear(self, pipe: IO[bytes]) -> None:
        """What the process says of itself: that it began, or why not; its end is the pipe's."""
        answer = _answer(pipe)
        if "began" in answer:
            log.event("monitoring_began", backend=self.name, run=str(answer["began"]), folder=str(answer.get("folder", "")))
            answer = _answer(pipe)
        if not self._closing:
            why = str(answer.get("failed", "its process ended"))
            why = why.replace(self._key, "***") if self._key else why
            log.event("monitoring_unavailable", level=logging.WARNING, backend=self.name, reason=why)


def _answer(pipe: IO[bytes]) -> dict[str, Any]:
    try:
        answer = json.loads(pipe.readline(_MAX_ANSWER) or b"{}")
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _started(folder: Path) -> subprocess.Popen[bytes]:
    """A fresh interpreter in a session of its own: Ctrl-C is the role's, and whatever wandb starts ends with the session."""
    kept = {name: value for name, value in os.environ.items() if _goes_along(name)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=folder,
        start_new_session=True,
    )


def _goes_along(name: str) -> bool:
    """No setting of the role: keys of buckets and wallets stay here."""
    return name.upper() in (*_KEPT, *_KEPT_TOO) or (name.startswith("WANDB_") and name != "WANDB_API_KEY")
