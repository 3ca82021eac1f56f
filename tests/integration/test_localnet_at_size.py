"""A localnet on a larger model than its default: who runs other weights earns nothing, honest work keeps its weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tooling import REPOSITORY

SHAPE = "12x512"
CHEATS = ("stale", "eight-bit")


@pytest.mark.heavy
@pytest.mark.timeout(3600)  # two to four minutes a window on two idle processors
def test_stale_and_eight_bit_weights_earn_nothing_on_a_larger_model(tmp_path: Path) -> None:
    options = ["--model-shape", SHAPE, "--windows", "3", "--groups", "4", "--miners", "2", "--evaluation-problems", "64"]
    options += [word for cheat in CHEATS for word in ("--cheat", cheat)]
    options += ["--patience", "1200"]  # a role at work is no role that hangs, however slow the machine
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    command = [sys.executable, "-m", "tooling.localnet", "--out", str(tmp_path / "run"), "--json", *options]
    done = subprocess.run(command, cwd=REPOSITORY, env=plain, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["validators_agree"]
    for miner in summary["miners"]:
        if miner["strategy"] in CHEATS:
            assert miner["weight"] == 0, miner
            assert miner["windows_failed"] > 0, miner
            assert any(character.isdigit() for character in miner["reason"]), miner
        else:
            assert miner["weight"] > 0, miner
            assert miner["windows_failed"] == 0, miner
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert f"{config['num_hidden_layers']}x{config['hidden_size']}" == SHAPE


def test_a_shape_goes_with_a_model_that_is_made_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tooling.localnet", "--out", str(tmp_path / "run"), "--model", str(tmp_path)]
    done = subprocess.run([*command, "--model-shape", SHAPE], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--model-shape" in done.stderr
    assert not (tmp_path / "run").exists()
