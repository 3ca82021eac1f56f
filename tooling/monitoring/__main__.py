"""`python -m tooling.monitoring [--check]`: write what is made of the tables of metrics and alerts, or say what differs.

It writes deploy/prometheus, deploy/grafana and the tables of docs/monitoring.md. Change the tables: `telemetry.metrics.shared`,
`metrics.py` of each role, `telemetry.alerts`, and the panels beside this module.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tooling import REPOSITORY
from tooling.monitoring import rules
from tooling.monitoring.dashboards import dashboard_json, data_source, provider
from tooling.monitoring.pages import COMMAND, PAGE, page
from tooling.monitoring.panels_roles import DASHBOARDS

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
    parser = argparse.ArgumentParser(prog="python -m tooling.monitoring", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs from the tables")
    check = parser.parse_args(arguments).check
    differing = []
    for path, text in files(root):
        place = root / path
        if not check:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        elif not place.is_file() or place.read_text(encoding="utf-8") != text:
            differing.append(path)
    for path in differing:
        print(f"{path} differs from the tables that it is made of: {COMMAND}", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
