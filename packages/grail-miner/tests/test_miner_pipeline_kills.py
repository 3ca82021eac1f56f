"""A miner that is killed in the middle of any step has a window as if nothing had been, or is absent: never half of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tooling.testing.mortal_miner import STEPS

EARLY = STEPS[: STEPS.index("seal")]
"""While there is time before the last blocks."""


@pytest.mark.heavy
def test_a_miner_killed_at_any_step_makes_its_window_again_or_leaves_none(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tooling.testing.mortal_miner", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lives = json.loads(ran.stdout.splitlines()[-1])
    undisturbed = lives[""]["found"]
    assert set(undisturbed) == {"file", "seal"}
    for step in STEPS:
        life = lives[step]
        assert (life["status"], life["again"]) == (-9, 0), step
        if step in EARLY:
            assert (life["found"], life["then"]) == ({}, undisturbed), step  # nothing lay there, and the same file does now
    # In the last blocks there is no time left for another one: without its seal nobody looks at a file.
    assert lives["seal"]["then"] == lives["put 1"]["then"] == {}
    assert lives["put 2"]["then"] == lives["put 2"]["found"] == {"file": undisturbed["file"]}
    assert lives["after"]["then"] == lives["after"]["found"] == undisturbed
