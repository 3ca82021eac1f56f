"""The network of `tooling.testing.network` with its miners and validators, for tests of several roles together.

What a test does to it (mine, tamper, judge) is the test's own business. It imports two roles: the tests of a package use
`network`, and of `mining` and `validating` the one that is their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grail_core.protocol.types import Window
from grail_miner.mining import Mining
from grail_validator.service import ValidatorService
from tooling.testing.mining import mine, mining_of
from tooling.testing.models.tiny_qwen2 import save_byte_model as make_model
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.validating import validator_of

__all__ = ["FIRST_WINDOW", "SmallNetwork", "make_model"]


class SmallNetwork(Network):
    """A `Network` whose miners mine and whose validators judge."""

    def mining(self, name: str, factory: type[Mining] = Mining) -> Mining:
        return mining_of(self, name, factory)

    def validator(self, name: str, **handles: Any) -> ValidatorService:
        return validator_of(self, name, **handles)

    def mine(self, mining: Mining, window: Window, groups: Sequence[int]) -> bytes:
        """The window file of these groups, not uploaded."""
        return mine(self, mining, window, groups)
