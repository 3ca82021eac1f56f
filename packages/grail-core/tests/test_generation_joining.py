"""Rows that join an engine while it runs are drawn as alone, leave it when nobody waits, and fail alone or by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest

from grail_core.errors import EngineError, ProtocolViolationError
from grail_core.generation.base import GenerationRequest
from grail_core.generation.joining import Joining
from grail_core.generation.options import EngineOptions
from grail_core.generation.remote import RemoteGenerator
from grail_core.generation.row_requests import TRIES
from grail_core.generation.sglang import SglangGenerator
from grail_core.generation.vllm import VllmGenerator
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.engine_double.double import EngineDouble
from tooling.testing.engine_double.faults import Fault
from tooling.testing.engine_weights import CONTEXT, TinyCheckpoint, Tokens, requests

Flavour = Literal["sglang", "vllm"]
ASKED = requests(rows=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return TinyCheckpoint.save(tmp_path_factory.mktemp("model") / "checkpoint", seed=5)


@pytest.fixture(params=["sglang", "vllm"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture
def double(flavour: Flavour, checkpoint: TinyCheckpoint) -> Iterator[EngineDouble]:
    with EngineDouble.of(flavour, checkpoint.folder) as made:
        yield made


@pytest.fixture
def generator(flavour: Flavour, double: EngineDouble, checkpoint: TinyCheckpoint) -> Iterator[RemoteGenerator]:
    made = generator_of(flavour, double.url)
    made.serve(checkpoint.weights())
    yield made
    made.close()


def generator_of(flavour: Flavour, url: str, *, native: bool = False) -> RemoteGenerator:
    kind = SglangGenerator if flavour == "sglang" else VllmGenerator
    options = EngineOptions(flavour, url=url, max_concurrent=2, native_sampling=native)
    return kind(url, options, numerics_class="of-a-double", retry_s=0.0)


def finished(rows: Joining, number: int) -> dict[int, Tokens | None]:
    """The next so many rows that are finished."""
    found: dict[int, Tokens | None] = {}
    while len(found) < number:
        found |= {one.id: one.tokens for one in rows.poll(60.0)}
    return found


def test_rows_join_those_that_run_and_are_drawn_as_alone(
    generator: RemoteGenerator, double: EngineDouble, checkpoint: TinyCheckpoint
) -> None:
    double.engine.hold()
    rows = generator.joining()
    rows.add(7, ASKED[0])
    double.engine.until(lambda: len(double.engine.waiting) == 1)
    double.engine.allow(1)
    double.engine.until(lambda: len(double.engine.running) == 1 and double.engine.steps == 1)
    rows.add(8, ASKED[1])
    double.engine.until(lambda: len(double.engine.waiting) == 1)
    for number, request in enumerate(ASKED[2:]):
        rows.add(10 + number, request)  # beyond the two that may be in flight
    assert rows.poll(0.0) == []
    double.engine.run_freely()
    want = checkpoint.draw(ASKED)
    assert finished(rows, 4) == {7: want[0], 8: want[1], 10: want[2], 11: want[3]}
    assert max(event.rows for event in double.engine.trace) == 2
    rows.close()


def test_a_row_that_is_cancelled_leaves_the_engine_and_makes_room(
    generator: RemoteGenerator, double: EngineDouble, checkpoint: TinyCheckpoint
) -> None:
    double.faults.add(Fault("stall", times=2, tokens=1))
    rows = generator.joining()
    for number, request in enumerate(ASKED):
        rows.add(number, request)
    double.engine.until(lambda: len(double.engine.running) == 2)
    rows.cancel(3)  # it waits here
    rows.cancel(0)
    rows.cancel(1)
    assert finished(rows, 1) == {2: checkpoint.draw(ASKED)[2]}
    double.engine.until(lambda: not double.engine.busy())
    rows.cancel(2)  # it is over
    assert rows.poll(0.0) == []
    rows.close()
    with pytest.raises(EngineError, match="given up"):
        rows.poll(0.0)


@pytest.mark.parametrize("kind", ["error_500", "too_few_tokens"])
def test_a_row_that_cannot_be_had_fails_alone(
    generator: RemoteGenerator, double: EngineDouble, checkpoint: TinyCheckpoint, kind: str
) -> None:
    rows = generator.joining()
    double.faults.add(Fault(kind, times=TRIES, tokens=1))
    rows.add(0, ASKED[0])
    assert finished(rows, 1) == {0: None}
    rows.add(1, ASKED[1])
    assert finished(rows, 1) == {1: checkpoint.draw(ASKED)[1]}


def test_an_answer_of_other_weights_ends_every_row_and_the_trust(
    generator: RemoteGenerator, double: EngineDouble, checkpoint: TinyCheckpoint
) -> None:
    double.faults.add(Fault("stall", times=1, tokens=1), Fault("wrong_version", value="f" * 64))
    rows = generator.joining()
    rows.add(0, ASKED[0])
    double.engine.until(lambda: len(double.engine.running) == 1)
    rows.add(1, ASKED[1])
    with pytest.raises(EngineError, match="other weights"):
        rows.poll(60.0)
    assert generator.version is None
    with pytest.raises(EngineError, match="no weights"):
        generator.joining()
    double.engine.until(lambda: not double.engine.busy())  # the row that stood still was aborted
    generator.serve(checkpoint.weights())
    again = generator.joining()
    again.add(2, ASKED[0])
    assert finished(again, 1) == {2: checkpoint.draw(ASKED)[0]}


def test_rows_are_not_begun_on_an_engine_that_lost_its_label(generator: RemoteGenerator, double: EngineDouble) -> None:
    double.engine.relabel("default")
    with pytest.raises(EngineError, match="any more"):
        generator.joining()
    assert generator.version is None


def test_what_an_engine_cannot_draw_is_refused_before_it_is_asked(
    generator: RemoteGenerator, flavour: Flavour, double: EngineDouble, checkpoint: TinyCheckpoint
) -> None:
    rows = generator.joining()
    before = len(double.server.asked)
    plain = GenerationPolicy(6)
    penalty = replace(plain, repetition_penalty=1.1)
    with pytest.raises(ProtocolViolationError, match="repetition penalty"):
        rows.add(0, GenerationRequest((20,), 1, penalty))
    with pytest.raises(ProtocolViolationError, match="repetition penalty"):
        generator.require_joinable(1, penalty)
    with pytest.raises(ProtocolViolationError, match="takes 12288 tokens"):
        generator.require_joinable(12_288 - 6 + 1 - generator.spare_tokens, plain)
    generator.require_joinable(12_288 - 6 - generator.spare_tokens, plain)
    rows.add(1, ASKED[0])
    assert finished(rows, 1) == {1: checkpoint.draw(ASKED)[0]}
    assert len(double.server.asked) == before + 1
    if flavour == "sglang":  # its own sampler and our processor cannot share a batch that anybody joins
        native = generator_of(flavour, double.url, native=True)
        native.require_joinable(CONTEXT // 2, plain)
        with pytest.raises(ProtocolViolationError, match="deterministic mode"):
            native.require_joinable(CONTEXT // 2, replace(plain, top_k=9))
        native.close()
