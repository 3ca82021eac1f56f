"""All metrics of the project in one place: whose they are, and which of a name there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from grail_core.telemetry.metrics.metric import Metric
from grail_core.telemetry.metrics.shared import SHARED
from grail_miner.metrics import METRICS as MINER
from grail_miner.serving.metrics import METRICS as NODE
from grail_trainer.metrics import TRAINER
from grail_validator.metrics import METRICS as VALIDATOR
from grail_validator.page.metrics import PAGE

PARTS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "Every role": SHARED,
    "Miner": MINER,
    "Validator": VALIDATOR,
    "Trainer": TRAINER,
    "Page of a validator (`grail-validator serve`)": PAGE,
    "Node that answers requests (`grail-miner serve`)": NODE,
}
BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for part in PARTS.values() for metric in part}
OF_PROMETHEUS: Final[Mapping[str, tuple[str, ...]]] = {"up": (), "ALERTS": ("alertname", "alertstate", "severity")}
"""Series that Prometheus makes itself, and their labels beside job and instance."""
TARGET: Final = ("job", "instance")
"""Labels that Prometheus adds to every series."""
JOBS: Final[Mapping[str, int]] = {
    "grail-miner": 9461,
    "grail-validator": 9462,
    "grail-trainer": 9463,
    "grail-validator-page": 9464,
    "grail-node": 9465,
}


def labels_of(series: str) -> tuple[str, ...] | None:
    """Labels of a series as Prometheus has it (histograms have three); None: there is none of this name."""
    if series in OF_PROMETHEUS:
        return (*OF_PROMETHEUS[series], *TARGET)
    for ending, more in (("", ()), ("_bucket", ("le",)), ("_sum", ()), ("_count", ())):
        metric = BY_NAME.get(series.removesuffix(ending)) if series.endswith(ending) else None
        if metric is not None and (metric.kind == "histogram") == bool(ending):
            return (*metric.label_names, *more, *TARGET)
    return None
