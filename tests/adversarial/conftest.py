"""One scene for all tests of forged proofs, sampling fraud and dishonest miners: its model is trained once, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tooling.adversaries.scene import BRIEF, Scene, open_scene
from tooling.testing.models.artefacts import Artefacts


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with open_scene(BRIEF, store=Artefacts(cache_folder(tmp_path_factory) / "power")) as opened:
        yield opened


def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GRAIL_CACHE_DIR is for a test that starts the command line, so that it finds the scene's models."""
    return tmp_path_factory.getbasetemp() / "tiny-models"


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_CACHE_DIR", str(cache_folder(tmp_path_factory)))
