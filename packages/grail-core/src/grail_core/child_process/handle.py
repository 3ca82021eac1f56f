"""One child as its parent holds it: started, asked, listened to, ended. What its end means is its parent's to say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Generic

from grail_core.child_process import frames
from grail_core.child_process.frames import Frame, FrameError, K, Payload
from grail_core.errors import MachineFaultError
from grail_core.text import printable

_PASSED = frozenset({"PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "LC_ALL"})
_PASSED_PREFIXES = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "NUMBA_", "TORCH", "PYTORCH_", "CUDA_", "CUBLAS_", "NVIDIA_")
_MAX_SAID = 1 << 20  # bytes of what libraries print, between two jobs
_DYING_SECONDS = 10.0


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """What a child sees of this process's environment: what decides how libraries compute, and nothing that is secret."""
    passed = {name: value for name, value in own.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return passed | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def boot_command(module: str, arguments: int) -> tuple[str, ...]:
    """The command of a child whose `module` has a `main`: after it come the connection's descriptor, so many arguments and
    the folders that modules are looked for in. Isolated (-I): neither its environment nor its folder decides what is run."""
    program = f"import sys; sys.path[:0] = sys.argv[{arguments + 2}:]; from {module} import main; main()"
    return (sys.executable, "-I", "-B", "-X", "utf8", "-c", program)


def folders_of(*packages: ModuleType) -> tuple[str, ...]:
    """Where these packages are imported from."""
    return tuple(str(Path(str(package.__file__)).resolve().parent.parent) for package in packages)


class ChildHandle(Generic[K]):
    """A child in a session of its own, which lives no longer than this process and knows nothing that is secret.

    Args:
        command: what is run. arguments: told to it after the connection's descriptor, before `folders`.
        kinds: of frames. name: what it is called in errors. more: environment variables beside `child_environment`'s.

    Raises:
        MachineFaultError: this machine starts no process.
    """

    def __init__(
        self,
        command: Sequence[str],
        arguments: Sequence[str],
        *,
        folders: Sequence[str],
        kinds: type[K],
        name: str,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._kinds = kinds
        self.started = time.monotonic()
        self._jobs = 0
        try:
            self._connection, its = socket.socketpair()
            self._said: IO[bytes] = tempfile.TemporaryFile("ab+")  # noqa: SIM115 - as long as the child
        except OSError as error:
            raise MachineFaultError(f"no {name} could be started: {error.strerror}") from error
        try:
            self._process = subprocess.Popen(
                [*command, str(its.fileno()), *arguments, *folders],
                stdin=subprocess.PIPE,  # never written to: when it is closed, the child ends
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(its.fileno(),),
                env=child_environment(os.environ) | dict(more or {}),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._connection.close()
            self._said.close()
            raise MachineFaultError(f"no {name} could be started: {error.strerror}") from error
        finally:
            its.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def first_word(self, deadline: float) -> Frame[K]:
        """READY, or why it is not. Raises FrameError."""
        return frames.receive(self._connection, deadline, largest=frames.MAX_TEXT_BYTES, kinds=self._kinds)

    def ask(self, kind: K, payload: Payload, deadline: float, *, largest: int) -> Frame[K]:
        """The answer to this job, of at most `largest` bytes, by `deadline` (of the monotonic clock). Raises FrameError."""
        self._jobs += 1
        if os.fstat(self._said.fileno()).st_size > _MAX_SAID:
            self._said.truncate(0)
        frames.send(self._connection, kind, self._jobs, payload, deadline)
        frame = frames.receive(self._connection, deadline, largest=largest, kinds=self._kinds)
        if frame.job != self._jobs:
            raise FrameError(f"answered job {frame.job} when it was asked job {self._jobs}")
        return frame

    def kill(self) -> None:
        """End it, from any thread: whoever waits for its answer learns that it ended."""
        self._process.kill()

    def end(self, *, dying: bool = False) -> int | None:
        """Nothing is left of it after this. Returns its exit code where it came to its end before; `dying`: it is about to."""
        try:
            code: int | None = self._process.wait(timeout=_DYING_SECONDS if dying else 0)
        except subprocess.TimeoutExpired:
            code = None
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._said.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code

    def last_line(self) -> str:
        """The end of what it and its libraries printed, harmless."""
        self._said.seek(max(0, os.fstat(self._said.fileno()).st_size - 4_000))
        lines = [line for line in self._said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return printable(lines[-1], 300) if lines else ""
