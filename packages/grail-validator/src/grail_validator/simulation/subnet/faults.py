"""What goes wrong, where and when: a pure function of a seed, so that a run is replayed by its number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from grail_core.protocol.constants import WINDOW_LENGTH


class Fault(Enum):
    """Kinds of them, as `--faults` names them."""

    RPC = "rpc"  # a validator's chain node refuses a call, or stands still behind a live connection
    LAG = "lag"  # a miner's store shows a reader what was put into it only later
    SKEW = "skew"  # stores' clocks, and miners' and validators' own, are off
    RESTART = "restart"  # a validator's process ends at a write of its ledger, before or after it
    PARTITION = "partition"  # a validator reaches neither chain nor stores
    REORG = "reorg"  # the best blocks are replaced before they are final
    STALL = "stall"  # blocks are not finalised, rounds not published
    MACHINE = "machine"  # a validator lacks memory, or a worker, for a file
    RECYCLE = "recycle"  # a UID changes hands


FINALITY = 3
"""Blocks behind the best one that are not final; no fork is longer."""
_EPOCH = 10 * WINDOW_LENGTH  # blocks in which each validator is partitioned, and its node stands still, at most once
_LONGEST = 90  # blocks
_KILLS = 0.004  # of the writes of a ledger


@dataclass(frozen=True)
class Faults:
    """Of one run. From block `until` on nothing goes wrong, so that it is seen whether everybody finds back."""

    seed: int
    kinds: frozenset[Fault]
    until: int

    @classmethod
    def named(cls, seed: int, names: Iterable[str], until: int) -> Faults:
        """Raises ValueError for a name that no kind has."""
        return cls(seed, frozenset(Fault(name) for name in names), until)

    def chance(self, *place: object) -> float:
        """A number in [0, 1) that belongs to this seed and place."""
        word = hashlib.sha256(repr((self.seed, *place)).encode()).digest()
        return int.from_bytes(word[:8], "big") / 2**64

    def _on(self, kind: Fault, block: int) -> bool:
        return kind in self.kinds and block < self.until

    # --- of a validator -------------------------------------------------------------------------------------------------

    def refuses(self, validator: int, block: int, call: str) -> bool:
        """Does its chain node refuse this call?"""
        return self._on(Fault.RPC, block) and self.chance("refuses", validator, block, call) < 0.04

    def says_and_does_nothing(self, validator: int, block: int) -> bool:
        """Does it answer that weights were set, while they were not?"""
        return self._on(Fault.RPC, block) and self.chance("nothing", validator, block) < 0.1

    def head_stands_since(self, validator: int, block: int) -> int:
        """The block at which its node shows the chain's head: `block`, or an earlier one where it stands still."""
        start, end = self._interval("stands", validator, block, 40)
        return start if self._on(Fault.RPC, block) and start <= block < end else block

    def partitioned(self, validator: int, block: int) -> bool:
        start, end = self._interval("partition", validator, block, _LONGEST)
        return self._on(Fault.PARTITION, block) and start <= block < end

    def _interval(self, what: str, validator: int, block: int, longest: int) -> tuple[int, int]:
        epoch = block // _EPOCH
        if self.chance(what, validator, epoch) >= 0.35:
            return block, block
        length = 1 + int(self.chance(what, "length", validator, epoch) * longest)
        start = epoch * _EPOCH + int(self.chance(what, "start", validator, epoch) * (_EPOCH - length))
        return start, start + length

    def killed(self, validator: int, write: int, block: int) -> str | None:
        """How its process ends at its n-th write: before it, after it, or not."""
        if not self._on(Fault.RESTART, block) or self.chance("killed", validator, write) >= _KILLS:
            return None
        return "before" if self.chance("side", validator, write) < 0.5 else "after"

    def down_for(self, validator: int, write: int) -> int:
        """Blocks until it is started again."""
        share = self.chance("down", validator, write)
        return 1 + int(share**4 * 3 * WINDOW_LENGTH)

    def machine_fails(self, validator: int, window: int, uid: int) -> bool:
        return self._on(Fault.MACHINE, window) and self.chance("machine", validator, window, uid) < 0.004

    def late_by(self, validator: int, block: int) -> int:
        """Blocks by which its own clock makes it late to look at the chain."""
        if not self._on(Fault.SKEW, block):
            return 0
        return int(self.chance("clock", validator, block // _EPOCH) * 3)

    # --- of a miner and its store ---------------------------------------------------------------------------------------

    def lag(self, reader: int, uid: int, window: int) -> int:
        """Milliseconds until this reader sees what this miner's store took in this window."""
        if not self._on(Fault.LAG, window) or self.chance("lag", reader, uid, window) >= 0.01:
            return 0
        return int(self.chance("how long", reader, uid, window) * 12_000)

    def store_clock_off(self, uid: int, window: int) -> int:
        """Milliseconds by which the store's time is ahead."""
        if not self._on(Fault.SKEW, window) or self.chance("skewed", uid, window // _EPOCH) >= 0.1:
            return 0
        return int((2 * self.chance("skew", uid, window // _EPOCH) - 1) * 4_000)

    # --- of everybody ---------------------------------------------------------------------------------------------------

    def fork(self, block: int) -> int:
        """Blocks, from this one on, that are replaced before they are final; 0: none."""
        if not self._on(Fault.REORG, block) or self.chance("fork", block) >= 0.05:
            return 0
        return 1 + int(self.chance("depth", block) * FINALITY)

    def stalled_since(self, block: int) -> int:
        """The block since which nothing is finalised; `block` where all is well."""
        start, end = self._interval("stall", -1, block, 2 * _LONGEST)
        return start if self._on(Fault.STALL, block) and start <= block < end else block

    def rounds_end(self, block: int) -> bool:
        """Does the beacon publish nothing now?"""
        start, end = self._interval("beacon", -1, block, 2 * _LONGEST)
        return self._on(Fault.STALL, block) and start <= block < end

    def owner(self, uid: int, block: int) -> int:
        """How many times this UID has changed hands by then."""
        if Fault.RECYCLE not in self.kinds:
            return 0
        return sum(
            self.chance("recycled", uid, epoch) < 0.1 and self._recycled_at(uid, epoch) <= block
            for epoch in range(1, min(block, self.until) // _EPOCH + 1)
        )

    def _recycled_at(self, uid: int, epoch: int) -> int:
        return epoch * _EPOCH + int(self.chance("when", uid, epoch) * _EPOCH)
