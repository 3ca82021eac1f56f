"""A validator whose windows are full of hostile files judges every one of them and pays who is honest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.adversaries.hostile_windows import run

MAX_PEAK_MIB = 2048


def test_windows_of_hostile_files_are_judged_and_the_honest_miner_is_paid_in_each(tmp_path: Path) -> None:
    outcome = run(6, root=tmp_path)
    assert outcome.holds, outcome
    assert sum(outcome.hostile.values()) == 6
    assert outcome.readers_peak_mib < MAX_PEAK_MIB


@pytest.mark.heavy
def test_three_hundred_of_them_fill_no_validators_memory() -> None:
    """In a process of its own: what a process has had at most is never forgotten, and other tests load larger models."""
    command = [sys.executable, "-m", "tooling.adversaries.hostile_windows", "--files", "300", "--json"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert outcome["holds"], outcome
    assert sum(outcome["hostile"].values()) == 300
    assert max(outcome["readers_peak_mib"], outcome["validator_peak_mib"]) < MAX_PEAK_MIB
