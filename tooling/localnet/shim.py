"""Starts one role so that it cannot outlive its supervisor, then becomes it.

`python -I -S shim.py SUPERVISOR_PID COMMAND…`: on Linux the kernel is asked to kill this process when its supervisor
dies; the supervisor's pid is compared afterwards, because it may have died before the request. The request survives the
exec that follows. Elsewhere the shim only execs: macOS has no such request, and its orphans end with their own windows.
A fork hook in the supervisor would do the same, but running Python between fork and exec is not safe with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
SUPERVISOR_IS_GONE = 125
NOT_STARTED = 127


def main(argv: list[str]) -> int:
    supervisor, command = int(argv[1]), argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            return SUPERVISOR_IS_GONE
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
