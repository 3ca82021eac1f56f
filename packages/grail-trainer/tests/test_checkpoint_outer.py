"""Checkpoints that are merges: whoever comes when gets the trainer's weights to the bit, or an error that names the tensor."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from grail_core.checkpoints.bucket import CheckpointBucket, MinerStores, no_miners
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import raw_state
from grail_core.checkpoints.due import complete
from grail_core.checkpoints.fetch import download_step, materialise
from grail_core.checkpoints.outer import apply_outer, files_of, merged_of, merged_tensors, outer_parts
from grail_core.checkpoints.publish import ANCHOR_EVERY
from grail_core.errors import CheckpointError, MissingObjectError
from grail_core.gradient.layout import Layout
from grail_core.keys import ss58
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.merged import OUTER, Merged
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef, ManifestContent, ObjectRef, build
from grail_core.protocol.reading import Json, parse_json
from grail_core.protocol.types import Digest, Hotkey
from grail_core.storage.base import ObjectStore
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import update_key
from tooling.testing.checkpoints import NETWORK_ID, TRAINER
from tooling.testing.gradient_states import SHAPES, SPEC, state
from tooling.testing.merging import MINERS, MergingTrainer, update_file

HEAD = ANCHOR_EVERY + 2


@dataclasses.dataclass(frozen=True)
class World:
    """A chain of merges up to two after its first later anchor. `index` object and manifests stay; a test removes the rest."""

    root: Path
    manifests: list[CheckpointManifest]

    @property
    def store(self) -> FilesystemStore:
        return FilesystemStore(self.root, "trainer")

    def reader(self, cache: Path, miners: MinerStores = no_miners) -> CheckpointBucket:
        return CheckpointBucket(self.store, cache, trainer=TRAINER.hotkey, network_id=NETWORK_ID, miners=miners)

    def root_of(self, manifest: CheckpointManifest, cache: Path, miners: MinerStores = no_miners) -> bytes:
        return digest_state(map_weights(materialise(manifest, self.reader(cache, miners)))).root


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("merges")
    trainer = MergingTrainer(FilesystemStore(root, "trainer"), root / "trainer-cache")
    manifests = [trainer.publish_first()]
    manifests += [trainer.merge(number, order=(-1) ** number) for number in range(1, HEAD + 1)]
    return World(root, manifests)


class Without:
    """The trainer's bucket without some objects."""

    def __init__(self, world: World, refs: list[ObjectRef]) -> None:
        self._kept = {ref.key: world.store.get(ref.key, max_bytes=ref.size) for ref in refs}
        self._store = world.store

    def __enter__(self) -> None:
        for key in self._kept:
            self._store.delete(key)

    def __exit__(self, *_: object) -> None:
        for key, data in self._kept.items():
            self._store.put(key, data)


def shards(manifest: CheckpointManifest) -> list[ObjectRef]:
    return [shard.object for shard in manifest.shards]


def parts(manifest: CheckpointManifest) -> list[ObjectRef]:
    return [part for delta in manifest.deltas for part in delta.parts]


def test_a_merge_is_one_delta_of_the_files_in_order_of_their_hotkeys(published: World) -> None:
    head = published.manifests[-1]
    merged, spec = merged_of(head)
    assert [delta.profile for delta in head.deltas] == [OUTER]
    assert head.deltas[0].base == head.parent
    assert [m.sequence for m in published.manifests if m.shards] == [0, ANCHOR_EVERY]
    assert spec == SPEC
    assert [u.hotkey for u in merged.merged] == sorted(signer.hotkey for signer in MINERS[:3])
    stream = b"".join(published.store.get(part.key, max_bytes=part.size) for part in parts(head))
    by_hotkey = {u.hotkey: u.data for u in (update_file(miner, head.window) for miner in range(3))}
    assert stream == b"".join(by_hotkey[u.hotkey] for u in merged.merged)


def test_a_late_joiner_from_the_newest_anchor_and_one_from_updates_alone_get_the_same_root(
    published: World, tmp_path: Path
) -> None:
    head, anchor = published.manifests[-1], published.manifests[ANCHOR_EVERY]
    assert published.root_of(head, tmp_path / "from-anchor") == head.weights_root
    with Without(published, shards(anchor)):
        assert published.root_of(head, tmp_path / "from-first") == head.weights_root
    assert digest_state(map_weights(published.root / "trainer-cache/checkpoints" / head.digest.hex())).root == head.weights_root


def test_each_step_makes_other_weights(published: World) -> None:
    assert len({m.weights_root for m in published.manifests}) == HEAD + 1


