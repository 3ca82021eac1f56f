"""Whatever goes wrong in a roll of a server, no row's tokens are of one checkpoint and its sketches of another.

A double of the engine in a process of its own, a real prover, real checkpoints. What drew a row is known by its tokens, what
proved it by its sketches, each held against the same checkpoint loaded by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grail_core.errors import MachineFaultError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.generation.options import Backend, EngineOptions
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.supervised import Restarts, SupervisedGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import prove_rollouts
from grail_core.protocol.manifest import CheckpointManifest
from grail_miner.proving.in_process import InProcessProver
from grail_miner.weight_roll import WeightRoll
from tooling.testing.engine_double.faults import Fault, Schedule
from tooling.testing.engine_double.process import pose
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.next_checkpoint import NextCheckpoints

pytestmark = pytest.mark.heavy

PROMPT = tuple(range(40, 52))
REQUESTS = [GenerationRequest(PROMPT, 900 + number) for number in range(16)]
FAULTS = ("update_torn", "update_then_error", "dies_in_update", "update_refused", "flush_refused")


class Rolling:
    """A miner's two sides over one engine, whose faults are told while it runs."""

    def __init__(self, root: Path, backend: Backend) -> None:
        network = Network(root, miners=1, validators=0)
        network.advance_to(FIRST_WINDOW + 1)
        self.checkpoints = NextCheckpoints(network)
        self.source = network.participant("miner-0").checkpoints
        self.posing = root / "posing"
        client = SglangGenerator if backend == "sglang" else VllmGenerator
        options = EngineOptions(
            backend, python=pose(self.posing), max_model_len=1_026, dtype="float32", state_dir=root / "engine"
        )
        self.generator = SupervisedGenerator(
            options,
            lambda url, key: client(url, options, numerics_class="test", api_key=key, retry_s=0.01),
            numerics_class="test",
            restarts=Restarts(3, first_s=0.0),
        )
        self.prover = InProcessProver()
        self.roll = WeightRoll(self.source, self.generator, self.prover, folders=self.generator.folders)
        self.signs = np.where(np.random.default_rng(7).random((4, 32)) < 0.5, -1, 1).astype(np.float32)

    def fail(self, *faults: Fault) -> None:
        """From the next start on; a server that runs has read its own schedule, so it is ended first."""
        self.generator._server.stop()
        Schedule.write(self.posing / "faults.json", faults)

    def require_one_checkpoint(self, manifest: CheckpointManifest) -> None:
        """What is drawn and proved now is this checkpoint's, token for token and bit for bit."""
        self.roll.at(manifest)
        drawn = {one.index: one.completion for one in self.generator.generate(REQUESTS, lambda: False)}
        completions = [drawn[index] for index in range(len(REQUESTS))]
        rows = [(*PROMPT, *completion.tokens) for completion in completions]
        proofs = self.prover.prove(rows, [len(PROMPT)] * len(rows), self.signs)
        folder = self.source.materialise(manifest)
        drawing = HfGenerator(PolicyModel.load(folder, dtype="float32"), manifest.policy, frozenset(manifest.end_token_ids))
        assert list(drawing.generate(REQUESTS)) == completions
        alone = prove_rollouts(PolicyModel.load(folder), rows, [len(PROMPT)] * len(rows), self.signs)
        assert [proof.sketches for proof in proofs] == [proof.sketches for proof in alone]

    def close(self) -> None:
        self.roll.close()
        self.generator.close()


@pytest.fixture(params=["sglang", "vllm"])
def rolling(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rolling]:
    made = Rolling(tmp_path, request.param)
    yield made
    made.close()


def test_a_roll_that_goes_wrong_never_yields_a_row_of_two_checkpoints(rolling: Rolling) -> None:
    first = rolling.checkpoints.manifests[0]
    rolling.require_one_checkpoint(first)
    for kind in FAULTS:
        rolling.fail(Fault(kind))
        rolling.require_one_checkpoint(first)  # on a server that will fail at the next roll
        second = rolling.checkpoints.publish(lambda tensor: tensor * 1.3)
        rolling.require_one_checkpoint(second)
        first = second


def test_a_server_that_cannot_be_had_again_costs_the_window_and_no_row(rolling: Rolling) -> None:
    first = rolling.checkpoints.manifests[0]
    rolling.require_one_checkpoint(first)
    second = rolling.checkpoints.publish(lambda tensor: tensor * 1.3)
    rolling.fail(Fault("dies_at_start", times=-1))
    with pytest.raises(MachineFaultError):
        rolling.roll.at(second)
    assert rolling.generator.version is None
    with pytest.raises(MachineFaultError):
        list(rolling.generator.generate(REQUESTS, lambda: False))
    rolling.fail()
    rolling.require_one_checkpoint(second)
    rolling.require_one_checkpoint(first)
