"""Foreign files are opened by a child process with limits, one process a file.

What a child cannot do: use more address space, processor time or output than its limits, see the environment or descriptors
of this process, or outlive its file. What comes back is plain numbers in memory that only this process still holds, each length
checked here again. Whose fault an end without an answer is:

    the file's       refused by the reader (at once); or three children, the last two alone, died, raised or overran a limit
    the machine's    no memory free, no process to be had, no processor time given, SIGKILL that nobody here sent, a child that
                     did not come as far as looking at the file, bytes of a file on disk that could not be read (SIGBUS)

A file's fault is the error of its kind and means a reject; the machine's is `ConfinementError` and means inconclusive. macOS
does not hold a process to an address space (`LIMITS_MEMORY`): there the reader's own bounds are all there is.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TypeVar

import zstandard

import grail_core
from grail_core.child_process.memory import available_bytes
from grail_core.errors import GrailError, ProtocolViolationError
from grail_core.files import evidence, gradient_evidence, window_file
from grail_core.files.confined.child import DONE, OUT_OF_MEMORY, RAISED, READY, REFUSED, Job, table_of
from grail_core.files.evidence import MinerEvidence
from grail_core.files.gradient_evidence import MinerMeasured
from grail_core.files.parquet_columns import Buffer
from grail_core.files.parquet_footer import FileForm
from grail_core.files.parquet_reader import PieceTable
from grail_core.files.window_file import WindowFile, WindowFileError

ATTEMPTS = 3
LIMITS_MEMORY = sys.platform == "linux"
MAX_ANSWER_BYTES = 1 << 20
BASE_ADDRESS_SPACE = 96 << 20
"""Beside the file and its pages. An interpreter with zstd takes 19 MiB of address space."""
BASE_PROCESSOR_SECONDS = 4
BYTES_PER_PROCESSOR_SECOND = 400 << 20
"""Of the file and of what it may decode to. The limit, 4 s and more, is over four times what the largest honest file takes
(0.41 to 0.53 s on two cores of 2023 that do other work too; `test_confined_opening` measures it): a processor may be that much
slower."""
WALL_SECONDS_PER_PROCESSOR_SECOND = 20

_BOOT = "import sys; sys.path += sys.argv[2:]; from grail_core.files.confined.child import main; main()"
_FOLDERS = [str(Path(module.__file__).resolve().parent.parent) for module in (grail_core, zstandard) if module.__file__]
_SEALABLE = getattr(os, "MFD_CLOEXEC", 0) | getattr(os, "MFD_ALLOW_SEALING", 0)
_SENT_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

T = TypeVar("T")


class ConfinementError(GrailError):
    """This machine could not open a file: our fault, not the file's."""


@dataclass(frozen=True)
class Spent:
    """How one child ended and what it took. `peak_bytes` is 0 where the child did not get to say it; what it had written by
    then lies in memory beside it."""

    outcome: str  # done, refused, or why there is no answer
    processor_seconds: float
    wall_seconds: float
    peak_bytes: int
    output_bytes: int = 0


@dataclass(frozen=True)
class _Ended:
    """A child without an answer."""

    why: str
    machine: bool


@dataclass(frozen=True)
class _Answer:
    table: PieceTable
    output: Buffer