def test_permuted_files_and_any_number_of_threads_give_the_same_root(published: World, tmp_path: Path) -> None:
    head, parent = published.manifests[-1], published.manifests[-2]
    base = map_weights(materialise(parent, published.reader(tmp_path / "cache")))
    index = published.reader(tmp_path / "cache").index(head)
    stream = [published.store.get(part.key, max_bytes=part.size) for part in parts(head)]
    for threads in (1, 4):
        made = apply_outer(base, head, stream, index, threads=threads)
        assert digest_state(made).root == head.weights_root
    again = MergingTrainer(FilesystemStore(tmp_path, "again"), tmp_path / "again")
    again.publish_first()
    assert again.merge(1, order=-1).weights_root == published.manifests[1].weights_root


def test_a_running_role_has_the_next_merge_on_its_disk_before_it_is_valid(published: World, tmp_path: Path) -> None:
    bucket, (before, head) = published.reader(tmp_path / "cache"), published.manifests[-2:]
    materialise(before, bucket)
    download_step(before, head, bucket)
    assert bucket.cache.entry(head.digest) is not None


def test_parts_are_had_from_the_miners_where_the_trainer_has_them_not_yet(published: World, tmp_path: Path) -> None:
    head = published.manifests[-1]
    stores: dict[Hotkey, ObjectStore] = {}
    for miner, signer in enumerate(MINERS[:3]):
        store = FilesystemStore(tmp_path, f"miner-{miner}")
        store.put(update_key(ss58(signer.hotkey), head.window), update_file(miner, head.window).data)
        stores[signer.hotkey] = store
    with Without(published, parts(head)):
        assert published.root_of(head, tmp_path / "from-miners", stores.get) == head.weights_root
        stores[MINERS[1].hotkey].put(update_key(ss58(MINERS[1].hotkey), head.window), b"another file")
        with pytest.raises(MissingObjectError, match="not in the store"):
            published.root_of(head, tmp_path / "a-miner-lies", stores.get)
        with pytest.raises(MissingObjectError, match="not in the store"):
            published.root_of(head, tmp_path / "no-miners")


def test_a_manifest_whose_objects_are_not_up_yet_costs_a_late_joiner_nothing(tmp_path: Path) -> None:
    trainer = MergingTrainer(FilesystemStore(tmp_path, "trainer"), tmp_path / "trainer-cache")
    trainer.publish_first()
    for number in range(1, ANCHOR_EVERY):
        trainer.merge(number)
    head = trainer.merge(ANCHOR_EVERY, completed=False)
    world = World(tmp_path, [head])
    assert all(world.store.head(ref.key) is None for ref in (*shards(head), *parts(head)))
    miners: dict[Hotkey, ObjectStore] = {}
    for miner, signer in enumerate(MINERS[:3]):
        miners[signer.hotkey] = FilesystemStore(tmp_path, f"miner-{miner}")
        miners[signer.hotkey].put(update_key(ss58(signer.hotkey), head.window), update_file(miner, head.window).data)
    assert world.root_of(head, tmp_path / "early", miners.get) == head.weights_root
    again = MergingTrainer(world.store, tmp_path / "trainer-cache")  # restarted
    assert again.merge(ANCHOR_EVERY, completed=False) == head
    assert complete(again.bucket) == len(shards(head)) + len(parts(head))
    assert world.root_of(head, tmp_path / "later") == head.weights_root


def resigned(manifest: CheckpointManifest, **changes: object) -> CheckpointManifest:
    fields = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(ManifestContent)}
    return build(ManifestContent(**{**fields, **changes}), TRAINER)


def delta_of(world: World, manifest: CheckpointManifest, files: list[bytes]) -> dict[str, object]:
    """The fields of a manifest whose delta is these files, put into the bucket."""
    made = list(outer_parts(files))
    for data in made:
        world.store.put(ObjectRef.of(data).key, data)
    old = manifest.deltas[0]
    return {"deltas": (DeltaRef(old.base, old.base_sequence, OUTER, tuple(ObjectRef.of(data) for data in made)),)}


def test_a_trainer_that_merged_otherwise_than_it_says_is_told_with_the_tensor(published: World, tmp_path: Path) -> None:
    head = published.manifests[-1]
    merged, _ = merged_of(head)
    files = {u.hotkey: u.data for u in (update_file(miner, head.window) for miner in range(3))}
    other = update_file(0, head.window, seed=12345)
    files[other.hotkey] = other.data
    listed = [
        dataclasses.replace(u, content_digest=Digest(hashlib.sha256(files[u.hotkey]).digest()), size=len(files[u.hotkey]))
        for u in merged.merged
    ]
    training = dataclasses.replace(merged, merged=tuple(listed)).to_json()
    lying = resigned(head, training=training, **delta_of(published, head, [files[u.hotkey] for u in merged.merged]))
    with pytest.raises(CheckpointError, match=r"tensor (a|b\.w|c|d) does not come out of the merge as published"):
        published.root_of(lying, tmp_path / "cache")


