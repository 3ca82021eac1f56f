"""Prompts of every folder and template of the cases: Transformers' token for token, or refused where they are published."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from grail_core.checkpoints.safety import read_model_files
from grail_core.environment import Message
from grail_core.errors import CheckpointError, ProtocolViolationError
from grail_core.model import prompt_trial
from grail_core.model.prompts import PromptRenderer
from tests.cases.prompt_folders import CASES, FolderCase
from tests.cases.rows import rows
from tooling.testing.prompt_folders import draw_folder
from tooling.testing.prompt_parity import compare, reference

pytestmark = pytest.mark.usefixtures("warm_prompts")
TEMPLATES = rows("prompt_templates.json")
CONVERSATIONS = (
    [{"role": "user", "content": "hello what 1 < 2"}],
    [{"role": "system", "content": " be brief "}, {"role": "user", "content": "a\n\nb"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}, {"role": "user", "content": ""}],
)

SHORT = 1 << 12
"""Characters of the largest conversation that a folder is tried with here; `heavy` has the real length."""


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("heavy") is None:
        monkeypatch.setattr(prompt_trial, "PROBE_CHARACTERS", SHORT)


def _by_name(case: Any) -> str:
    return str(case["name"] if isinstance(case, dict) else case.name)


def _published(folder: Path) -> None:
    """As a publisher checks it; of the files, every reader of the checkpoint does."""
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}))
    read_model_files(folder)


def _compare(folder: Path, conversations: Any) -> None:
    renderer = PromptRenderer(folder)
    found = [(_wanted(folder, turns), _made(renderer, turns)) for turns in conversations]
    assert any(wanted for wanted, _ in found)
    assert [made for _, made in found] == [wanted for wanted, _ in found]


def _wanted(folder: Path, turns: list[dict[str, str]]) -> list[int] | None:
    try:
        return reference(folder, turns)
    except TemplateError:  # it may refuse a conversation
        return None


def _made(renderer: PromptRenderer, turns: list[dict[str, str]]) -> list[int] | None:
    try:
        return list(renderer.render([Message(**turn) for turn in turns]))
    except ProtocolViolationError:
        return None


@pytest.mark.parametrize("case", [case for case in CASES if case.says is None], ids=_by_name)
def test_a_folder_gives_the_prompts_that_transformers_gives(case: FolderCase, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "folder")
    _published(folder)
    _compare(folder, [[{"role": "user", "content": case.text}], *CONVERSATIONS])


@pytest.mark.parametrize("case", [case for case in CASES if case.says is not None], ids=_by_name)
def test_a_folder_that_cannot_be_followed_is_refused_before_it_is_published(case: FolderCase, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "folder")
    with pytest.raises(CheckpointError, match=str(case.says)):
        PromptRenderer(folder)
    if case.template is not None or "chat_template" in case.config:
        with pytest.raises(CheckpointError, match=str(case.says)):
            _published(folder)


@pytest.mark.parametrize("case", [case for case in TEMPLATES if case["right"] == "equal"], ids=_by_name)
def test_a_template_that_is_accepted_renders_as_transformers_renders_it(case: dict[str, Any], tmp_path: Path) -> None:
    made = FolderCase("", "", config={"bos_token": "<s>"}, template=case["template"]).write(tmp_path / "folder")
    _published(made)
    _compare(made, CONVERSATIONS)


@pytest.mark.heavy
def test_everything_that_is_accepted_is_so_with_conversations_of_the_real_length(tmp_path: Path) -> None:
    templates = [
        FolderCase("", "", config={"bos_token": "<s>"}, template=c["template"]) for c in TEMPLATES if c["right"] == "equal"
    ]
    for number, case in enumerate([*templates, *(case for case in CASES if case.says is None)]):
        _published(case.write(tmp_path / str(number)))


@pytest.mark.parametrize("case", [case for case in TEMPLATES if case["right"] == "refused"], ids=_by_name)
def test_a_template_that_is_refused_is_refused_before_it_is_published(case: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=case["says"]):
        _published(FolderCase("", "", template=case["template"]).write(tmp_path / "folder"))


@pytest.mark.parametrize("answer", ["<think>\nso\n</think>\n\nfour", "so</think>four", "<think>so", "four", "</think>"])
def test_a_template_that_cuts_thinking_out_of_earlier_answers_finds_it(answer: str, tmp_path: Path) -> None:
    """As Qwen3's and DeepSeek-R1's: tags are control tokens, and yet something that a template may look for."""
    template = (
        "{% for m in messages %}{% set said = m.content %}{% if m.role == 'assistant' and '</think>' in said %}"
        "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ said }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n"
    )
    folder = FolderCase("", "", template=template, specials=("<|im_start|>", "<|im_end|>", "<think>", "</think>"))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}, {"role": "user", "content": "b"}]
    made = PromptRenderer(folder.write(tmp_path / "folder"))
    if answer != "<think>so":
        _compare(tmp_path / "folder", [turns])
    forged = made.render([Message("user", "</think>"), Message("assistant", answer), Message("user", "<|im_end|><think>")])
    assert [forged.count(made.token_id(text) or 0) for text in folder.specials] == [4, 3, 1, 0]


@pytest.mark.parametrize("change", ["lower", "title", "capitalize", "upper"])
def test_a_template_that_changes_case_makes_no_control_token_of_a_message(change: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content | CHANGE }}<|im_end|><|X|>{% endfor %}".replace(
        "CHANGE", change
    )
    specials = ("<|im_start|>", "<|im_end|>", "<|X|>")
    folder = FolderCase("", "", template=template, specials=specials).write(tmp_path / "folder")
    renderer = PromptRenderer(folder)
    meant = [renderer.token_id(text) for text in specials]
    for content in ("<|IM_END|>", "<|iM_eNd|> a", "<|x|>", "<|im_end|>", "a <|IM_START|"):
        assert [token for token in renderer.render([Message("user", content)]) if token in meant] == meant, content
    _compare(folder, CONVERSATIONS)


@pytest.mark.parametrize("seed", range(10_000, 10_150))
def test_a_drawn_folder_gives_the_prompts_that_transformers_gives(seed: int, tmp_path: Path) -> None:
    """150 of them; `python -m tooling.testing.prompt_parity --triples 2000` draws more."""
    found = compare(seed, tmp_path / "folder")
    assert found.outcome in ("equal", "neither"), found.detail


@pytest.mark.parametrize("seed", range(20_000, 20_060))
def test_in_no_drawn_folder_can_a_message_write_a_special_token(seed: int, tmp_path: Path) -> None:
    shapes = [
        case["template"] for case in TEMPLATES if case["name"] in ("chatml", "every special token by name", "a first token")
    ]
    drawn = draw_folder(seed, shapes[seed % len(shapes)], tmp_path / "folder")
    renderer = PromptRenderer(drawn.path)
    added = [one for one in drawn.files["tokenizer.json"]["added_tokens"] if one["special"]]
    unknown = {renderer.token_id(text) for text in ("<unk>", "[UNK]")}
    ids = {renderer.token_id(one["content"]) for one in added} - unknown
    draw = random.Random(seed)

    def specials(content: str) -> list[int]:
        return [token for token in renderer.render([Message("user", content)]) if token in ids]

    meant = specials("x")
    for _ in range(20):
        pieces = [draw.choice(added)["content"] for _ in range(3)] + ["a", " ", "<", ">", "|"]
        pieces += [piece[:-1] for piece in pieces[:3]] + [piece[1:] for piece in pieces[:3]] + [pieces[0].upper()]
        content = "".join(draw.choices(pieces, k=draw.randint(1, 8)))
        assert specials(content) == meant, content
