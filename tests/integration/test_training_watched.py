"""Promises of what is watched of a network's training.

Alarms through the trainer as a participant: told, published, heeded, and never stepped over by a restart. A network's
checkpoint evaluated by what its manifest says.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.errors import AlarmStopError, CheckpointError
from grail_core.generation.defaults import sampling_defaults
from grail_core.participant.settings import load_settings
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.telemetry.logs import fields_of
from grail_trainer.alarm_settings import AlarmSettings
from grail_trainer.evaluate_command import EvaluationRequest, evaluate_command
from grail_trainer.learning.alarms import LEARNING_RATE_FACTOR
from grail_trainer.metrics import METRICS
from tooling.testing import learning_network
from tooling.testing.learning_network import ENVIRONMENT, SETTINGS, LearningNetwork, learning_model, published_log, service
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
    again.acknowledged = FIRST_WINDOW - 30
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


class ShortAnswers(LearningNetwork):
    """Its manifest allows two tokens where the model's folder would draw eight."""

    def _publish(self, folder: Path, max_tokens: int, end: int) -> CheckpointManifest:
        with pytest.MonkeyPatch.context() as patch:
            short = sampling_defaults(folder)
            short = dataclasses.replace(short, policy=dataclasses.replace(short.policy, max_tokens=2))
            patch.setattr(learning_network, "sampling_defaults", lambda folder: short)
            return super()._publish(folder, max_tokens, end)


def test_a_networks_checkpoint_is_drawn_from_by_its_manifest_and_never_by_its_folder(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network").mkdir()
    network = ShortAnswers(tmp_path / "network", environment=ENVIRONMENT, model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    settings = load_settings(
        bt_network="local",
        bt_chain_endpoint=str(network.root / "chain.sqlite"),
        network=str(tmp_path / "network.json"),
        cache_dir=tmp_path / "cache",
        storage_root=network.root / "buckets",
    )
    asked = EvaluationRequest(None, "head", (), "gsm8k", 8, 2, "hf", None, None, as_json=True)
    manifest = network.participant("trainer").checkpoints.view().head
    assert manifest is not None
    folder = network.participant("trainer").checkpoints.materialise(manifest)
    for one in (
        asked,
        dataclasses.replace(asked, checkpoint=str(FIRST_WINDOW)),
        dataclasses.replace(asked, checkpoint=None, model=folder),
        dataclasses.replace(asked, checkpoint=None, model=model, env_ids=("sat",)),
    ):
        evaluate_command(settings, one)
    head, by_window, by_folder, plain = map(json.loads, capsys.readouterr().out.splitlines())
    assert head == by_window == by_folder
    assert head["env_id"] == "sat"
    assert head["completion_tokens"] <= 2 < plain["completion_tokens"]
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate_command(settings, dataclasses.replace(asked, checkpoint=str(FIRST_WINDOW + 30)))
    elsewhere = dataclasses.replace(network.params, trainer_hotkey=network.signers["miner-0"].hotkey)
    (tmp_path / "network.json").write_text(json.dumps(elsewhere.to_json()))
    with pytest.raises(CheckpointError):
        evaluate_command(settings, dataclasses.replace(asked, checkpoint=None, model=folder))
