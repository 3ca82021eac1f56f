"""What a trained window asks of the trainer's own bucket about its own sequence, after years of checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.checkpoints.safety import read_model_files
from grail_core.errors import StorageError
from grail_core.participant.participant import Participant
from grail_core.protocol.manifest import CheckpointManifest, ManifestContent, build
from grail_core.protocol.types import Window
from grail_core.storage.base import ObjectInfo, ObjectStore
from grail_core.storage.layout import MANIFEST_PREFIX, manifest_key
from grail_trainer.hyper_parameters import OptimiserSettings
from grail_trainer.learning.optimiser import Masters
from grail_trainer.publishing.publication import Publisher
from grail_trainer.steps import TrainedWindow
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.network import Network

STORED = 1000


class CountingStore:
    """A store that counts what is asked of the part that holds manifests."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def _count(self, name: str, key: str) -> None:
        if key.startswith(MANIFEST_PREFIX):
            self.asked[name] += 1

    def head(self, key: str) -> ObjectInfo | None:
        self._count("head", key)
        return self._store.head(key)

    def get(self, key: str, **options: Any) -> bytes:
        self._count("get", key)
        return self._store.get(key, **options)

    def put(self, key: str, data: bytes, **options: Any) -> ObjectInfo:
        self._count("put", key)
        return self._store.put(key, data, **options)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._count("list", prefix)
        yield from self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._count("delete", key)
        self._store.delete(key)


def with_many_checkpoints(network: Network) -> tuple[Participant, CountingStore, CheckpointManifest]:
    """The trainer of a network that has published a checkpoint every window so far, all of the same weights."""
    participant = network.participant("trainer")
    store, last = participant.own_store, network.manifest
    values = {field.name: getattr(last, field.name) for field in fields(ManifestContent)}
    for sequence in range(1, STORED):
        window = Window(network.manifest.valid_from + 30 * (sequence - 1))
        at = {
            "sequence": sequence,
            "window": window,
            "valid_from": Window(window + 30),
            "parent": last.digest,
            "base": last.digest,
        }
        last = build(ManifestContent(**{**values, **at}), participant.signer)
        store.put(manifest_key(last.valid_from), last.to_bytes())
    counting = CountingStore(store)
    participant.__dict__["own_store"] = counting
    return participant, counting, last


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model"))


def test_a_trained_window_asks_at_most_three_times_about_a_thousand_checkpoints(tmp_path: Path, model: Path) -> None:
    network = Network(tmp_path, model=model)
    participant, counting, last = with_many_checkpoints(network)
    publisher = Publisher(participant, read_model_files(model))
    assert len(publisher.view().stored) == STORED
    checkpoint, masters = LiveCheckpoint(participant.checkpoints), Masters.load(model, OptimiserSettings(learning_rate=0.0))
    window = Window(last.window + 30)
    for _ in range(3):
        network.advance_to(window + 2)
        counting.asked.clear()
        context = participant.open_window(window)
        checkpoint.at(context.manifest)
        trained = TrainedWindow(window, {"window": window}, {"groups": 1}, {})
        published = publisher.publish_trained(trained, masters.published(), last=False)
        assert published is not None
        assert published.window == window
        # One listing is whether another trainer of this hotkey publishes here, too.
        assert counting.asked.total() <= 3, counting.asked
        assert counting.asked["list"] <= 1
        window = Window(window + 30)


def test_a_manifest_that_somebody_else_put_is_found_and_never_replaced(tmp_path: Path, model: Path) -> None:
    """The sequence is listed again when the place is taken, although the owner believed it to be free."""
    network = Network(tmp_path, model=model)
    participant = network.participant("trainer")
    publisher = Publisher(participant, read_model_files(model))
    assert len(publisher.view().stored) == 1
    network.advance_to(32)
    other = Publisher(network.participant("trainer"), read_model_files(model))
    masters = Masters.load(model, OptimiserSettings(learning_rate=0.0))
    trained = TrainedWindow(Window(30), {"window": 30}, {}, {})
    theirs = other.publish_trained(trained, masters.published(), last=False)
    ours = publisher.publish_trained(trained, masters.published(), last=False)
    assert ours == theirs
    assert [item.manifest for item in publisher.view().stored] == [network.manifest, theirs]


def test_a_checkpoint_that_the_store_took_and_whose_answer_was_lost_is_found_and_not_signed_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second manifest of one number would be an equivocation, and the end of the network."""
    network = Network(tmp_path, model=model)
    participant = network.participant("trainer")
    publisher = Publisher(participant, read_model_files(model))
    assert len(publisher.view().stored) == 1
    network.advance_to(32)
    store = participant.own_store
    put, lost = store.put, [True]

    def answers_once_no_more(key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        info = put(key, data, if_absent=if_absent)
        if key.startswith(MANIFEST_PREFIX) and lost:
            lost.clear()
            raise StorageError("no answer within 60 s", where=key)
        return info

    monkeypatch.setattr(store, "put", answers_once_no_more)
    masters = Masters.load(model, OptimiserSettings(learning_rate=0.0))
    trained = TrainedWindow(Window(30), {"window": 30}, {}, {})
    with pytest.raises(StorageError, match="no answer"):
        publisher.publish_trained(trained, masters.published(), last=False)
    network.chain.advance(90)  # an outage of three windows: another place would be chosen now
    published = publisher.publish_trained(trained, masters.published(), last=False)
    assert published is not None
    stored = network.participant("miner-0").checkpoints.view().stored
    assert [item.manifest.sequence for item in stored] == [0, 1]
    assert stored[1].manifest == published
