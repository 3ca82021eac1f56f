"""What is fixed for the life of a development chain, and the hashes and times of all its blocks that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grail_core.chain.development.state import ChainRules
from grail_core.protocol.encoding import message


@dataclass(frozen=True)
class LocalChainParameters:
    """What `create` fixes for the life of the chain."""

    netuid: int
    seed: str
    block_time_ms: int
    genesis_time_ms: int
    finality_lag: int  # blocks between the best and the finalised block
    rules: ChainRules

    @property
    def genesis_hash(self) -> bytes:
        """From seed and netuid only, not from time: the same network again has the same id."""
        return hashlib.sha256(message(b"", "grail/local-chain/genesis", self.seed, self.netuid)).digest()

    def block_hash(self, number: int) -> bytes:
        """SHA-256 over genesis hash, number and entropy of the seed; block 0 is the genesis block."""
        if number == 0:
            return self.genesis_hash
        entropy = hashlib.sha256(message(b"", "grail/local-chain/entropy", self.seed, number)).digest()
        return hashlib.sha256(message(self.genesis_hash, "grail/local-chain/block", number, entropy)).digest()

    def time_of_ms(self, number: int) -> int:
        return self.genesis_time_ms + number * self.block_time_ms

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LocalChainParameters:
        """From the fields as `dataclasses.asdict` gives them. Raises TypeError, ValueError or KeyError for any others."""
        return cls(**{**fields, "rules": ChainRules(**fields["rules"])})
