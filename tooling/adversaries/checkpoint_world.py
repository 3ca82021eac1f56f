"""An honest chain of two checkpoints in a real bucket, and whoever follows it: what hostile checkpoints are tried on."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor
from grail_core.checkpoints.fetch import apply_to_model, materialise
from grail_core.checkpoints.manifests import CheckpointSequence, list_manifests, select
from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.seen import SeenCheckpoints
from grail_core.environment import EnvironmentSpec
from grail_core.errors import CheckpointError
from grail_core.keys import LocalSigner
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import (
    CheckpointManifest,
    DeltaRef,
    FileRef,
    ManifestContent,
    ObjectRef,
    build,
)
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Window
from grail_core.storage.base import ObjectStore
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import manifest_key

NETWORK_ID = Digest(b"\x0d" * 32)
TRAINER = LocalSigner.from_seed(b"\x0d" * 32)
STRANGER = LocalSigner.from_seed(b"\x0e" * 32)
PARAMS = dataclasses.replace(LOCALNET, trainer_hotkey=TRAINER.hotkey)
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 1, "hidden_size": 50}
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TOKENIZER = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": json.dumps(TOKENIZER).encode(),
    "chat_template.jinja": TEMPLATE.encode(),
}


def weights(step: int) -> dict[str, RawTensor]:
    bits = np.random.default_rng(1).integers(0, 2**15, 6000).astype(np.uint16)
    for number in range(1, step + 1):
        bits = bits ^ (np.random.default_rng(number + 50).random(bits.size) < 0.02).astype(np.uint16)
    layout = Layout(DTYPES["BF16"], (60, 50))
    return {"model.a": RawTensor(layout, bits[:3000].copy()), "model.b": RawTensor(layout, bits[3000:].copy())}


def parts(number: int) -> CheckpointParts:
    return CheckpointParts(
        network_id=NETWORK_ID,
        window=Window(30 * number),
        valid_from=Window(30 * number + 60 if number else 0),
        environment=EnvironmentSpec("sat", 1),
        policy=GenerationPolicy(max_tokens=16),
        end_token_ids=(0,),
        thinking_mode="native",
    )


def bucket_of(store: ObjectStore, cache: Path | CheckpointCache) -> CheckpointBucket:
    return CheckpointBucket(store, cache, trainer=TRAINER.hotkey, network_id=NETWORK_ID)


class World:
    """A trainer's bucket with two honest checkpoints, and a victim that runs the first one."""

    def __init__(self, root: Path) -> None:
        if root != honest_world():
            shutil.copytree(honest_world(), root, dirs_exist_ok=True)
        self.root = root
        self.store = FilesystemStore(root, "trainer", clock=lambda: 0)
        self.manifests = [self.publish(n, weights(n)) for n in (0, 1)]  # of a copied world: finds what is there
        self.cache = CheckpointCache(root / "victim")
        materialise(self.manifests[0], bucket_of(self.store, self.cache))
        self.memory = SeenCheckpoints(root / "seen.json")
        self.memory.check(self.view())
        self.model = {name: tensor.bits.copy() for name, tensor in weights(0).items()}
        self.untouched = {name: bits.copy() for name, bits in self.model.items()}

    def publish(self, number: int, state: Mapping[str, RawTensor], files: Mapping[str, bytes] = FILES) -> CheckpointManifest:
        bucket = bucket_of(self.store, self.root / "trainer-cache")
        return publish(bucket, parts(number), state, files, TRAINER, PARAMS)

    def view(self) -> CheckpointSequence:
        return list_manifests(self.store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)

    def follow(self) -> None:
        """What a participant does in a window: read the chain, choose, fetch, and step its running model."""
        view = self.view()
        self.memory.check(view)
        if view.refused:
            raise view.refused[0].error
        manifest = select(view, Window(900), PARAMS, lambda block: block * 1500 + 1)
        if manifest == self.manifests[0]:
            raise CheckpointError("the chain did not go on")
        direct = any(delta.base == self.manifests[0].digest for delta in manifest.deltas)
        raw = {n: RawTensor(Layout(DTYPES["BF16"], (60, 50)), b) for n, b in self.model.items()}
        if direct:
            apply_to_model(raw, self.manifests[0], manifest, bucket_of(self.store, self.cache))
        materialise(manifest, bucket_of(self.store, self.cache))

    def harmed(self) -> bool:
        """Is the running model other than before, or is anything but the honest checkpoint in the cache?"""
        moved = any((self.model[name] != bits).any() for name, bits in self.untouched.items())
        return moved or self.cache.entries() != [self.manifests[0].digest] or (self.root / "pwned").exists()

    def content(self, number: int = 1, **changes: Any) -> ManifestContent:
        manifest = self.manifests[number]
        fields = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(ManifestContent)}
        return ManifestContent(**{**fields, **changes})

    def put_object(self, data: bytes) -> ObjectRef:
        ref = ObjectRef.of(data)
        self.store.put(ref.key, data)
        return ref

    def replace_newest(self, manifest: CheckpointManifest) -> None:
        """The trainer's own key signs this in place of the second checkpoint, to a victim that has not seen that one."""
        self.forget()
        self.store.put(manifest_key(manifest.valid_from), manifest.to_bytes())

    def sign_json(self, change: Callable[[dict[str, Any]], None]) -> None:
        """A body of any form, signed by the trainer's key, past the checks that `build` makes."""
        change(value := json.loads(self.manifests[1].body))
        body = canonical_json(value)
        signature = TRAINER.sign(tagged_hash(NETWORK_ID, "grail/manifest", body)).hex().encode()
        self.forget()
        raw = b'{"manifest":' + body + b',"signature":"' + signature + b'"}'
        self.store.put(manifest_key(self.manifests[1].valid_from), raw)

    def forget(self) -> None:
        """A victim that has not seen the second checkpoint, so that its memory of the chain does not help it."""
        for path in self.root.glob("seen*.json"):
            path.unlink()
        self.memory = SeenCheckpoints(self.root / "seen.json")

    def with_delta(self, frames: list[bytes]) -> None:
        delta = DeltaRef(self.manifests[0].digest, 0, "small", (self.put_object(b"".join(frames)),))
        self.replace_newest(build(self.content(deltas=(delta,)), TRAINER))

    def with_shard(self, data: bytes, name: str = "model.safetensors") -> None:
        shards = (FileRef(name, self.put_object(data)),)
        self.replace_newest(build(self.content(shards=shards, deltas=()), TRAINER))

    def with_file(self, name: str, data: bytes) -> None:
        files = tuple(f for f in self.manifests[1].files if f.path != name)
        self.replace_newest(build(self.content(files=(*files, FileRef(name, self.put_object(data)))), TRAINER))


@functools.cache
def _honest_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def honest_world() -> Path:
    """Where the honest chain lies that every try starts from a copy of; made by the first that asks."""
    root = Path(_honest_folder().name)
    if not any(root.iterdir()):
        (root / "trainer").mkdir()
        World(root)
    return root
