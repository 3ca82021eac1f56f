"""What watches a role: the sinks that its operator named, opened, fed and closed. None of them keeps a role from starting.

A back-end that cannot be opened (a port that is taken, a package that is not installed) is told in `monitoring_unavailable`,
and the role runs without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from grail_core.errors import ConfigurationError
from grail_core.telemetry.logs import get_logger
from grail_core.telemetry.metrics.following import Follower, Sink, followed
from grail_core.telemetry.metrics.metric import Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from grail_core.telemetry.metrics.wandb import WandbRun

Registry: TypeAlias = "CollectorRegistry | None"
log = get_logger(__name__)

Backend = Literal["wandb", "prometheus", "null"]
BACKENDS: Final[tuple[Backend, ...]] = ("wandb", "prometheus", "null")
PORTS: Final = {"miner": 9461, "validator": 9462, "trainer": 9463, "node": 9465}
"""Where each role's endpoint is, unless its operator says otherwise. 9464 is the validator's page's."""


@dataclass(frozen=True)
class Monitoring:
    """What an operator wants. `wandb` is what its run is, where it is among the back-ends."""

    backends: tuple[Backend, ...]
    address: str
    port: int
    wandb: WandbRun | None = None

    @property
    def wanted(self) -> bool:
        return any(backend != "null" for backend in self.backends)


@contextmanager
def monitored(wanted: Monitoring, table: Sequence[Metric], registry: Registry = None) -> Iterator[Follower]:
    """While the block lasts, what the role logs reaches the back-ends.

    Args:
        registry: collectors that the role keeps itself, whose page the endpoint shows too.
    """
    with ExitStack() as open_sinks:
        sinks: list[Sink] = []
        for backend in dict.fromkeys(wanted.backends):
            try:
                sink = _OPEN[backend](wanted, table, registry, open_sinks)
            except (ConfigurationError, ImportError) as error:
                told = error.what if isinstance(error, ConfigurationError) else f"{error.name} is not installed"
                hint = error.hint if isinstance(error, ConfigurationError) else f"pip install grail-core[{_EXTRA[backend]}]"
                log.event("monitoring_unavailable", level=logging.WARNING, backend=backend, reason=told, hint=hint)
                continue
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a library of theirs, the role starts
                told = f"{type(error).__name__}: {error}"[:300]
                log.event("monitoring_unavailable", level=logging.WARNING, backend=backend, reason=told, hint="report it")
                continue
            sinks += [sink] if sink is not None else []
        follower = Follower(table, sinks)
        with followed(follower):
            yield follower
        for name, times in follower.failed.items():
            log.event("monitoring_failed", level=logging.WARNING, backend=name, times=times)


def _prometheus(wanted: Monitoring, table: Sequence[Metric], registry: Registry, open_sinks: ExitStack) -> Sink:
    from grail_core.telemetry.metrics.endpoint import Endpoint
    from grail_core.telemetry.metrics.prometheus import CONTENT_TYPE, PrometheusSink

    sink = PrometheusSink(table, registry)
    endpoint = Endpoint(wanted.address, wanted.port, sink.page, CONTENT_TYPE)
    open_sinks.callback(endpoint.close)
    host, port = endpoint.address
    log.event("monitoring_began", backend="prometheus", address=host, port=port)
    return sink


def _wandb(wanted: Monitoring, table: Sequence[Metric], registry: Registry, open_sinks: ExitStack) -> Sink | None:
    from grail_core.telemetry.metrics.wandb import WandbSink

    if wanted.wandb is None or wanted.wandb.mode == "disabled":
        return None
    sink = WandbSink(wanted.wandb)
    open_sinks.callback(sink.close)
    return sink


def _null(wanted: Monitoring, table: Sequence[Metric], registry: Registry, open_sinks: ExitStack) -> None:
    return None


_OPEN: Final[dict[Backend, Callable[..., Sink | None]]] = {"prometheus": _prometheus, "wandb": _wandb, "null": _null}
_EXTRA: Final[dict[Backend, str]] = {"prometheus": "metrics", "wandb": "wandb", "null": ""}
