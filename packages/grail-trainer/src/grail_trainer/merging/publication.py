"""Publishing a merge: the manifest in time for the next round, its large objects after it.

Everything here may be repeated after a crash and finds what it did before. The caller decides which files are merged and when;
`grail_core.checkpoints.due.complete` uploads what a manifest owes, beside the next round or after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.fetch import materialise, model_files
from grail_core.checkpoints.outer import merged_tensors, outer_parts
from grail_core.checkpoints.pinned_table import CALIBRATION_FILE
from grail_core.checkpoints.publish import CheckpointParts, ReadyDelta, publish
from grail_core.errors import CheckpointError
from grail_core.protocol.gradient.merged import OUTER, Merged
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Window
from grail_core.storage.layout import manifest_key
from grail_core.telemetry import get_logger
from grail_trainer.merging.merge import ChosenUpdate

log = get_logger(__name__)


def merge_valid_from(
    round_: Window, spec: GradientSpec, head: CheckpointManifest, block: Block, params: NetworkParameters, *, spare: int = 1
) -> Window:
    """The first round that a merge of `round_` can come into force in: the next one, or, that being past, the one after it.

    Args:
        block: now. spare: blocks that publishing takes.
    """
    valid_from = Window(round_ + spec.round_blocks)
    while valid_from <= head.valid_from or block + spare >= valid_from - params.checkpoint_lead:
        valid_from = Window(valid_from + spec.round_blocks)
    return valid_from


def publish_merged(
    bucket: CheckpointBucket,
    parent: CheckpointManifest,
    updates: Sequence[ChosenUpdate],
    merged: Merged,
    valid_from: Window,
    signer: Signer,
    params: NetworkParameters,
) -> CheckpointManifest:
    """Merge into the head of the chain and publish it; a call repeated after a crash finishes the first one.

    The manifest's shards and parts are not uploaded: call `due.complete`, also after a restart.

    Args:
        updates: in any order, those of `merged` (`merged_record`). valid_from: `merge_valid_from`; not looked at where the
            round's checkpoint is there already.

    Raises:
        CheckpointError: `parent` is not the head, a file does not fit, or another merge of this round is out already.
        StorageError, DiskFullError: the store or the disk fails; call again.
    """
    standing = next((s.manifest for s in bucket.sequence().stored if s.manifest.window == merged.round), None)
    if standing is not None and standing.sequence:
        if standing.training != merged.to_json():
            raise CheckpointError(
                f"another merge of round {merged.round} is published already",
                where=manifest_key(standing.valid_from),
                hint="manifests are never replaced: its files are merged, these are not",
            )
        if bucket.cache.entry(standing.digest) is not None:
            return standing
        parent, valid_from = _parent_of(standing, bucket), standing.valid_from
    elif bucket.sequence().head != parent:
        raise CheckpointError(
            f"checkpoint {parent.sequence} is not the newest: a merge starts from the chain's head",
            where=manifest_key(parent.valid_from),
        )
    spec = GradientSpec.of(parent.environment)
    files = {update.hotkey: update.data for update in updates}
    ordered = [files[row.hotkey] for row in merged.merged]
    base = map_weights(materialise(parent, bucket))
    weights = dict(merged_tensors(base, ordered, merged, spec, where=f"round {merged.round}"))
    manifest = publish(
        bucket,
        CheckpointParts(
            network_id=bucket.network_id,
            window=merged.round,
            valid_from=valid_from,
            environment=parent.environment,
            policy=parent.policy,
            end_token_ids=parent.end_token_ids,
            thinking_mode=parent.thinking_mode,
            training=merged.to_json(),
            uncovered=True,  # of the same table and shape as the checkpoint before
        ),
        weights,
        {name: data for name, data in model_files(parent, bucket).items() if name != CALIBRATION_FILE},
        signer,
        params,
        profile=None,
        ready=[ReadyDelta(parent, OUTER, tuple(outer_parts(ordered)))],
        objects_after=True,
    )
    log.event(
        "merge_published",
        round=merged.round,
        sequence=manifest.sequence,
        valid_from=manifest.valid_from,
        kind=manifest.kind.value,
        updates=len(ordered),
        update_bytes=merged.size,
    )
    return manifest


def _parent_of(manifest: CheckpointManifest, bucket: CheckpointBucket) -> CheckpointManifest:
    parent = None if manifest.parent is None else bucket.sequence().by_digest.get(manifest.parent)
    if parent is None:
        raise CheckpointError(
            "the checkpoint that was merged into is not in this bucket", where=manifest_key(manifest.valid_from)
        )
    return parent