class Confined:
    """Opens foreign files, at most `children` at a time. Safe to use from several threads; close it, or use it in `with`.

    Args:
        children: processes at a time; a file that ended its child is tried again with no other beside it.
        observe: told of every child, from the thread that waited for it.
    """

    def __init__(self, children: int = 1, observe: Callable[[Spent], None] | None = None) -> None:
        self._most = children
        self._observe = observe
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        """State of this process; what a fork copied belongs to the parent."""
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._running: dict[object, int] = {}  # memory reserved by each
        self._alone = False
        self._children: set[subprocess.Popen[bytes]] = set()

    def open_file(self, data: bytes, rows: int | None) -> WindowFile:
        """`open_window_file` as the checks call it (`verification.window_file.OpenFile`)."""
        return self.open_window_file(data, rows=rows)

    def open_window_file(self, data: bytes | Path, *, rows: int | None = None) -> WindowFile:
        """A window file as `read_window_file` gives it.

        Args:
            data: the bytes, or a file of our own that nobody changes meanwhile (not copied: cheaper for large ones).
            rows: how many rows its seal declares; others are refused, and less memory has to be free.

        Raises:
            WindowFileError: the file's fault.
            ConfinementError: the machine's.
        """
        try:
            return self._open(data, window_file.form_of(rows), window_file.window_file_of)
        except WindowFileError:
            raise
        except ProtocolViolationError as error:
            raise WindowFileError(error.what, hint=error.hint) from error

    def open_evidence(self, data: bytes | Path) -> list[MinerEvidence]:
        """Evidence as `read_evidence` gives it. Raises ProtocolViolationError (the file's fault) or ConfinementError."""
        return self._open(data, evidence.FORM, evidence.evidence_of)

    def open_round_evidence(self, data: bytes | Path) -> list[MinerMeasured]:
        """Evidence of a round of gradient work as `read_round_evidence` gives it. Errors: as `open_evidence`."""
        return self._open(data, gradient_evidence.FORM, gradient_evidence.round_evidence_of)

    def close(self) -> None:
        """End every child. Who waits for one gets a ConfinementError; so does everybody afterwards."""
        with self._changed:
            self._closed = True
            for child in self._children:
                child.kill()
            self._changed.notify_all()

    def __enter__(self) -> Confined:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, data: bytes | Path, form: FileForm, make: Callable[[PieceTable, Buffer], T]) -> T:
        if os.getpid() != self._process:
            self._forget()
        where = str(data) if isinstance(data, Path) else ""
        ends: list[_Ended] = []
        with _input(data, form) as (source, size):
            decoded = min(form.max_decoded_bytes, form.max_rows * form.max_decoded_bytes_per_row)
            job = Job(
                form=form,
                output=-1,
                max_address_space=BASE_ADDRESS_SPACE + size + 3 * form.max_page_bytes,
                max_processor_seconds=BASE_PROCESSOR_SECONDS + (size + decoded) // BYTES_PER_PROCESSOR_SECOND,
                max_output_bytes=decoded + (1 << 20),
            )
            need = BASE_ADDRESS_SPACE + 3 * form.max_page_bytes + decoded
            for attempt in range(ATTEMPTS):
                with self._place(need, alone=attempt > 0):
                    answer = self._attempt(source, job)
                if isinstance(answer, _Answer):
                    try:
                        return make(answer.table, answer.output)
                    except ValueError as error:  # buffers that do not fit together: not what our reader gives
                        answer = _Ended(f"gave buffers that are none: {error}", machine=False)
                ends.append(answer)
        reasons = "; ".join(dict.fromkeys(end.why for end in ends))
        if any(end.machine for end in ends):
            raise ConfinementError(
                f"this machine could not open the file: its reader {reasons}",
                where=where,
                hint="look for memory and processor time; the file is judged again when there is some",
            )
        raise ProtocolViolationError(
            f"opening the file ended its reader {ATTEMPTS} times, alone and with memory free: it {reasons}",
            hint="write the file with the released writer",
        )

    @contextmanager
    def _place(self, need: int, *, alone: bool) -> Iterator[None]:
        """Room for one more child, or the only one, with its memory free."""
        ticket = object()
        with self._changed:
            while True:
                if self._closed:
                    raise ConfinementError("no more files are opened: this process is ending")
                free = available_bytes()
                enough = free is None or free >= need + sum(self._running.values())
                if not self._running and not self._alone:
                    if not enough:
                        raise ConfinementError(
                            f"a file needs {need >> 20} MiB to be opened, {(free or 0) >> 20} MiB are free",
                            hint="give this machine more memory, or stop what else runs on it",
                        )
                    break
                if enough and not alone and not self._alone and len(self._running) < self._most:
                    break
                self._changed.wait()
            self._running[ticket] = need
            self._alone = alone
        try:
            yield
        finally:
            with self._changed:
                del self._running[ticket]
                self._alone = False
                self._changed.notify_all()

    def _attempt(self, source: int, job: Job) -> _Answer | _Ended:
        """One child, from start to end.

        Raises:
            WindowFileError, ProtocolViolationError: the reader refused the file.
        """
        with _memory_file("grail-output") as output:
            job = Job(**{**vars(job), "output": output})
            try:
                child = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, job.to_json(), *_FOLDERS],
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(output,),
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                return _Ended(f"could not be started ({error.strerror})", machine=True)
            started = time.monotonic()
            with self._changed:
                self._children.add(child)
                if self._closed:
                    child.kill()
            said, overrun, code, processor = b"", "", 0, 0.0
            try:
                said, overrun = _listen(child, started + WALL_SECONDS_PER_PROCESSOR_SECOND * job.max_processor_seconds)
            finally:
                code, processor = _reap(child)
                with self._changed:
                    self._children.discard(child)
            answer = self._judge(said, overrun, code, processor, job)
            if self._observe:
                outcome = answer.why if isinstance(answer, _Ended) else "refused" if isinstance(answer, str) else "done"
                peak = _parse(said).get("peak_bytes", 0)
                wall = time.monotonic() - started
                written = os.fstat(output).st_size
                self._observe(Spent(outcome, processor, wall, peak if isinstance(peak, int) else 0, written))
            if isinstance(answer, str):
                raise ProtocolViolationError(answer)
            if isinstance(answer, _Ended):
                return answer
            try:
                return _Answer(answer, _mapped(output, job.max_output_bytes))
            except (OSError, ValueError) as error:
                return _Ended(f"gave output that cannot be had: {error}", machine=isinstance(error, OSError))

    def _judge(self, said: bytes, overrun: str, code: int, processor: float, job: Job) -> PieceTable | str | _Ended:
        """The table, the text of a refusal, or whose fault it is that there is neither."""
        if self._closed:
            raise ConfinementError("the file was not opened: this process is ending")
        if not said.startswith(READY):
            return _Ended(f"ended with code {code} before it had looked at the file", machine=True)
        if overrun == "time":
            starved = processor < job.max_processor_seconds / 2
            return _Ended(f"had {processor:.1f} s of processor time when its time was over", machine=starved)
        if overrun:
            return _Ended(f"said more than {MAX_ANSWER_BYTES} bytes", machine=False)
        if code in (DONE, REFUSED):
            answer = _parse(said)
            try:
                return _printable(answer["refused"]) if code == REFUSED else table_of(answer)
            except (ValueError, TypeError, KeyError, AttributeError, IndexError):
                return _Ended("gave an answer that is none", machine=False)
        if code == OUT_OF_MEMORY:
            return _Ended(f"needed more than {job.max_address_space} bytes of address space", machine=False)
        if code == RAISED:
            return _Ended(f"raised {_printable(_parse(said).get('raised', '?'))}", machine=False)
        if code == -signal.SIGXCPU or processor >= job.max_processor_seconds:
            return _Ended(f"needed more than {job.max_processor_seconds} s of processor time", machine=False)
        if code == -signal.SIGBUS:
            return _Ended("could not read bytes of the file (SIGBUS)", machine=True)
        if -code in _SENT_FROM_OUTSIDE:
            return _Ended(f"was ended by signal {-code}, which nobody here sent, with no limit reached", machine=True)
        return _Ended(f"died with {f'signal {-code}' if code < 0 else f'code {code}'}", machine=False)


