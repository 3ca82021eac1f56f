"""The host's end of the socket to a grading process: one frame there, one frame back, with a deadline and a bound on size."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

MAX_REPLY: Final = 32 * 2**20


def converse(channel: socket.socket, message: Mapping[str, Any], deadline: float) -> Any:
    """Send a job and return the reply; None where the process ended without a whole one.

    Raises:
        TimeoutError: not by `deadline` (a time of `time.monotonic`).
    """
    raw = json.dumps(message).encode("ascii")
    channel.settimeout(max(0.01, deadline - time.monotonic()))
    try:
        channel.sendall(struct.pack(">I", len(raw)) + raw)
        reply = _until_closed(channel, deadline)
    except (BrokenPipeError, ConnectionResetError):
        return None
    if len(reply) < 4 or len(reply) != 4 + struct.unpack(">I", reply[:4])[0]:
        return None
    try:
        return json.loads(reply[4:])
    except (ValueError, RecursionError):
        return None


def _until_closed(channel: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= MAX_REPLY:
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        part = channel.recv(1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
