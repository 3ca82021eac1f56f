"""What is drawn over a server that dies, is rolled and started again is what the weights that were asked for draw.

The server is a double of the engine's, in a process of its own, over a real tiny model; the reference is Transformers in this
process. A double takes seconds to start, so these tests are heavy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.errors import EngineError, ProtocolViolationError
from grail_core.generation.base import Completion, GenerationRequest, ServedWeights
from grail_core.generation.hf import HfGenerator
from grail_core.generation.options import Backend, EngineOptions
from grail_core.generation.server import EngineServer
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.supervised import Restarts, SupervisedGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_double.process import pose
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, save_byte_model

pytestmark = pytest.mark.heavy

POLICY = GenerationPolicy(max_tokens=6)
REQUESTS = [GenerationRequest(tuple(range(10, 16 + index % 3)), 1_000 + index) for index in range(8)]


class Weights:
    """Two checkpoints of one model, and what Transformers draws with each."""

    def __init__(self, root: Path) -> None:
        folders = [save_byte_model(root / f"model-{seed}", seed=seed) for seed in (3, 4)]
        self.models = [PolicyModel.load(folder, dtype="float32") for folder in folders]
        self.served = [
            ServedWeights(
                f"{number:02x}" * 32, folder, POLICY, frozenset({END_TOKEN_ID}), model.vocabulary_size, model.context_length
            )
            for number, (folder, model) in enumerate(zip(folders, self.models, strict=True))
        ]

    def drawn(self, number: int) -> dict[int, Completion]:
        generator = HfGenerator(self.models[number], POLICY, self.served[number].end_tokens)
        return dict(enumerate(generator.generate(REQUESTS)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(tmp_path_factory.mktemp("weights"))


Made = Callable[..., SupervisedGenerator]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Generators over a double; `faults` strike once, whichever process is struck."""
    generators: list[SupervisedGenerator] = []

    def make(backend: Backend = "sglang", faults: Sequence[Fault] = (), most: int = 3, **limits: float) -> SupervisedGenerator:
        client = SglangGenerator if backend == "sglang" else VllmGenerator
        python = pose(tmp_path / "posing", faults)
        options = EngineOptions(backend, python=python, max_model_len=1_024, dtype="float32", state_dir=tmp_path / "engine")
        generators.append(
            SupervisedGenerator(
                options,
                lambda url, key: client(url, options, numerics_class="test", api_key=key, retry_s=0.01),
                numerics_class="test",
                server=EngineServer(options, **limits),  # type: ignore[arg-type]
                restarts=Restarts(most, first_s=0.0),
            )
        )
        return generators[-1]

    yield make
    for generator in generators:
        generator.close()


def drawn(generator: SupervisedGenerator) -> dict[int, Completion]:
    found = list(generator.generate(REQUESTS, lambda: False))
    assert len(found) == len({one.index for one in found})  # each once
    return {one.index: one.completion for one in found}


def test_a_batch_survives_the_death_of_its_server(made: Made, weights: Weights) -> None:
    """What was finished stays, the rest is asked for again, and all of it is what the weights draw."""
    generator = made(faults=[Fault("dies_in_generation", after=4, tokens=2)])
    assert generator.version is None
    generator.serve(weights.served[0])
    first = generator._server.pid
    assert drawn(generator) == weights.drawn(0)
    assert generator._server.pid != first
    assert generator.version == weights.served[0].version


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_weights_are_rolled_without_a_new_server(made: Made, weights: Weights, backend: Backend) -> None:
    generator = made(backend)
    generator.serve(weights.served[0])
    first = generator._server.pid
    assert drawn(generator) == weights.drawn(0)
    generator.serve(weights.served[1])
    assert drawn(generator) == weights.drawn(1)
    generator.serve(weights.served[0])
    assert drawn(generator) == weights.drawn(0)
    assert generator._server.pid == first


