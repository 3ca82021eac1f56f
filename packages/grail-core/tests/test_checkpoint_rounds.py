"""A checkpoint comes into force where a round begins: publishers refuse another place, readers pass it over."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from grail_core.checkpoints.manifests import begins_a_round, list_manifests, select
from grail_core.checkpoints.publish import publish
from grail_core.environment import EnvironmentSpec
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointManifest, ManifestContent, build
from grail_core.protocol.types import Block, Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import manifest_key
from tooling.testing.checkpoints import MODEL_FILES, NETWORK_ID, PARAMS, TRAINER, bucket_of, parts_of, weights
from tooling.testing.clock import ManualClock
from tooling.testing.inner_rounds import SPEC

TWO = replace(SPEC, round_windows=2, tail_blocks=40)
GRADIENT, ROLLOUTS = TWO.environment("ab" * 32), EnvironmentSpec("sat", 1)


class Trainer:
    def __init__(self, root: Path) -> None:
        self.store, self.cache = FilesystemStore(root, "bucket", clock=ManualClock(1)), root / "cache"
        self.published = 0

    def publish(self, valid_from: int, environment: EnvironmentSpec) -> CheckpointManifest:
        parts = replace(parts_of(NETWORK_ID, 30 * self.published, valid_from), environment=environment)
        bucket = bucket_of(self.store, self.cache)
        manifest = publish(bucket, parts, weights(self.published), MODEL_FILES, TRAINER, PARAMS)
        self.published += 1
        return manifest


def test_a_checkpoint_of_rounds_of_two_windows_is_published_where_one_begins(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    with pytest.raises(CheckpointError, match="no round begins there"):
        trainer.publish(30, GRADIENT)
    assert trainer.publish(60, GRADIENT).valid_from == 60


def test_a_network_turns_to_rollouts_where_a_round_ends(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.publish(60, GRADIENT)
    with pytest.raises(CheckpointError, match="no round begins there"):
        trainer.publish(90, ROLLOUTS)
    assert trainer.publish(120, ROLLOUTS).valid_from == 120
    assert trainer.publish(150, ROLLOUTS).valid_from == 150  # windows of rollouts are as they ever were


def test_a_signed_checkpoint_that_would_come_into_force_inside_a_round_is_passed_over(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    first = trainer.publish(60, GRADIENT)
    second = trainer.publish(120, GRADIENT)
    content = ManifestContent(**{field.name: getattr(second, field.name) for field in fields(ManifestContent)})
    early = build(replace(content, valid_from=Window(90)), TRAINER)
    trainer.store.delete(manifest_key(Window(120)))
    trainer.store.put(manifest_key(Window(90)), early.to_bytes())
    view = list_manifests(trainer.store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)
    assert [item.manifest.valid_from for item in view.stored] == [60, 90]
    assert not begins_a_round(early, first)
    for window in (60, 90, 150):
        assert select(view, Window(window), PARAMS, lambda block: Block(block) * 1_500).digest == first.digest
