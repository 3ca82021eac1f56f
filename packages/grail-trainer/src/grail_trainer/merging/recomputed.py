"""The merge of a round done again from what lies in buckets: does the published checkpoint follow from the files it names?

Anybody can ask, on any machine: the answer is exact. What is repeated is the merge; that these files and no others were to be
merged is the verdicts' matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import RawTensor
from grail_core.checkpoints.delta_parts import opened_parts
from grail_core.checkpoints.fetch import materialise, model_files
from grail_core.checkpoints.manifests import CheckpointSequence
from grail_core.checkpoints.outer import files_of, merged_of, merged_tensors, require_outer
from grail_core.checkpoints.safety import check_model_files
from grail_core.checkpoints.transfer import ImportedModel, save_imported
from grail_core.errors import CheckpointError
from grail_core.protocol.gradient.merged import OUTER
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import MANIFEST_PREFIX, manifest_key


@dataclass(frozen=True)
class Recomputed:
    """A merge done again. `different`: names of tensors that are not the published ones, in order."""

    round: Window
    manifest: CheckpointManifest
    parent: CheckpointManifest
    updates: int
    bytes: int  # of the update files
    root: Digest
    different: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return self.root == self.manifest.weights_root

    def to_json(self) -> dict[str, object]:
        return {
            "round": self.round,
            "sequence": self.manifest.sequence,
            "checkpoint": self.manifest.digest.hex(),
            "parent": self.parent.digest.hex(),
            "updates": self.updates,
            "update_bytes": self.bytes,
            "root": self.root.hex(),
            "published_root": self.manifest.weights_root.hex(),
            "equal": self.equal,
            "different": list(self.different),
        }


def merge_of_round(view: CheckpointSequence, round_: Window) -> tuple[CheckpointManifest, DeltaRef, CheckpointManifest]:
    """The checkpoint that was merged from a round, its delta, and the checkpoint that it was merged into.

    Raises:
        CheckpointError: none was, or the one before it is not in the bucket any more.
    """
    found = [
        (item.manifest, delta)
        for item in view.stored
        if item.manifest.window == round_
        for delta in item.manifest.deltas
        if delta.profile == OUTER
    ]
    if not found:
        rounds = [str(s.manifest.window) for s in view.stored if any(delta.profile == OUTER for delta in s.manifest.deltas)]
        told = f"merges are there of rounds {', '.join(rounds[-8:])}" if rounds else "no checkpoint there is a merge"
        raise CheckpointError(f"no checkpoint was merged from round {round_}", where=MANIFEST_PREFIX, hint=told)
    manifest, delta = found[0]
    parent = view.by_digest.get(delta.base)
    if parent is None:
        raise CheckpointError(
            f"checkpoint {delta.base_sequence}, into which round {round_} was merged, is not in the bucket any more",
            where=f"the parent that {manifest_key(manifest.valid_from)} names",
            hint="the 52 newest checkpoints are kept: ask for a later round",
        )
    return manifest, delta, parent


def recompute(bucket: CheckpointBucket, round_: Window, *, out: Path | None = None, threads: int | None = None) -> Recomputed:
    """Fetch the weights before and the merged files, merge them, and compare root and tensors with what was published.

    Args:
        out: folder for the recomputed checkpoint, which must not exist or be empty; the trainer's signed manifest goes with it
            where it is the published one.

    Raises:
        CheckpointError: what is needed cannot be had, or is not what the manifest names; nothing is said of the merge then.
        StorageError, DiskFullError: the store or the disk fails.
    """
    manifest, delta, parent = merge_of_round(bucket.sequence(), round_)
    index, where = bucket.index(manifest), manifest_key(manifest.valid_from)
    require_outer(manifest, delta, index)
    merged, spec = merged_of(manifest)
    base = map_weights(materialise(parent, bucket))
    with opened_parts(delta, manifest, bucket) as parts:
        files = files_of([memoryview(part) for part in parts], merged, where=where)
        made: dict[str, RawTensor] = dict(merged_tensors(base, files, merged, spec, where=where, threads=threads))
    found = digest_state(made, threads=threads).index
    names = sorted(found.tensors.keys() | index.tensors.keys(), key=str.encode)
    different = tuple(name for name in names if found.tensors.get(name) != index.tensors.get(name))
    result = Recomputed(round_, manifest, parent, len(files), merged.size, found.root, different)
    if out is not None:
        _write(result, made, bucket, out)
    return result


def _write(result: Recomputed, made: dict[str, RawTensor], bucket: CheckpointBucket, out: Path) -> None:
    files = check_model_files(model_files(result.manifest, bucket))

    def with_manifest(folder: Path) -> None:
        if result.equal:
            (folder / MANIFEST_FILE).write_bytes(result.manifest.to_bytes())

    save_imported(ImportedModel(made, files), out, check=with_manifest)
