"""`grail-envs`: JSON on stdout and nothing else, clear errors with their exit codes, no heavy import for --help."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_envs.answer_text import spoken
from grail_envs.cli import main


def run(*arguments: str, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), input=text)
    return result.exit_code, result.stdout, result.stderr


def test_list_names_every_environment_and_its_parameters() -> None:
    code, out, _ = run("list", "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert {"sat", "gsm8k"} <= set(rows)
    assert rows["gsm8k"]["parameters"]["split"] == "train"
    assert not [row for row in rows.values() if row["problem"]]
    assert "gsm8k" in run("list")[1]


def test_show_and_grade_agree_on_the_problem(data_dir: Path) -> None:
    problem = ["gsm8k", "--seed", "5", "--data-dir", str(data_dir), "--param", "split=test"]
    code, out, _ = run("show", *problem, "--json")
    shown = json.loads(out)
    assert code == 0
    assert [message["role"] for message in shown["messages"]] == ["system", "user"]
    code, out, _ = run("grade", *problem, "--completion", "-", "--json", text="<answer>125.0</answer>")
    verdict = json.loads(out)
    assert (code, verdict["success"], verdict["reward"], verdict["digest"]) == (0, True, 1.0, shown["digest"])
    assert "success" in run("grade", *problem, "--completion", "-", text="<answer>125.0</answer>")[1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "nothing-like-it"], 7),
        (["show", "gsm8k", "--data-dir", "/nowhere"], 7),
        (["show", "gsm8k", "--param", "split"], 3),
        (["show", "sat", "--param", "max_variables=1"], 3),
        (["show", "sat", "--seed", "-1"], 2),
    ],
)
def test_errors_have_their_exit_code_and_one_message(arguments: list[str], code: int) -> None:
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, "")
    assert "Traceback" not in err
    assert err.strip()


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from grail_envs.cli import main\nmain(['--help'], standalone_mode=False)\n"
    program += "assert not {'torch', 'transformers', 'datasets', 'flint', 'rich'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("env_id", ["affine_logic", "affine_trace", "sat"])
def test_check_passes_on_our_own_and_names_what_it_checked(env_id: str) -> None:
    code, out, err = run("check", env_id, "--seeds", "60", "--json")
    findings = {row["check"]: row for row in json.loads(out)}
    assert set(findings) == {"determinism", "protocol", "digest", "speed", "bounds", "capabilities"}
    assert all(row["passed"] for name, row in findings.items() if name != "speed"), (err, findings)
    assert code == int(not findings["speed"]["passed"])


def test_check_finds_what_is_wrong_with_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from grail_core.capabilities import Capabilities, Stage, Teacher
    from grail_core.environment import EnvironmentSpec, Grade, Message, Problem
    from grail_envs import conformance

    class Bad:
        spec = EnvironmentSpec("bad", 1)
        capabilities = Capabilities(
            teacher=lambda environment: Teacher(stages=(Stage(lambda problem, rng: str(id(object()))),))
        )

        def problem(self, seed: int) -> Problem:
            return Problem("bad", seed, id(object()))

        def messages(self, problem: Problem) -> list[Message]:
            return [Message("user", str(problem.payload))]

        def grade(self, problem: Problem, completion: str) -> Grade:
            return Grade(float("nan") if completion else 2.0, success=True, well_formed=False)

    monkeypatch.setattr(conformance, "load", lambda env_id, **parameters: Bad())
    findings = {finding.check: finding.passed for finding in conformance.check("bad", {}, seeds=3)}
    assert not findings["determinism"]
    assert not findings["bounds"]
    assert not findings["capabilities"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda text: text, id="all of it"),
        pytest.param(lambda text: text.rpartition("</think>")[2], id="thinking that is never closed"),
        pytest.param(lambda text: re.sub("<think>.*?(</think>|$)", "", text), id="thinking that the prompt has opened"),
        pytest.param(lambda text: text.partition("<think>")[0] or text.partition("</think>")[2], id="a second thought"),
        pytest.param(lambda text: text.removeprefix("<think>").partition("<think>")[0], id="thinking that is closed"),
    ],
)
def test_check_finds_an_environment_that_pays_what_is_only_thought(
    said: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from grail_core.capabilities import Capabilities, Stage, Teacher
    from grail_core.environment import Grade, Problem
    from grail_envs import conformance
    from grail_envs.sat import SatEnvironment

    class Eager(SatEnvironment):
        capabilities = Capabilities(teacher=lambda environment: Teacher(stages=(Stage(lambda problem, rng: "yes"),)))

        def grade(self, problem: Problem, completion: str) -> Grade:
            return Grade(float("yes" in said(completion)), success=False, well_formed=True)

    monkeypatch.setattr(conformance, "load", lambda env_id, **parameters: Eager())
    findings = {finding.check: finding for finding in conformance.check("eager", {}, seeds=3)}
    assert not findings["capabilities"].passed
    assert "only thought" in findings["capabilities"].value
    monkeypatch.setattr(Eager, "grade", lambda self, problem, text: Grade(float("yes" in spoken(text)), False, True))
    assert {finding.check: finding for finding in conformance.check("eager", {}, seeds=3)}["capabilities"].passed


def test_the_template_is_a_whole_environment_in_thirty_lines() -> None:
    import importlib.util

    from grail_core.capabilities import best_constant_of, teacher_of
    from grail_core.environment import Environment

    path = Path(__file__).parents[1] / "template" / "sums.py"
    spec = importlib.util.spec_from_file_location("sums", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    env = module.SumsEnvironment()
    assert isinstance(env, Environment)
    problem = env.problem(5)
    assert env.grade(problem, f"<answer>{sum(problem.payload)}</answer>").reward == 1.0
    assert env.grade(problem, "<answer>0</answer>").reward == pytest.approx(0.1)
    demonstrate = teacher_of(env).stages[0].demonstrate
    assert env.grade(problem, demonstrate(problem, random.Random(1))).well_formed
    assert best_constant_of(env, [problem, problem, env.problem(6)]) == pytest.approx(2 / 3)
    assert len(path.read_text().split("class SumsEnvironment")[1].strip().splitlines()) <= 30


def test_bench_and_doctor_print_json() -> None:
    figures = json.loads(run("bench", "sat", "--seeds", "50", "--json")[1])
    assert set(figures) == {"env.generate_ms.sat", "env.generate_worst_ms.sat", "env.grade_per_s.sat"}
    code, out, _ = run("doctor", "--json")
    layers = json.loads(out)["layers"]
    assert code == (0 if all(layers[name] for name in ("landlock", "seccomp", "namespaces")) else 7)