def _listen(child: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, str]:
    """All that a child says until it ends, and which of its limits it overran meanwhile ("" none, "time", "answer")."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    said = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return bytes(said), "time"
            part = os.read(descriptor, 1 << 16)
            if not part:
                return bytes(said), ""
            said += part
            if len(said) > MAX_ANSWER_BYTES:
                return bytes(said), "answer"


def _reap(child: subprocess.Popen[bytes]) -> tuple[int, float]:
    """End the child, if it has not ended by itself, and take its exit code and processor seconds. No zombie stays."""
    try:
        os.kill(child.pid, signal.SIGKILL)  # changes nothing for one that is ending: its code stands already
        _, status, usage = os.wait4(child.pid, 0)
    except (ChildProcessError, ProcessLookupError):
        child.returncode = 255  # somebody else in this process took it
        return 255, 0.0
    finally:
        if child.stdout is not None:
            child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_utime + usage.ru_stime


@contextmanager
def _input(data: bytes | Path, form: FileForm) -> Iterator[tuple[int, int]]:
    """A descriptor of the file to be opened, and its size; of bytes a copy that cannot be changed any more."""
    if isinstance(data, Path):
        try:
            descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfinementError(f"the file cannot be read: {error.strerror}", where=str(data)) from error
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise ConfinementError("this is no file", where=str(data))
            _require_size(info.st_size, form)
            yield descriptor, info.st_size
        finally:
            os.close(descriptor)
        return
    _require_size(len(data), form)
    with _memory_file("grail-input") as descriptor:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view[: 1 << 26]) :]
        except OSError as error:
            raise ConfinementError(f"no room for a copy of the file: {error.strerror}") from error
        _seal(descriptor)
        yield descriptor, len(data)


def _require_size(size: int, form: FileForm) -> None:
    if size > form.max_file_bytes:
        raise ProtocolViolationError(f"the file has {size} bytes, the limit is {form.max_file_bytes}")


@contextmanager
def _memory_file(name: str) -> Iterator[int]:
    """A file without a name, in memory where the system has that."""
    try:
        descriptor = os.memfd_create(name, _SEALABLE) if sys.platform == "linux" else _unnamed_file()
    except OSError as error:
        raise ConfinementError(f"no room for what comes out of a file: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _seal(descriptor: int) -> None:
    """Nobody can change a file in memory any more, not the child that has it as its standard input either."""
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _mapped(descriptor: int, most: int) -> Buffer:
    """The output as memory. Its writer is dead and nobody else has the file, so it cannot shrink under a reader."""
    size = os.fstat(descriptor).st_size
    if size > most:
        raise ValueError(f"{size} bytes, at most {most} were allowed")
    return mmap(descriptor, size, access=ACCESS_READ) if size else b""


def _parse(said: bytes) -> dict[str, object]:
    try:
        value = json.loads(said.removeprefix(READY))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _printable(text: object) -> str:
    """A child's words, harmless whatever it was made to say."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:1000])
