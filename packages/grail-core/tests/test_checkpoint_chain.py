"""A chain of checkpoints of a real (tiny) model: published, selected by the rule, fetched, applied, and never half done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.frames import Profile
from grail_core.checkpoints.fetch import apply_to_model, materialise
from grail_core.checkpoints.manifests import (
    EquivocationError,
    RollbackError,
    list_manifests,
    select,
)
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import ModelFiles, read_model_files
from grail_core.checkpoints.seen import SeenCheckpoints
from grail_core.environment import EnvironmentSpec
from grail_core.errors import CheckpointError
from grail_core.protocol.manifest import CheckpointKind, CheckpointManifest, ManifestContent, build, parse
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Block, Window
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import manifest_key
from tooling.testing.checkpoints import NETWORK_ID, PARAMS, TRAINER, bucket_of, parts_of
from tooling.testing.clock import ManualClock
from tooling.testing.keys import EVE
from tooling.testing.models.tiny_qwen2 import BYTES, END_TOKEN_ID, save_byte_model


def time_of(block: Block) -> int:
    return block * 1_500


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("model"), dataclasses.replace(BYTES, spread=0.02))


@pytest.fixture(scope="session")
def files(model_folder: Path) -> ModelFiles:
    return read_model_files(model_folder)


def load(folder: Path) -> Qwen2ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def train_a_little(model: torch.nn.Module, seed: int) -> None:
    """Change about one weight in fifty by an ULP or two, as a step with fp32 masters does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 2e-5
            parameter.copy_((parameter.float() + noise).to(parameter.dtype))


class Trainer:
    """Publishes a chain, one checkpoint a window, into a bucket whose clock the test sets."""

    def __init__(self, folder: Path, model_folder: Path, files: ModelFiles) -> None:
        self.clock = ManualClock(0)
        self.store = FilesystemStore(folder, "trainer", clock=self.clock)
        self.cache = CheckpointCache(folder / "trainer-cache")
        self.files = files
        self.model = load(model_folder)
        self.manifests: list[CheckpointManifest] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def parts(self, window: int, valid_from: int) -> CheckpointParts:
        return dataclasses.replace(
            parts_of(NETWORK_ID, window, valid_from),
            environment=EnvironmentSpec("sat", 1, {"variables": 5}),
            policy=GenerationPolicy(max_tokens=64, temperature=0.7, top_p=0.95),
            end_token_ids=(END_TOKEN_ID,),
            thinking_mode="instructed",
            training={"step": window // 30, "loss": "0.25"},
        )

    def step(self, *, late: bool = False, profile: Profile = Profile.SMALL) -> CheckpointManifest:
        number = len(self.manifests)
        window, valid_from = number * 30, number * 30 + (30 if number else 0)
        if number:
            train_a_little(self.model, number)
        self.clock.now = time_of(Block(valid_from if late else max(0, valid_from - 10)))
        manifest = self.publish(window, valid_from, profile)
        self.manifests.append(manifest)
        self.states.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return manifest

    def publish(self, window: int, valid_from: int, profile: Profile = Profile.SMALL) -> CheckpointManifest:
        return publish(
            bucket_of(self.store, self.cache),
            self.parts(window, valid_from),
            self.model.state_dict(),
            self.files,
            TRAINER,
            PARAMS,
            profile=profile,
        )


@pytest.fixture
def trainer(tmp_path: Path, model_folder: Path, files: ModelFiles) -> Trainer:
    return Trainer(tmp_path, model_folder, files)


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n].view(torch.int16), b[n].view(torch.int16)) for n in a)


def view_of(trainer: Trainer) -> Any:
    return list_manifests(trainer.store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)


def test_a_manifest_reads_back_as_it_was_written(trainer: Trainer) -> None:
    manifest = trainer.step()
    read = parse(manifest.to_bytes(), trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)
    assert read == manifest
    assert read.digest == manifest.digest
    assert read.policy == GenerationPolicy(max_tokens=64, temperature=0.7, top_p=0.95)
    assert read.environment.digest == read.env_digest
    assert read.kind is CheckpointKind.FULL


def test_the_first_checkpoint_becomes_an_ordinary_model_folder(trainer: Trainer, tmp_path: Path) -> None:
    manifest = trainer.step()
    folder = materialise(manifest, bucket_of(trainer.store, tmp_path / "cache"))
    assert same_weights(load(folder).state_dict(), trainer.states[0])
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert materialise(manifest, bucket_of(trainer.store, tmp_path / "cache")) == folder


