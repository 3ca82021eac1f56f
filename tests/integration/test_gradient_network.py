"""Rounds of gradient work with every role's shipped service: the loss falls, and whoever validates says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grail_core.participant.round_models import float32_weights
from grail_core.proof.losses import sequence_losses
from grail_core.proof.round_work import LOSS_SCALE
from grail_core.proof.trained_model import I32
from grail_core.protocol.types import Window
from grail_core.protocol.verdicts import MinerStatus
from grail_envs.corpus.bytes_1 import Bytes1
from grail_trainer.gradient_presets import TINY
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.network import FIRST_WINDOW

ROUNDS = 3


def test_honest_rounds_lower_the_loss_and_two_validators_publish_equal_bodies(tmp_path: Path) -> None:
    network = GradientNetwork(tmp_path / "network", TINY, miners=3, validators=2)
    losses, corpus = [], Bytes1()
    held: I32 = np.stack([corpus.sequence(corpus.spec.sequences + place) for place in range(32)])

    def loss(one: GradientRound) -> float:
        model = network.models.at(one.context.manifest)
        model.trained.set(model.theta)
        return float(sequence_losses(model.trained, held).mean()) / LOSS_SCALE

    for number in range(ROUNDS):
        one = GradientRound.trained(network, Window(FIRST_WINDOW + 30 * number), batches={"miner-2": 8})
        losses.append(loss(one))
        assert one.context.manifest.sequence == number
        one.play()
        bodies = one.end()
        assert bodies["validator-0"].canonical() == bodies["validator-1"].canonical()
        body = bodies["validator-0"]
        assert body.merge is not None
        assert body.merge.ineligible == ()
        assert len(body.merge.merged) == 3
        for name in network.miners:
            row = one.row(body, name)
            assert row.status is MinerStatus.ACCEPTED, row.reason
            assert body.weights[row.uid] > 0
    network.advance_to(FIRST_WINDOW + 30 * ROUNDS + 1)
    last = GradientRound(network, network.round(Window(FIRST_WINDOW + 30 * ROUNDS)), {})
    losses.append(loss(last))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    assert body.powers[one.row(body, "miner-2").uid] == max(body.powers.values()), "it did twice the work of the others"
    latecomer = float32_weights(network.participant("validator-1").checkpoints.materialise(last.context.manifest))
    there = network.models.at(last.context.manifest).theta
    assert all(np.array_equal(latecomer[name], there[name]) for name in there), "the merge is the same on any machine"
