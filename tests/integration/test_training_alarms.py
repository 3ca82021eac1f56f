"""Promises of alarms through the trainer as a participant: told, published, heeded, and never stepped over by a restart."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.errors import AlarmStopError
from grail_core.telemetry.logs import fields_of
from grail_trainer.alarm_settings import AlarmSettings
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR
from grail_trainer.metrics import METRICS
from tooling.testing.learning_network import SETTINGS, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

STOP = dataclasses.replace(SETTINGS, alarms=AlarmSettings(on_entropy="stop", entropy_floor=50.0))
"""No policy has so much entropy."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture
def network(tmp_path: Path, model: Path) -> LearningNetwork:
    """Its first window is mined and judged."""
    root = tmp_path / "network"
    root.mkdir()
    network = LearningNetwork(root, model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    network.mine_and_upload("miner-0")
    network.judge()
    return network


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Events with their fields, as they come."""
    found: list[tuple[str, dict[str, Any]]] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields = fields_of(record)
            if fields is not None:
                found.append((record.getMessage(), dict(fields)))

    logger, handler = logging.getLogger("grail_trainer"), Listening()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_an_alarm_that_stops_is_published_and_no_start_steps_over_it_until_a_person_has_seen_it(
    network: LearningNetwork, model: Path, told: list[tuple[str, dict[str, Any]]]
) -> None:
    trainer = service(network.participant("trainer"), model, STOP)
    before = trainer.masters.published()
    with pytest.raises(AlarmStopError, match=f"window {FIRST_WINDOW}") as ended:
        trainer.run(threading.Event(), windows=2)
    assert f"--acknowledge {FIRST_WINDOW}" in ended.value.hint
    (alarm,) = (fields for name, fields in told if name == "training_alarm")
    assert (alarm["alarm"], alarm["action"], alarm["window"]) == ("entropy", "stop", FIRST_WINDOW)
    assert [one["alarm"] for one in published_log(trainer.participant)["alarms"]] == ["entropy"]
    former, latest = (item.manifest for item in trainer.publisher.view().stored)
    assert latest.weights_root == former.weights_root
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.masters.published().items())

    again = service(network.participant("trainer"), model, STOP)  # a new process, with what is on disk
    again.acknowledged = FIRST_WINDOW - 30  # type: ignore[assignment]
    with pytest.raises(AlarmStopError):
        again.run(threading.Event(), windows=1)
    again.acknowledged = FIRST_WINDOW
    assert again.run(threading.Event(), windows=1) == 1


def test_what_a_trained_window_tells_is_every_metric_and_its_alarms(
    network: LearningNetwork, model: Path, told: list[tuple[str, dict[str, Any]]]
) -> None:
    slow = dataclasses.replace(SETTINGS, alarms=AlarmSettings(entropy_floor=50.0))
    trainer = service(network.participant("trainer"), model, slow)
    assert trainer.run(threading.Event(), windows=1) == 1
    (fields,) = (fields for name, fields in told if name == "window_trained")
    assert fields.keys() == {*METRICS, "window", "valid_from", "alarms", "undone"}
    assert all(isinstance(fields[name], int | float) for name in METRICS)
    assert [(one["alarm"], one["action"]) for one in fields["alarms"]] == [("entropy", "slow")]
    assert fields["learning_rate_factor"] == 0.5
    assert not fields["undone"]
    assert 0 < fields["well_formed_share"] <= 1
    resumed = service(network.participant("trainer"), model, slow)
    assert resumed.masters.scalars[LEARNING_RATE_FACTOR] == 0.5