@pytest.mark.parametrize("profile", list(Profile))
def test_a_folder_rebuilt_from_deltas_equals_the_published_one_byte_for_byte(
    trainer: Trainer, tmp_path: Path, profile: Profile
) -> None:
    for _ in range(11):
        trainer.step(profile=profile)
    anchor = trainer.manifests[10]
    assert anchor.kind is CheckpointKind.FULL
    assert {m.kind for m in trainer.manifests[1:10]} == {CheckpointKind.DELTA}
    cache = CheckpointCache(tmp_path / "cache")
    for number in (0, 1, 4, 9, 10):
        folder = materialise(trainer.manifests[number], bucket_of(trainer.store, cache))
        assert same_weights(load(folder).state_dict(), trainer.states[number])
    from_anchor = materialise(anchor, bucket_of(trainer.store, tmp_path / "fresh"))
    from_deltas = cache.folder(anchor.digest)
    assert {p.name: p.read_bytes() for p in from_anchor.iterdir()} == {p.name: p.read_bytes() for p in from_deltas.iterdir()}


def test_a_loaded_model_follows_the_chain_in_memory(trainer: Trainer, tmp_path: Path) -> None:
    for _ in range(4):
        trainer.step()
    model = load(materialise(trainer.manifests[0], bucket_of(trainer.store, tmp_path / "cache")))
    for before, after, state in zip(trainer.manifests, trainer.manifests[1:], trainer.states[1:], strict=False):
        apply_to_model(model.state_dict(), before, after, bucket_of(trainer.store, tmp_path / "cache"))
        assert same_weights(model.state_dict(), state)


def test_a_model_that_is_not_the_parent_is_named_and_left_alone(trainer: Trainer, tmp_path: Path) -> None:
    first, second = trainer.step(), trainer.step()
    model = load(materialise(first, bucket_of(trainer.store, tmp_path / "cache")))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is not what this delta starts from"):
        apply_to_model(model.state_dict(), first, second, bucket_of(trainer.store, tmp_path / "cache"))
    assert same_weights(model.state_dict(), before)


def test_a_window_uses_the_checkpoint_that_was_there_in_time(trainer: Trainer) -> None:
    trainer.step()
    trainer.step()
    late = trainer.step(late=True)
    for window, expected in ((0, 0), (30, 0), (60, 1), (late.valid_from, 1), (900, 1)):
        found = select(view_of(trainer), Window(window), PARAMS, time_of)
        assert found.sequence == expected
    after_late = trainer.step()
    assert select(view_of(trainer), Window(after_late.valid_from), PARAMS, time_of).sequence == 3


def test_being_in_the_store_at_the_very_block_is_too_late(trainer: Trainer) -> None:
    trainer.step()
    manifest = trainer.step()
    border = time_of(Block(manifest.valid_from - PARAMS.checkpoint_lead))
    for stored_at, expected in ((border - 1, 1), (border, 0)):
        view = view_of(trainer)
        moved = dataclasses.replace(view.stored[1], stored_at_ms=stored_at)
        view = dataclasses.replace(view, stored=(view.stored[0], moved))
        assert select(view, manifest.valid_from, PARAMS, time_of).sequence == expected


def test_no_checkpoint_yet_is_said_plainly(trainer: Trainer) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint is valid in window 30"):
        select(view_of(trainer), Window(30), PARAMS, time_of)


def test_publishing_again_finds_what_is_there(trainer: Trainer) -> None:
    manifest = trainer.step()
    assert trainer.publish(0, 0) == manifest
    train_a_little(trainer.model, 99)
    with pytest.raises(CheckpointError, match="another checkpoint comes into force in window 0 already"):
        trainer.publish(0, 0)


def content_of(manifest: CheckpointManifest, **changes: Any) -> ManifestContent:
    fields = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(ManifestContent)}
    return ManifestContent(**{**fields, **changes})


def test_two_manifests_for_one_sequence_number_stop_the_reader(trainer: Trainer) -> None:
    trainer.step()
    first = trainer.step()
    twin = build(content_of(first, valid_from=Window(90)), TRAINER)
    trainer.store.put(manifest_key(twin.valid_from), twin.to_bytes())
    with pytest.raises(EquivocationError, match="two manifests for sequence 1"):
        view_of(trainer)


def test_an_old_state_offered_as_new_stops_the_reader(trainer: Trainer) -> None:
    for _ in range(3):
        trainer.step()
    old = build(content_of(trainer.manifests[1], valid_from=Window(300)), TRAINER)
    trainer.store.put(manifest_key(old.valid_from), old.to_bytes())
    with pytest.raises(RollbackError, match="an old state is offered as new"):
        view_of(trainer)


