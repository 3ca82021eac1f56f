"""A validator whose windows are full of hostile files judges every one of them and pays who is honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tooling.adversaries.hostile_windows import run

MAX_PEAK_MIB = 2048


@pytest.mark.parametrize("files", [6, pytest.param(300, marks=pytest.mark.heavy)])
def test_windows_of_hostile_files_are_judged_and_the_honest_miner_is_paid_in_each(tmp_path: Path, files: int) -> None:
    outcome = run(files, root=tmp_path)
    assert outcome.holds, outcome
    assert sum(outcome.hostile.values()) == files
    assert max(outcome.readers_peak_mib, outcome.validator_peak_mib if files > 6 else 0) < MAX_PEAK_MIB
