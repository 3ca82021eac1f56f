"""`grail-trainer train`: between the command line and offline learning. Standard output is the result, in one form or two."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from grail_core.commands.options import stop_on_signals
from grail_core.participant.settings import Settings
from grail_trainer.alarm_settings import AlarmAction, AlarmSettings
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.alarms import Alarm
from grail_trainer.offline.learn import OfflineRequest, OfflineResult, OfflineWindow, learn_offline


def train_command(
    settings: Settings,
    *,
    source: Path,
    model: Path,
    out: Path,
    windows: int | None,
    behaviour: str,
    as_json: bool,
    hyper_parameters: HyperParameters,
) -> None:
    """Learn, with a line a window. Errors: as `learn_offline`."""
    request = OfflineRequest(
        source,
        model,
        out,
        hyper_parameters,
        "model" if behaviour == "model" else "recorded",
        windows,
        settings.device,
    )
    with stop_on_signals() as stop:
        result = learn_offline(request, stop, lambda one: click.echo(json.dumps(_json(one)) if as_json else _line(one)))
    click.echo(json.dumps(_result(result)) if as_json else _told(result))


def _json(one: OfflineWindow) -> dict[str, Any]:
    value: dict[str, Any] = {"window": one.window, "groups": one.groups, "learned": one.learned is not None}
    if one.learned is not None:
        statistics = {name: number for name, number in asdict(one.learned.statistics).items() if not name.startswith("_")}
        alarms = [alarm.to_event() for alarm in one.learned.alarms]
        value |= {"undone": one.learned.undone, "alarms": alarms, **asdict(one.learned.rollouts), **statistics}
        value.pop("well_formed_share")  # an export does not say it
    return value


def _line(one: OfflineWindow) -> str:
    if one.learned is None:
        return f"window {one.window}: nothing to learn from"
    statistics, means = one.learned.statistics, one.learned.rollouts
    line = (
        f"window {one.window}: {one.groups} groups, {statistics.rollouts} rollouts, mean reward {means.reward_mean:.3f}, "
        f"{statistics.steps} steps"
    )
    line += f"; taken back: {one.learned.undone}" if one.learned.undone else ""
    return line + "".join(f"; {_said(alarm)}" for alarm in one.learned.alarms)


_DONE: Final[dict[AlarmAction, str]] = {
    "off": "",
    "tell": "nothing is changed",
    "slow": "the learning rate is halved",
    "undo": "the update is taken back and the learning rate halved",
    "stop": "the update is taken back and the run ends",
}


def _said(alarm: Alarm) -> str:
    """Value and bound, what was done, and what a person may do."""
    said = f"alarm {alarm.name}: {alarm.reason}, so {_DONE[alarm.action]}"
    if not hasattr(AlarmSettings, f"on_{alarm.name}"):  # no person's to choose
        return f"{said} (docs/trainer.md, Alarms)"
    return f"{said} (--on-{alarm.name.replace('_', '-')} chooses what it does; its bound: docs/trainer.md, Alarms)"


def _result(result: OfflineResult) -> dict[str, Any]:
    return {
        "windows": result.learned,
        "windows_in_all": result.in_all,
        "last": result.last,
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
    }


def _told(result: OfflineResult) -> str:
    if result.checkpoint is None:
        return "nothing was learned: no window has a group whose rewards vary"
    return f"learned from {result.learned} windows, {result.in_all} in all → {result.checkpoint}"
