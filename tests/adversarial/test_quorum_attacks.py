"""X8: no sliver of stake, forged verdict or oversize object decides what is learned from, and none of them stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tooling.adversaries.family_x_quorum import CASES, TWINS, Case, play
from tooling.testing.models.tiny_qwen2 import save_byte_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("case", [*CASES, *TWINS], ids=lambda case: case.name)
def test_only_what_most_of_the_scoring_stake_accepted_is_had(case: Case, tmp_path: Path, model: Path) -> None:
    assert play(case, tmp_path / "network", model) == ""
