"""`grail-trainer run --dry-run`: the plan is what a start would do, its memory is what tensors take, and nothing is touched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.autograd.graph import saved_tensors_hooks

import grail_trainer.run_plan as run_plan
from grail_core.errors import ConfigurationError
from grail_core.keys import write_wallet
from grail_core.model.policy_model import PolicyModel
from grail_envs.sat import SatEnvironment
from grail_trainer.cli import cli
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.rollouts import TokenSequence
from grail_trainer.memory import UPDATING, VERIFYING, memory_plan, model_size
from grail_trainer.run_plan import resolve
from tooling.testing.learning_network import ENVIRONMENT, SETTINGS, LearningNetwork, learning_model, service
from tooling.testing.small_network import FIRST_WINDOW


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


@pytest.fixture
def network(tmp_path: Path, model: Path) -> LearningNetwork:
    (tmp_path / "network").mkdir()
    network = LearningNetwork(tmp_path / "network", model=model, miners=1)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def files_below(root: Path) -> dict[str, bytes]:
    """Every file but the chain's, which everybody who opens it opens for itself."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("chain.sqlite")
    }


def test_the_command_prints_the_plan_and_writes_nothing(
    network: LearningNetwork, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = hashlib.sha256(b"trainer").digest()
    write_wallet(tmp_path / "wallets", "cold", "trainer", coldkey_seed=bytes(32), hotkey_seed=seed)
    (tmp_path / "params.json").write_text(json.dumps(network.params.to_json()))
    values = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "BT_WALLET_PATH": str(tmp_path / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "trainer",
        "NETUID": str(network.params.netuid),
        "GRAIL_NETWORK": str(tmp_path / "params.json"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_STORAGE_BUCKET": "bucket-trainer",
        "GRAIL_BEACON_URLS": "http://127.0.0.1:9",
        "GRAIL_CACHE_DIR": str(tmp_path / "cache"),
        "GRAIL_STATE_DIR": str(tmp_path / "state"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_plan, "training_environment", lambda *_: ENVIRONMENT)
    before = files_below(tmp_path)
    arguments = ["run", "--model", str(model), "--dry-run", "--windows", "2", "--epochs", "2"]
    text = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    plan = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert files_below(tmp_path) == before
    assert "masters" in text.stdout
    assert (plan["next_window"], plan["last_window"]) == (FIRST_WINDOW, FIRST_WINDOW + 30)
    assert plan["settings"]["update"]["epochs"] == 2
    assert plan["work"]["optimiser_steps"] == 2 * plan["settings"]["update"]["minibatches"]


def test_policy_and_end_of_the_plan_are_the_signed_manifests_whatever_the_folder_says(
    network: LearningNetwork, model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    said = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(said | {"temperature": 0.25, "max_new_tokens": 3}))
    plan = resolve(network.participant("trainer"), ENVIRONMENT, model=other, windows=None, chosen=SETTINGS)
    assert (plan.policy, plan.policy_from) == (network.manifest.policy, "checkpoint 0")
    assert plan.policy.temperature != 0.25


def test_the_plan_goes_on_where_the_journal_is(network: LearningNetwork, model: Path) -> None:
    network.mine_and_upload("miner-0")
    network.judge()
    service(network.participant("trainer"), model).run(threading.Event(), windows=1)
    plan = resolve(network.participant("trainer"), ENVIRONMENT, model=model, windows=None, chosen=SETTINGS)
    assert plan.next_window == FIRST_WINDOW + 30
    assert plan.stands == "1 windows learned from, 0 to publish"
    assert plan.checkpoint.startswith("checkpoint 2 ")


def test_the_mistakes_of_a_start_are_found(network: LearningNetwork, model: Path) -> None:
    with pytest.raises(ConfigurationError, match="environment"):
        resolve(network.participant("trainer"), SatEnvironment(), model=model, windows=None, chosen=SETTINGS)


def measured(model: Path, settings: OptimiserSettings) -> tuple[Masters, dict[str, int]]:
    """Bytes of tensors of real masters that have made a step."""
    masters = Masters.load(model, settings)
    rows = [TokenSequence(tuple(range(1, 21)), 8)]
    out = masters.policy(rows)
    del out
    hidden = masters.module.base_model(input_ids=torch.tensor([rows[0].tokens])).last_hidden_state
    (masters.module.get_output_embeddings()(hidden)).sum().backward()
    sizes = {"gradients": sum(p.grad.nbytes for p in masters.module.parameters() if p.grad is not None)}
    masters.step(largest_norm=1.0)
    tensors = masters.tensors()
    sizes["masters"] = sum(parameter.nbytes for parameter in masters.module.parameters())
    sizes["moments"] = sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("moment"))
    return masters, sizes


@pytest.mark.parametrize("kind", [{}, {"master_dtype": "bfloat16-stochastic"}, {"lora_rank": 2}], ids=str)
def test_masters_gradients_and_moments_take_what_the_plan_says_to_the_byte(model: Path, kind: dict[str, Any]) -> None:
    chosen = HyperParameters(optimiser=OptimiserSettings(**kind))
    size = model_size(json.loads((model / "config.json").read_text()), chosen.optimiser)
    plan = memory_plan(size, chosen, pack_tokens=128, logits_bytes=0)
    masters, sizes = measured(model, chosen.optimiser)
    assert {name: plan.part(name) for name in sizes} == sizes
    assert plan.part("behaviour checkpoint") == sum(tensor.nbytes for tensor in masters.published().values())
    assert size.parameters == sum(tensor.numel() for tensor in masters.published().values())


@pytest.mark.parametrize(("rows", "length"), [(1, 32), (4, 96)])
def test_activations_take_what_the_plan_says_to_a_tenth(model: Path, rows: int, length: int) -> None:
    """On real tensors: whatever autograd keeps that is no weight, each storage once."""
    size = model_size(json.loads((model / "config.json").read_text()))
    module = PolicyModel.load(model, dtype="float32").module.requires_grad_(True)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module.base_model(input_ids=torch.ones((rows, length), dtype=torch.long), use_cache=False)
    total = sum(storage.nbytes() for storage in kept.values())
    assert out.last_hidden_state.requires_grad
    assert size.activation_bytes * rows * length == pytest.approx(total, rel=0.1)


def test_each_phase_counts_what_is_there_in_it(model: Path) -> None:
    size = model_size(json.loads((model / "config.json").read_text()))
    chosen = HyperParameters(GrpoSettings(kl_coefficient=0.0))
    plan = memory_plan(size, chosen, pack_tokens=100, logits_bytes=7)
    assert plan.part("reference") == 0
    always = (4 + 8 + 2 + 4) * size.parameters
    assert plan.total(VERIFYING) == always + 4 * size.parameters + 7
    assert plan.total(UPDATING) == always + (4 + 4 + 4) * size.parameters + 100 * size.activation_bytes + 7
    held_on_to = memory_plan(size, dataclasses.replace(chosen, update=GrpoSettings()), pack_tokens=100, logits_bytes=7)
    assert held_on_to.total(UPDATING) == plan.total(UPDATING) + 2 * size.parameters
    assert held_on_to.total(VERIFYING) == plan.total(VERIFYING)


def test_a_run_that_is_asked_for_json_is_told_that_only_plans_are_printed_so(tmp_path: Path) -> None:
    asked = CliRunner().invoke(cli, ["run", "--model", str(tmp_path), "--json"])
    assert isinstance(asked.exception, ConfigurationError)
    assert (asked.exception.where, asked.exception.hint) == ("--json", "add --dry-run; what a run does is logged")
