"""Grafana's dashboards: no dangling metric, and a form that Grafana's schema allows as far as it can be checked without it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tooling import REPOSITORY
from tooling.monitoring.dashboards import DATA_SOURCE, SCHEMA_VERSION, UNITS, WIDTH
from tooling.monitoring.panels_roles import DASHBOARDS
from tooling.monitoring.queries import faults_of

GRAFANA = REPOSITORY / "deploy/grafana"
NAMES = ("network", "validator", "miner", "trainer")


@pytest.fixture(params=NAMES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GRAFANA / f"dashboards/{request.param}.json").read_text("utf-8"))
    return read


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_every_query_of_a_dashboard_asks_for_what_there_is(board: dict[str, Any]) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            assert faults_of(target["expr"]) == [], panel["title"]
    for variable in board["templating"]["list"]:
        inner = variable["query"]["query"].removeprefix("label_values(").rpartition(",")[0]
        assert faults_of(inner) == []


def test_every_panel_has_a_title_a_unit_and_a_description(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS.values()
        assert panel["type"] in ("timeseries", "stat", "bargauge")
        assert panel["datasource"] == DATA_SOURCE
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_stand_side_by_side_and_never_over_one_another(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= WIDTH
        fields = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not fields & taken, panel["title"]
        taken |= fields


def test_the_dashboards_are_found_by_their_own_addresses() -> None:
    boards = [json.loads(path.read_text("utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))]
    assert (
        {board["uid"] for board in boards} == {f"grail-{name}" for name in NAMES} == {f"grail-{one.uid}" for one in DASHBOARDS}
    )
    assert len({board["title"] for board in boards}) == len(NAMES)
    assert all(board["schemaVersion"] == SCHEMA_VERSION for board in boards)
    assert all("id" not in board for board in boards), "an id is a database's own"


def test_what_is_provisioned_is_what_the_dashboards_name() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == DATA_SOURCE
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/grail.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")
