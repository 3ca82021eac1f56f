"""`grail-envs`: JSON on stdout and nothing else, clear errors with their exit codes, no heavy import for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from grail_envs.cli import main

FIXTURES = Path(__file__).parent / "fixtures"
GSM8K = ["--data-dir", str(FIXTURES), "--param", "split=test"]


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


def test_show_and_judge_agree_on_the_problem() -> None:
    code, out, _ = run("show", "gsm8k", "--seed", "5", *GSM8K, "--json")
    shown = json.loads(out)
    assert code == 0
    assert [message["role"] for message in shown["messages"]] == ["system", "user"]
    code, out, _ = run("judge", "gsm8k", "--seed", "5", *GSM8K, "--completion", "-", "--json", text="<answer>125.0</answer>")
    verdict = json.loads(out)
    assert (code, verdict["success"], verdict["reward"], verdict["digest"]) == (0, True, 1.0, shown["digest"])
    assert "success" in run("judge", "gsm8k", "--seed", "5", *GSM8K, "--completion", "-", text="<answer>125.0</answer>")[1]


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
    program += "assert not {'torch', 'transformers', 'datasets', 'sympy', 'rich', 'math_verify'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
