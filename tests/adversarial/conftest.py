"""One scene for all tests of forged proofs, sampling fraud and dishonest miners: its model is trained once, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling.adversaries.scene import BRIEF, Scene, open_scene
from tooling.testing.models.artefacts import Artefacts


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.getbasetemp() / "tiny-models"
    with open_scene(BRIEF, store=Artefacts(folder)) as opened:
        yield opened
