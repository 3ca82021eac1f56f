"""The miner's pipeline over an inference server in another process: batches are drawn there while groups are proved here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.checkpoints.loaded import PreparedCheckpoint
from grail_core.generation.base import Completion, Drawn
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.options import EngineOptions
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.keys import ss58
from grail_core.proof.batch import RolloutProof
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.protocol.context import WindowContext
from grail_core.storage.layout import seal_key
from grail_core.storage.retention import Retention
from grail_miner.budget import TimeBudget
from grail_miner.groups import Assigned
from grail_miner.mining import Mining
from grail_miner.proving.in_process import InProcessProver
from grail_miner.service import MinerService
from grail_miner.weight_roll import WeightRoll
from tooling.testing.driven_chain import Driven
from tooling.testing.engine_double.process import EngineProcess
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network

BATCHES, BATCH = 3, 2
CLIENTS = {"sglang": SglangGenerator, "vllm": VllmGenerator}


class Scheduled(Mining):
    """The first proof of each batch but the last is held until the engine has been asked for the next batch, and answers."""

    asked: dict[int, threading.Event]
    seen: list[bool]

    def generate(
        self,
        context: WindowContext,
        prepared: PreparedCheckpoint,
        assigned: Sequence[Assigned],
        cancelled: Callable[[], bool],
    ) -> Iterator[Drawn]:
        for drawn in super().generate(context, prepared, assigned, cancelled):
            self.asked[assigned[0].group // BATCH].set()
            yield drawn

    def prove(
        self, context: WindowContext, prepared: PreparedCheckpoint, prompt: tuple[int, ...], answers: Sequence[Completion]
    ) -> list[RolloutProof]:
        number = len(self.seen)  # groups are proved one at a time
        following = number // BATCH + 1
        last = following == BATCHES
        self.seen.append(last or self.asked[following].wait(120))  # far beyond what it takes: one by one it never comes
        return super().prove(context, prepared, prompt, answers)


@pytest.mark.heavy
@pytest.mark.parametrize("flavour", CLIENTS)
def test_an_engine_draws_the_next_batch_while_a_group_is_proved(flavour: Any, tmp_path: Path) -> None:
    network = Network(tmp_path / "network", miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    participant = replace(network.participant("miner-0"), chain=Driven(network.chain, limit=10**6))
    with EngineProcess(flavour, save_byte_model(tmp_path / "started-with", seed=9)) as engine:
        options = EngineOptions(flavour, url=engine.url, state_dir=tmp_path / "state", dtype="float32")
        generator, prover = CLIENTS[flavour](engine.url, options, numerics_class=DEFAULT_CLASS), InProcessProver()
        roll = WeightRoll(participant.checkpoints, generator, prover, folders=EngineFolders(tmp_path / "weights"))
        mining = Scheduled(network.signers["miner-0"], roll, network.environment_of, BATCH, generator, prover)
        mining.asked, mining.seen = {number: threading.Event() for number in range(BATCHES)}, []
        budget = TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
        service = MinerService(
            participant, mining, Retention(participant.own_store, []), BATCHES * BATCH, 2, budget, trace_dir=tmp_path
        )
        try:
            assert service.run(threading.Event(), windows=1) == 1
        finally:
            mining.close()
            roll.close()
    assert mining.seen == [True] * (BATCHES * BATCH)
    assert participant.own_store.head(seal_key(ss58(mining.signer.hotkey), FIRST_WINDOW)) is not None
    spans = json.loads((tmp_path / f"window-{FIRST_WINDOW}.json").read_text())["spans"]
    assert [span["what"] for span in spans if span["stage"] == "generate"] == [0, 2, 4]
    assert sorted(span["what"] for span in spans if span["stage"] == "prove") == list(range(BATCHES * BATCH))
