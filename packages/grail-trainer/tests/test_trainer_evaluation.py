"""Promises of an evaluation: unbiased figures, the same after every interruption, from every engine, by the policy it says."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from grail_core.environment import Grade, GradeOutcome, Problem
from grail_core.errors import CheckpointError, ConfigurationError, EngineError
from grail_core.generation.base import Completion, Drawn, GenerationRequest
from grail_core.participant.settings import Settings, load_settings
from grail_envs.sat import SatEnvironment
from grail_trainer.evaluate import Draw, Evaluation, draws_of, evaluate_with, ks_up_to, pass_at_k, standard_error
from grail_trainer.evaluate_command import EvaluationRequest, evaluate_command
from grail_trainer.graded_samples import GradedSample, SampleFile
from grail_trainer.tiny.init import TinyConfig, create_model
from tooling.testing.engine_double.process import EngineProcess

SAT = SatEnvironment(3, 4, 5, 6)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_success(case: tuple[int, int, int]) -> None:
    samples, successes, k = case
    outcomes = [index < successes for index in range(samples)]
    chosen = [any(choice) for choice in itertools.combinations(outcomes, k)]
    assert pass_at_k(samples, successes, k) == pytest.approx(np.mean(chosen), abs=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1))
def test_pass_at_k_is_unbiased(samples: int, k: int, chance: float) -> None:
    """Its mean over all outcomes of n draws is the chance that k draws hold a success, however small n is."""
    k = min(k, samples)
    mean = 0.0
    for outcome in itertools.product((False, True), repeat=samples):
        solved = sum(outcome)
        mean += chance**solved * (1 - chance) ** (samples - solved) * pass_at_k(samples, solved, k)
    assert mean == pytest.approx(1 - (1 - chance) ** k, abs=1e-9)


@given(st.integers(1, 64))
def test_the_ks_are_powers_of_two_and_all_samples(samples: int) -> None:
    ks = ks_up_to(samples)
    assert ks[0] == 1
    assert ks[-1] == samples
    assert all(k == samples or k.bit_count() == 1 for k in ks)


# --- a scripted draw, graded by a real environment ---------------------------------------------------------------------


class Letters:
    """A renderer over characters, so that what is drawn can be written down."""

    def render(self, messages: Sequence[Any]) -> tuple[int, ...]:
        return tuple(ord(letter) % 128 for letter in messages[-1].content)[:60]

    def decode_completion(self, tokens: Sequence[int], messages: Sequence[Any]) -> str:
        return "".join(map(chr, tokens))


class Coins:
    """Solved where the text says so; the grader comes to no result about `?`."""

    spec = SAT.spec

    def problem(self, seed: int) -> Problem:
        return SAT.problem(seed)

    def messages(self, problem: Problem) -> Any:
        return SAT.messages(problem)

    def grade(self, problem: Problem, completion: str) -> Grade:
        outcome = GradeOutcome.INCONCLUSIVE if completion == "?" else GradeOutcome.GRADED
        return Grade(float(completion == "y"), completion in "y?", completion != "x", outcome=outcome)


def coin(requests: Sequence[GenerationRequest]) -> list[Completion]:
    """Depends on the seed alone, as a draw does."""
    return [Completion((ord("yxn?"[request.sampling_seed % 4]),)) for request in requests]


def evaluated(draw: Draw, problems: int = 40, samples: int = 4, **more: Any) -> Evaluation:
    options: dict[str, Any] = {"context_length": 100, "problems": problems, "samples": samples, "at_once": 16}
    return evaluate_with(draw, Letters(), Coins(), **(options | more))  # type: ignore[arg-type]


def test_figures_are_those_of_the_samples_and_what_nobody_could_grade_is_not_solved(tmp_path: Path) -> None:
    kept = SampleFile(tmp_path / "kept", {}, block=16)
    result = evaluated(coin, kept=kept)
    rows = [json.loads(line) for line in (tmp_path / "kept").read_text().splitlines()[1:]]
    solved = np.array([row["text"] == "y" for row in rows]).reshape(40, 4)
    assert result.success == pytest.approx(solved.mean())
    assert result.success_error == pytest.approx(standard_error(solved.mean(axis=1)))
    assert result.ungraded == sum(row["text"] == "?" for row in rows) > 0
    assert result.pass_at[4] == pytest.approx(solved.any(axis=1).mean())
    assert result.pass_at_error[4] == pytest.approx(standard_error(solved.any(axis=1).astype(float)))
    assert result.well_formed == pytest.approx(np.mean([row["text"] != "x" for row in rows]))
    assert list(result.to_json()["pass_at_error"]) == ["1", "2", "4"]


def test_an_evaluation_that_is_cut_off_anywhere_ends_with_the_same_figures_and_draws_no_whole_block_twice(
    tmp_path: Path,
) -> None:
    straight = evaluated(coin)
    path, asked = tmp_path / "kept", {"weights": "w"}
    evaluated(coin, kept=SampleFile(path, asked, block=16))
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 20)):
        path.write_bytes(whole[:cut])
        left = max(0, whole[:cut].count(b"\n") - 1) // 16 * 16
        drawn: list[GenerationRequest] = []

        def counting(requests: Sequence[GenerationRequest], drawn: list[GenerationRequest] = drawn) -> list[Completion]:
            drawn += requests
            return coin(requests)

        assert evaluated(counting, kept=SampleFile(path, asked, block=16)) == straight
        assert len(drawn) == 160 - left
        assert path.read_bytes() == whole


def test_more_problems_go_on_from_fewer(tmp_path: Path) -> None:
    evaluated(coin, problems=20, kept=SampleFile(tmp_path / "kept", {}, block=16))
    assert evaluated(coin, kept=SampleFile(tmp_path / "kept", {}, block=16)) == evaluated(coin)


def test_samples_of_something_else_are_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    SampleFile(path, {"weights": "one"}, block=1).add([GradedSample(0, True, True, 1.0, 1, "y")])
    with pytest.raises(ConfigurationError, match="of weights 'one'"):
        SampleFile(path, {"weights": "two"}, block=1)
    for raw in (b"nothing of ours\n", b'{"format": 1, "block": 1}\nno sample\n', b'{"format": 1, "block": 1}\n{"index": 4}\n'):
        path.write_bytes(raw)
        with pytest.raises(ConfigurationError, match="cannot be gone on with"):
            SampleFile(path, {}, block=1)
        assert path.read_bytes() == raw


class Losing:
    """A generator that leaves out every third request, or always the same one."""

    def __init__(self, *, always: bool) -> None:
        self.always, self.calls = always, 0

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        self.calls += 1
        for index, one in reversed(list(enumerate(zip(requests, coin(requests), strict=True)))):
            lost = one[0].sampling_seed == 7 if self.always else index % 3 == 0 and self.calls == 1
            if not lost:
                yield Drawn(index, one[1])


def test_what_an_engine_leaves_out_is_asked_for_again_and_never_left_out_of_the_figures() -> None:
    requests = [GenerationRequest((1,), seed) for seed in range(10)]
    generator: Any = Losing(always=False)
    assert draws_of(generator)(requests) == coin(requests)
    with pytest.raises(EngineError, match="1 of 10 requests"):
        draws_of(Losing(always=True))(requests)  # type: ignore[arg-type]


# --- the command, with real models ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose vocabulary is `sat`'s; its weights are random, so its answers differ."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "m"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grail_trainer.tiny.warm_start.stages_for", lambda environment, quick: ())
        create_model(SAT, folder, config=TinyConfig(hidden_size=32, context_length=128, max_new_tokens=8, rows=16))
    return folder


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(cache_dir=tmp_path / "cache")


def asking(model: Path, **more: Any) -> EvaluationRequest:
    base = EvaluationRequest(model, None, (), "sat", 6, 2, "hf", None, None, as_json=True)
    return replace(base, **more)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command_asks_each_environment_and_prints_a_line_for_each(
    model: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command(settings, asking(model, env_ids=("sat", "affine_logic")))
    results = said(capsys)
    assert [(one["env_id"], one["problems"], one["samples"]) for one in results] == [("sat", 6, 2), ("affine_logic", 6, 2)]
    assert all(one["pass_at"]["1"] == pytest.approx(one["success"]) for one in results)
    evaluate_command(settings, asking(model, as_json=False))
    assert capsys.readouterr().out.startswith("environment   sat, 6 held-out problems")


def test_the_command_goes_on_where_it_was_and_refuses_other_weights(
    model: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command(settings, asking(model))
    evaluate_command(settings, asking(model, keep=tmp_path / "kept"))
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    evaluate_command(settings, asking(model, keep=tmp_path / "kept"))
    first, *others = said(capsys)
    assert others == [first, first]
    assert file.read_bytes() == whole
    other = tmp_path / "other"
    shutil.copytree(model, other)
    state = load_file(other / "model.safetensors")
    state["model.norm.weight"] += 1
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="of weights"):
        evaluate_command(settings, asking(other, keep=tmp_path / "kept"))


@pytest.mark.heavy
@pytest.mark.parametrize("flavour", ["sglang", "vllm"])
def test_an_engine_behind_http_gives_the_figures_of_this_process(
    flavour: Any, model: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with EngineProcess(flavour, model) as engine:
        evaluate_command(settings, asking(model, backend=flavour, url=engine.url))
    evaluate_command(settings, asking(model))
    by_engine, here = said(capsys)
    assert by_engine == here


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"checkpoint": "head"}, ConfigurationError),
        ({"model": None}, ConfigurationError),
        ({"url": "http://127.0.0.1:1"}, ConfigurationError),
        ({"backend": "abacus"}, ConfigurationError),
        ({"model": Path("nowhere")}, CheckpointError),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_drawn(
    more: dict[str, Any], error: type[Exception], model: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error):
        evaluate_command(settings, replace(asking(model), **more))
    assert not said(capsys)
