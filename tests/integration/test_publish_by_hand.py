"""By hand: publishing asks first, resuming needs no model folder, and a planned upgrade is shown to anybody."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.checkpoints.transfer import export_checkpoint
from grail_core.errors import ConfigurationError, StorageError
from grail_core.keys import write_wallet
from grail_core.participant.settings import resolve
from grail_core.protocol.types import Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import MANIFEST_PREFIX
from grail_envs.sat import SatEnvironment
from grail_trainer import cli as trainer_cli
from grail_trainer.evaluated import Evaluated, environments_of
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.publishing.publication import TableChoice
from grail_trainer.start import open_state, run_trainer
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID
from tooling.testing.network import FIRST_WINDOW, Network


@pytest.fixture
def network(tmp_path: Path) -> Network:
    network = Network(tmp_path, miners=0, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    export_checkpoint(network.participant("trainer").checkpoints.materialise(network.manifest), tmp_path / "exported")
    (tmp_path / "exported" / "generation_config.json").write_text(json.dumps({"eos_token_id": END_TOKEN_ID}))
    return network


@pytest.fixture
def env(network: Network, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))
    seed = hashlib.sha256(b"trainer").digest()
    write_wallet(tmp_path / "wallets", "cold", "trainer", coldkey_seed=bytes(32), hotkey_seed=seed)
    return {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(tmp_path / "chain.sqlite"),
        "BT_WALLET_PATH": str(tmp_path / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "trainer",
        "GRAIL_NETWORK": str(tmp_path / "network.json"),
        "GRAIL_STORAGE_ROOT": str(tmp_path / "buckets"),
        "GRAIL_STORAGE_BUCKET": "bucket-trainer",
        "GRAIL_CACHE_DIR": str(tmp_path / "cache" / "trainer"),
        "GRAIL_STATE_DIR": str(tmp_path / "state" / "trainer"),
    }


def trainer(env: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(trainer_cli.cli, list(arguments), env=env)


def stored(network: Network) -> list[int]:
    return [one.manifest.sequence for one in network.participant("trainer").own_checkpoints.sequence().stored]


def test_weights_go_to_a_running_network_only_when_somebody_said_so(
    network: Network, env: dict[str, str], tmp_path: Path
) -> None:
    publish = ("publish", "--model", str(tmp_path / "exported"), "--uncovered")
    planned = trainer(env, *publish, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout) == {
        "network": network.params.name,
        "model": str(tmp_path / "exported"),
        "sequence": 1,
        "environment": "sat",
        "after": 0,
        "turn": False,
        "forgets_state": False,
        "dry_run": True,
    }
    refused = trainer(env, *publish)
    assert isinstance(refused.exception, ConfigurationError)
    assert refused.exception.where == "--yes"
    assert "checkpoint 0" in refused.exception.what
    assert stored(network) == [0]
    done = trainer(env, *publish, "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sequence"] == 1
    assert stored(network) == [0, 1]
    newest = network.participant("trainer").own_checkpoints.sequence().head
    assert newest is not None
    assert newest.env_digest == network.environment.spec.digest, "the network's own parameters, not the default ones"


def test_a_trainer_resumes_without_a_model_folder_and_with_the_networks_environment(
    network: Network, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stop = threading.Event()
    stop.set()

    @contextmanager
    def stopped() -> Iterator[threading.Event]:
        yield stop

    choice = TableChoice(uncovered=True)
    options = {"model": None, "env_id": None, "windows": 1, "hyper_parameters": HyperParameters(), "choice": choice}
    assert run_trainer(resolve().settings, stopped, **options) == 0  # type: ignore[arg-type]
    journal = open_state(network.participant("trainer")).journal
    assert journal is not None
    assert journal.decided == FIRST_WINDOW - 30
    monkeypatch.setenv("GRAIL_STORAGE_BUCKET", "bucket-nobody")
    with pytest.raises(ConfigurationError, match="no checkpoint yet") as begins:
        run_trainer(resolve().settings, stopped, **options)  # type: ignore[arg-type]
    assert begins.value.where == "--model"


def test_a_publication_that_fails_forgets_nothing_and_one_that_stands_forgets(
    network: Network, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    participant, put = network.participant("trainer"), FilesystemStore.put
    state = open_state(participant)
    state.begin(Window(FIRST_WINDOW - 30))

    def failing(store: FilesystemStore, key: str, *rest: object, **named: object) -> object:
        if key.startswith(MANIFEST_PREFIX):
            raise StorageError("the store has no room", where=key)
        return put(store, key, *rest, **named)  # type: ignore[arg-type]

    publish = ("publish", "--model", str(tmp_path / "exported"), "--uncovered", "--yes")
    with monkeypatch.context() as store:
        store.setattr(FilesystemStore, "put", failing)
        assert isinstance(trainer(env, *publish).exception, StorageError)
    kept = open_state(participant)
    assert (kept.journal, kept.forgotten) == (state.journal, False)
    assert trainer(env, *publish).exit_code == 0
    after = open_state(participant)
    assert (after.journal, after.forgotten) == (None, True)


def test_an_evaluation_that_names_the_checkpoints_environment_has_its_parameters(network: Network) -> None:
    assert network.environment.spec.digest != SatEnvironment().spec.digest
    settings = resolve().settings
    manifest = network.manifest
    evaluated = Evaluated("v", Path(), manifest.policy, manifest.end_token_ids, manifest)
    for named in ((), ("sat",)):
        (found,) = environments_of(evaluated, named, "sat", settings)
        assert found.spec.digest == manifest.env_digest
    (other,) = environments_of(evaluated, ("affine_logic",), "sat", settings)
    assert other.spec.env_id == "affine_logic"


def test_upgrades_are_shown_without_a_wallet_and_told_as_json(network: Network, env: dict[str, str], tmp_path: Path) -> None:
    block = FIRST_WINDOW + 30 * 400
    announced = trainer(env, "upgrade", "announce", "--version", "2", "--block", str(block), "--json")
    assert announced.exit_code == 0, announced.output
    assert json.loads(announced.stdout) == {"next": {"version": 2, "block": block}}
    elsewhere = {
        **env,
        "BT_WALLET_HOT": "nobody",
        "GRAIL_STATE_DIR": str(tmp_path / "elsewhere"),
        "GRAIL_STORAGE_BUCKET": "bucket-reader",
    }
    shown = trainer(elsewhere, "upgrade", "show", "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {"newest": None, "next": None, "next_known": False}
    assert "is decided on the trainer's machine" in trainer(elsewhere, "upgrade", "show").stdout
    assert json.loads(trainer(env, "upgrade", "withdraw", "--json").stdout) == {"next": None}
