"""New weights from the weights before and the update files of a round, in memory: what a trainer signs and anybody repeats.

The arithmetic is `grail_core.gradient.merge`; which files are merged is decided before. Order of the files and number of
threads do not show in the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grail_core.checkpoints.delta.tensors import raw_state
from grail_core.checkpoints.outer import merged_tensors
from grail_core.errors import CheckpointError
from grail_core.gradient.layout import Floats, StateArrays
from grail_core.protocol.gradient.merged import DroppedUpdate, Merged, MergedUpdate
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.types import Digest, Hotkey, Window


@dataclass(frozen=True)
class ChosenUpdate:
    """An update file that is merged, and whose it is at the round's first block."""

    uid: int
    hotkey: Hotkey
    data: bytes


def merged_record(
    round_: Window,
    updates: Sequence[ChosenUpdate],
    spec: GradientSpec,
    *,
    parent_sequence: int,
    lead_body: Digest | None = None,
    dropped: Sequence[tuple[int, int]] = (),
) -> Merged:
    """What the manifest will say of a merge.

    Args:
        updates: in any order. parent_sequence: of the checkpoint that they are merged into, which says the rate.
        lead_body: digest of the body that candidates were ordered by. dropped: UID and guard score of those left out.

    Raises:
        CheckpointError: nothing, too many, or one hotkey twice.
    """
    rows = [MergedUpdate(u.uid, u.hotkey, Digest(hashlib.sha256(u.data).digest()), len(u.data)) for u in updates]
    if len(rows) > spec.peers:
        raise CheckpointError(f"{len(rows)} updates are more than the {spec.peers} that a round merges")
    try:
        return Merged(
            round=round_,
            lead_body=lead_body,
            merged=tuple(sorted(rows, key=lambda row: row.hotkey)),
            dropped=tuple(DroppedUpdate(uid, score) for uid, score in dropped),
            outer_rate=spec.outer_rate(parent_sequence),
        )
    except ValueError as error:
        raise CheckpointError(f"these updates make no merge: {error}", where=f"round {round_}") from error


def merge(
    parent: StateArrays, files: Sequence[bytes], merged: Merged, spec: GradientSpec, *, threads: int | None = None
) -> dict[str, Floats]:
    """The weights after a merge, in name order.

    Args:
        parent: the weights before. files: those that `merged` names, in any order. threads: None: the CPUs at hand.

    Raises:
        CheckpointError: a file is not among the merged, or does not fit the weights.
    """
    if sorted(hashlib.sha256(file).digest() for file in files) != sorted(bytes(u.content_digest) for u in merged.merged):
        raise CheckpointError("the files are not those that the merge names", where=f"round {merged.round}")
    base = raw_state(parent)
    made = merged_tensors(base, files, merged, spec, where=f"round {merged.round}", threads=threads)
    return {name: tensor.bits.view(np.float32).reshape(tensor.layout.shape) for name, tensor in made}
