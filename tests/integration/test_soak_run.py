"""A short soak of the whole subnet: six windows, one fault outside, nothing lost without a word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tooling import REPOSITORY

pytestmark = pytest.mark.heavy
WINDOWS = 6


def test_a_short_soak_says_what_became_of_every_window_and_draws_what_was_held(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    options = ["--windows", str(WINDOWS), "--window-seconds", "30", "--out", str(out), "--json"]
    command = [sys.executable, "-m", "tooling.soak", *options]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout)
    assert told == json.loads((out / "soak.json").read_text())
    assert told["problems"] == []
    assert len(told["faults"]) == 1
    assert not told["trend_shown"], "six windows show no trend, and are said to show none"
    assert set(told["roles"]) == {"trainer", "validator-1", "validator-2", "miner-1", "miner-2"}
    for role in told["roles"].values():
        assert role["done"] + role["with_reason"] == WINDOWS
    assert "<svg" in (out / "soak.svg").read_text()
