"""What is trained, through the shipped service: adapters, bfloat16 masters, and a restart that was told something else."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.errors import ConfigurationError
from grail_core.protocol.types import Window
from grail_trainer.hyper_parameters import HyperParameters, OptimiserSettings
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.lora import is_adapter
from grail_trainer.run_plan import resolve
from grail_trainer.service import TrainerService
from grail_trainer.state import settings_changed
from tooling.testing.faults import events
from tooling.testing.learning_network import ENVIRONMENT, SETTINGS, LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW

SECOND_WINDOW = Window(FIRST_WINDOW + 30)
RATE = OptimiserSettings(learning_rate=1e-3, warmup_steps=0)
ADAPTERS = dataclasses.replace(RATE, lora_rank=4)
STOCHASTIC = dataclasses.replace(RATE, master_dtype="bfloat16-stochastic")


def hyper(optimiser: OptimiserSettings, **update: Any) -> HyperParameters:
    return HyperParameters(dataclasses.replace(SETTINGS.update, **update), optimiser)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LearningNetwork:
    """Two windows are mined and judged."""
    root = tmp_path_factory.mktemp("kinds") / "network"
    root.mkdir()
    network = LearningNetwork(root, model=learning_model(root / "tiny"), miners=1)
    for window in (FIRST_WINDOW, SECOND_WINDOW):
        network.advance_to(window + 1)
        network.mine_and_upload("miner-0", window=window)
        network.judge(window)
    return network


@pytest.fixture
def trainer(made: LearningNetwork, tmp_path: Path) -> Any:
    """A trainer of given settings, over a copy of the network that is the test's own."""
    network = copy.copy(made)
    network.root = tmp_path / "network"
    shutil.copytree(made.root, network.root)
    network.chain = LocalChain.open(network.root / "chain.sqlite")

    def started(settings: HyperParameters, **more: bool) -> TrainerService:
        return service(network.participant("trainer"), network.root / "tiny", settings, **more)

    return started


def frozen(trainer: TrainerService) -> dict[str, torch.Tensor]:
    named = trainer.masters.module.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in named if not is_adapter(name)}


def test_adapters_alone_are_trained_and_a_whole_checkpoint_is_published(trainer: Any) -> None:
    first = trainer(hyper(ADAPTERS, kl_coefficient=0.05))
    base = frozen(first)
    assert first.run(threading.Event(), windows=1) == 1
    assert all(torch.equal(tensor, frozen(first)[name]) for name, tensor in base.items())
    assert {name for name in first.masters.tensors() if name.startswith("master.") and not is_adapter(name)} == set()
    before, after = (item.manifest for item in first.publisher.view().stored)
    assert after.weights_root != before.weights_root
    assert float(after.training["changed_share"]) > 0
    reader = LiveCheckpoint(first.participant.checkpoints).at(after).model
    assert reader.state().keys() == first.masters.published().keys() == base.keys()
    assert all(torch.equal(reader.state()[name], tensor) for name, tensor in first.masters.published().items())
    again = trainer(hyper(ADAPTERS, kl_coefficient=0.05))  # its bucket's last checkpoint has the adapters in it
    assert all(torch.equal(tensor, frozen(again)[name]) for name, tensor in base.items())
    assert again.masters.digest() == first.masters.digest()
    assert again.run(threading.Event(), windows=2) == 2
    kept = sorted(path.name for path in again.state.folder.glob("*.safetensors"))
    assert kept == [again.masters.base_file, f"state-{SECOND_WINDOW}.safetensors"]


def test_stochastic_rounding_of_a_run_is_without_bias(trainer: Any) -> None:
    """Twin runs from one state over one window differ by rounding alone: its mean is nothing beside its spread."""
    outcomes = {}
    for name, optimiser in (("exact", RATE), ("rounded", STOCHASTIC)):
        run = trainer(hyper(dataclasses.replace(optimiser, learning_rate=1e-4)))
        before = run.masters.published()
        settings, batch = run.settings, run._collect(FIRST_WINDOW, threading.Event()).batch
        policy = run.publisher.view().stored[0].manifest.policy
        learn_window(
            run.masters,
            batch.groups,
            settings,
            window=FIRST_WINDOW,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
        )
        after = {name: parameter.detach().double() for name, parameter in run.masters.module.named_parameters()}
        outcomes[name] = torch.cat([(after[key] - before[key].double()).flatten() for key in before])
    error = outcomes["rounded"] - outcomes["exact"]
    assert (outcomes["rounded"] != 0).double().mean() > 0.01  # nearest rounding would have lost these
    assert error.std() > 0
    assert abs(error.mean()) <= 5 * error.std() / len(error) ** 0.5
    places = (outcomes["exact"].sign() * outcomes["rounded"]).mean() / outcomes["exact"].abs().mean()
    assert abs(places - 1) <= 5 * error.std() / len(error) ** 0.5 / outcomes["exact"].abs().mean()


def test_other_settings_are_told_with_every_difference_and_stand_in_the_log(trainer: Any) -> None:
    with events() as names:
        trainer(hyper(RATE)).run(threading.Event(), windows=1)
    assert "settings_changed" not in names
    changed = hyper(dataclasses.replace(RATE, learning_rate=5e-4, schedule="linear", schedule_steps=50), epochs=2)
    with events() as names:
        second = trainer(changed)
    assert names.count("settings_changed") == 1
    assert second.run(threading.Event(), windows=2) == 2
    logs = [published_log(second.participant, window)["settings"] for window in (FIRST_WINDOW, SECOND_WINDOW)]
    assert settings_changed(*logs) == {
        "optimiser.learning_rate": ["0.001", "0.0005"],
        "optimiser.schedule": ["inverse-sqrt", "linear"],
        "optimiser.schedule_steps": [0, 50],
        "update.epochs": [1, 2],
    }
    with events() as names:
        trainer(changed)
    assert "settings_changed" not in names


@pytest.mark.parametrize("other", [ADAPTERS, STOCHASTIC], ids=["adapters", "bfloat16"])
def test_another_kind_of_masters_is_refused_until_the_state_is_moved_away(
    trainer: Any, other: OptimiserSettings, tmp_path: Path
) -> None:
    first = trainer(hyper(RATE))
    first.run(threading.Event(), windows=1)
    journal = (first.state.folder / "journal.json").read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        trainer(hyper(other))
    assert "move that folder" in caught.value.hint
    with pytest.raises(ConfigurationError, match="was made with"):
        resolve(first.participant, ENVIRONMENT, model=tmp_path / "network" / "tiny", windows=None, chosen=hyper(other))
    assert (first.state.folder / "journal.json").read_bytes() == journal
    shutil.move(first.state.folder, first.state.folder.with_name("moved"))
    second = trainer(hyper(other), without_state=True)
    assert second.run(threading.Event(), windows=2) == 1
    head = second.publisher.view().head
    assert head is not None
    assert head.window == SECOND_WINDOW


def test_the_journal_of_an_earlier_version_knows_no_settings_and_is_read(trainer: Any) -> None:
    first = trainer(hyper(RATE))
    first.run(threading.Event(), windows=1)
    path = first.state.folder / "journal.json"
    value = json.loads(path.read_bytes())
    del value["settings"], value["sha256"]
    path.write_text(json.dumps(value))
    with events() as names:
        again = trainer(hyper(dataclasses.replace(RATE, learning_rate=1e-4)))
    assert "settings_changed" not in names
    assert again.run(threading.Event(), windows=2) == 2
