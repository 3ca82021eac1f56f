"""How values become bytes: the tagged hash, the tagged stream, and canonical JSON.

Two values never share bytes: every part carries its length, every use its tag, and every network its id. Integers are
8 bytes big-endian two's complement, hashes and hotkeys raw bytes, never hex text.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785

from grail_core.protocol.types import Digest

_MAX_INTEGER = 2**53 - 1

Part = bytes | int | str
"""bytes as they are, int as 8 bytes big-endian two's complement, str as UTF-8."""


def encode_part(part: Part) -> bytes:
    """One part with its 4-byte big-endian length in front.

    Raises:
        OverflowError: an integer outside −2⁶³ … 2⁶⁴ − 1 (values from 2⁶³ are encoded modulo 2⁶⁴: seeds are unsigned).
    """
    if isinstance(part, bool):
        raise TypeError("a truth value has no encoding as a part; say 0 or 1")
    if isinstance(part, int):
        raw = part.to_bytes(8, "big", signed=part < 0)
    elif isinstance(part, str):
        raw = part.encode("utf-8")
    else:
        raw = bytes(part)
    return len(raw).to_bytes(4, "big") + raw


def message(network_id: bytes, tag: str, *parts: Part) -> bytes:
    """Network id, tag and parts, each with its length."""
    return b"".join(encode_part(p) for p in (network_id, tag, *parts))


def tagged_hash(network_id: bytes, tag: str, *parts: Part) -> Digest:
    """`H(tag, parts…)` of the protocol: SHA-256, 32 bytes."""
    return Digest(hashlib.sha256(message(network_id, tag, *parts)).digest())


def tagged_stream(network_id: bytes, tag: str, *parts: Part, length: int) -> bytes:
    """`PRF(tag, parts…; n)` of the protocol: the first `length` bytes of SHAKE-256."""
    return hashlib.shake_256(message(network_id, tag, *parts)).digest(length)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 without floats: sorted keys, no spaces, UTF-8; integers within ±(2⁵³ − 1).

    Raises:
        ValueError: a float, a key that is no string, an integer out of range, or a type JSON does not have.
    """
    if _is_plain(value):  # the standard library's encoder gives the same bytes, and is many times faster
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    _refuse_floats(value)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def _is_plain(value: Any) -> bool:
    """Is it made of nothing but what both encoders write alike? Keys sort alike where they are ASCII."""
    left = [value]
    while left:
        one = left.pop()
        kind = type(one)
        if kind is str or kind is bool or one is None:
            continue
        if kind is int:
            if not -_MAX_INTEGER <= one <= _MAX_INTEGER:
                return False
        elif kind is dict:
            for key in one:
                if type(key) is not str or not key.isascii():
                    return False
            left.extend(one.values())
        elif kind is list or kind is tuple:
            left.extend(one)
        else:
            return False
    return True


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise ValueError(f"canonical JSON holds no floats: {value!r} (write it as a decimal string)")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
