"""What strangers do to files, and what a reader says to it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """The file with one to three things done to it that strangers do."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        if not out:
            break
        at, length = rng.randrange(len(out)), rng.choice([1, 4, 32])
        match rng.randrange(7):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + length] = rng.randbytes(len(out[at : at + length]))
            case 2:
                out[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), struct.pack("<f", float("nan"))])
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = rng.randbytes(length)
            case 5:
                out[at:at] = out[: rng.randrange(len(out))]
            case _:
                del out[max(1, at) :]
    return bytes(out)


def told(work: Callable[[], object]) -> str:
    """What a refusal says; nothing where there is none."""
    try:
        work()
    except ValueError as error:
        return str(error)
    return ""
