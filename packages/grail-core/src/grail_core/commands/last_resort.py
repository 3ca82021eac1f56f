"""What becomes of an error that nobody caught: one message with an exit code, and its traceback put aside, never shown.

Memory that is used up and a device that refuses are faults of this machine and are said as such. What is left is a mistake of
ours; its traceback goes to the log file, or else to a file that only this user can read: it may tell what a message must not.
"""

from __future__ import annotations

import select
import sys
import threading
import traceback
from pathlib import Path

from grail_core.disk import disk_full, is_of_the_device, storage_error
from grail_core.errors import GrailError, OutOfMemoryError, UnforeseenError, is_out_of_memory
from grail_core.telemetry import record_traceback

_ended_threads: list[GrailError] = []
_NO_SPACE = "no space left on device"


def as_error(error: BaseException) -> GrailError:
    """The error of ours that an exception amounts to; its traceback is recorded where it is none already."""
    if isinstance(error, GrailError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            "no memory is left for this role",
            where=_place(error),
            hint="use a machine or device with more memory, or a smaller batch; what was recorded is kept: start again",
        )
    if isinstance(error, OSError) and (error.filename is not None or is_of_the_device(error)):
        record_traceback(error, only_to_log=True)
        return storage_error(error, str(error.filename or _place(error)))
    if _NO_SPACE in str(error).lower():  # of a library that has errors of its own (safetensors, SQLite)
        record_traceback(error, only_to_log=True)
        return disk_full(_place(error))
    kept = record_traceback(error)
    return UnforeseenError(
        f"the program met an error that it does not know: {type(error).__name__}",
        where=_place(error),
        hint=f"report it with the traceback in {kept}; what was recorded is kept: start again",
    )


def error_of_a_thread(error: GrailError) -> GrailError:
    """What is to be said in place of `error`: where a thread ended before and was the cause, its own error."""
    return _ended_threads[0] if type(error) is GrailError and _ended_threads else error


def was_said(error: GrailError) -> bool:
    return error in _ended_threads


def watch_threads() -> None:
    """A thread that ends with an error says so in one message too; `error_of_a_thread` then knows it."""

    def ended(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
            return
        error = as_error(arguments.exc_value)
        _ended_threads.append(error)
        name = arguments.thread.name if arguments.thread is not None else "a thread"
        print(f"error: {name}: {error}", file=sys.stderr, flush=True)

    _ended_threads.clear()  # of a command that this process ran before
    threading.excepthook = ended


def reader_is_gone() -> bool:
    """Does nobody read what this process prints any more (`| head`)?"""
    for stream in (sys.stdout, sys.stderr):
        try:
            look = select.poll()
            look.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in look.poll(0)):
                return True
        except (OSError, ValueError, AttributeError):
            continue
    return False


def _place(error: BaseException) -> str:
    """The last line of the traceback that is ours, or else its last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(part.startswith("grail_") for part in Path(frame.filename).parts)] or list(frames)
    if not ours:
        return ""
    return f"{'/'.join(Path(ours[-1].filename).parts[-2:])}, line {ours[-1].lineno}"