def test_a_wrong_base_is_told_with_the_tensor(published: World, tmp_path: Path) -> None:
    head = published.manifests[-1]
    wrong = map_weights(materialise(published.manifests[-3], published.reader(tmp_path / "cache")))
    stream = [published.store.get(part.key, max_bytes=part.size) for part in parts(head)]
    with pytest.raises(CheckpointError, match="tensor a does not come out of the merge as published"):
        apply_outer(wrong, head, stream, published.reader(tmp_path / "cache").index(head))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: {"rates": {"outer": 1}}, "merged at rate 1, the spec says"),
        (lambda m: {"merged": m["merged"][:2]}, "size is not that of the updates"),
        (lambda m: {"merged": [[*m["merged"][0][:2], "00" * 32, m["merged"][0][3]], *m["merged"][1:]]}, "is not the one that"),
        (lambda m: {"merged": m["merged"][::-1]}, "order of their hotkeys' bytes"),
        (lambda m: {"round": m["round"] - 30}, "is not its round's"),
        (lambda m: {"merged": "all"}, "an array is expected"),
    ],
    ids=["rate", "size", "digest", "order", "round", "form"],
)
def test_a_list_that_is_not_the_deltas_is_refused(published: World, tmp_path: Path, change: object, told: str) -> None:
    head = published.manifests[-1]
    training = {**head.training, **change(dict(head.training))}  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=told):
        published.root_of(resigned(head, training=training), tmp_path / "cache")


def test_files_are_found_in_parts_of_any_size(published: World) -> None:
    merged, _ = merged_of(published.manifests[-1])
    files = {u.hotkey: u.data for u in (update_file(miner, published.manifests[-1].window) for miner in range(3))}
    ordered = [files[u.hotkey] for u in merged.merged]
    for limit in (7, 100, len(ordered[0]), 1 << 20):
        cut = list(outer_parts(ordered, limit=limit))
        assert {len(part) for part in cut[:-1]} <= {limit}
        assert [bytes(file) for file in files_of(cut, merged, where="")] == ordered
    with pytest.raises(CheckpointError, match="is not the one that the manifest names"):
        files_of([b"".join(ordered)[:-1]], merged, where="")


def test_a_file_that_is_listed_for_another_hotkey_or_was_made_for_another_round_is_refused(published: World) -> None:
    merged, _ = merged_of(published.manifests[-1])
    first, second, third = merged.merged
    swapped = dataclasses.replace(
        merged,
        merged=(
            dataclasses.replace(first, content_digest=second.content_digest, size=second.size),
            dataclasses.replace(second, content_digest=first.content_digest, size=first.size),
            third,
        ),
    )
    data = {u.hotkey: u.data for u in (update_file(miner, merged.round) for miner in range(3))}
    with pytest.raises(CheckpointError, match="is another hotkey's"):
        files_of([data[second.hotkey] + data[first.hotkey] + data[third.hotkey]], swapped, where="")
    base = raw_state(state(Layout.of(SHAPES, SPEC), 7))
    with pytest.raises(CheckpointError, match="of another round"):
        list(merged_tensors(base, [update_file(0, merged.round + 30).data], merged, SPEC, where=""))


def test_what_training_says_of_a_merge_reads_back(published: World) -> None:
    merged, _ = merged_of(published.manifests[-1])
    raw = canonical_json(merged.to_json())
    assert Merged.from_json(parse_json(raw, most=1 << 16, path="$training")) == merged
    row: list[Json] = [0, "ff", "00" * 32, 1]
    with pytest.raises(ValueError, match=r"^\$training\.merged\[0\]\[1\]: "):
        Merged.from_json({**merged.to_json(), "merged": [row]})
    with pytest.raises(ValueError, match=r"^\$training: "):
        Merged.from_json({**merged.to_json(), "merged": []})


def test_weights_of_another_type_are_no_base(published: World) -> None:
    head = published.manifests[-1]
    stream = [published.store.get(part.key, max_bytes=part.size) for part in parts(head)]
    index = published.reader(published.root / "reader").index(head)
    base = raw_state({name: np.zeros(entry.layout.shape, np.float16) for name, entry in index.tensors.items()})
    with pytest.raises(CheckpointError, match="float32 tensors, and this one is of another type"):
        apply_outer(base, head, stream, index)
