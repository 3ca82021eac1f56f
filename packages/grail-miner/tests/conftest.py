"""A node that answers, OpenAI's client of it, and its model for who checks receipts: once for each file that asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from grail_core.checkpoints.served_model import read_served_folder
from grail_core.verification.receipt import ModelAtHand
from grail_core.verification.receipt_model import model_at_hand
from tooling.testing.serving_node import RunningNode, answering_of, running_node, save_served_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny model over bytes."""
    return save_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(answering_of(folder), tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="module")
def client(node: RunningNode) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def at_hand(folder: Path) -> ModelAtHand:
    served = read_served_folder(folder)
    return model_at_hand(folder, served.model, served.renderer)
