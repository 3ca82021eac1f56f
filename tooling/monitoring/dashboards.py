"""Grafana's dashboards as JSON, from short descriptions of their panels (`panels`). Grafana itself was never at hand here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

DATA_SOURCE: Final = {"type": "prometheus", "uid": "grail-prometheus"}
SCHEMA_VERSION: Final = 39
WIDTH: Final = 24
_HEIGHT: Final = {"stat": 4, "timeseries": 8, "bargauge": 8}
UNITS: Final = {
    "": "short",
    "seconds": "s",
    "bytes": "bytes",
    "share": "percentunit",
    "windows": "none",
    "blocks": "none",
    "hotkeys": "none",
    "tokens": "short",
    "per hour": "short",
    "nats a token": "none",
    "reward": "none",
    "yes or no": "none",
}
"""Units of panels, in our words, as Grafana's ids."""


@dataclass(frozen=True)
class Query:
    """`legend`: labels in braces, as Grafana has them."""

    expression: str
    legend: str = "{{instance}}"


@dataclass(frozen=True)
class Panel:
    """`width`: of 24 columns. `kind`: stat (the last value), timeseries, bargauge."""

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """`uid` is the file's name and part of its address in Grafana. `jobs`: whose instances can be chosen."""

    uid: str
    title: str
    about: str
    jobs: str
    rows: tuple[Row, ...]


def dashboard_json(one: Dashboard) -> str:
    made = {
        "uid": f"grail-{one.uid}",
        "title": one.title,
        "description": one.about,
        "tags": ["grail"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_instances(one.jobs)]},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "GRAIL", "tags": ["grail"], "asDropdown": True, "keepTime": True}],
    }
    head = json.dumps(made, indent=1, ensure_ascii=False).removesuffix("\n}")
    panels = ",\n".join(f"  {json.dumps(panel, ensure_ascii=False)}" for panel in _placed(one.rows))
    return f'{head},\n "panels": [\n{panels}\n ]\n}}\n'  # a panel a line: a change of one is a change of one line


def data_source() -> str:
    """`provisioning/datasources/prometheus.yaml`."""
    made = {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "type": DATA_SOURCE["type"],
                "uid": DATA_SOURCE["uid"],
                "access": "proxy",
                "url": "http://prometheus:9090",
                "isDefault": True,
                "editable": False,
            }
        ],
    }
    text: str = yaml.safe_dump(made, sort_keys=False)
    return text


def provider() -> str:
    """`provisioning/dashboards/grail.yaml`."""
    made = {
        "apiVersion": 1,
        "providers": [
            {
                "name": "grail",
                "type": "file",
                "disableDeletion": True,
                "allowUiUpdates": False,
                "options": {"path": "/var/lib/grafana/dashboards"},
            }
        ],
    }
    text: str = yaml.safe_dump(made, sort_keys=False)
    return text


def _instances(jobs: str) -> dict[str, Any]:
    query = f'label_values(up{{job=~"{jobs}"}}, instance)'
    return {
        "name": "instance",
        "label": "Instance",
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": {"query": query, "refId": "instance"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels side by side while they fit, each row below its heading."""
    made: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": []})
        made[-1]["gridPos"] = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        top, left, tallest = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            height = _HEIGHT[panel.kind]
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            made.append(_panel(panel, len(made) + 1) | {"gridPos": place})
            left, tallest = left + panel.width, max(tallest, height)
        top += tallest
    return made


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATA_SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATA_SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": UNITS[panel.unit], "custom": _custom(panel)}, "overrides": []},
        "options": _options(panel.kind),
    }


def _custom(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if panel.stacked else 0, "stacking": stacking}


def _options(kind: str) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if kind == "stat":
        return {"reduceOptions": last, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
    if kind == "bargauge":
        return {"reduceOptions": last, "displayMode": "basic", "orientation": "horizontal"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
