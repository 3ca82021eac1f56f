"""`python -m tooling.monitoring [--check]`: write what is made of the tables of metrics and alerts, or say what differs.

It writes deploy/prometheus, deploy/grafana and the tables of docs/monitoring.md. Change the tables: `telemetry.metrics.shared`,
`metrics.py` of each role, `telemetry.alerts`, and the panels beside this module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tooling import REPOSITORY
from tooling.monitoring import rules
from tooling.monitoring.dashboards import dashboard_json, data_source, provider
from tooling.monitoring.pages import COMMAND, PAGE, page
from tooling.monitoring.panels_roles import DASHBOARDS
from tooling.testing.made_files import Maker

PROMETHEUS, GRAFANA = Path("deploy/prometheus"), Path("deploy/grafana")


def files(root: Path) -> Iterator[tuple[Path, str]]:
    """What is made, and what its text should be."""
    yield PROMETHEUS / "rules.yaml", rules.rules()
    yield PROMETHEUS / "prometheus.yaml", rules.prometheus()
    for name, text in rules.targets().items():
        yield PROMETHEUS / "targets" / name, text
    for one in DASHBOARDS:
        yield GRAFANA / "dashboards" / f"{one.uid}.json", dashboard_json(one)
    yield GRAFANA / "provisioning" / "datasources" / "prometheus.yaml", rules.HEAD + data_source()
    yield GRAFANA / "provisioning" / "dashboards" / "grail.yaml", rules.HEAD + provider()
    yield PAGE, page((root / PAGE).read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None, root: Path = REPOSITORY) -> int:
    maker = Maker("tooling.monitoring", __doc__ or "", files, "the tables that it is made of", COMMAND)
    return maker.main(arguments, root)


if __name__ == "__main__":
    sys.exit(main())