def test_a_server_that_is_not_believed_ends_and_the_same_weights_are_served_by_a_new_one(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("update_torn_silently")])
    generator.serve(weights.served[0])
    first = generator._server.pid
    generator.serve(weights.served[1])
    assert drawn(generator) != weights.drawn(1)  # and nobody but who draws again can tell
    generator.distrust()
    assert generator.version is None
    assert generator._server.pid is None
    with pytest.raises(EngineError, match="no weights are served"):
        drawn(generator)
    generator.serve(weights.served[1])
    assert drawn(generator) == weights.drawn(1)
    assert generator._server.pid != first


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
@pytest.mark.parametrize("kind", ["update_torn", "update_then_error", "dies_in_update", "flush_refused", "update_refused"])
def test_a_roll_that_fails_ends_in_a_server_with_the_new_weights(
    made: Made, weights: Weights, backend: Backend, kind: str
) -> None:
    generator = made(backend, [Fault(kind)])
    generator.serve(weights.served[0])
    generator.serve(weights.served[1])
    assert generator.version == weights.served[1].version
    assert drawn(generator) == weights.drawn(1)


def test_other_end_tokens_need_a_new_server(made: Made, weights: Weights) -> None:
    """SGLang reads them once, when it starts."""
    generator = made()
    generator.serve(weights.served[0])
    first = generator._server.pid
    generator.serve(replace(weights.served[0], version="cc" * 32, end_tokens=frozenset({END_TOKEN_ID, 65})))
    assert generator._server.pid != first
    for completion in drawn(generator).values():
        assert 65 not in completion.tokens[:-1]


def test_starts_that_fail_are_tried_again_and_not_for_ever(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("out_of_memory", times=2), Fault("dies_at_start", after=1, times=-1)])
    with pytest.raises(EngineError, match="before it answered"):
        generator.serve(weights.served[0])
    assert generator.version is None
    with pytest.raises(EngineError, match="no weights are served"):
        next(generator.generate(REQUESTS, lambda: False))
    with pytest.raises(EngineError):  # one more try for the next window, and no more
        generator.serve(weights.served[0])


def test_a_server_that_comes_up_late_is_waited_for(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("out_of_memory"), Fault("dies_at_start", after=1)])
    generator.serve(weights.served[0])
    assert drawn(generator) == weights.drawn(0)


def test_a_batch_that_kills_every_server_is_given_up(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("dies_in_generation", times=-1, tokens=1)])
    generator.serve(weights.served[0])
    with pytest.raises(EngineError):
        drawn(generator)
    assert generator.version is None


def test_closing_from_another_thread_ends_what_is_drawn(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("stall", tokens=1, times=-1)])
    generator.serve(weights.served[0])
    asked = threading.Event()

    def cancelled() -> bool:
        asked.set()
        return False

    found: list[object] = []
    drawing = threading.Thread(target=lambda: found.extend(generator.generate(REQUESTS, cancelled)))
    drawing.start()
    asked.wait()
    generator.close()
    drawing.join()
    assert generator.version is None
    with pytest.raises(EngineError):
        generator.serve(weights.served[0])


def test_what_an_engine_cannot_draw_leaves_it_as_it_was(made: Made, weights: Weights) -> None:
    generator = made()
    penalty = replace(POLICY, repetition_penalty=1.1)
    with pytest.raises(ProtocolViolationError):
        generator.serve(replace(weights.served[1], policy=penalty))
    assert generator._server.pid is None  # nothing was started for it
    generator.serve(weights.served[0])
    first = generator._server.pid
    with pytest.raises(ProtocolViolationError):
        generator.serve(replace(weights.served[1], policy=penalty))
    generator.serve(weights.served[0])
    assert drawn(generator) == weights.drawn(0)
    assert generator._server.pid == first


def test_rows_that_join_are_lost_with_their_server_and_begin_again_with_the_next(made: Made, weights: Weights) -> None:
    generator = made(faults=[Fault("dies_in_generation", tokens=2)])
    generator.serve(weights.served[0])
    first = generator._server.pid
    rows = generator.joining()
    rows.add(0, REQUESTS[0])
    with pytest.raises(EngineError, match="died"):
        rows.poll(60.0)
    assert generator.version is None
    rows = generator.joining()
    rows.add(1, REQUESTS[1])
    (finished,) = rows.poll(60.0)
    assert finished.tokens == weights.drawn(0)[1].tokens
    assert generator._server.pid != first
    with pytest.raises(ProtocolViolationError, match="takes 1024 tokens"):
        generator.require_joinable(1_024, POLICY)
