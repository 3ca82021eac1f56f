"""One scene for all tests of forged proofs, sampling fraud and dishonest miners: its model is trained once, in seconds."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tooling.adversaries.scene import BRIEF, Scene, open_scene
from tooling.testing.models.artefacts import Artefacts


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, store: Artefacts) -> Iterator[Scene]:
    with ExitStack() as stack:
        with (cache_folder(tmp_path_factory) / "training").open("w") as lock:  # another worker waits for the models of this one
            fcntl.flock(lock, fcntl.LOCK_EX)
            opened = stack.enter_context(open_scene(BRIEF, store=store))
        yield opened


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    """Trained models, of all workers of a run."""
    folder = cache_folder(tmp_path_factory)
    folder.mkdir(exist_ok=True)
    return Artefacts(folder / "power")


def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GRAIL_CACHE_DIR is for a test that starts the command line, so that it finds the scene's models. All workers of a
    run have one: the folder above their own."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny-models"


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_CACHE_DIR", str(cache_folder(tmp_path_factory)))
