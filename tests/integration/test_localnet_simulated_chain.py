"""`localnet --chain bittensor-sim`: roles as shipped that reach the chain through the bittensor SDK over simulated nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from tooling import REPOSITORY
from tooling.localnet.on_simulated_chain import SETTINGS, on_simulated_chain
from tooling.testing.simulated_bittensor.faults import FaultFile

ROLE = """
import json, sys
from grail_core.participant.deployment import network_clock, open_chain
from grail_core.participant.settings import load_settings
settings = load_settings()
chain = open_chain(settings)
said = [type(chain).__name__, chain.current_block(), chain.genesis_hash.hex(), chain.now_ms(), network_clock(settings)()]
print(json.dumps([*said, chain.endpoint, sys.argv[1:]]))
"""


def test_a_role_on_the_simulated_chain_reads_its_settings_its_adapter_and_the_chains_clock(tmp_path: Path) -> None:
    path = tmp_path / "chain.sqlite"
    chain = LocalChain.create(path, seed=3, clock=ClockMode.VIRTUAL)
    chain.advance(25)
    FaultFile(path).set("primary", unreachable=True)  # by another process than the role's
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BT_", "GRAIL_"))}
    ran = subprocess.run(
        on_simulated_chain((sys.executable, "-c", ROLE, "--an-option"), path, 0.05),
        cwd=REPOSITORY,
        env=kept | SETTINGS,
        capture_output=True,
        text=True,
        check=True,
    )
    now = chain.now_ms()
    assert json.loads(ran.stdout) == [
        "BittensorChain",
        25,
        chain.genesis_hash.hex(),
        now,
        now,
        "fallback:1",
        ["--an-option"],
    ]


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("clock", [(), ("--real-time", "--block-time", "1")], ids=["virtual clock", "real time"])
def test_a_localnet_on_the_simulated_chain_ends_like_the_default_one(clock: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--chain", "bittensor-sim", "--windows", "2", "--quick", "--miners", "1", "--validators", "2", *clock)
    ran = subprocess.run(
        [sys.executable, "-m", "tooling.localnet", "--out", str(out), "--json", *options],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith(("BT_", "GRAIL_"))},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    honest, cheat = sorted(summary["miners"], key=lambda miner: miner["strategy"] != "honest")
    assert (summary["finished"], cheat["weight"]) == (True, 0)
    assert honest["weight"] > 0
    logs = [json.loads(line) for path in (out / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
    names = {line["event"] for line in logs}
    assert "weights_set" in names
    assert not {name for name in names if name.startswith("chain_")}, "honest nodes were accused"
