"""Errors that a person can act on.

Every error of the project says what happened, where, and what to try next, and carries the exit code of the command
that ends with it. The codes are public interface (docs/operations.md lists them); libraries raise, only a command line exits.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from grail_core.text import printable, printable_lines

MAX_TEXT = 8_000
"""Characters of each of an error's texts."""


class GrailError(Exception):
    """Base of all errors the project raises on purpose.

    Args:
        what: what happened, one sentence.
        where: the file, key, hotkey, URL or setting concerned ("" if there is none).
        hint: the next thing to try ("" if there is none).

    Strangers' text is in many of them: what an error holds is fit to be printed (`grail_core.text`).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = printable_lines(what, MAX_TEXT)
        self.where = printable(where, MAX_TEXT)
        self.hint = printable_lines(hint, MAX_TEXT)
        super().__init__(self.what)

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f"\n  where: {self.where}"
        if self.hint:
            text += f"\n  try:   {self.hint}"
        return text


class ConfigurationError(GrailError):
    """A setting is missing, malformed or contradicts another."""

    exit_code = 3


class DamagedStateError(ConfigurationError):
    """A file of `GRAIL_STATE_DIR` does not hold what was written to it: only its owner can say what shall become of it."""


class UpgradeRequiredError(ConfigurationError):
    """The network runs a later version of the protocol than this software knows: no window of it can be begun here."""


class NotRegisteredError(GrailError):
    """The hotkey has no UID on this subnet."""

    exit_code = 4


class StorageError(GrailError):
    """A bucket or object cannot be read or written."""

    exit_code = 5


class CheckpointError(GrailError):
    """A checkpoint or model cannot be read, does not verify, or does not fit."""

    exit_code = 6


class MissingObjectError(CheckpointError):
    """The store does not give an object that a manifest names. It was there when the manifest was put, so it may be again."""


class EnvironmentUnavailableError(GrailError):
    """No such environment, or its data set is not there."""

    exit_code = 7


class ChainError(GrailError):
    """The chain cannot be reached, or refused an extrinsic."""

    exit_code = 8


class BeaconError(GrailError):
    """A beacon round cannot be had, or does not verify."""

    exit_code = 9


class DiskFullError(StorageError):
    """No space is left on a device that we write to."""

    exit_code = 10


class ProtocolViolationError(GrailError):
    """An input or a configuration contradicts the protocol."""

    exit_code = 11


class ReceiptRejectedError(GrailError):
    """A check of a receipt says that its node lied, or ran something else."""

    exit_code = 13


class ReceiptUnprovenError(GrailError):
    """A receipt does not show what was ordered or required, and no fraud either."""

    exit_code = 14


class ReceiptInconclusiveError(GrailError):
    """Not all of a receipt could be checked here; nothing is said against it."""

    exit_code = 15


class MachineFaultError(GrailError):
    """This machine could not compute what was asked (memory, a device); nothing is said of whoever asked."""


class OutOfTimeError(MachineFaultError):
    """What was asked takes longer than there was time for it."""


class EngineError(MachineFaultError):
    """An inference server cannot be started, does not answer, or answers what it was not asked: what it drew is not used."""

    exit_code = 16


class AlarmStopError(GrailError):
    """An alarm that was set to end the training did, and waits for a person."""

    exit_code = 17


class OutOfMemoryError(GrailError):
    """This machine had no memory left, on the processor or on the device."""

    exit_code = 20


class UnforeseenError(GrailError):
    """An error that nobody expected: a mistake of ours, whose traceback was put aside."""

    exit_code = 19


def is_out_of_memory(error: BaseException) -> bool:
    """Does it say that memory, of this machine or of its device, or threads to run in are used up? Libraries use words."""
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "not enough memory", "out of memory", "can't start new thread")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
