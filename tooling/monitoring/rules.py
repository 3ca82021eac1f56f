"""`deploy/prometheus`: the alert rules, what is scraped, and where; made of `telemetry.alerts` and the ports of the roles."""

from __future__ import annotations

from typing import Any, Final

import yaml

from grail_core.telemetry.alerts import ALERTS
from tooling.monitoring.tables import JOBS

HEAD: Final = "# Made by `hatch run monitoring`; change the tables that it is made of.\n"
SERVICES: Final = {
    "grail-miner": "miner",
    "grail-validator": "validator",
    "grail-trainer": "trainer",
    "grail-validator-page": "page",
    "grail-node": "node",
}


def rules() -> str:
    """`rules.yaml`."""
    made = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.means, "action": alert.action, "roles": ", ".join(alert.roles)},
        }
        for alert in ALERTS
    ]
    return HEAD + _yaml({"groups": [{"name": "grail", "rules": made}]})


def prometheus() -> str:
    """`prometheus.yaml`: which roles there are is said in the files of `targets/`, one for each."""
    return HEAD + _yaml(
        {
            "global": {"scrape_interval": "30s", "scrape_timeout": "10s", "evaluation_interval": "30s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {
                    "job_name": "grail",
                    "sample_limit": 20_000,
                    "body_size_limit": "8MB",
                    "file_sd_configs": [{"files": ["targets/*.yaml"]}],
                }
            ],
        }
    )


def targets() -> dict[str, str]:
    """By the file's name: a role as a service of a compose file."""
    return {
        f"{SERVICES[job]}.yaml": HEAD + _yaml([{"targets": [f"{SERVICES[job]}:{port}"], "labels": {"job": job}}])
        for job, port in JOBS.items()
    }


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True)
    return text
