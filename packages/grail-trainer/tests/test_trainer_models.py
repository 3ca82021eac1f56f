"""Promises of `init` and `evaluate`: the same model for the same arguments, prompts that lose nothing, figures that compare."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import grail_trainer.tiny.warm_start as warm_start
from grail_core.capabilities import Stage, teacher_of
from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Environment, Grade, Message, Problem
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.defaults import sampling_defaults
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_envs import load
from grail_envs.sat import SatEnvironment, format_answer
from grail_envs.sat.teaching import majority_answer
from grail_trainer.evaluate import evaluate, held_out_sampling_seed, held_out_seed
from grail_trainer.tiny.constant_answers import constant_baseline
from grail_trainer.tiny.init import TinyConfig, config_for, create_model, shaped
from grail_trainer.tiny.vocabulary import UNKNOWN, Codec, write_tokenizer

SAT = SatEnvironment(3, 5, 5, 8)


class Sums:
    """An environment this project does not know: its tokenizer must come from its prompts."""

    spec = SatEnvironment().spec.__class__("sums", 1)

    def problem(self, seed: int) -> Problem:
        return Problem("sums", seed, (seed % 50, seed // 50 % 50))

    def messages(self, problem: Problem) -> list[Message]:
        a, b = problem.payload
        return [Message("user", f"What is {a} + {b}? Say <answer>NUMBER</answer> – naïve ✓")]

    def grade(self, problem: Problem, completion: str) -> Grade:
        right = completion == f"<answer>{sum(problem.payload)}</answer>"
        return Grade(float(right), success=right, well_formed=right)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two warm-start steps: what is promised here does not depend on their number."""
    torch.set_num_threads(1)
    monkeypatch.setattr(warm_start, "stages_for", lambda environment, quick: (Stage(majority_answer, 2, 1e-3, 1e-4),))


def test_the_same_arguments_make_the_same_model(tmp_path: Path) -> None:
    create_model(SAT, tmp_path / "a", seed=4)
    create_model(SAT, tmp_path / "b", seed=4)
    create_model(SAT, tmp_path / "c", seed=5)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_the_model_is_a_folder_that_a_checkpoint_may_hold(tmp_path: Path) -> None:
    create_model(SAT, tmp_path / "m")
    assert read_model_files(tmp_path / "m").architecture == "Qwen2ForCausalLM"
    model = PolicyModel.load(tmp_path / "m")
    assert model.dtype is torch.bfloat16
    assert model.vocabulary_size == PromptRenderer(tmp_path / "m").vocabulary_size  # no id without a token
    defaults = sampling_defaults(tmp_path / "m")
    assert defaults.end_tokens == (Codec(tmp_path / "m").end,)
    assert defaults.policy.max_tokens >= 5 + 3


def test_a_second_call_takes_the_model_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_model(SAT, tmp_path / "a", cache_dir=tmp_path / "cache")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was made again")

    monkeypatch.setattr(warm_start, "run_stage", refuse)
    create_model(SAT, tmp_path / "b", cache_dir=tmp_path / "cache")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    with pytest.raises(AssertionError):
        create_model(SatEnvironment(3, 5, 5, 9), tmp_path / "c", cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.name.startswith(".")]


def test_a_larger_shape_is_what_was_asked_for_and_another_model(tmp_path: Path) -> None:
    create_model(SAT, tmp_path / "wide", seed=4, config=shaped(config_for(SAT), "3x128"))
    model = PolicyModel.load(tmp_path / "wide")
    assert (model.layers, model.hidden_size) == (3, 128)
    assert model.context_length == config_for(SAT).context_length
    create_model(SAT, tmp_path / "plain", seed=4)
    assert PolicyModel.load(tmp_path / "plain").layers == TinyConfig.layers


