"""A public randomness beacon as the protocol sees it: a schedule of rounds, each a BLS signature anybody can verify."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class BeaconChain:
    """Parameters of a drand chain under the scheme bls-unchained-g1-rfc9380 (quicknet)."""

    public_key: bytes  # 96 bytes, compressed G2
    genesis_time_s: int  # Unix time of round 1
    period_s: int

    def round_at(self, time_ms: int) -> int:
        """The first round whose time is at or after `time_ms` (Unix milliseconds)."""
        genesis_ms, period_ms = self.genesis_time_s * 1000, self.period_s * 1000
        return max(1, 1 + -(-(time_ms - genesis_ms) // period_ms))

    def time_of_ms(self, round_: int) -> int:
        return (self.genesis_time_s + (round_ - 1) * self.period_s) * 1000


@dataclass(frozen=True)
class SignedRound:
    round: int
    signature: bytes  # 48 bytes, compressed G1

    @property
    def randomness(self) -> bytes:
        return hashlib.sha256(self.signature).digest()
