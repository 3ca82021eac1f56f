"""What a parent and a process that times kernels say to each other."""

from __future__ import annotations

from enum import IntEnum

from grail_core.child_process.faults import ErrorNames
from grail_core.errors import MachineFaultError


class Kind(IntEnum):
    READY = 1
    FAULT = 2
    KERNELS = 3
    REFERENCE = 4
    DONE = 5


ERRORS: ErrorNames = {"machine": MachineFaultError}
MAX_ANSWER_BYTES = 64 << 20
