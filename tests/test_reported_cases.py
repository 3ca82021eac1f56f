"""The runner of reported cases tells right from wrong, leaves none out in silence, and ends with 1 where one is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tooling import REPOSITORY
from tooling.testing.reported_cases import scripts, settings, stores
from tooling.testing.reported_cases.__main__ import outcomes_of
from tooling.testing.reported_cases.completions import filled
from tooling.testing.reported_cases.outcome import Verdict

RIGHT, WRONG, OPEN = Verdict.RIGHT, Verdict.WRONG, Verdict.OPEN


def verdicts(path: Path, text: str) -> list[Verdict]:
    path.write_text(text)
    return [one.verdict for one in outcomes_of(path)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('print("ok    a")\nprint("WRONG b")\nprint("  more of b")\nprint("peak 7 MiB")', [RIGHT, WRONG]),
        ('print("a:", 0.0, "(right: 0, or refused)")\nprint("a:", 0.2, "(right: 0, or refused)")', [RIGHT, WRONG]),
        (
            'print("two give", "ab", "ab", "(right: the same)")\nprint("two give", "ab", "cd", "(right: the same)")',
            [RIGHT, WRONG],
        ),
        ('print("k3:", 7.5, "(right: finite)")\nprint("k3:", float("inf"), "(right: finite)")', [RIGHT, WRONG]),
        ('print("a:", 7, "(right: CheckpointError)")\nprint("a:", 7, "(right: rather 9)")', [WRONG, OPEN]),
        (
            "from grail_core.errors import CheckpointError\n"
            'def no(): raise CheckpointError("no")\n'
            'print("a:", no(), "(right: CheckpointError)")\nprint("b:", no(), "(right: finite)")\nprint("ok c")',
            [RIGHT, WRONG, RIGHT],
        ),
        (
            '"""What it does. Right: refused, or equal."""\n'
            "from grail_core.errors import CheckpointError\n"
            'def no(): raise CheckpointError("no")\n'
            'got = no()\nfor one in got:\n    print("ok" if one else "WRONG")',
            [RIGHT],
        ),
        ('"""Right: refused."""\nimport math\nmath.sqrt("x")', [WRONG]),
        ('"""Right: refused."""\nfrom grail_core.never_there import thing\nthing()', [OPEN]),
        (
            "from grail_core.prompts import PromptRenderer\nfrom grail_core.environment import Message\nprint('ok', Message)",
            [RIGHT],
        ),
        ("raise SystemExit(3)", [WRONG]),
        ("(", [WRONG]),
    ],
)
def test_a_script_is_run_statement_by_statement_and_read_by_its_own_words(
    tmp_path: Path, script: str, expected: list[Verdict]
) -> None:
    assert verdicts(tmp_path / "cases.py", script) == expected


def test_settings_and_stores_are_judged_by_what_is_asked_for() -> None:
    rows = [
        {"file": ".env", "text": "NETUID: 7\n", "right": "an error that names line 1"},
        {"file": ".env", "text": "NETUID: 7\n", "right": "an error that names line 2"},
        {"file": ".env", "text": "NETUID=7\n", "right": "an error"},
        {"file": ".env", "text": "R2_BUKET_ID=y\n", "right": "told with the nearest name"},
        {"file": ".env", "bytes": "NETUID=7\\n in UTF-16", "right": "an error"},
        {"file": "environment", "text": "BT_NETWORK=test\\r (why)", "right": "stripped"},
    ]
    assert [one.verdict for one in settings.outcomes("x", rows)] == [RIGHT, WRONG, WRONG, RIGHT, RIGHT, RIGHT]
    text = "\ufeffexport NETUID=7 # ours\r\nBT_NETWORK='test'\r\n"
    asks = {"7 and test": RIGHT, "NETUID=7, BT_NETWORK is test": RIGHT, "NETUID is 7": WRONG, "7": WRONG, "8 and test": WRONG}
    rows = [{"file": ".env", "text": text, "right": right} for right in asks]
    assert [one.verdict for one in settings.outcomes("x", rows)] == list(asks.values())
    head = {"call": "head", "status": 200, "headers": {"ETag": '"abc"', "Content-Length": "3"}, "why": "no date"}
    dated = {**head, "headers": {"ETag": '"abc"', "Content-Length": "3", "Last-Modified": "…"}}
    asked = [(head, "StorageError"), (head, "PreconditionFailedError"), (dated, "StorageError"), (dated, "an ETag")]
    found = stores.outcomes("x", [{**row, "right": right} for row, right in asked])
    assert [one.verdict for one in found] == [RIGHT, WRONG, WRONG, RIGHT]


def test_words_in_capitals_become_the_right_answer() -> None:
    assert filled("gsm8k", "<answer>RIGHT</answer>") == "<answer>12</answer>"
    assert filled("mbpp", "def f(x):\n    return RIGHT") == "def f(x):\n    return x + 1"
    for words in ("RIGHT CODE", "WHOLE RIGHT FUNCTION", "RIGHT CODE WITHOUT AN OPENING MARK"):
        assert filled("humaneval", f"{words}\n```") == "def f(x):\n    return x + 1\n```"
    assert "\n```\n" in filled("mbpp", "RIGHT CODE WITH A LINE ``` IN A DOCSTRING")


def test_a_completion_is_judged_by_what_it_is_to_earn(tmp_path: Path) -> None:
    asks = {
        "success": WRONG,
        "format alone": RIGHT,
        "0.1: the form": RIGHT,
        "nothing, reward 0": WRONG,
        "13": RIGHT,
        "12": WRONG,
    }
    rows = [{"environment": "gsm8k", "completion": "<answer>13</answer>", "right": right, "why": "x"} for right in asks]
    assert verdicts(tmp_path / "completions.json", json.dumps(rows)) == list(asks.values())


def test_a_file_that_nothing_reads_or_that_has_another_form_is_wrong(tmp_path: Path) -> None:
    assert verdicts(tmp_path / "unknown.json", "[]") == [WRONG]
    assert verdicts(tmp_path / "dotenv_cases.json", "{") == [WRONG]
    assert verdicts(tmp_path / "completions.json", json.dumps([{"environment": "sat"}])) == [WRONG]
    assert scripts.TIME_LIMIT_S > 0


def test_the_command_skips_a_folder_that_is_not_there_and_ends_with_1_where_a_case_is_wrong(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "tooling.testing.reported_cases", "--cases", *arguments]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout

    code, out = run(str(tmp_path / "none"))
    assert (code, out.startswith("skipped")) == (0, True)
    (tmp_path / "a.py").write_text('print("ok  a")')
    assert run(str(tmp_path)) == (0, "   1 of   1 right in a.py\n1 right, 0 wrong, 0 open or not tried\n")
    (tmp_path / "b.py").write_text('print("WRONG b")')
    assert run(str(tmp_path))[0] == 1
    assert run(str(tmp_path), "a.py")[0] == 0
