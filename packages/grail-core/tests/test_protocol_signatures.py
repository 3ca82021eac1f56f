"""A signature holds for one key, one message, one network; anything else is False, never an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bittensor_core import Keypair
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.protocol import WindowHeader, header_digest, tagged_hash, verify

KEY = Keypair.create_from_seed(bytes(range(32)))
MESSAGE = tagged_hash(bytes(32), "grail/test")
SIGNATURE = KEY.sign(MESSAGE)


def test_the_right_key_over_the_right_message() -> None:
    assert verify(KEY.public_key, MESSAGE, SIGNATURE) is True


@given(st.integers(0, 63), st.integers(1, 255))
@settings(max_examples=40)
def test_a_changed_byte_does_not_verify(at: int, change: int) -> None:
    broken = bytearray(SIGNATURE)
    broken[at] ^= change
    assert not verify(KEY.public_key, MESSAGE, bytes(broken))


@pytest.mark.parametrize("hotkey", [b"", bytes(31), bytes(32), b"\xff" * 32, bytes(33), "5Grw", None])
def test_a_malformed_key_is_false(hotkey: Any) -> None:
    assert verify(hotkey, MESSAGE, SIGNATURE) is False


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64, "0" * 64, None])
def test_a_malformed_signature_is_false(signature: Any) -> None:
    assert verify(KEY.public_key, MESSAGE, signature) is False


def test_nobody_can_sign_for_the_unset_hotkey() -> None:
    # The all-zero key is the group's identity: (R, s) = (identity, 0) satisfies its equation for every message.
    assert not verify(bytes(32), MESSAGE, bytes(63) + b"\x80")


def test_a_header_signed_on_one_network_is_unsigned_on_another() -> None:
    vectors = json.loads((Path(__file__).resolve().parents[3] / "tests" / "vectors" / "records.json").read_text("utf-8"))
    header = WindowHeader.from_json(vectors["vectors"]["headers"][0]["header"] | {"hotkey": KEY.public_key.hex()})
    signature = KEY.sign(header_digest(bytes(32), header))
    assert verify(header.hotkey, header_digest(bytes(32), header), signature)
    assert not verify(header.hotkey, header_digest(bytes([1]) * 32, header), signature)
