"""What an operator sets of how a role is watched. Declarations alone; docs/monitoring.md tells what each does."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, SecretStr

from grail_core.participant.settings_fields import MONITORING, ROLES, WholeNumber, setting
from grail_core.telemetry.metrics.monitoring import BACKENDS


def _backends(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise ValueError(f"there is no back-end {unknown[0]!r:.40}")
    return ",".join(dict.fromkeys(names))


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,128}", value):
        raise ValueError("it has characters that no name at W&B has")
    return value


Backends = Annotated[str, AfterValidator(_backends)]
Name = Annotated[str, AfterValidator(_name)]


class MonitoringSettings(BaseModel):
    """Every field's alias is its public name; see `settings.Settings`, of which this is a part."""

    monitoring_backend: Backends = setting(
        "GRAIL_MONITORING_BACKEND",
        MONITORING,
        ROLES,
        "where metrics go: `prometheus` (an endpoint of this role), `wandb`, `null` (nowhere); several separated by commas",
        wanted=f"one or more of {', '.join(BACKENDS)}, separated by commas",
        default="null",
    )
    metrics_address: str = setting(
        "GRAIL_METRICS_ADDRESS", MONITORING, ROLES, "where the Prometheus endpoint listens", default="127.0.0.1"
    )
    metrics_port: WholeNumber = setting(
        "GRAIL_METRICS_PORT",
        MONITORING,
        ROLES,
        "its port; 0: the role's own",
        default=0,
        shown="9461 of a miner, 9462 of a validator, 9463 of a trainer, 9465 of a node that answers requests",
        ge=0,
        le=65_535,
    )
    wandb_api_key: SecretStr = setting(
        "WANDB_API_KEY", MONITORING, ROLES, "key of an account at W&B; offline needs none", default=SecretStr("")
    )
    wandb_project: Name = setting("WANDB_PROJECT", MONITORING, ROLES, "project at W&B", default="grail")
    wandb_entity: Name = setting(
        "WANDB_ENTITY", MONITORING, ROLES, "team or user at W&B", default="", shown="the key's own user"
    )
    wandb_mode: Literal["online", "offline", "disabled"] = setting(
        "WANDB_MODE",
        MONITORING,
        ROLES,
        "`online`, `offline` (files below `GRAIL_STATE_DIR`, for `wandb sync`), `disabled`",
        default="online",
    )
