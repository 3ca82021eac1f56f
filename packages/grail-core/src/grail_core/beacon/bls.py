"""BLS signatures of the scheme bls-unchained-g1-rfc9380: signature on G1, key on G2, no chaining.

The message of a round is the SHA-256 of its number as 8 bytes big-endian. Verification accepts one encoding per signature:
points off the curve or outside the prime-order subgroup, the identity, and non-canonical bytes are all refused, since the
randomness is a hash of these bytes.
"""

from __future__ import annotations

import hashlib

import py_arkworks_bls12381 as bls12381

DOMAIN = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
SIGNATURE_BYTES = 48
PUBLIC_KEY_BYTES = 96


def is_valid(public_key: bytes, round_: int, signature: bytes) -> bool:
    """Whether `signature` (48 bytes) is the key's (96 bytes) over this round. False for anything malformed."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES or not 0 < round_ < 2**64:
        return False
    try:
        point = bls12381.G1Point.from_compressed_bytes(signature)  # checks curve and subgroup
        key = bls12381.G2Point.from_compressed_bytes(public_key)
    except ValueError:
        return False
    # The parser takes some non-canonical bytes for the identity, and an identity key signs everything.
    if point == bls12381.G1Point.identity() or bytes(point.to_compressed_bytes()) != signature:
        return False
    if key == bls12381.G2Point.identity() or bytes(key.to_compressed_bytes()) != public_key:
        return False
    hashed = bls12381.G1Point.hash_to_curve(round_message(round_), DOMAIN)
    return bool(bls12381.GT.pairing_check([point, -hashed], [bls12381.G2Point(), key]))


def round_message(round_: int) -> bytes:
    """What a round's signature signs."""
    return hashlib.sha256(round_.to_bytes(8, "big")).digest()
