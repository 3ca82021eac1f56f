"""The public surface: every example runs as its reader would run it, and says what is wrong with a file that is not right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from grail_core import api
from grail_core.errors import ChainError, ConfigurationError, ProtocolViolationError
from tooling import REPOSITORY
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

EXAMPLES = REPOSITORY / "packages/grail-core/examples"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> SmallNetwork:
    """One miner's file, and one validator's verdict of it."""
    network = SmallNetwork(tmp_path_factory.mktemp("network"), miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 5)
    data = network.mine(network.mining("miner-0"), FIRST_WINDOW, range(2))
    upload(network, network.mining("miner-0"), "miner-0", data, FIRST_WINDOW)
    validator = network.validator("validator-0")
    network.advance_to(FIRST_WINDOW + 30)
    validator.first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 38)
    validator.advance(FIRST_WINDOW, threading.Event())
    (network.root / "network.json").write_text(json.dumps(network.params.to_json()))
    return network


def environment(network: SmallNetwork) -> dict[str, str]:
    return {
        "GRAIL_NETWORK": str(network.root / "network.json"),
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_CACHE_DIR": str(network.root / "reader"),
    }


def run(network: SmallNetwork, example: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment(network),
        cwd=network.root,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tried_here() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    assert len(list(EXAMPLES.glob("*.py"))) >= 3
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tried] == []


def test_a_miners_file_is_verified_without_a_model(judged: SmallNetwork) -> None:
    said = run(judged, "verify_window_file.py", judged.signers["miner-0"].ss58, str(FIRST_WINDOW))
    assert said.startswith("2 groups, 32 rollouts, mean claimed reward ")


def test_a_verdict_is_read(judged: SmallNetwork) -> None:
    said = run(judged, "read_verdict.py", judged.signers["validator-0"].ss58, str(FIRST_WINDOW))
    assert said.startswith(f"window {FIRST_WINDOW}: scored\n")
    assert f"{judged.signers['miner-0'].ss58}  accepted  " in said


def test_a_checkpoint_becomes_a_folder_that_transformers_loads(judged: SmallNetwork, tmp_path: Path) -> None:
    said = run(judged, "read_checkpoint.py", str(tmp_path / "model"), str(FIRST_WINDOW))
    assert said == f"checkpoint 0, valid from window {FIRST_WINDOW}, weights {judged.manifest.weights_root.hex()}\n"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0


@pytest.fixture
def opened(judged: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> api.Network:
    for name, value in environment(judged).items():
        monkeypatch.setenv(name, value)
    return api.open_network()


def test_a_file_that_is_not_signed_or_not_asked_for_is_refused(judged: SmallNetwork, opened: api.Network) -> None:
    miner = judged.signers["miner-0"].hotkey
    data = api.fetch_window_file(opened.bucket(miner), FIRST_WINDOW, miner)
    assert api.verify_window_file(data, network_id=opened.network_id).header.hotkey == miner
    for wrong, message in (
        ({"network_id": api.Digest(bytes(32))}, "signature is not the hotkey's"),
        ({"miner": judged.signers["validator-0"].hotkey}, "the file is of 5"),
        ({"window": FIRST_WINDOW + 30}, f"the file is of window {FIRST_WINDOW}"),
    ):
        with pytest.raises(ProtocolViolationError, match=message):
            api.verify_window_file(data, **{"network_id": opened.network_id, **wrong})  # type: ignore[arg-type]
    for data_ in (b"", data[:-1], data[: len(data) // 2] + b"\0" + data[len(data) // 2 + 1 :], b"PAR1" * 100):
        with pytest.raises(ProtocolViolationError):
            api.verify_window_file(data_, network_id=opened.network_id)


def test_what_is_not_there_is_said(judged: SmallNetwork, opened: api.Network) -> None:
    validator = judged.signers["validator-0"].hotkey
    bucket = opened.bucket(validator)
    assert api.read_verdict(bucket, FIRST_WINDOW + 30, validator=validator, network_id=opened.network_id) is None
    with pytest.raises(ConfigurationError, match="31 is no window"):
        api.read_verdict(bucket, 31, validator=validator, network_id=opened.network_id)
    with pytest.raises(ChainError, match="not registered here"):
        opened.bucket(api.Hotkey(b"\7" * 32))
    with pytest.raises(ConfigurationError):
        api.hotkey("nobody")
    with pytest.raises(ProtocolViolationError, match="not this validator's"):
        api.read_verdict(bucket, FIRST_WINDOW, validator=judged.signers["miner-0"].hotkey, network_id=opened.network_id)


def test_the_surface_is_what_is_documented_and_loads_nothing_heavy() -> None:
    assert all(getattr(api, name).__doc__ for name in api.__all__ if name not in ("Digest", "Hotkey", "Window"))
    program = (
        "import sys, grail_core.api\n"
        "heavy = {'torch', 'transformers', 'numba', 'bittensor', 'boto3'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
