"""`grail-miner bench`: the same numbers give the same advice, and the numbers are those of the real pipeline."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import EngineError
from grail_core.generation.base import Drawn, GenerationRequest
from grail_core.participant.settings import load_settings
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_miner.bench.choice import STAGES, Measured, Run, advice, choose, worth_going_on
from grail_miner.bench.measure import RUNS, Bench, measure
from grail_miner.bench.subject import Subject, environment_for, find_model, set_up
from grail_miner.cli import cli
from grail_miner.layout import plan

LONG = 86_400.0


def size(batch: int, *rates: float, **stages: float) -> Measured:
    told = dict.fromkeys(STAGES, 100.0) | stages
    return Measured(batch, tuple(Run(rate, told, 1.0) for rate in rates))


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_size_that_makes_clearly_more_is_chosen() -> None:
    choice = choose([size(1, 1.0, 1.01, 0.99), size(2, 1.9, 1.9, 1.92), size(4, 2.8, 2.82, 2.8), size(8, 2.2, 2.2, 2.21)])
    assert choice.chosen.batch == choice.best.batch == 4
    assert "made the most" in choice.why


def test_within_the_spread_the_smaller_batch_is_chosen_and_both_are_told() -> None:
    choice = choose([size(2, 1.0, 1.0, 1.0), size(4, 1.9, 2.0, 2.1), size(8, 1.95, 2.05, 2.2), size(16, 1.2, 2.08, 2.1)])
    assert (choice.best.batch, choice.chosen.batch) == (16, 4)
    assert "16 made 2.08 groups/s and 4 made 2" in choice.why


def test_runs_that_agree_by_chance_are_no_reason_for_a_larger_batch() -> None:
    assert choose([size(4, 2.0, 2.0, 2.0), size(8, 2.01, 2.01, 2.01)]).chosen.batch == 4


def test_one_run_of_one_size_is_an_answer_and_none_is_not() -> None:
    assert choose([size(1, 0.5)]).chosen.batch == 1
    with pytest.raises(ValueError, match="nothing was measured"):
        choose([])


RATES = st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=3)


@given(st.lists(RATES, min_size=1, max_size=8), st.randoms())
def test_the_choice_is_the_smallest_of_those_alike_whatever_the_order(rates: list[list[float]], order: Any) -> None:
    sizes = [size(2**power, *runs) for power, runs in enumerate(rates)]
    choice = choose(sizes)
    assert choice.best.rate == max(one.rate for one in sizes)
    assert choice.chosen.batch <= choice.best.batch
    assert choice.best.rate - choice.chosen.rate <= choice.noise
    shuffled = list(sizes)
    order.shuffle(shuffled)
    assert choose(shuffled) == choice


def test_larger_batches_are_tried_until_two_in_a_row_bring_nothing() -> None:
    sizes = [size(1, 1.0), size(2, 2.0), size(4, 1.99)]
    assert worth_going_on(sizes[:2])
    assert worth_going_on(sizes)
    assert not worth_going_on([*sizes, size(8, 2.01)])
    assert worth_going_on([*sizes, size(8, 3.0)])


@pytest.mark.parametrize(
    ("slowest", "names"),
    [("generate", "GRAIL_PIPELINE_MAX_NUM_SEQS"), ("prove", "GRAIL_PIPELINE_PROOF_WORKERS"), ("judge", "grading")],
)
def test_the_advice_is_of_the_stage_that_the_others_wait_for(slowest: str, names: str) -> None:
    one = size(4, 2.0, **{slowest: 2.2})
    assert one.slowest == slowest
    assert f"{slowest} is the slowest stage" in advice(one)
    assert names in advice(one)
    assert "not far behind" not in advice(one)
    second = next(name for name in STAGES if name != slowest)
    assert f"{second} is not far behind" in advice(size(4, 2.0, **{slowest: 2.2, second: 2.4}))


# --- what is measured -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wallet, no network, no cache, no GPU, and this process's numbers of threads afterwards as before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRAIL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAIL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("GRAIL_DEVICE", "cpu")
    monkeypatch.setenv("GRAIL_PIPELINE_BACKEND", "hf")


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    settings = load_settings()
    layout, environment = plan(settings, 0), environment_for(settings, "sat")
    model = find_model(settings, None, environment, 4, tmp_path)
    with set_up(settings, layout, model, environment, tmp_path) as subject:
        yield subject


@pytest.mark.heavy
def test_sizes_are_measured_by_the_real_pipeline_up_to_the_largest(subject: Subject) -> None:
    lines: list[str] = []
    bench = measure(subject, threading.Event(), LONG, lines.append, most=2)
    assert bench.ended in ("no larger batch is taken", "larger batches bring no more")
    assert [one.batch for one in bench.measured] == [1, 2]
    for one in bench.measured:
        assert len(one.runs) == RUNS
        assert all(run.rate > 0 and run.tokens_per_s > 0 and set(run.stages) == set(STAGES) for run in one.runs)
        # A run is no quicker than its slowest stage, which is one thread's here.
        assert all(run.rate <= 1.001 * min(run.stages.values()) for run in one.runs)
    assert len(lines) == 1 + 2 * RUNS


def test_stopped_it_ends_with_what_was_found(subject: Subject) -> None:
    stop = threading.Event()

    def say(line: str) -> None:
        if line.startswith("2 at a time"):
            stop.set()

    bench = measure(subject, stop, LONG, say)
    assert bench.ended == "stopped"
    assert [(one.batch, len(one.runs)) for one in bench.measured] == [(1, RUNS), (2, 1)]
    assert choose(bench.measured).chosen.batch in (1, 2)


def test_no_time_is_an_answer_too(subject: Subject) -> None:
    assert measure(subject, threading.Event(), 0.0, lambda line: None) == Bench(
        [], "0 s were over before the first group was made"
    )


class _OfLittleMemory:
    """A generator that takes so many groups at a time and no more."""

    def __init__(self, inner: Any, groups: int) -> None:
        self._inner, self._most = inner, groups * ROLLOUTS_PER_PROBLEM

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        if len(requests) > self._most:
            raise EngineError("this machine ran out of memory while it generated")
        drawn: Iterator[Drawn] = self._inner.generate(requests, cancelled)
        return drawn


def test_a_size_that_does_not_fit_ends_it_and_what_fitted_counts(subject: Subject) -> None:
    subject.mining.generator = _OfLittleMemory(subject.mining.generator, 1)
    bench = measure(subject, threading.Event(), LONG, lambda line: None)
    assert [one.batch for one in bench.measured] == [1]
    assert bench.ended == "2 groups at a time are too many here: this machine ran out of memory while it generated"


def test_where_nothing_fits_the_error_is_the_machines_own(subject: Subject) -> None:
    subject.mining.generator = _OfLittleMemory(subject.mining.generator, 0)
    with pytest.raises(EngineError, match="ran out of memory"):
        measure(subject, threading.Event(), LONG, lambda line: None)


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_wallet_chain_or_model_it_recommends_and_says_that_the_model_is_synthetic(tmp_path: Path) -> None:
    asked = ["bench", "--seconds", str(LONG), "--most", "1", "--max-tokens", "4"]
    done = CliRunner().invoke(cli, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["groups_per_batch"] == 1
    assert value["synthetic"]
    assert (value["backend"], value["environment"], value["max_tokens"]) == ("hf", "sat", 4)
    assert value["slowest"] in STAGES
    (one,) = value["sizes"]
    assert len(one["runs"]) == RUNS
    assert one["memory_bytes"] > 1 << 20
    assert "synthetic" in done.stderr
    assert "1 at a time" in done.stderr
    assert not (tmp_path / "state").exists()

    folder = tmp_path / "model"
    from grail_miner.bench.synthetic import synthetic_model

    told = CliRunner().invoke(cli, [*asked, "--model", str(synthetic_model(folder))])
    assert told.exit_code == 0, told.output
    assert "GRAIL_PIPELINE_GROUPS_PER_BATCH=1: it made the most" in told.stdout
    assert "is the slowest stage" in told.stdout
    assert "synthetic" not in told.output
