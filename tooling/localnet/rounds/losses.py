"""The learning curve: each checkpoint's loss on sequences of the corpus that no miner is ever assigned.

One process, float32, through the reader's own path: what is evaluated is what the miners trained from, merge by merge.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grail_core.checkpoints.source import CheckpointSource
from grail_core.participant.round_models import RoundModels
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LOSS_SCALE
from grail_core.protocol.types import Digest
from grail_envs.corpus.opening import corpus_of
from tooling.localnet.checkpoints import published_manifests
from tooling.localnet.plan import Layout
from tooling.localnet.remote_stores import reader_of
from tooling.localnet.rounds.facts import LossFact
from tooling.localnet.setup import Network


def held_out_losses(network: Network, layout: Layout, sequences: int, *, pause: Callable[[], None]) -> list[LossFact]:
    """In order of checkpoints.

    Args:
        sequences: held-out ones, from the first on. pause: called before each checkpoint; raises to give up.

    Raises:
        StorageError, ChainError, CheckpointError: a checkpoint cannot be had.
    """
    source = CheckpointSource(
        network.chain,
        reader_of(layout),
        network.params,
        Digest(network.network_id),
        layout.cache("evaluation"),
    )
    models, facts = RoundModels(source), []
    for manifest in published_manifests(network, layout):
        pause()
        corpus = corpus_of(manifest.environment)
        count = min(sequences, corpus.spec.held_out)
        rows = np.stack([corpus.sequence(corpus.spec.sequences + i) for i in range(count)])
        model = models.at(manifest)
        model.trained.set(model.theta)
        losses = sequence_losses(model.trained, rows).astype(np.float64) / LOSS_SCALE
        error = float(losses.std(ddof=1) / np.sqrt(count))
        facts.append(LossFact(manifest.sequence, manifest.sequence, float(losses.mean()), error, count))
    return facts
