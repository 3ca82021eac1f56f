"""Check 6 with the finer tests: a file from the checkpoint before is named, honest ones pass, and nothing is kept twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grail_core.checkpoints.publish import CheckpointParts, publish
from grail_core.checkpoints.safety import read_model_files
from grail_core.model.policy_model import PolicyModel
from grail_core.participant.round_models import RoundModel, float32_weights
from grail_core.proof.calibration import PairCalibration, Shape
from grail_core.proof.inner import train_round
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.round_sketches import round_sketches
from grail_core.proof.trained_model import I32
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Window
from grail_core.verification.gradient.measure import sketches_of
from grail_core.verification.gradient.model_checks import proof_findings
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.training import Training
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_specs import TINY
from tooling.testing.played_rounds import PlayedRound, play_round

SPEC = replace(TINY, common=4, own=2, guard=2, learning_rates=((0, 200_000),))
ROUND = Window(60)


class BehindByOne(Training):
    """Trains on the round's checkpoint, and sketches with the one before."""

    folder = Path()

    def sketch(self, context: RoundContext, model: RoundModel, first: I32) -> bytes:
        return round_sketches(PolicyModel.load(self.folder), first, context.window_seed, context.randomness)


def publish_trained(network: GradientNetwork, steps: Sequence[I32]) -> None:
    """The next checkpoint: four inner steps on, in force from the second round."""
    participant, folder = network.participant("trainer"), network.root / "gradient-model"
    theta = float32_weights(folder)
    moved = train_round(network.models.at(network.manifest).trained, theta, steps, SPEC, 0).end.theta
    parts = CheckpointParts(
        network_id=participant.network_id,
        window=Window(30),
        valid_from=ROUND,
        environment=SPEC.environment(Bytes1.spec.digest),
        policy=GenerationPolicy(max_tokens=8),
        end_token_ids=(256,),
        thinking_mode="none",
    )
    publish(participant.own_checkpoints, parts, moved, read_model_files(folder), participant.signer, network.params)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The second checkpoint's round: one honest miner, one with the first checkpoint's sketches."""
    network = GradientNetwork(tmp_path_factory.mktemp("network"), SPEC, miners=2, validators=0)
    network.advance_to(32)
    corpus = Bytes1()
    publish_trained(network, [np.stack([corpus.sequence(8 * j + r) for r in range(8)]) for j in range(SPEC.inner_steps)])
    BehindByOne.folder = network.root / "gradient-model"
    return play_round(network, ["miner-0", "miner-1"], ROUND, factories={"miner-1": BehindByOne})


def findings_of(played: PlayedRound, name: str, *, shape: Shape | None = None) -> list[Finding]:
    revealed, scene = played.revealed(name), played.scene
    model = scene.policy
    table = played.network.participant("trainer").checkpoints.table(played.context.manifest).table
    pair: PairCalibration | None = table.lookup(revealed.header.proof_class, numerics_class_of(model))
    assert pair is not None
    own = Shape(model.layers, model.hidden_size)
    return proof_findings(revealed, sketches_of(scene, revealed), pair=pair, shape=shape or own)


def rejecting(findings: list[Finding]) -> list[str]:
    return [one.detail.split(":")[0] for one in findings if one.outcome is Outcome.REJECT]


def test_an_honest_file_passes_with_everything_enforced(played: PlayedRound) -> None:
    found = findings_of(played, "miner-0")
    assert {one.outcome for one in found} == {Outcome.ACCEPT}
    told = {one.detail.split(":")[0] for one in found if "not enforced" not in one.detail}
    assert told >= {"coarse_error", "sketch_ratio", "previous-1"}


def test_the_checkpoint_before_is_found_where_the_coarse_bounds_see_nothing(played: PlayedRound) -> None:
    assert "coarse_error" not in rejecting(findings_of(played, "miner-1"))
    assert "sketch_ratio" in rejecting(findings_of(played, "miner-1"))


def test_a_shape_that_no_table_covers_is_only_told(played: PlayedRound) -> None:
    found = findings_of(played, "miner-1", shape=Shape(80, 8192))
    assert rejecting(found) == []
    assert any("sketch_ratio" in one.detail and "not enforced" in one.detail for one in found)


def test_what_is_compared_is_made_once_a_round_and_the_float32_copy_once(played: PlayedRound) -> None:
    models = played.network.models
    first = models.alternatives(played.model)
    assert models.alternatives(played.model) is first
    assert list(first.weights) == ["previous-1"], "the first checkpoint is all there was before"
    earlier = models.at(played.network.manifest)
    before = models.alternatives(earlier)
    assert list(before.weights) == []
    assert before.reference is first.reference
    again = models.at(played.context.manifest)
    assert list(models.alternatives(again).weights) == ["previous-1"]
