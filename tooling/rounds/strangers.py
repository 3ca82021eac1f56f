"""What anybody may do beside a run: repeat a merge, and join late, from an anchor or from the first checkpoint.

Each gives the Merkle root of the weights it ends with, to be held against the manifest's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import raw_state
from grail_core.errors import CheckpointError
from grail_core.gradient import merge as arithmetic
from grail_core.gradient import opening, update_file
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.participant.round_files import read_objects
from grail_core.participant.round_models import float32_weights
from grail_core.proof.trained_model import StateArrays
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.gradient.seal import MAX_GRADIENT_SEAL_BYTES
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.verification.gradient.files import StoredObject
from grail_trainer.merging.candidates import Seen
from grail_trainer.merging.merge import merge
from grail_trainer.merging.service import lead_of
from tooling.rounds.world import World

SECONDS = 10.0
"""That a bucket has for one object."""


def merged_again(world: World, context: RoundContext) -> Digest:
    """Of a round, from what lies in the buckets: chosen and merged in memory by nobody's leave."""
    aggregator, network = world.network.aggregator(), world.network
    lead, seen = lead_of(aggregator.lead(context), context), _seen(world, context)
    chosen = aggregator.choose(context, network.challenge(context), lead, seen)
    model = network.models.at(context.manifest)
    streams = [one.file.streams for one in chosen.merged]
    return root_of(dict(arithmetic.merge(model.theta, streams, model.layout, context.spec.outer_rate(context.sequence))))


def joined_from_anchor(world: World, manifest: CheckpointManifest) -> Digest:
    """A node with an empty cache: the newest full weights, and the updates since."""
    node = _node(world, f"anchor-{manifest.sequence}")
    return digest_state(map_weights(node.checkpoints.materialise(manifest))).root


def joined_from_updates(world: World, manifest: CheckpointManifest) -> Digest:
    """A node that takes the first checkpoint alone, and every merged file from its miner's bucket.

    Raises:
        CheckpointError: a bucket is not there any more, or the chain has a hole.
    """
    node = _node(world, f"updates-{manifest.sequence}")
    chain = sorted((item.manifest for item in node.checkpoints.view().stored), key=lambda one: one.sequence)
    weights: StateArrays = float32_weights(node.checkpoints.materialise(chain[0]))
    for parent, child in pairwise(chain):
        if child.sequence > manifest.sequence:
            break
        merged = Merged.from_json(dict(child.training))
        files = [_file(node, merged, number) for number in range(len(merged.merged))]
        weights = merge(weights, files, merged, GradientSpec.of(parent.environment))
    return root_of(weights)


def root_of(weights: StateArrays) -> Digest:
    """Of weights in memory."""
    return digest_state(raw_state(weights)).root


def _seen(world: World, context: RoundContext) -> dict[Hotkey, Seen]:
    """What lies in everybody's bucket of a round."""
    node, round_ = world.network.participant("miner-0"), context.round
    layout = world.network.models.at(context.manifest).layout
    neurons = node.miners_at(round_)

    def lying(key: Callable[[str, Window], str], most: int) -> dict[Hotkey, StoredObject]:
        return read_objects(node, neurons, lambda own: key(own, round_), most=lambda _: most, seconds=SECONDS)

    seals = lying(seal_key, MAX_GRADIENT_SEAL_BYTES)
    updates = lying(update_key, update_file.most_bytes(layout, context.spec))
    openings = lying(opening_key, opening.most_bytes(layout, context.spec))
    return {
        one.hotkey: Seen(one.uid, one.hotkey, seals[one.hotkey], updates[one.hotkey], openings[one.hotkey]) for one in neurons
    }


def _file(node: Participant, merged: Merged, number: int) -> bytes:
    row = merged.merged[number]
    store = node.checkpoints.miner_store(row.hotkey)
    if store is None:
        raise CheckpointError("a miner whose update was merged has no bucket any more", where=ss58(row.hotkey))
    return store.get(update_key(ss58(row.hotkey), merged.round), max_bytes=row.size)


def _node(world: World, name: str) -> Participant:
    return replace(world.network.participant("miner-0"), cache_dir=world.root / "cache" / f"late-{name}")
