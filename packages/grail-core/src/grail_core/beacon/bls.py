"""BLS signatures of drand's four schemes over BLS12-381: who signed a round, and what is wrong where nobody did.

A network's beacon has the scheme bls-unchained-g1-rfc9380 (`is_valid`); the others are verified for whoever looks at another
chain (`fault_of`). Verification accepts one encoding per signature: points off the curve or outside the prime-order subgroup,
the identity, and non-canonical bytes are all refused, since the randomness is a hash of these bytes. BN254 is no curve of
this library: its chains are refused by name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Any

import py_arkworks_bls12381 as bls12381

DOMAIN = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_DOMAIN_G2 = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_"
SIGNATURE_BYTES = 48
PUBLIC_KEY_BYTES = 96


class Fault(Enum):
    """Why a round is none."""

    BAD_POINT = "the signature is no canonical point of the prime-order subgroup"
    BAD_KEY = "the public key is no canonical point of the prime-order subgroup"
    PAIRING_MISMATCH = "the signature does not verify"
    MISSING_PREVIOUS_SIGNATURE = "a chained round needs the signature of the round before, and has none"
    RANDOMNESS_MISMATCH = "the randomness is not the hash of the signature"
    UNEXPECTED_ROUND = "another round than the one that was asked for"


@dataclass(frozen=True)
class _Rules:
    signatures_on_g2: bool
    domain: bytes
    chained: bool


class Scheme(Enum):
    """drand's names."""

    CHAINED = "pedersen-bls-chained"
    UNCHAINED = "pedersen-bls-unchained"
    UNCHAINED_ON_G1 = "bls-unchained-on-g1"  # hashes to G1 with the tag of G2: retired for that
    RFC9380 = "bls-unchained-g1-rfc9380"

    @property
    def chained(self) -> bool:
        return _RULES[self].chained

    @property
    def signature_bytes(self) -> int:
        return 96 if _RULES[self].signatures_on_g2 else 48

    @property
    def key_bytes(self) -> int:
        return 48 if _RULES[self].signatures_on_g2 else 96


_RULES = {
    Scheme.CHAINED: _Rules(signatures_on_g2=True, domain=_DOMAIN_G2, chained=True),
    Scheme.UNCHAINED: _Rules(signatures_on_g2=True, domain=_DOMAIN_G2, chained=False),
    Scheme.UNCHAINED_ON_G1: _Rules(signatures_on_g2=False, domain=_DOMAIN_G2, chained=False),
    Scheme.RFC9380: _Rules(signatures_on_g2=False, domain=DOMAIN, chained=False),
}


def is_valid(public_key: bytes, round_: int, signature: bytes) -> bool:
    """Whether `signature` (48 bytes) is the key's (96 bytes) over this round of a network's beacon. False for anything
    malformed."""
    return fault_of(Scheme.RFC9380, public_key, round_, signature) is None


def fault_of(scheme: Scheme, public_key: bytes, round_: int, signature: bytes, previous: bytes | None = None) -> Fault | None:
    """What is wrong with a round's signature under a chain's key; None: nothing.

    Args:
        previous: the signature of the round before (round 1: the chain's group hash), which a chained scheme signs with the
            number. Other schemes do not look at it.
    """
    rules = _RULES[scheme]
    if not 0 < round_ < 2**64:
        return Fault.UNEXPECTED_ROUND
    if rules.chained and not previous:
        return Fault.MISSING_PREVIOUS_SIGNATURE
    key = _point(public_key, on_g2=not rules.signatures_on_g2)
    if key is None:
        return Fault.BAD_KEY
    point = _point(signature, on_g2=rules.signatures_on_g2)
    if point is None:
        return Fault.BAD_POINT
    message = round_message(round_, previous if rules.chained else None)
    if rules.signatures_on_g2:
        on_g2 = bls12381.G2Point.hash_to_curve(message, rules.domain)
        agrees = bls12381.GT.pairing_check([bls12381.G1Point(), -key], [point, on_g2])
    else:
        on_g1 = bls12381.G1Point.hash_to_curve(message, rules.domain)
        agrees = bls12381.GT.pairing_check([point, -on_g1], [bls12381.G2Point(), key])
    return None if agrees else Fault.PAIRING_MISMATCH


def _point(data: bytes, *, on_g2: bool) -> Any | None:
    """The point of these bytes, None unless they are its one encoding and it is not the identity."""
    group: Any = bls12381.G2Point if on_g2 else bls12381.G1Point
    size = 96 if on_g2 else 48
    if len(data) != size:
        return None
    try:
        point = group.from_compressed_bytes(data)  # checks curve and subgroup
    except ValueError:
        return None
    # The parser takes some non-canonical bytes for the identity, and an identity key signs everything.
    if point == group.identity() or bytes(point.to_compressed_bytes()) != data:
        return None
    return point


def round_message(round_: int, previous: bytes | None = None) -> bytes:
    """What a round's signature signs: of a chained scheme the signature before it too."""
    return hashlib.sha256((previous or b"") + round_.to_bytes(8, "big")).digest()
