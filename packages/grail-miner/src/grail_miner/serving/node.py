"""What a running node is made of; the routes and what they hand out share it."""

from __future__ import annotations

from dataclasses import dataclass

from grail_core.clock import WallClock, wall_clock_ms
from grail_miner.serving.answering import Answering
from grail_miner.serving.metering import Metering
from grail_miner.serving.receipt_store import ReceiptStore
from grail_miner.serving.repeats import Repeats
from grail_miner.serving.scheduler import Scheduler


@dataclass(frozen=True)
class Node:
    """`name`: of the model, as clients ask for it."""

    answering: Answering
    scheduler: Scheduler
    receipts: ReceiptStore
    repeats: Repeats
    metering: Metering
    name: str
    clock: WallClock = wall_clock_ms

    @property
    def now_s(self) -> int:
        return self.clock() // 1000
