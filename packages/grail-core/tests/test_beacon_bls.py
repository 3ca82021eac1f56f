"""Rounds verify as drand's do, and nothing else does."""

from __future__ import annotations

import py_arkworks_bls12381 as bls12381
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grail_core.beacon.bls import is_valid
from grail_core.beacon.development import DevelopmentKey
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.network import QUICKNET

# Published quicknet rounds with their randomness.
ROUND_1000 = SignedRound(
    1000,
    bytes.fromhex("b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"),
)
ROUND_123 = SignedRound(
    123,
    bytes.fromhex("b75c69d0b72a5d906e854e808ba7e2accb1542ac355ae486d591aa9d43765482e26cd02df835d3546d23c4b13e0dfc92"),
)


@pytest.mark.parametrize(
    ("signed", "randomness"),
    [
        (ROUND_1000, "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"),
        (ROUND_123, "fb8f7bc29bf24db51871ec8c79f3a1e4bd0557bc0dfcee9ed1d924e69d1c60dc"),
    ],
)
def test_published_quicknet_rounds_verify_with_their_randomness(signed: SignedRound, randomness: str) -> None:
    assert is_valid(QUICKNET.public_key, signed.round, signed.signature)
    assert signed.randomness.hex() == randomness


def test_a_round_under_another_number_or_key_does_not_verify() -> None:
    for wrong in (SignedRound(1001, ROUND_1000.signature), SignedRound(1000, ROUND_123.signature)):
        assert not is_valid(QUICKNET.public_key, wrong.round, wrong.signature)
    assert not is_valid(DevelopmentKey.from_seed(b"x").public_key, 1000, ROUND_1000.signature)


def test_points_that_only_look_like_a_signature_do_not_verify() -> None:
    identity = b"\xc0" + bytes(47)
    negated = bytes([ROUND_1000.signature[0] ^ 0x20]) + ROUND_1000.signature[1:]
    outside = bytes.fromhex("80" + "00" * 46 + "04")  # on the curve, not in the prime-order subgroup
    for signature in (identity, b"\xff" * 48, bytes(48), negated, outside, b"", ROUND_1000.signature + b"\0"):
        assert not is_valid(QUICKNET.public_key, 1000, signature)


def test_an_identity_or_malformed_key_signs_nothing() -> None:
    identity_key, identity = b"\xc0" + bytes(95), b"\xc0" + bytes(47)
    for key in (identity_key, b"\xff" * 96, bytes(96), b"", QUICKNET.public_key[:-1]):
        assert not is_valid(key, 1000, ROUND_1000.signature)
        assert not is_valid(key, 1000, identity)


@pytest.mark.parametrize("round_", [0, -1, 2**64, 2**70])
def test_rounds_out_of_range_do_not_verify(round_: int) -> None:
    assert not is_valid(QUICKNET.public_key, round_, ROUND_1000.signature)


@settings(max_examples=30)
@given(st.integers(0, 47), st.integers(1, 255))
def test_a_changed_byte_does_not_verify(index: int, change: int) -> None:
    changed = bytearray(ROUND_1000.signature)
    changed[index] ^= change
    assert not is_valid(QUICKNET.public_key, 1000, bytes(changed))


@settings(max_examples=20)
@given(st.binary(max_size=40), st.integers(1, 2**63))
def test_a_development_key_signs_what_the_same_verification_accepts(seed: bytes, round_: int) -> None:
    key = DevelopmentKey.from_seed(seed)
    signed = key.sign(round_)
    assert is_valid(key.public_key, round_, signed.signature)
    assert not is_valid(key.public_key, round_ + 1, signed.signature)
    assert DevelopmentKey.from_seed(seed).sign(round_) == signed


ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


@settings(max_examples=10)
@given(st.binary(min_size=32, max_size=32))
@example(bytes(32))
@example(b"\xff" * 32)
@example(ORDER.to_bytes(32, "big"))
@example((2 * ORDER).to_bytes(32, "big"))
def test_any_32_bytes_are_a_development_key(secret: bytes) -> None:
    key = DevelopmentKey(secret)
    assert is_valid(key.public_key, 1, key.sign(1).signature)


def test_a_key_is_reduced_modulo_the_group_order_and_one_below_it_stays_what_it_was() -> None:
    small = DevelopmentKey((7).to_bytes(32, "big"))
    assert small.public_key == bytes((bls12381.G2Point() * bls12381.Scalar(7)).to_compressed_bytes())
    assert DevelopmentKey((ORDER + 7).to_bytes(32, "big")).public_key == small.public_key
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        DevelopmentKey(bytes(31))
