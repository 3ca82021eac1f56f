"""Limits, usage and metrics of a node, told of the same requests: whoever holds to the limits is counted by the other two."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grail_core.clock import WallClock, wall_clock_ms
from grail_miner.serving.clients import Client
from grail_miner.serving.limits import Ended, Limits
from grail_miner.serving.metrics import Metrics
from grail_miner.serving.usage import Usage


@dataclass(frozen=True)
class Metering:
    """`limits` tells `usage` and `metrics` of every request that it refuses and of every lease that ends."""

    limits: Limits
    usage: Usage
    metrics: Metrics


def metering_at(path: Path, *, clock: WallClock = wall_clock_ms, monotonic: Callable[[], float] = time.monotonic) -> Metering:
    """Of one node.

    Args:
        path: the file of usage.

    Raises:
        DamagedStateError, StorageError, ConfigurationError: the file cannot be used.
    """
    usage, metrics = Usage(path, clock=clock), Metrics()

    def ended(one: Ended) -> None:
        metrics.finished(
            client=one.client.name,
            route=one.route,
            outcome=one.outcome,
            prompt_tokens=one.prompt_tokens,
            completion_tokens=one.completion_tokens,
            seconds=one.seconds,
        )
        usage.add(one.client.name, prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens)

    def refused(client: Client, route: str) -> None:
        metrics.refused(client=client.name, route=route)
        usage.refuse(client.name)

    return Metering(Limits(monotonic, ended=ended, refused=refused), usage, metrics)
