"""Somebody else's environment gets from the trainer what ours get: data folder, held-out problems, baseline, warm start.

The trainer knows no environment by its name, so whatever it does for one it does for all that offer the same.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import grail_trainer
from grail_core.capabilities import Capabilities, Stage, Symbols, Teacher
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_core.participant.settings import Settings, load_settings
from grail_envs import load, load_held_out
from grail_envs.registry import ids_of_package
from grail_envs.sat import SatEnvironment
from grail_trainer.commands import init_command, training_environment
from grail_trainer.evaluate_command import EvaluationRequest, evaluate_command
from grail_trainer.tiny.constant_answers import constant_baseline
from grail_trainer.tiny.init import create_model

MODULE = '''
from collections import Counter
from pathlib import Path
from grail_core.capabilities import Capabilities, Stage, Symbols, Teacher
from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
from grail_core.errors import EnvironmentUnavailableError

ANSWERS = ("yes", "no", "perhaps", "never")

class Plain:
    """Is it so? Rows of a file, or eight questions where there is none."""
    spec = EnvironmentSpec("plain", 1)
    rows = [("up", "yes"), ("down", "no"), ("left", "perhaps"), ("right", "never")]

    def problem(self, seed):
        return Problem(self.spec.env_id, seed, self.rows[seed % len(self.rows)])

    def messages(self, problem):
        return [Message("user", f"ask {problem.payload[0]}")]

    def grade(self, problem, completion):
        words = completion.split()
        right = words == [problem.payload[1]]
        return Grade(float(right), success=right, well_formed=len(words) == 1 and words[0] in ANSWERS)

class Riddles(Plain):
    """The same with everything that an environment may offer."""
    def best_constant(self, problems):
        return Counter(problem.payload[1] for problem in problems).most_common(1)[0][1] / len(problems)

    def teacher(self):
        stage = Stage(lambda problem, rng: rng.choice(ANSWERS), steps=80, learning_rate=1e-2, last_learning_rate=1e-3)
        return Teacher(Symbols(("ask", "up", "down", "left", "right", *ANSWERS)), (stage,), context_length=32, max_new_tokens=4)

    capabilities = Capabilities(data_folder=True, held_out={"split": "test"}, best_constant=best_constant, teacher=teacher)

    def __init__(self, split="train", data_dir=None):
        if data_dir is None:
            raise EnvironmentUnavailableError("the riddles are in no folder")
        self.spec = EnvironmentSpec("riddles", 1, {"split": split})
        self.rows = [tuple(line.split()) for line in (Path(data_dir) / f"{split}.txt").read_text().splitlines()]
'''


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of a machine with the data and with somebody else's wheel installed."""
    metadata = tmp_path / "wheel" / "riddles-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: riddles\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[grail.environments]\nriddles = riddles_environment:Riddles\nplain = riddles_environment:Plain\n"
    )
    (tmp_path / "wheel" / "riddles_environment.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "wheel"))
    monkeypatch.setenv("GRAIL_ENVIRONMENT_PACKAGES", "riddles")
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text("up yes\ndown no\nleft perhaps\nright never\n")
    (data / "test.txt").write_text("up no\ndown no\nleft no\nright yes\n")
    return load_settings(data_dir=data, cache_dir=tmp_path / "cache")


def evaluation(model: Path, env_id: str, *, problems: int) -> EvaluationRequest:
    return EvaluationRequest(model, None, (env_id,), "sat", problems, 1, "hf", None, None, as_json=True)


def test_an_environment_that_offers_everything_gets_everything(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_command(settings, env_id="riddles", out=tmp_path / "model", seed=0, quick=False, cached=False)
    assert "teacher" not in capsys.readouterr().err
    evaluate_command(settings, evaluation(tmp_path / "model", "riddles", problems=200))
    result = json.loads(capsys.readouterr().out)
    assert result["well_formed"] > 0.9  # the warm start taught the form of an answer
    rows = [load_held_out("riddles", data_dir=settings.data_dir).problem(seed).payload for seed in range(4)]
    assert rows == [("up", "no"), ("down", "no"), ("left", "no"), ("right", "yes")]
    assert 0.6 < result["constant"] < 0.9  # "no" solves three of the four problems held back, and one of those trained on


def test_the_baseline_is_the_environments_own_and_needs_no_answers(settings: Settings) -> None:
    trained = training_environment("riddles", settings.data_dir)
    problems = [trained.problem(seed) for seed in range(4)]
    assert constant_baseline(trained, problems) == 0.25
    plain = training_environment("plain", settings.data_dir)
    assert constant_baseline(plain, problems) == 0.0
    assert constant_baseline(plain, problems, ["never", "well"]) == 0.25


def test_an_environment_that_offers_nothing_gets_the_general_model_and_is_told(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_command(settings, env_id="plain", out=tmp_path / "model", seed=0, quick=True, cached=False)
    assert "plain offers no capability `teacher`" in capsys.readouterr().err
    evaluate_command(settings, evaluation(tmp_path / "model", "plain", problems=4))
    assert json.loads(capsys.readouterr().out)["env_id"] == "plain"


def test_without_the_data_folder_the_environment_says_so_itself(settings: Settings) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="in no folder"):
        training_environment("riddles", None)
    assert load("riddles", data_dir=settings.data_dir).problem(0).payload == ("up", "yes")


def _taught(demonstrated: str, vocabulary: Symbols) -> SatEnvironment:
    class Taught(SatEnvironment):
        capabilities = Capabilities(
            teacher=lambda environment: Teacher(vocabulary, (Stage(lambda problem, rng: demonstrated, steps=2),))
        )

    return Taught(3, 4, 5, 6)


def test_a_teacher_that_demonstrates_what_its_vocabulary_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)cannot say.*capability `teacher`"):
        create_model(_taught("yes and no", Symbols(("yes", "no"))), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_teacher_that_changed_is_not_answered_from_the_cache(tmp_path: Path) -> None:
    words = Symbols(("yes", "no"))
    for name, demonstrated in (("a", "yes"), ("b", "no"), ("c", "yes")):
        create_model(_taught(demonstrated, words), tmp_path / name, cache_dir=tmp_path / "cache")
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] != weights["b"]
    assert weights["a"] == weights["c"]
    assert len(list((tmp_path / "cache" / "models").iterdir())) == 2


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grail_envs"):
            yield node.lineno, " ".join([node.module or "", *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Import):
            yield node.lineno, " ".join(alias.name for alias in node.names if alias.name.startswith("grail_envs"))


def test_the_trainer_names_no_environment_and_inspects_none() -> None:
    names = re.compile(rf"\b({'|'.join(ids_of_package('grail-envs'))})(_env)?\b")
    sources = sorted(Path(grail_trainer.__file__).parent.rglob("*.py"))
    assert len(sources) > 10
    found = [
        f"{path.name}:{line}: {text[:60]}"
        for path in sources
        for line, text in _texts(ast.parse(path.read_text()))
        if names.search(text)
    ]
    assert not found
    assert not [path.name for path in sources if re.search(r"\binspect\.signature\b", path.read_text())]
