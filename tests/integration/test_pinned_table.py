"""One table for a whole network: who was given another judges nothing, and nobody follows one that is wider than admitted."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import Qwen2ForCausalLM

from grail_core.checkpoints import published_table
from grail_core.checkpoints.pinned_table import pinned_object, shipped, shipped_bytes
from grail_core.checkpoints.safety import read_model_files
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.participant.pinned import table_in_force
from grail_core.protocol import SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.manifest import ObjectRef
from grail_core.storage.layout import verdict_key
from grail_trainer.cli import cli
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.publishing.publication import Publisher, TableChoice
from grail_trainer.start import assemble
from grail_validator.service import ValidatorService
from tooling.testing.mining import mining_of, upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


class TightNetwork(SmallNetwork):
    """Its limits are narrower than the table that its trainer publishes all the same."""

    def _name(self, *arguments: object) -> None:
        super()._name(*arguments)  # type: ignore[arg-type]
        limits = replace(self.params.calibration_limits, logit_variance=1000)
        self.params = replace(self.params, calibration_limits=limits)


def sighted(network: SmallNetwork, *validators: ValidatorService) -> None:
    network.advance_to(FIRST_WINDOW + 30)
    for validator in validators:
        validator.first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 38)


def verdict(validator: ValidatorService) -> VerdictBody:
    return SignedVerdict.decode(validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)).body


def test_a_validator_with_another_table_judges_nothing_and_names_what_the_manifest_pins(tmp_path: Path, model: Path) -> None:
    network = SmallNetwork(tmp_path, model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, range(1))
    upload(network, network.mining("miner-0"), "miner-0", data, FIRST_WINDOW)
    value = json.loads(shipped_bytes())
    other = json.dumps({**value, "version": "mine/1"}).encode()
    path = tmp_path / "mine.json"
    path.write_bytes(other)
    judges, refuses = network.validator("validator-0"), network.validator("validator-1")
    refuses.participant = replace(refuses.participant, calibration=path)
    for digest in (hashlib.sha256(other).hexdigest(), shipped().digest.hex()):
        with pytest.raises(ConfigurationError, match=digest):
            table_in_force(refuses.participant)
    sighted(network, judges, refuses)
    assert judges.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED
    assert refuses.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.INCONCLUSIVE
    scored, unscored = verdict(judges), verdict(refuses)
    assert scored.versions.calibration == f"{shipped().table.version} {shipped().digest.hex()[:16]}"
    assert unscored.versions.calibration == ""  # nothing was judged, by no table
    assert f"pins {shipped().digest.hex()}" in unscored.reason
    path.write_bytes(shipped_bytes())
    again = replace(network.participant("validator-1"), calibration=path)
    found = table_in_force(again)
    assert found is not None
    assert found[1] == shipped()


def test_a_manifest_with_a_table_beyond_the_limits_is_refused_by_validator_miner_and_trainer_alike(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dishonest:
        dishonest.setattr(published_table, "require_within_limits", lambda *_: None)
        network = TightNetwork(tmp_path, model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    why = "wider than localnet admits: logit_variance"
    for name in ("miner-0", "validator-0", "trainer"):
        with pytest.raises(CheckpointError, match=why):
            table_in_force(network.participant(name))
    context = network.participant("miner-0").open_window(FIRST_WINDOW)
    with pytest.raises(CheckpointError, match=why):
        mining_of(network, "miner-0").select_model(context)
    environment = network.environment
    with pytest.raises(CheckpointError, match=why) as refused:
        assemble(network.participant("trainer"), model, environment, lambda _: environment, HyperParameters())
    assert re.fullmatch(r"checkpoint 0, in force from window \d+: calibration\.json", str(refused.value.where))
    validator = network.validator("validator-0")
    sighted(network, validator)
    validator.advance(FIRST_WINDOW, threading.Event())
    body = verdict(validator)
    assert body.status is not WindowStatus.SCORED
    assert why in body.reason


def test_a_trainer_pins_another_table_from_the_next_checkpoint_on(tmp_path: Path, model: Path) -> None:
    network = SmallNetwork(tmp_path, model=model, miners=0, validators=0)
    other = json.dumps({**json.loads(shipped_bytes()), "version": "mine/1"}).encode()
    (tmp_path / "mine.json").write_bytes(other)
    choice = TableChoice.of(tmp_path / "mine.json", uncovered=False)
    network.advance_to(FIRST_WINDOW + 1)
    trainer, files = network.participant("trainer"), read_model_files(model)
    weights = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    with pytest.raises(CheckpointError, match="not a calibration table") as refused:
        Publisher(trainer, files, choice=TableChoice(b"{}")).require_table()
    assert refused.value.where == "--calibration"
    second = Publisher(trainer, files, choice=choice).publish_next(FIRST_WINDOW, weights)
    assert (second.sequence, pinned_object(second)) == (1, ObjectRef.of(other))
    network.advance_to(second.valid_from + 1)
    third = Publisher(trainer, files).publish_next(second.valid_from, weights)
    assert pinned_object(third) == pinned_object(second)
    assert trainer.checkpoints.table(third).table.version == "mine/1"


def test_a_file_that_is_no_table_ends_the_trainers_commands_before_anything_is_asked(tmp_path: Path, model: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for command in (["publish"], ["run", "--dry-run"]):
        done = CliRunner().invoke(cli, [*command, "--model", str(model), "--calibration", str(tmp_path / "broken.json")])
        assert isinstance(done.exception, ConfigurationError)
        assert done.exception.where == str(tmp_path / "broken.json")