def test_a_chain_that_is_rewritten_is_remembered(trainer: Trainer, tmp_path: Path) -> None:
    trainer.step()
    second = trainer.step()
    path = tmp_path / "seen.json"
    SeenCheckpoints(path).check(view_of(trainer))
    trainer.store.delete(manifest_key(second.valid_from))
    with pytest.raises(RollbackError, match="end at sequence 0, but 1 was seen before"):
        SeenCheckpoints(path).check(view_of(trainer))
    other = build(content_of(second, window=Window(0), training={}), TRAINER)
    trainer.store.put(manifest_key(other.valid_from), other.to_bytes())
    with pytest.raises(EquivocationError, match="two manifests for sequence 1"):
        SeenCheckpoints(path).check(view_of(trainer))


def test_a_manifest_by_another_signer_is_no_checkpoint(trainer: Trainer) -> None:
    manifest = trainer.step()
    forged = build(content_of(manifest, trainer=EVE.hotkey, sequence=7, parent=manifest.digest, valid_from=Window(60)), EVE)
    trainer.store.put(manifest_key(forged.valid_from), forged.to_bytes())
    view = view_of(trainer)
    assert [item.manifest.sequence for item in view.stored] == [0]
    assert "not signed by this network's trainer" in view.refused[0].error.what


def test_a_manifest_copied_to_another_window_is_no_checkpoint(trainer: Trainer) -> None:
    manifest = trainer.step()
    trainer.store.put(manifest_key(Window(600)), manifest.to_bytes())
    view = view_of(trainer)
    assert [item.manifest.valid_from for item in view.stored] == [0]
    assert "copied to another key" in view.refused[0].error.what


def test_every_changed_byte_of_a_manifest_is_refused(trainer: Trainer) -> None:
    raw = trainer.step().to_bytes()
    for position in range(0, len(raw), 7):
        broken = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(CheckpointError):
            parse(broken, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)


def test_a_damaged_cache_is_mended_tensor_by_tensor(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = trainer.step()
    folder = materialise(manifest, bucket_of(trainer.store, tmp_path / "cache"))
    good = (folder / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(len(good) - 100)
        file.write(b"\xff" * 10)
    asked: list[int] = []
    get: Callable[..., bytes] = trainer.store.get

    def counted(key: str, **options: Any) -> bytes:
        asked.append(options.get("length") or options["max_bytes"])
        return get(key, **options)

    monkeypatch.setattr(trainer.store, "get", counted)
    assert materialise(manifest, bucket_of(trainer.store, tmp_path / "cache")) == folder
    assert (folder / "model.safetensors").read_bytes() == good
    assert sum(asked) < len(good) / 2


def test_wrong_object_bytes_never_reach_the_cache(trainer: Trainer, tmp_path: Path) -> None:
    trainer.step()
    second = trainer.step()
    cache = CheckpointCache(tmp_path / "cache")
    first_folder = materialise(trainer.manifests[0], bucket_of(trainer.store, cache))
    ref = second.deltas[0].parts[0]
    data = bytearray(trainer.store.get(ref.key, max_bytes=ref.size))
    data[len(data) // 2] ^= 1
    trainer.store.put(ref.key, bytes(data))
    with pytest.raises(CheckpointError, match="not those that the manifest names"):
        materialise(second, bucket_of(trainer.store, cache))
    assert cache.entry(second.digest) is None
    assert same_weights(load(first_folder).state_dict(), trainer.states[0])


def test_one_flipped_byte_in_any_object_is_found(trainer: Trainer, tmp_path: Path) -> None:
    first, second = trainer.step(), trainer.step()
    model = load(materialise(first, bucket_of(trainer.store, tmp_path / "honest")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, ref in enumerate({**first.objects(), **second.objects()}.values()):
        good = trainer.store.get(ref.key, max_bytes=ref.size)
        position = (number * 7919) % ref.size
        trainer.store.put(ref.key, good[:position] + bytes([good[position] ^ (1 << number % 8)]) + good[position + 1 :])
        target = first if ref.sha256 in first.objects() else second
        with pytest.raises(CheckpointError, match="not those that the manifest names"):
            materialise(target, bucket_of(trainer.store, tmp_path / f"cache{number}"))
        if target is second:
            with pytest.raises(CheckpointError, match="not those that the manifest names"):
                apply_to_model(model.state_dict(), first, second, bucket_of(trainer.store, tmp_path / f"cache{number}"))
        trainer.store.put(ref.key, good)
    assert same_weights(model.state_dict(), before)
