"""A public randomness beacon: rounds on a fixed schedule, each a BLS signature anybody can verify."""

from __future__ import annotations

from typing import Protocol

from grail_core.errors import BeaconError
from grail_core.protocol.beacon import BeaconChain, SignedRound


class RoundNotYetError(BeaconError):
    """The time of this round has not come."""


class Beacon(Protocol):
    """Errors: `RoundNotYetError` before its time, `BeaconError` when no relay gives a round that verifies."""

    @property
    def chain(self) -> BeaconChain: ...

    def get(self, round_: int) -> SignedRound:
        """The verified round; cached for ever, since rounds never change."""
        ...
