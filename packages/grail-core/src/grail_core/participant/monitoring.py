"""From settings to what watches a role (`telemetry.metrics.monitoring`)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from grail_core.participant.settings import Settings
from grail_core.telemetry.metrics.monitoring import BACKENDS, PORTS, Monitoring


def monitoring_of(settings: Settings, role: str, network: str) -> Monitoring:
    """What the operator wants of a role (a key of PORTS).

    Args:
        network: its name; it stands in a run at W&B.
    """
    named = settings.monitoring_backend.split(",")
    backends = tuple(backend for backend in BACKENDS if backend in named)
    run = None
    if "wandb" in backends:
        from grail_core.telemetry.metrics.wandb import WandbRun

        run = WandbRun(
            role=role,
            project=settings.wandb_project,
            entity=settings.wandb_entity,
            mode=settings.wandb_mode,
            folder=settings.state_dir / "monitoring" / role,
            key=settings.wandb_api_key.get_secret_value(),
            config={"role": role, "network": network, "version": _version(role)},
        )
    return Monitoring(backends, settings.metrics_address, settings.metrics_port or PORTS[role], run)


def _version(role: str) -> str:
    try:
        return version("grail-miner" if role == "node" else f"grail-{role}")
    except PackageNotFoundError:  # from a checkout
        return ""
