"""GSM8K: every notation of the gold counts and nothing near it does; rows are pinned; a missing set says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.environment import Environment
from grail_core.errors import ConfigurationError, EnvironmentUnavailableError
from grail_envs import load
from grail_envs.answer_text import last_boxed, last_fence, last_python, spoken, tagged_answer
from grail_envs.exact_numbers import read_number
from grail_envs.gsm8k import Gsm8kEnvironment


@pytest.fixture(scope="module")
def env(data_dir: Path) -> Gsm8kEnvironment:
    return Gsm8kEnvironment("test", data_dir=data_dir)


def notations(value: Fraction) -> list[str]:
    """Ways in which a person writes one number."""
    whole = value.denominator == 1
    plain = str(value.numerator) if whole else f"{float(value)}"
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    grouped = f"{int(digits):,}" if whole else f"{float(digits):,}"
    ways = [
        plain,
        f" {plain} ",
        f"{sign}{grouped}",
        f"${plain}$",
        f"\\boxed{{{plain}}}",
        f"{value.numerator * 2}/{value.denominator * 2}",
    ]
    ways += [
        f"{sign}${digits}",
        f"{plain}%",
        f"**{plain}**",
        f"\\frac{{{value.numerator}}}{{{value.denominator}}}",
        f"{sign}\\${digits}",
    ]
    return ways + ([f"{plain}.0", f"{plain}.", f"{plain}.00"] if whole else [f"{plain}0"])


def test_every_notation_of_the_gold_counts_and_its_neighbours_do_not(env: Gsm8kEnvironment) -> None:
    for seed in range(len(env)):
        problem = env.problem(seed)
        gold = problem.payload.gold.value
        for text in notations(gold):
            grade = env.grade(problem, f"So the result is <answer>{text}</answer>")
            assert (grade.success, grade.reward, grade.well_formed) == (True, 1.0, True), (gold, text)
        for text in (*notations(gold + 1), *notations(-gold), *notations(gold + Fraction(1, 1000))):
            grade = env.grade(problem, f"<answer>{text}</answer>")
            assert not grade.success, (gold, text)
            assert grade.reward == pytest.approx(0.1)


@pytest.mark.skipif(not os.environ.get("GRAIL_DATA_DIR"), reason="GRAIL_DATA_DIR is unset: the real GSM8K rows are not there")
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_published_gold_matches_its_own_number_in_all_notations(split: str) -> None:
    env = Gsm8kEnvironment(split)
    for seed in range(len(env)):
        problem = env.problem(seed)
        for text in notations(problem.payload.gold.value):
            assert env.grade(problem, f"<answer>{text}</answer>").success, (problem.payload, text)
        assert not env.grade(problem, f"<answer>{problem.payload.gold.value + 1}</answer>").success


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1/2", Fraction(1, 2)),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("−7", Fraction(-7)),
        ("1.5e3", Fraction(1500)),
        ("€ 1,080.50", Fraction(10805, 10)),
        ("1{,}080", Fraction(1080)),
        ("+3", Fraction(3)),
        ("12 / 4", Fraction(3)),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "18 or 20",
        "1,08",
        "12 13",
        "1/0",
        "9**9",
        "9^9",
        "0x10",
        "1e999",
        "nan",
        "inf",
        "-",
        "$",
        "%",
        "1/2/3",
        "٣",
        "5 million",
        "--5",
        "1" * 65,
        "\\frac{1}{0}",
        "(5)(6)",
        "1_000",
    ],
)
def test_what_is_not_one_number_is_not_an_answer(text: str, env: Gsm8kEnvironment) -> None:
    assert read_number(text) is None
    grade = env.grade(env.problem(0), f"<answer>{text}</answer>")
    assert (grade.reward, grade.success, grade.well_formed) == (0.0, False, False)


def test_a_percent_gold_is_a_ratio() -> None:
    gold, ratio, number, percent = (read_number(text) for text in ("50%", "0.5", "50", "50.0 %"))
    assert gold is not None
    assert ratio is not None
    assert number is not None
    assert percent is not None
    assert ratio.equals(gold)
    assert percent.equals(gold)
    assert not number.equals(gold)
    assert percent.equals(number)


def test_only_the_last_answer_after_the_thinking_counts(env: Gsm8kEnvironment) -> None:
    problem = env.problem(0)
    right = f"<answer>{problem.payload.gold.value}</answer>"
    assert env.grade(problem, f"<think><answer>-77</answer></think>{right}").success
    assert not env.grade(problem, f"{right}<answer>-77</answer>").success
    assert not env.grade(problem, f"<think>{right}").well_formed
    assert not env.grade(problem, f"<think>{right}</think>").well_formed


@pytest.mark.parametrize(
    "completion",
    [
        "<answer>" * 10**5,
        "</answer>" * 10**5,
        "<answer>" * 50_000 + "</answer>" * 50_000,
        "\x00\ud800" * 500_000,
        "{" * 10**6,
        "<answer>" + "1," * 500_000 + "</answer>",
        "<think>" * 10**5,
    ],
)
def test_huge_and_hostile_completions_fail_quietly(completion: str, env: Gsm8kEnvironment) -> None:
    grade = env.grade(env.problem(1), completion)
    assert (grade.success, grade.well_formed, grade.reward) == (False, False, 0.0)
    assert env.grade(env.problem(1), f"<answer>{env.problem(1).payload.gold.value}</answer>").success


@given(st.text(alphabet="<answer>/think`~\\boxed{}1,.%$> \n", max_size=200))
def test_no_text_raises(text: str) -> None:
    tagged_answer(text, limit=50)
    last_boxed(text, limit=50)
    last_fence(text)
    last_python(text, limit=50)
    read_number(text)


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b", "<"]), max_size=12).map("".join))
def test_what_is_said_names_no_thinking_and_stays_the_same(text: str) -> None:
    said = spoken(text)
    assert said in text
    assert not {"<think>", "</think>"} & set(re.findall("</?think>", said))
    assert spoken(said) == said
    assert spoken(f"<think>{text}") == (said if "</think>" in text else "")


def test_fences_pair_up_and_the_last_closed_one_counts() -> None:
    assert last_fence("a\n```python\nx = 1\n```\nand\n```\ny\n```\n") == "y\n"
    assert last_fence("```python\nx = 1") == "x = 1"
    assert last_fence("```\na\n```\n```py\nb") == "a\n"
    assert last_fence("no ``` fence") is None
    assert last_boxed(r"so \boxed{\frac{1}{2}} and \boxed{\{1, 2\}}", limit=100) == r"\{1, 2\}"
    assert last_boxed(r"\boxed{" * 10, limit=100) is None


def test_seeds_walk_through_every_row_once_in_a_fixed_order(env: Gsm8kEnvironment) -> None:
    rows = [env.problem(seed).payload.row for seed in range(len(env))]
    assert sorted(rows) == list(range(len(env)))
    assert rows == [4, 7, 2, 5, 1, 3, 6, 0]
    assert env.problem(2**64 - 1).payload.row == rows[(2**64 - 1) % len(env)]
    with pytest.raises(ValueError, match="64-bit"):
        env.problem(2**64)


def test_the_digest_binds_the_rows_and_not_the_folder(data_dir: Path, tmp_path: Path, env: Gsm8kEnvironment) -> None:
    shutil.copytree(data_dir / "gsm8k", tmp_path / "gsm8k")
    copy = Gsm8kEnvironment("test", data_dir=str(tmp_path))
    assert copy.spec == env.spec
    assert isinstance(copy, Environment)
    path = tmp_path / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text().replace("12 trays", "13 trays"))
    assert Gsm8kEnvironment("test", data_dir=tmp_path).spec.digest != env.spec.digest
    assert Gsm8kEnvironment("train", data_dir=data_dir).spec.digest != env.spec.digest


def test_a_set_that_is_not_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentUnavailableError) as raised:
        load("gsm8k", split="test", data_dir=str(tmp_path))
    assert "gsm8k/test.jsonl" in raised.value.hint
    assert raised.value.exit_code == 7
    monkeypatch.delenv("GRAIL_DATA_DIR", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(EnvironmentUnavailableError, match="not installed") as raised:
        load("gsm8k")
    assert "GRAIL_DATA_DIR" in raised.value.hint


@pytest.mark.parametrize(
    "content", ["", "{", json.dumps({"question": "a"}), json.dumps({"question": "a", "answer": "no mark"}), "\xff"]
)
def test_a_broken_set_is_an_error_and_never_skipped(tmp_path: Path, content: str) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(EnvironmentUnavailableError):
        Gsm8kEnvironment("test", data_dir=tmp_path)


def test_unknown_environments_and_parameters_name_the_nearest(data_dir: Path) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="no environment") as raised:
        load("gsm8")
    assert "did you mean gsm8k" in raised.value.hint
    with pytest.raises(EnvironmentUnavailableError, match="trains on a corpus"):
        load("gradient")
    with pytest.raises(ConfigurationError, match="no parameter") as refused:
        load("gsm8k", splt="test")
    assert "did you mean split" in refused.value.hint
    with pytest.raises(ConfigurationError, match="no split"):
        load("gsm8k", split="dev", data_dir=data_dir)
