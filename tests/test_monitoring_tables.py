"""No metric follows from what no role logs, and what is made of the tables is as they are."""

from __future__ import annotations

import ast
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from grail_miner.metrics import NODE_TABLE
from grail_miner.metrics import TABLE as MINER
from grail_trainer.metrics import METRICS as WINDOW
from grail_trainer.metrics import TABLE as TRAINER
from grail_validator.metrics import TABLE as VALIDATOR
from tooling import REPOSITORY
from tooling.monitoring.__main__ import files, main
from tooling.monitoring.pages import PAGE, page
from tooling.monitoring.tables import BY_NAME, PARTS, labels_of

COMPUTED = {
    "window_trained": set(WINDOW),
    "training_alarm": {"alarm", "action", "value", "bound", "reason"},
}
"""Fields that a call hands on as a mapping: tests of those roles hold the event to them."""


def calls() -> Iterator[ast.Call]:
    for path in REPOSITORY.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event" and node.args:
                yield node


@pytest.fixture(scope="module")
def logged() -> dict[str, set[str]]:
    """Fields of every event that is logged by its name; of one whose fields are handed on as a mapping also `**`."""
    found: dict[str, set[str]] = defaultdict(set)
    for call in calls():
        for constant in ast.walk(call.args[0]):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                found[constant.value] |= {keyword.arg or "**" for keyword in call.keywords}
    return found


def test_every_metric_follows_from_an_event_and_a_field_that_some_role_logs(logged: dict[str, set[str]]) -> None:
    watch = (REPOSITORY / "packages/grail-core/src/grail_core/examination/watching.py").read_text("utf-8")
    standing = (REPOSITORY / "packages/grail-core/src/grail_core/commands/own_standing.py").read_text("utf-8")
    spread = {"network_seen": watch, "standing_seen": standing, "window_mined": source("grail-miner", "service.py")}
    spread |= dict.fromkeys(("window_judged", "round_judged"), source("grail-validator", "tallies.py"))
    for metric in BY_NAME.values():
        for one in metric.follows:
            if one.event not in spread:
                assert one.event in logged, f"{metric.name}: nobody logs {one.event}"
            for field in filter(None, (one.field, *one.labels.values())):
                known = logged.get(one.event, set()) | COMPUTED.get(one.event, set())
                assert field in known or f'"{field}"' in spread.get(one.event, ""), f"{metric.name}: {one.event} has no {field}"


def source(package: str, name: str) -> str:
    return (REPOSITORY / f"packages/{package}/src/{package.replace('-', '_')}" / name).read_text("utf-8")


def test_the_tables_have_each_name_once_and_every_role_the_shared_ones() -> None:
    names = [metric.name for part in PARTS.values() for metric in part]
    assert len(names) == len(set(names))
    for role, table in (("miner", MINER), ("validator", VALIDATOR), ("trainer", TRAINER)):
        own = {metric.name for metric in table}
        assert {metric.name for metric in PARTS["Every role"]} <= own
        assert all(f"_{role}_" in name for name in own - {metric.name for metric in PARTS["Every role"]})
    assert {"grail_requests_total", "grail_first_token_seconds"} <= {metric.name for metric in NODE_TABLE}


def test_a_histogram_is_asked_for_by_its_series() -> None:
    assert labels_of("grail_validator_verify_seconds") is None
    assert "le" in (labels_of("grail_validator_verify_seconds_bucket") or ())
    assert labels_of("grail_validator_windows_judged_total_bucket") is None
    assert "uid" in (labels_of("grail_validator_miner_weight") or ())


def test_what_is_made_of_the_tables_is_as_they_are() -> None:
    assert main(["--check"]) == 0, "run: hatch run monitoring"


def test_a_file_that_differs_is_found_and_made_again(tmp_path: Path) -> None:
    for path, _ in files(REPOSITORY):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, tmp_path / path)
    text = (tmp_path / PAGE).read_text("utf-8")
    (tmp_path / PAGE).write_text(re.sub("GrailClockSkew", "GrailClockScrew", text))
    (tmp_path / "deploy/prometheus/rules.yaml").unlink()
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    with pytest.raises(ValueError, match="no place"):
        page("# a page without its marks\n")
