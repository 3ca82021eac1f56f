"""The alert rules: no dangling metric, `promtool` takes them, and each fires where it should and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from grail_core.telemetry.alerts import ALERTS, Alert
from tests.alert_cases import CASES
from tooling import REPOSITORY
from tooling.monitoring.queries import faults_of

PROMETHEUS = REPOSITORY / "deploy/prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (prometheus)")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_asks_for_metrics_and_labels_that_there_are(alert: Alert) -> None:
    assert faults_of(alert.expression) == []


def test_a_dangling_metric_or_label_is_found() -> None:
    assert faults_of("grail_miner_standing_rejected > 0") == ["there is no series grail_miner_standing_rejected"]
    assert faults_of('sum by (hotkey) (grail_validator_miner_weight{role="x"})') == [
        "grail_validator_miner_weight has no label hotkey",
        "grail_validator_miner_weight has no label role",
    ]
    assert faults_of("time() - grail_nothing > 3 or -rate(grail_less[5m])")[1:] == ["there is no series grail_less"]
    assert faults_of("sum(")[0].startswith("no PromQL")


@needs_promtool
@pytest.mark.parametrize("check", [("rules", "rules.yaml"), ("config", "prometheus.yaml")])
def test_promtool_takes_what_is_deployed(check: tuple[str, str]) -> None:
    done = subprocess.run(
        ["promtool", "check", *check], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert CASES.keys() == {alert.name for alert in ALERTS}
    assert all(case.fires and case.quiet for case in CASES.values())


@needs_promtool
def test_each_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    """All cases beside one another, each an instance of its own: of every alert exactly its own cases fire."""
    series, expected = [], {alert.name: list[dict[str, object]]() for alert in ALERTS}
    for alert in ALERTS:
        case = CASES[alert.name]
        for number, one in enumerate((*case.fires, *case.quiet)):
            target = {"job": case.job, "instance": f"{alert.name}-{number}"}
            series += [{"series": with_target(name, target), "values": values} for name, values in one.items()]
            if number < len(case.fires):
                labels = {"severity": alert.severity, **target, **case.labels}
                expected[alert.name].append({"exp_labels": labels, "exp_annotations": told_of(alert)})
    asked = [{"eval_time": "2h", "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": asked}]
    made = {"rule_files": [str(PROMETHEUS / "rules.yaml")], "evaluation_interval": "1m", "tests": tests}
    file = tmp_path / "rules_test.yaml"
    file.write_text(yaml.safe_dump(made, sort_keys=False))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def told_of(alert: Alert) -> dict[str, str]:
    return {"summary": alert.means, "action": alert.action, "roles": ", ".join(alert.roles)}


def with_target(name: str, target: Mapping[str, str]) -> str:
    name, _, labels = name.partition("{")
    own = ", ".join(f'{label}="{value}"' for label, value in target.items())
    return f"{name}{{{', '.join(filter(None, [own, labels.removesuffix('}')]))}}}"
