"""A real miner's window through the pipeline: the same file as step by step, and what a fault of an engine costs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import EngineError, ProtocolViolationError
from grail_core.files.window_file import read_window_file
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.in_process import InProcessGenerator
from grail_core.keys import ss58
from grail_core.proof.numerics import numerics_class_of
from grail_core.protocol import Finding
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.types import Window
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_miner.budget import TimeBudget
from grail_miner.mining import Mining
from grail_miner.pipeline.trace import GENERATE, PROVE
from grail_miner.service import MinerService
from grail_miner.start import no_start_outlives
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import events
from tooling.testing.mining import mine, mining_of
from tooling.testing.network import FIRST_WINDOW, Network

GROUPS = 5


@pytest.fixture
def network(tmp_path: Path) -> Network:
    network = Network(tmp_path, miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def miner(network: Network, mining: Mining, *, trace_dir: Path | None = None, groups: int = GROUPS) -> MinerService:
    mining.groups_per_batch = 2
    participant = replace(network.participant("miner-0"), chain=Driven(network.chain, limit=10**6))
    return MinerService(
        participant,
        mining,
        Retention(participant.own_store, []),
        max_groups=groups,
        safety_blocks=2,
        budget=TimeBudget(0.0, 0.0, 0.0, 0.0, 0.0),
        trace_dir=trace_dir,
    )


def stored(network: Network, window: Window = FIRST_WINDOW) -> bytes | None:
    store, own = network.participant("miner-0").own_store, ss58(network.signers["miner-0"].hotkey)
    if store.head(seal_key(own, window)) is None:
        return None
    return store.get(window_key(own, window), max_bytes=10**7)


class Engine(InProcessGenerator):
    """The real one, which may be told to fail."""

    def __init__(self) -> None:
        super().__init__(numerics_class_of)
        self.fails_after: int | None = None  # completions
        self.in_order = False  # of the requests, in place of that in which they are finished
        self.refuses_policy = False
        self.served = 0
        self.drew: Callable[[], object] = lambda: None

    def serve(self, weights: ServedWeights) -> None:
        self.served += 1
        if self.refuses_policy:
            raise ProtocolViolationError("repetition_penalty 1.1 is not served by this engine")
        super().serve(weights)

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        finished = super().generate(requests, cancelled)
        if self.in_order:
            finished = iter(sorted(finished, key=lambda drawn: drawn.index))
        for count, drawn in enumerate(finished):
            if self.fails_after == count:
                self._serving = None  # its server has died
                raise EngineError("the server does not answer any more")
            yield drawn
            self.drew()


def test_the_file_is_the_one_that_single_steps_make(network: Network) -> None:
    service = miner(network, mining_of(network, "miner-0"))
    assert service.run(threading.Event(), windows=1) == 1
    by_steps = mine(network, mining_of(network, "miner-0"), FIRST_WINDOW, range(GROUPS))
    data = stored(network)
    assert data is not None
    ours, theirs = read_window_file(data), read_window_file(by_steps)
    assert ours.header == theirs.header  # the Merkle root speaks for every row
    assert ours.header.groups == GROUPS


def test_an_engine_that_dies_costs_what_it_had_not_finished_and_is_served_anew_in_the_next_window(network: Network) -> None:
    mining, engine = mining_of(network, "miner-0"), Engine()
    mining.generator, engine.fails_after, engine.in_order = engine, 20, True
    service = miner(network, mining)
    assert service._try_window(FIRST_WINDOW, threading.Event()) is True
    data = stored(network)
    assert data is not None
    assert 0 < read_window_file(data).header.groups < GROUPS
    following = Window(FIRST_WINDOW + WINDOW_LENGTH)
    network.advance_to(following + 1)
    engine.fails_after = None
    assert service._try_window(following, threading.Event()) is True
    assert engine.served == 2
    data = stored(network, following)
    assert data is not None
    assert read_window_file(data).header.groups == GROUPS


def test_an_engine_that_dies_before_one_group_is_whole_costs_its_window(network: Network) -> None:
    mining, engine = mining_of(network, "miner-0"), Engine()
    mining.generator, engine.fails_after = engine, 3
    with events() as names:
        assert miner(network, mining)._try_window(FIRST_WINDOW, threading.Event()) is False
    assert names[-1] == "window_skipped"
    assert stored(network) is None


def test_a_stop_ends_the_start_of_an_engine_and_leaves_one_that_serves_alone() -> None:
    class Starting:
        version: str | None = None
        closed = threading.Event()

        def close(self) -> None:
            self.closed.set()

    stop, starting = threading.Event(), Starting()
    with no_start_outlives(stop, starting):  # type: ignore[arg-type]
        assert not starting.closed.is_set()
        stop.set()
        assert starting.closed.wait(60)
    serving = Starting()
    serving.version, serving.closed = "ab", threading.Event()
    with no_start_outlives(stop, serving):  # type: ignore[arg-type]
        assert not serving.closed.wait(1)  # looked at several times


def test_a_policy_that_the_engine_cannot_follow_is_said_and_the_window_skipped(network: Network) -> None:
    mining, engine = mining_of(network, "miner-0"), Engine()
    mining.generator, engine.refuses_policy = engine, True
    with events() as names:
        assert miner(network, mining)._try_window(FIRST_WINDOW, threading.Event()) is False
    assert names == ["window_skipped"]


def test_a_stop_while_tokens_are_drawn_leaves_no_window_and_no_thread(network: Network) -> None:
    stop, mining, engine = threading.Event(), mining_of(network, "miner-0"), Engine()
    mining.generator, engine.drew = engine, stop.set
    before = set(threading.enumerate())
    with events() as names:
        assert miner(network, mining).run(stop) == 0
    assert "window_left" in names
    assert stored(network) is None
    assert set(threading.enumerate()) <= before


def test_a_file_that_the_miners_own_checks_reject_is_not_stored(network: Network) -> None:
    """A fault between proof and file, here in every prompt: well-formed, signed, and of another problem."""

    class Torn(Mining):
        def bind(self, context: Any, prepared: Any, records: Any, counted: Any) -> bytes:
            return super().bind(context, prepared, [_moved(record) for record in records], counted)

        def own_fault(self, context: Any, prepared: Any, data: bytes) -> Finding | None:
            faults.append(super().own_fault(context, prepared, data))
            return faults[-1]

    faults: list[Finding | None] = []
    with events() as names:
        assert miner(network, mining_of(network, "miner-0", Torn))._try_window(FIRST_WINDOW, threading.Event()) is False
    assert names[-1] == "window_withheld"
    assert [fault.check for fault in faults if fault is not None] == ["prompt"]
    assert stored(network) is None


def _moved(record: Any) -> Any:
    """The prompt's first token is another one."""
    record.tokens[0] = (int(record.tokens[0]) + 1) % 7
    return record


def test_a_windows_trace_is_written_where_it_is_asked_for(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    assert miner(network, mining_of(network, "miner-0"), trace_dir=folder).run(threading.Event(), windows=1) == 1
    value = json.loads((folder / f"window-{FIRST_WINDOW}.json").read_text())
    stages = {stage: [span["what"] for span in value["spans"] if span["stage"] == stage] for stage in (GENERATE, PROVE)}
    assert sorted(stages[GENERATE]) == [0, 2, 4]
    assert sorted(stages[PROVE]) == list(range(GROUPS))
    assert (folder / f"window-{FIRST_WINDOW}.svg").read_text().startswith("<svg")


def test_a_trace_that_cannot_be_written_costs_no_window(network: Network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with events() as names:
        service = miner(network, mining_of(network, "miner-0"), trace_dir=tmp_path / "file" / "traces")
        assert service.run(threading.Event(), windows=1) == 1
    assert "trace_lost" in names
