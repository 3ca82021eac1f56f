"""One node of the simulated network: what it knows of the chain, and whether it answers at all.

A node's best block may stand or lag, its finality too; on a fork its blocks that are not final have other hashes; a node that
is no archive has thrown old state away; one that lies tells numbers of blocks that it does not have.
The errors are those that `RpcSubstrate` raises in the same case.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field

import bittensor

from grail_core.chain.development.local import LocalChain
from grail_core.protocol.types import Block
from tooling.testing.simulated_bittensor.faults import FaultFile, Faults

_FOR_EVER_S = 10**6


@dataclass
class Node:
    name: str
    chain: LocalChain
    faults_file: FaultFile
    _failed: tuple[int, int] = field(default=(-1, 0), init=False)  # serial of the file, requests that failed since
    _numbers: dict[str, int] = field(default_factory=dict, init=False)  # of hashes that were told or asked for

    @property
    def faults(self) -> Faults:
        return self.faults_file.read().of(self.name)

    async def answer(self) -> None:
        """Before every request: raises, or never comes back, where the node does not answer."""
        faults = self.faults
        if faults.silent:
            await asyncio.sleep(_FOR_EVER_S)
        if faults.unreachable:
            raise bittensor.RpcConnectionError("connection refused")
        if faults.throttled is not None:
            raise bittensor.RpcPolicyError("429 too many requests", status_code=429, retry_after=str(faults.throttled))
        serial = self.faults_file.read().serial
        failed = self._failed[1] if self._failed[0] == serial else 0
        if failed < faults.fails:
            self._failed = serial, failed + 1
            raise bittensor.RpcConnectionError("connection reset")

    def head(self) -> int:
        faults = self.faults
        best = max(0, self.chain.current_block() - faults.behind)
        return best if faults.head_at is None else min(best, faults.head_at)

    def finalised(self) -> int:
        faults = self.faults
        final = min(max(0, self.chain.finalised_block() - faults.behind), self.head())
        return final if faults.finality_at is None else min(final, faults.finality_at)

    def told_head(self) -> int:
        """The best block that it tells."""
        faults = self.faults
        return self.head() + faults.ahead if faults.says is None else faults.says

    def told_finalised(self) -> int:
        faults = self.faults
        return self.finalised() + faults.ahead if faults.finality_above is None else self.told_head() + faults.finality_above

    def hash_of(self, number: int) -> str | None:
        """None where the node has no such block."""
        faults = self.faults
        invented = faults.invents and self.head() < number <= self.told_head()
        if not invented and not 0 <= number <= self.head():
            return None
        raw = hashlib.sha256(b"invented %d" % number).digest() if invented else self.chain.block(Block(number)).hash
        if faults.other_chain or (faults.forked and number > self.finalised()):
            raw = hashlib.sha256(b"another chain" + raw).digest()
        text = "0x" + raw.hex()
        self._numbers[text] = number
        return text

    def number_of(self, block_hash: str | None) -> int:
        """The block whose state is asked for; None is the head.

        Raises:
            bittensor.ChainError: there is no such block, or its state is thrown away.
        """
        number = self.head() if block_hash is None else self._known(block_hash)
        keeps = self.faults.keeps_state
        if keeps is not None and number < self.head() - keeps:
            raise bittensor.ChainError(
                f"State discarded for {block_hash}. This indicates the block is too old, and you should instead make this "
                "request using an archive node."
            )
        return number

    def time_of(self, number: int) -> int:
        """Unix milliseconds; of a block that it invents, now."""
        return self.chain.now_ms() if number > self.chain.current_block() else self.chain.block(Block(number)).timestamp_ms

    def has_body(self, number: int) -> bool:
        keeps = self.faults.keeps_bodies
        return keeps is None or number >= self.head() - keeps

    def _known(self, block_hash: str) -> int:
        found = self._numbers.get(block_hash)
        if found is None:
            found = next((n for n in range(self.head(), -1, -1) if self.hash_of(n) == block_hash), None)
        if found is None or found > (self.told_head() if self.faults.invents else self.head()):
            raise bittensor.ChainError(f"UnknownBlock: {block_hash}")
        return found