def test_a_warm_start_has_no_more_steps_than_it_may(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    config = dataclasses.replace(config_for(SAT), most_steps=1)
    create_model(SAT, tmp_path / "short", config=config, progress=lambda stage, done, total, loss: steps.append((done, total)))
    assert steps == [(1, 1)]


@pytest.mark.parametrize(
    "shape", ["", "12", "x", "12x", "x512", "0x64", "2x65", "2x32", "97x64", "2x16384", "-1x64", "²x64", "2x64x2"]
)
def test_a_shape_that_is_none_is_refused_with_what_one_is(shape: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        shaped(TinyConfig(), shape)
    assert error.value.where == "--shape"
    assert error.value.hint


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        create_model(SAT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_prompts_of_different_problems_differ_and_know_every_word(tmp_path: Path) -> None:
    environment = SatEnvironment()
    codec = write_tokenizer(environment, tmp_path)
    prompts: dict[tuple[int, ...], str] = {}
    for seed in range(300):
        text = environment.messages(environment.problem(seed))[1].content
        tokens = codec.renderer.render(environment.messages(environment.problem(seed)))
        assert codec.special(UNKNOWN) not in tokens
        assert prompts.setdefault(tokens, text) == text


def test_answers_survive_the_way_through_tokens(tmp_path: Path) -> None:
    codec = write_tokenizer(SAT, tmp_path)
    for seed in range(50):
        problem = SAT.problem(seed)
        tokens = codec.answer(format_answer(problem.payload.planted))
        assert len(tokens) == problem.payload.variables + 3
        assert SAT.grade(problem, codec.renderer.decode_completion(tokens)).success


def test_an_unknown_environment_gets_bytes_learned_from_its_prompts(tmp_path: Path) -> None:
    environment: Environment = Sums()
    codec = write_tokenizer(environment, tmp_path)
    problem = environment.problem(1234)
    assert environment.grade(problem, codec.renderer.decode_completion(codec.answer("<answer>58</answer>"))).success
    tokens = codec.renderer.render(environment.messages(problem))
    assert "naïve ✓" in codec.renderer.decode_completion(tokens)
    assert len(tokens) < len(environment.messages(problem)[0].content)
    assert codec.renderer.vocabulary_size <= 1024


def test_a_family_of_puzzles_has_a_vocabulary_that_says_what_its_teacher_demonstrates(tmp_path: Path) -> None:
    environment = load("affine_logic", families=["game_of_n"])
    codec, teacher = write_tokenizer(environment, tmp_path), teacher_of(environment)
    for seed in range(50):
        problem = environment.problem(seed)
        prompt = codec.renderer.render(environment.messages(problem))
        answer = teacher.stages[0].demonstrate(problem, random.Random(seed))
        said = codec.renderer.decode_completion(codec.answer(answer))
        assert environment.grade(problem, said) == environment.grade(problem, answer)
        assert codec.special(UNKNOWN) not in prompt
        assert len(prompt) + teacher.max_new_tokens <= teacher.context_length
        assert len(codec.answer(answer)) <= teacher.max_new_tokens


def test_held_out_seeds_are_fixed_for_ever() -> None:
    assert [held_out_seed(index) for index in (0, 1)] == [1035069072972906408, 11060400657251141800]
    sampling = {held_out_sampling_seed(index, sample) for index in range(100) for sample in range(4)}
    assert len(sampling) == 400
    assert all(0 <= seed < 2**63 for seed in sampling)


def test_an_evaluation_repeats_to_the_digit_and_counts_what_it_says(tmp_path: Path) -> None:
    create_model(SAT, tmp_path / "m")
    model, renderer, defaults = (
        PolicyModel.load(tmp_path / "m"),
        PromptRenderer(tmp_path / "m"),
        sampling_defaults(tmp_path / "m"),
    )
    results = [evaluate(model, renderer, SAT, defaults.policy, defaults.end_tokens, problems=20, samples=4) for _ in range(2)]
    assert results[0] == results[1]
    assert (results[0].problems, results[0].samples) == (20, 4)
    assert list(results[0].pass_at) == [1, 2, 4]
    assert results[0].pass_at[1] == pytest.approx(results[0].success)
    json.dumps(results[0].to_json())


def test_the_constant_baseline_is_what_grading_says_of_every_constant_answer() -> None:
    environment = SatEnvironment(3, 4, 5, 6)
    problems = [environment.problem(seed) for seed in range(60)]
    texts = [format_answer(values) for n in (3, 4) for values in itertools.product((0, 1), repeat=n)]
    best = max(np.mean([environment.grade(problem, text).success for problem in problems]) for text in texts)
    assert constant_baseline(environment, problems) == pytest.approx(best)


def test_elsewhere_the_baseline_comes_from_the_answers_given() -> None:
    environment = Sums()
    problems = [environment.problem(seed) for seed in (1, 50, 2)]  # 1, 1 and 2
    given = ["<answer>7</answer>", "<answer>1</answer>", "<answer>2</answer>"]
    assert constant_baseline(environment, problems, given) == pytest.approx(2 / 3)
    assert constant_baseline(environment, [], given) == 0.0


@pytest.mark.parametrize(
    "value",
    [{}, {"eos_token_id": []}, {"eos_token_id": "x"}, {"eos_token_id": 1, "temperature": 0}, {"eos_token_id": 1, "top_p": 2}],
)
def test_sampling_defaults_that_make_no_sense_are_refused(tmp_path: Path, value: dict[str, object]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError):
        sampling_defaults(tmp_path)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom grail_trainer.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'bittensor', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
