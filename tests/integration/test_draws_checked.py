"""An engine that lies in silence costs a window and is told; nothing that it drew is uploaded, and the next window is mined.

The engine is the double over HTTP with a real model that decodes, the miner is the shipped one: service, pipeline, weight roll,
proofs. What a validator would find of such rows is in `test_sampling_fraud`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.generation.base import Generator
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.server import EngineServer
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.supervised import Restarts, SupervisedGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.keys import ss58
from grail_core.proof.numerics import DEFAULT_CLASS
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_miner.budget import TimeBudget
from grail_miner.mining import Mining
from grail_miner.proving.in_process import InProcessProver
from grail_miner.service import MinerService
from grail_miner.weight_roll import WeightRoll
from tooling.testing.driven_chain import Driven
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_double.process import pose
from tooling.testing.engine_double.setup import Flavour
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.network import FIRST_WINDOW, Network
from tooling.testing.next_checkpoint import NextCheckpoints

CLIENTS: dict[Flavour, type[RemoteGenerator]] = {"sglang": SglangGenerator, "vllm": VllmGenerator}
TOKENS, GROUPS = 8, 3
NEXT = Window(FIRST_WINDOW + WINDOW_LENGTH)


@pytest.fixture
def network(tmp_path: Path) -> Network:
    made = Network(tmp_path / "network", miners=1, validators=0, max_tokens=TOKENS)
    made.advance_to(FIRST_WINDOW + 1)
    return made


@contextmanager
def mining_over(network: Network, generator: Generator, folders: EngineFolders) -> Iterator[MinerService]:
    participant = replace(network.participant("miner-0"), chain=Driven(network.chain, limit=10**6))
    prover = InProcessProver()
    roll = WeightRoll(participant.checkpoints, generator, prover, folders=folders)
    mining = Mining(network.signers["miner-0"], roll, network.environment_of, 2, generator, prover)
    budget = TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0)
    try:
        yield MinerService(participant, mining, Retention(participant.own_store, []), GROUPS, 2, budget)
    finally:
        mining.close()
        roll.close()


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "engine_draws_otherwise":
            self.fields.append(vars(record)["grail_event_fields"])


@contextmanager
def disagreements() -> Iterator[list[dict[str, Any]]]:
    """The fields of every `engine_draws_otherwise`."""
    kept, logger = _Kept(), logging.getLogger("grail_miner")
    logger.addHandler(kept)
    try:
        yield kept.fields
    finally:
        logger.removeHandler(kept)


def mined(network: Network, service: MinerService, window: Window) -> bool:
    """Whether the window was mined; file and seal are there then, and neither of them else."""
    network.advance_to(window + 1)
    done = service._try_window(window, threading.Event())
    store, own = network.participant("miner-0").own_store, ss58(network.signers["miner-0"].hotkey)
    for key in (window_key(own, window), seal_key(own, window)):
        assert (store.head(key) is not None) == done
    return done


@contextmanager
def over_double(network: Network, double: EngineDouble, folder: Path) -> Iterator[MinerService]:
    flavour = double.setting.engine.flavour
    options = EngineOptions(flavour, url=double.url, max_model_len=512, dtype="float32")
    generator = CLIENTS[flavour](double.url, options, numerics_class=DEFAULT_CLASS, retry_s=0.001)
    with mining_over(network, generator, EngineFolders(folder)) as service:
        yield service


CASES: Sequence[tuple[Flavour, Fault, str]] = (
    ("sglang", Fault("label_only"), "other_draws"),  # the first update that it gets, with no checksum from before
    ("vllm", Fault("update_torn_silently"), "other_draws"),
    ("sglang", Fault("update_torn_silently"), "other_draws"),
    ("sglang", Fault("clones", times=16 * GROUPS), "clones"),
    ("vllm", Fault("clones", times=16 * GROUPS), "clones"),
)


@pytest.mark.parametrize(
    ("flavour", "fault", "cause"),
    [pytest.param(*case, marks=() if at < 2 else pytest.mark.heavy) for at, case in enumerate(CASES)],
    ids=[f"{flavour}-{fault.kind}" for flavour, fault, _ in CASES],
)
def test_what_no_answer_of_an_engine_tells_costs_a_window_and_the_next_one_is_mined(
    flavour: Flavour, fault: Fault, cause: str, network: Network, tmp_path: Path
) -> None:
    started_with = save_byte_model(tmp_path / "started-with", seed=9)
    with (
        EngineDouble.of(flavour, started_with, faults=[fault]) as double,
        over_double(network, double, tmp_path / "w") as service,
    ):
        with disagreements() as found:
            assert not mined(network, service, FIRST_WINDOW)
        (one,) = found
        assert one["cause"] == cause
        double.faults.clear()
        assert mined(network, service, NEXT)


@pytest.mark.heavy
def test_an_engine_without_the_sampler_mines_no_window(network: Network, tmp_path: Path) -> None:
    """vLLM takes and ignores what no plug-in of its own asks for: the tokens are its most likely ones."""
    started_with, weights = save_byte_model(tmp_path / "started-with", seed=9), tmp_path / "weights"
    with (
        EngineDouble.of("vllm", started_with, "--enable-scale-out", plugin=False) as double,
        over_double(network, double, weights) as service,
    ):
        for window in (FIRST_WINDOW, NEXT):  # loading the weights anew does not help
            with disagreements() as found:
                assert not mined(network, service, window)
            assert [one["cause"] for one in found] == ["clones"]


@pytest.mark.heavy
@pytest.mark.parametrize("flavour", CLIENTS)
def test_a_server_of_ours_that_lied_is_started_again_and_not_rolled(flavour: Any, network: Network, tmp_path: Path) -> None:
    python = pose(tmp_path / "engine", [Fault("update_torn_silently")])
    options = EngineOptions(flavour, python=python, max_model_len=512, dtype="float32", state_dir=tmp_path / "state")
    folders = EngineFolders(tmp_path / "weights")

    def client(url: str, key: str) -> RemoteGenerator:
        return CLIENTS[flavour](url, options, numerics_class=DEFAULT_CLASS, api_key=key, retry_s=0.001)

    generator = SupervisedGenerator(
        options,
        client,
        numerics_class=DEFAULT_CLASS,
        server=EngineServer(options),
        folders=folders,
        restarts=Restarts(most=2, first_s=0.0, longest_s=0.0),
    )
    NextCheckpoints(network).publish(lambda tensor: tensor * 1.5)
    rolled, after = Window(FIRST_WINDOW + 2 * WINDOW_LENGTH), Window(FIRST_WINDOW + 3 * WINDOW_LENGTH)
    with mining_over(network, generator, folders) as service:
        assert mined(network, service, NEXT)
        with disagreements() as found:
            assert not mined(network, service, rolled)
            assert mined(network, service, after)
        assert len(found) == 1
