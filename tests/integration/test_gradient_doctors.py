"""On a network of gradient work the doctors ask what that work needs, and say what it is held to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_core.keys import write_wallet
from grail_core.participant.settings import Settings
from grail_miner.cli import cli as miner
from grail_validator.cli import cli as validator
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_specs import TINY
from tooling.testing.network import FIRST_WINDOW


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GradientNetwork:
    """In the environment of who asks a doctor, with one miner's wallet on the disk."""
    made = GradientNetwork(tmp_path / "network", TINY, miners=1, validators=1)
    made.advance_to(FIRST_WINDOW + 5)
    seed = hashlib.sha256(b"miner-0").digest()
    write_wallet(tmp_path / "wallets", "cold", "miner-0", coldkey_seed=bytes(32), hotkey_seed=seed)
    (tmp_path / "network.json").write_text(json.dumps(made.params.to_json()))
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(made.root / "chain.sqlite"),
        "GRAIL_NETWORK": str(tmp_path / "network.json"),
        "BT_WALLET_PATH": str(tmp_path / "wallets"),
        "BT_WALLET_COLD": "cold",
        "BT_WALLET_HOT": "miner-0",
        "GRAIL_STORAGE_BUCKET": "bucket-miner-0",
        "GRAIL_STORAGE_ROOT": str(made.root / "buckets"),
        "GRAIL_CACHE_DIR": str(tmp_path / "cache"),
        "GRAIL_STATE_DIR": str(tmp_path / "state"),
        "GRAIL_CHECKPOINT_CACHE_GIB": "1",
        "GRAIL_PIPELINE_BACKEND": "hf",
        "GRAIL_DEVICE": "cpu",
        "GRAIL_BEACON_URLS": "http://127.0.0.1:9",  # nothing listens there
    }.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.usefixtures("network")
def test_a_miners_doctor_asks_for_the_corpus_and_for_no_environment() -> None:
    told = json.loads(CliRunner().invoke(miner, ["doctor", "--json"]).stdout)
    found = {one["name"]: one for one in told["findings"]}
    assert found["corpus"]["state"] == "ok", found
    assert "bytes-1" in found["corpus"]["detail"]
    assert "environment" not in found
    assert "completions" not in found["checkpoint"]["detail"]


@pytest.mark.usefixtures("network")
def test_a_validators_doctor_tells_the_bound_of_its_replays() -> None:
    done = CliRunner().invoke(validator, ["doctor", "--table"])
    assert done.exit_code == 0, done.output
    assert "a replayed step is held to 0.12 in a model of up to 131,072 parameters" in done.output
